"""Networks for several of the classes at once, whose units the classes share."""

"""The gradient search: gates on units, trained for all classes at once."""

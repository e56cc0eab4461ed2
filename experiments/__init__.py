"""The recorded experiments; each is run by `python -m experiments.NAME`."""

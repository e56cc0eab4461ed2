"""Compensation: what remains of a network takes over what was cut, by least squares."""

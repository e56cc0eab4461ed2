"""Models and class modules as files: what is written, how it is checked, and read back."""

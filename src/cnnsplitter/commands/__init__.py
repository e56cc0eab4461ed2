"""The commands of the command line, one file per kind of thing they work on."""

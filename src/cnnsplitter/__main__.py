"""Run the command line with ``python -m cnnsplitter``."""

from cnnsplitter.cli import main

main()

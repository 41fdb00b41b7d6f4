"""``python -m fertools``: the command line."""

from fertools.cli import main

main()

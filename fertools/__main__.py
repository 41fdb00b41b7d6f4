"""``python -m fertools``: the command line."""

from fertools.cli import main

if __name__ == "__main__":  # worker processes import this module too
    main()

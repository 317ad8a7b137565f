"""`python -m keyshred`."""

import sys

from keyshred.cli.main import main

if __name__ == "__main__":  # a spawned worker imports this module again, under another name
    sys.exit(main())

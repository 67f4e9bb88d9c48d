"""``python -m steadygrad``: the command line without an installed script."""

import sys

from steadygrad.cli import main

if __name__ == "__main__":
    sys.exit(main())

"""``python -m adderlab``: the command line."""

import sys

from adderlab.cli.main import main

if __name__ == "__main__":
    sys.exit(main())

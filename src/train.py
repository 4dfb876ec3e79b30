"""The published log's training command, as printed there: ``python -m src.train --run-name ...``."""

import sys

from adderlab.cli.main import run_command
from adderlab.cli.r456 import R456Train

if __name__ == "__main__":
    sys.exit(run_command(R456Train, sys.argv[1:], "python -m src.train"))

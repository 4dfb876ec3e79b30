"""The published log's training command, as printed there: ``python -m src.train --run-name ...``."""

import sys

from adderlab.cli import r456_train
from adderlab.cli.main import run_command

if __name__ == "__main__":
    sys.exit(run_command(r456_train, sys.argv[1:], "python -m src.train"))

"""The published log's evaluation command: ``python evaluate_checkpoints.py CKPT --device cpu``."""

import sys

from adderlab.cli import r456_evaluate
from adderlab.cli.main import run_command

if __name__ == "__main__":
    sys.exit(run_command(r456_evaluate, sys.argv[1:], "python evaluate_checkpoints.py"))

"""The published log's evaluation command: ``python evaluate_checkpoints.py CKPT --device cpu``."""

import sys

from adderlab.cli.main import run_command
from adderlab.cli.r456 import R456Evaluate

if __name__ == "__main__":
    sys.exit(run_command(R456Evaluate, sys.argv[1:], "python evaluate_checkpoints.py"))

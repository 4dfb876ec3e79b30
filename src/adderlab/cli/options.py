"""What several subcommands share: options that are read alike, and output."""

import json
import sys
from pathlib import Path
from typing import Any

import tyro

Switch = tyro.conf.FlagCreatePairsOff
"""A flag without a --no- form."""


def print_note(line: str) -> None:
    """A line on stderr: what a reader wants to know and a program that reads the output does not."""
    print(line, file=sys.stderr)


def emit_json(value: Any, output: Path | None = None) -> None:
    """One JSON object to stdout, or to a file, atomically."""
    text = json.dumps(value, indent=2)
    if output is None:
        print(text)
    else:
        from adderlab.files.atomic import write_text

        write_text(output, text + "\n")

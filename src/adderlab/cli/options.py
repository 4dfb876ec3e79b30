"""What several subcommands share: options that are read alike, and output."""

import json
import sys
from pathlib import Path
from typing import Any

import tyro

from adderlab.errors import UsageError

Switch = tyro.conf.FlagCreatePairsOff
"""A flag without a --no- form."""


def parse_seeds(text: str) -> tuple[int, ...]:
    """``"0-63"``, ``"43"`` or ``"0-3,43,100-101"`` -> seeds in that order, without repeats."""
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdigit() or (dash and not last.isdigit()):
            raise UsageError(f"--seeds {text!r}: write numbers and ranges, for example 0-63 or 43,44")
        stop = int(last) if dash else int(first)
        if stop < int(first):
            raise UsageError(f"--seeds {text!r}: the range {part.strip()} runs backwards")
        seeds += range(int(first), stop + 1)
    return tuple(dict.fromkeys(seeds))


def parse_settings(settings: tuple[str, ...]) -> list[tuple[str, str, str]]:
    """``recipe.lr=0.01`` -> ("recipe", "lr", "0.01"); only recipe and model have settings."""
    parsed = []
    for setting in settings:
        path, equals, value = setting.partition("=")
        room, dot, key = path.partition(".")
        if not equals or not dot or room not in ("recipe", "model"):
            raise UsageError(
                f"--set {setting!r}: write recipe.NAME=VALUE or model.NAME=VALUE, "
                "for example recipe.lr=0.01"
            )
        parsed.append((room, key, value))
    return parsed


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

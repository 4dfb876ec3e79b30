"""What several subcommands share: options that are read alike, and output."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

Switch = tyro.conf.FlagCreatePairsOff
"""A flag without a --no- form."""


@dataclass(frozen=True, kw_only=True)
class DeviceOptions:
    """Where to compute."""

    device: str = "auto"
    """auto, cpu, cuda or mps."""
    engine: str = "auto"
    """auto, native, triton or torch."""


@dataclass(frozen=True, kw_only=True)
class ComputeOptions(DeviceOptions):
    """Where to train."""

    threads: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Seeds trained at once on a CPU; default: every core. No effect on any seed's results."""


@dataclass(frozen=True, kw_only=True)
class ChangeOptions:
    """What differs from the recipe and the preset."""

    steps: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Optimiser steps of each seed before any restart; default: the recipe's."""
    set: Annotated[
        tuple[tuple[str, ...], ...],
        tyro.conf.UseAppendAction,
        tyro.conf.arg(metavar="SECTION.NAME=VALUE ..."),
    ] = ()
    """Changed settings, for example --set recipe.lr=0.01 model.d_ff=12 (adderlab settings)."""

    @property
    def settings(self) -> tuple[str, ...]:
        """The settings of every ``--set``, in order."""
        return tuple(setting for group in self.set for setting in group)


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

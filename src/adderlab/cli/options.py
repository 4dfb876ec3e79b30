"""What several subcommands share: options that are read alike, and output."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import tyro


def arg(metavar: str | None = None, aliases: list[str] | None = None) -> Any:
    """An argument's name in the help, which shows a default only where there is something to show."""
    return tyro.conf.arg(metavar=metavar, aliases=aliases, help_behavior_hint=_default_shown)


def _default_shown(default: str) -> str:
    return "" if default in ("", "None", "False") else f"(default: {default})"


Switch: TypeAlias = Annotated[bool, tyro.conf.FlagCreatePairsOff, arg()]
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

    threads: Annotated[int | None, arg(metavar="N")] = None
    """Seeds trained at once on a CPU; default: every core. No effect on any seed's results."""


@dataclass(frozen=True, kw_only=True)
class ChangeOptions:
    """What differs from the recipe and the preset."""

    steps: Annotated[int | None, arg(metavar="N")] = None
    """Optimiser steps of each seed before any restart; default: the recipe's."""
    set: Annotated[
        tuple[tuple[str, ...], ...],
        tyro.conf.UseAppendAction,
        arg(metavar="SECTION.NAME=VALUE ..."),
    ] = ()
    """Changed settings, for example --set recipe.lr=0.01 model.d_ff=12 (adderlab settings). It may be
    given again."""

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

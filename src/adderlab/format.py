"""Numbers, durations, seeds and commands as text: one form for each, wherever a person reads them.

Nothing is imported here but the standard library, so every package may use it.
"""

from __future__ import annotations

import difflib
import math
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path


def did_you_mean(name: str, names: Iterable[str], otherwise: str = "") -> str:
    """``; did you mean 'train'?``. Where nothing is near, ``otherwise`` and all the names; without it
    nothing."""
    names = list(names)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; {otherwise} {', '.join(names)}" if otherwise else ""


def percent(rate: float) -> str:
    """A rate in percent with one decimal, or with two digits of what is missing to 0% or 100%."""
    distance = 100 * min(rate, 1 - rate)
    decimals = 1 if distance <= 1e-12 else max(1, 1 - math.floor(math.log10(distance)))
    return f"{100 * rate:.{decimals}f}%"


def count(number: int) -> str:
    """``1,234``; from a billion on by power of ten, ``1.5 x 10^12``: counts of pairs reach 10^20."""
    if number < 10**9:
        return f"{number:,}"
    power = len(str(number)) - 1
    return f"{number / 10**power:.3g} x 10^{power}"


def tick(value: float) -> str:
    """A number below an axis, thousands as everywhere: 1500 -> 1,500."""
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e9 and value == round(value) else f"{value:g}"


def seconds(value: float) -> str:
    """Three significant digits, without a unit: for a column of a table whose head names it."""
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def duration(seconds: float) -> str:
    """Two leading units: ``12.5 s``, ``3 min 05 s``, ``2 h 10 min``, ``4 d 3 h``."""
    if seconds < 100:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def seed_list(seeds: Sequence[int]) -> str:
    """``(1000, 1001, 1002, 43)`` -> ``"1000-1002,43"``, in that order, as ``--seeds`` takes them."""
    parts: list[list[int]] = []
    for seed in seeds:
        if parts and seed == parts[-1][1] + 1:
            parts[-1][1] = seed
        else:
            parts.append([seed, seed])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)


_PROGRAMS = (
    ("src/train.py", ["python", "-m", "src.train"]),
    ("evaluate_checkpoints.py", ["python", "evaluate_checkpoints.py"]),
    ("adderlab/cli/main.py", ["adderlab"]),
    ("adderlab", ["adderlab"]),
)


def as_typed(command: Sequence[str]) -> list[str]:
    """``sys.argv`` as it was typed: the program's path gives way to its name."""
    program = Path(command[0]).as_posix()
    for ending, typed in _PROGRAMS:
        if program == ending or program.endswith(f"/{ending}"):
            return [*typed, *command[1:]]
    return list(command)


def code_block(command: str) -> str:
    """A command for a code block: as it is if it has line breaks, else broken before flags."""
    command = command.strip()
    if "\n" in command or len(command) <= 100:
        return command
    lines, line = [], ""
    for argument in map(shlex.quote, shlex.split(command)):
        if line and argument.startswith("--") and len(line) + len(argument) > 80:
            lines.append(line)
            line = f"  {argument}"
        else:
            line = f"{line} {argument}" if line else argument
    return " \\\n".join([*lines, line])

"""Commands and environments as people write them."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def environment_text(environment: dict[str, Any]) -> str:
    """One line on where a run ran; what was not recorded is said to be so."""
    if not environment:
        return "not recorded"
    revision = environment.get("git_revision")
    version = f"adderlab {environment.get('adderlab', 'of unknown version')}"
    if isinstance(revision, str):
        dirty = " with uncommitted changes" if revision.endswith("-dirty") else ""
        version += f" (revision {revision[:10]}{dirty})"
    device = environment.get("device", "unknown")
    name = environment.get("device_name") or environment.get("cpu")
    parts = [
        version,
        f"Python {environment.get('python', '?')}",
        f"PyTorch {environment.get('torch', '?')}",
    ]
    if environment.get("engine"):
        parts.append(f"engine {environment['engine']}")
    parts.append(
        f"device {device}" + (f" ({name}, {environment.get('cpu_count', '?')} cores)" if name else "")
    )
    return ", ".join(parts)


_PROGRAMS = (
    ("src/train.py", ["python", "-m", "src.train"]),
    ("evaluate_checkpoints.py", ["python", "evaluate_checkpoints.py"]),
    ("adderlab/cli/main.py", ["adderlab"]),
    ("adderlab", ["adderlab"]),
)


def as_typed(command: Sequence[str]) -> list[str]:
    """``sys.argv`` as the words that were typed: the program's path gives way to its name."""
    program = Path(command[0]).as_posix()
    for ending, typed_words in _PROGRAMS:
        if program == ending or program.endswith(f"/{ending}"):
            return [*typed_words, *command[1:]]
    return list(command)


def typed(command: str) -> str:
    """A command for a code block: as it is if it has line breaks, else broken before flags."""
    command = command.strip()
    if "\n" in command or len(command) <= 100:
        return command
    lines, line = [], ""
    for word in shlex.split(command):
        word = shlex.quote(word)
        if line and word.startswith("--") and len(line) + len(word) > 80:
            lines.append(line)
            line = f"  {word}"
        else:
            line = f"{line} {word}" if line else word
    return " \\\n".join([*lines, line])

"""What a run came to, in plain words."""

from __future__ import annotations

import shlex
import statistics
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from adderlab.runs.metrics import LEARNED, SeedRow
from adderlab.task.digits import SUM_DIGITS
from adderlab.training.job import Outcome
from adderlab.training.tracker import SUCCESS


def describe(outcome: Outcome) -> list[str]:
    """Sentences about success, the best seed and the answer steps that were learned."""
    rows = list(outcome.tracker.rows.values())
    lines = [_success(outcome, rows), _best(outcome)]
    if any(row.step_acc for row in rows):
        lines.append(_learned(rows))
    return lines


def _success(outcome: Outcome, rows: list[SeedRow]) -> str:
    count = outcome.tracker.num_successes
    if len(rows) == 1:
        exact = rows[0].final_val_exact
        verdict = "learned to add" if count else "did not learn to add"
        return f"Seed {rows[0].seed} {verdict}: {exact:.2%} of its validation pairs are exactly right."
    return (
        f"{count} of {len(rows)} seeds end at {SUCCESS:.0%} exact match or more: "
        f"success rate {outcome.tracker.successes()} (95% Wilson interval)."
    )


def _best(outcome: Outcome) -> str:
    seed = outcome.tracker.best_seed
    row = outcome.tracker.rows[seed]
    exact = f"{row.best_val_exact:.2%} exact match"
    text = f"The best checkpoint is seed {seed} at step {row.best_step}: {exact}"
    if row.first_step_100 is not None:
        text += f", 100% first at step {row.first_step_100}"
    return text + "."


def _learned(rows: list[SeedRow]) -> str:
    known = [row for row in rows if row.step_acc]
    missing = Counter(i for row in known for i in range(SUM_DIGITS) if row.step_acc[i] < LEARNED)
    median = statistics.median(row.steps_learned for row in known)
    text = f"Of the eleven answer digits, {median:g} are learned"
    text += " (median over seeds)" if len(known) > 1 else ""
    near = sum(9 <= row.steps_learned < SUM_DIGITS for row in known)
    if near:
        who = "1 seed misses" if near == 1 else f"{near} seeds miss"
        text += f"; {who} only one or two, which alone makes exact match 0"
    if missing:
        worst = ", ".join(f"s_{i} ({count})" for i, count in missing.most_common(3))
        text += f"; most often missing: {worst}"
    return text + "."


# Commands and environments as people write them.


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

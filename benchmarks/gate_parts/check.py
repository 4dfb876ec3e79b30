"""One thing compared, and how two outcomes of a command compare."""

from __future__ import annotations

from dataclasses import dataclass

from checkouts import Outcome


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing compared. It is the same if `problems` is empty."""

    name: str
    problems: tuple[str, ...] = ()
    note: str = ""
    skipped: bool = False


def compared(name: str, problems: list[str], note: str = "") -> Check:
    return Check(name=name, problems=tuple(problems), note=note)


def same_code(old: Outcome, new: Outcome) -> list[str]:
    if old.code == new.code:
        return []
    return [f"exit code {old.code} before, {new.code} now: {new.complaint or old.complaint}"]


def succeeded(old: Outcome, new: Outcome) -> list[str]:
    """Problems of a command that has to work in both trees, or nothing was compared."""
    if old.code != 0:
        return [f"it failed before: {old.complaint}"]
    return same_code(old, new)

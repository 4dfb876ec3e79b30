"""What runs there are: one entry per run folder, a broken folder included."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from adderlab.errors import Failure, UsageError
from adderlab.files.lock import lock_owner
from adderlab.runs.folder import RUN_FILES
from adderlab.runs.summary import read_config, read_summary


@dataclass(frozen=True, kw_only=True)
class RunEntry:
    """One run folder. What a broken or young folder does not tell is None."""

    name: str
    path: Path
    status: str
    """running, done, stopped, failed; interrupted (says running, but nobody is); started (no
    evaluation yet); broken (see ``problem``)."""
    date: str
    """Last written, UTC."""
    params: int | None = None
    best_val_exact: float | None = None
    step: int | None = None
    seeds: int | None = None
    success: dict[str, Any] | None = None
    """The population's success rate with its interval, as the run wrote it."""
    problem: str | None = None


def list_runs(folder: Path | str = "results/runs") -> list[RunEntry]:
    """Every run folder directly below ``folder``, oldest first.

    Folders without any file of a run are left out. Raises ``UsageError`` if there is no such
    folder; a run that cannot be read is an entry with its ``problem``.
    """
    folder = Path(folder)
    try:
        below = sorted(path for path in folder.iterdir() if path.is_dir())
    except OSError as error:
        raise UsageError(f"there is no folder of runs {folder}; train first, or name another") from error
    entries = [_entry(path) for path in below if _looks_like_run(path)]
    return sorted(entries, key=lambda entry: (entry.date, entry.name))


def _looks_like_run(path: Path) -> bool:
    return any((path / name).exists() for name in RUN_FILES)


def _entry(path: Path) -> RunEntry:
    owner = lock_owner(path)
    date = _date(path)
    if not (path / "summary.json").exists():
        try:
            seeds = len(read_config(path).seeds)
        except Failure as error:
            return RunEntry(name=path.name, path=path, status="broken", date=date, problem=str(error))
        status = "started" if owner else "interrupted"
        return RunEntry(name=path.name, path=path, status=status, date=date, seeds=seeds)
    try:
        summary = read_summary(path)
    except Failure as error:
        return RunEntry(name=path.name, path=path, status="broken", date=date, problem=str(error))
    interrupted = summary["status"] == "running" and owner is None
    success = summary.get("success")
    return RunEntry(
        name=path.name,
        path=path,
        status="interrupted" if interrupted else summary["status"],
        date=date,
        params=summary["params"],
        best_val_exact=summary["best_val_exact"],
        step=summary["step"],
        seeds=summary["seeds"],
        success=success if isinstance(success, dict) else None,
    )


def _date(path: Path) -> str:
    times = []
    for name in RUN_FILES:
        try:
            times.append((path / name).stat().st_mtime)
        except OSError:
            continue
    return datetime.fromtimestamp(max(times, default=0.0), UTC).isoformat(timespec="seconds")

"""Every submission in a folder, checked one after another into one table; a second call goes on.

What a file came to is kept as one JSON file in the output folder, with the hash of what was checked and
the settings. A file that was changed since, or was checked under other settings, is checked again.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from adderlab import __version__
from adderlab.errors import Failure, UsageError
from adderlab.files.atomic import (
    RunLock,
    disk_failure,
    make_folder,
    read_json,
    remove_leftovers,
    write_json,
)
from adderlab.publish.verification import Counted, Decided, Score, Verification, Watched, printable
from adderlab.results import Result, html_table, text_table

SCHEMA_VERSION = 1
_KEPT = "verification"
"""What a folder that this program wrote to has in its ``about.json``."""
_LARGEST = 64 << 20
_MENTIONED = 1 << 30
"""Bytes of data beside a file, above which its size and name stand for it."""
SCORED = ("adderboard", "uniform", "all")
"""What the score of a file is about; see ``verify.suite_for``."""
_SKIPPED = {"__pycache__", "node_modules", "site-packages"}


@dataclass(frozen=True, kw_only=True)
class FileResult:
    """One row: what one file came to."""

    file: str
    """Below the folder."""
    claimed: str
    """Parameters by its metadata."""
    counted: int | None
    """Unique parameters."""
    verdict: str
    score: str
    """Right sums of the board's pairs, or of what stands for them."""
    strata: str
    """Right sums of the strata."""
    watched: str
    decided: str
    pair: tuple[int, int] | None
    """The pair that refutes it, or that came nearest to it."""
    margin: float | None
    """Logits, of a proof."""
    why: str
    """Why it is rejected, failed or not decided."""
    seconds: float

    @classmethod
    def of(cls, name: str, plain: Mapping[str, Any]) -> FileResult:
        """From ``Verification.to_dict``."""
        score, count, decided = plain["score"], plain["count"], plain["decided"]
        suites = {suite["suite"]: suite for suite in score["suites"]}
        counts = count["counts"] or {}
        claimed = count["claimed"]
        pair = decided["counterexample"] or decided["margin_pair"]
        why = [*plain["rejections"], plain["failure"], decided["reason"]]
        return cls(
            file=name,
            claimed="-" if claimed is None else str(claimed)[:20],
            counted=counts.get("unique parameters"),
            verdict=plain["verdict"],
            score=_right(next((suites[name] for name in SCORED if name in suites), None)),
            strata=_right(suites.get("strata")),
            watched=plain["watched"]["verdict"],
            decided=decided["verdict"],
            pair=None if pair is None else (pair[0], pair[1]),
            margin=decided["margin"],
            why=printable("; ".join(filter(None, why))),
            seconds=plain["seconds"],
        )

    def row(self) -> dict[str, Any]:
        """As the table shows it."""
        decided = self.decided
        if decided == "refuted" and self.pair:
            decided += f": {self.pair[0]} + {self.pair[1]}"
        return {
            "file": printable(self.file),
            "claimed": printable(self.claimed),
            "counted": self.counted,
            "verdict": self.verdict,
            "score": self.score,
            "strata": self.strata,
            "decided": decided,
            "time": f"{self.seconds:.1f} s",
        }

    def line(self) -> str:
        """One line for a log."""
        row = self.row()
        return (
            f"{row['file']}: {self.verdict}, score {self.score}, {row['decided']} ({self.seconds:.1f} s)"
        )


@dataclass(frozen=True, kw_only=True, repr=False)
class FolderResult(Result):
    """The table, and where it lies."""

    folder: str
    output: Path
    files: tuple[FileResult, ...]
    left_out: tuple[str, ...]
    """Python files that hold no ``build_model``."""
    checked: int
    """Files that this call checked; the others had been before."""

    @property
    def all_qualified(self) -> bool:
        return all(each.verdict == "qualified" for each in self.files)

    def to_dicts(self) -> list[dict[str, Any]]:
        """A row of plain values for every file, for pandas or polars."""
        return [
            {**asdict(each), "pair": None if each.pair is None else list(each.pair)}
            for each in self.files
        ]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "schema_version": SCHEMA_VERSION,
            "folder": self.folder,
            "output": str(self.output),
            "checked": self.checked,
            "files": self.to_dicts(),
            "left_out": list(self.left_out),
        }

    def describe(self) -> list[str]:
        """The table, then why files fell short of it."""
        lines = text_table([each.row() for each in self.files])
        lines += [
            f"{printable(each.file)}: {each.why}"
            for each in self.files
            if each.why and (each.verdict in ("rejected", "failed") or each.decided != "refuted")
        ]
        if self.left_out:
            names = ", ".join(map(printable, self.left_out[:5]))
            more = f" and {len(self.left_out) - 5} more" if len(self.left_out) > 5 else ""
            lines.append(f"left out, for they have no build_model: {names}{more}")
        before = len(self.files) - self.checked
        lines.append(
            f"{len(self.files)} files, {self.checked} checked now, {before} before; "
            f"table: {self.output / 'index.html'}"
        )
        return lines

    def _repr_html_(self) -> str:
        return html_table([each.row() for each in self.files], self.folder)


def submissions_in(folder: Path, named: str = "build_model") -> tuple[list[Path], list[str]]:
    """(the submissions, names of the other Python files), below a folder, in order of their names.

    A submission is a .py file whose text holds the word ``named``. Raises ``UsageError`` where there is
    none.
    """
    found, others = [], []
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder).parts
        if any(part.startswith(".") or part in _SKIPPED for part in parts) or not path.is_file():
            continue
        if re.search(rf"\b{re.escape(named)}\b", _source(path)):
            found.append(path)
        else:
            others.append(path.relative_to(folder).as_posix())
    if not found:
        raise UsageError(f"{folder} holds no Python file with {named}: name a folder of submissions")
    return found, others


def verify_folder(
    folder: Path,
    output: Path,
    check: Callable[[Path, str], Verification],
    settings: Mapping[str, Any],
    *,
    named: str = "build_model",
    on_result: Callable[[int, int, FileResult], None] = lambda *_: None,
) -> FolderResult:
    """Check every submission that was not checked before, as it is now and under these settings.

    ``check`` checks one file; it is given its path and "3/40 NAME". ``on_result`` is told of one that is
    done (which, of all, its result).

    Raises ``UsageError`` for an output folder that holds something else, and what ``check`` raises as
    such; a ``Failure`` of one file is its result. Interrupted, it goes on where it stopped.
    """
    paths, others = submissions_in(folder, named)
    _own(output)
    with RunLock(output):
        remove_leftovers(output)
        write_json(output / "about.json", {"schema_version": SCHEMA_VERSION, "kind": _KEPT})
        results, checked = [], 0
        for number, path in enumerate(paths, 1):
            name = path.relative_to(folder).as_posix()
            kept = output / f"{name.replace('/', '__')}.json"
            key = {"sha256": _digest(path), "settings": dict(settings), "adderlab": __version__}
            plain = _known(kept, name, key)
            if plain is None:
                plain = _checked(path, f"{number}/{len(paths)} {name}", check)
                write_json(kept, {"schema_version": SCHEMA_VERSION, "file": name, **key, _KEPT: plain})
                checked += 1
                on_result(number, len(paths), FileResult.of(name, plain))
            results.append(FileResult.of(name, plain))
        found = FolderResult(
            folder=str(folder),
            output=output,
            files=tuple(results),
            left_out=tuple(others),
            checked=checked,
        )
        write_json(output / "table.json", found.to_dict())
    return found


def _checked(path: Path, label: str, check: Callable[[Path, str], Verification]) -> dict[str, Any]:
    try:
        return check(path, label).to_dict()
    except Failure as failure:
        nothing = Verification(
            file=str(path),
            sandbox="not run",
            verdict="failed",
            failure=str(failure),
            rejections=(),
            notes=(),
            metadata={},
            score=Score(),
            count=Counted(),
            watched=Watched(),
            decided=Decided(),
            seconds=0.0,
        )
        return nothing.to_dict()


def _own(output: Path) -> None:
    """Only a new or empty folder, or one of ours, is written to."""
    if output.is_dir() and any(output.iterdir()):
        about = output / "about.json"
        if not about.is_file() or read_json(about).get("kind") != _KEPT:
            raise UsageError(f"{output} holds something else; name another folder with --output")
    make_folder(output)


def _known(path: Path, name: str, key: Mapping[str, Any]) -> dict[str, Any] | None:
    """What is kept of a file that has not changed; None without."""
    if not path.is_file():
        return None
    try:
        kept = read_json(path)
        same = all(kept.get(each) == json.loads(json.dumps(value)) for each, value in key.items())
        plain = kept[_KEPT] if same and kept["file"] == name else None
        if plain is not None:
            FileResult.of(name, plain)
    except (Failure, KeyError, TypeError, AttributeError):
        return None
    return plain


def _digest(path: Path) -> str:
    """Of the file, and of the data beside it that its text names (weights.pt)."""
    digest = hashlib.sha256(_bytes(path))
    text = _source(path)
    for beside in sorted(path.parent.iterdir()):
        if beside == path or not beside.is_file() or beside.suffix == ".pyc":
            continue
        if beside.name not in text and not (beside.suffix == ".py" and beside.stem in text):
            continue
        size = beside.stat().st_size
        digest.update(f"\0{beside.name}\0{size}\0".encode())
        if size <= _MENTIONED:
            digest.update(hashlib.sha256(_bytes(beside)).digest())
    return digest.hexdigest()


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise disk_failure(error, path, "read") from error


def _source(path: Path) -> str:
    if path.stat().st_size > _LARGEST:
        return ""
    return _bytes(path).decode("utf-8", errors="replace")


def _right(suite: Mapping[str, Any] | None) -> str:
    """``10009/10010``."""
    if suite is None:
        return "-"
    return f"{suite['n'] - suite['errors']}/{suite['n']}"


def summary(files: Sequence[FileResult]) -> dict[str, int]:
    """How many files came to what: proved, refuted, neither; qualified, rejected, failed."""
    names = ("proved", "refuted", "undecided", "not decided")
    found = {name: sum(each.decided == name for each in files) for name in names}
    for verdict in ("qualified", "not qualified", "rejected", "failed"):
        found[verdict] = sum(each.verdict == verdict for each in files)
    return found

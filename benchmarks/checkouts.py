"""Two checkouts of this repository side by side: this one and another, run by the same interpreter.

What compares them (`gate.py`, `compare_speed.py`) goes through the command line and files alone, so that
it keeps working while the Python inside is rearranged.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent.parent
"""The checkout that this file belongs to."""
BEFORE_REARRANGING = "590c4ba"
"""The revision to compare with by default: the last one before the packages were rearranged."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a command left behind."""

    code: int
    stdout: str
    stderr: str

    @property
    def document(self) -> Any:
        """Its JSON output; None if it printed none."""
        try:
            return json.loads(self.stdout)
        except ValueError:
            return None

    @property
    def complaint(self) -> str:
        """The last line on stderr, for a report."""
        lines = self.stderr.strip().splitlines()
        return lines[-1] if lines else ""


@dataclass(frozen=True, kw_only=True)
class Checkout:
    """A source tree and the folder in which its commands run."""

    name: str
    root: Path
    folder: Path

    def adderlab(self, *args: str | Path) -> list[str]:
        """The command line `adderlab *args` of this tree."""
        return [sys.executable, "-m", "adderlab.cli.main", *map(str, args)]

    def environment(self) -> dict[str, str]:
        """The root is on the path too: `python -m src.train` is a command of the README."""
        path = os.pathsep.join([str(self.root / "src"), str(self.root)])
        # Tables are as wide as they like: a number that is wrapped would be two.
        return os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "COLUMNS": "400"}

    def run(self, command: list[str], timeout: float = 600.0) -> Outcome:
        """Run `command` to its end in this tree's folder; a timeout raises."""
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        return Outcome(code=done.returncode, stdout=done.stdout, stderr=done.stderr)

    def check_runs_itself(self) -> None:
        """Raise `SystemExit` if `import adderlab` finds another tree's package than this one's."""
        code = "import adderlab, pathlib; print(pathlib.Path(adderlab.__file__).resolve().parent)"
        found = self.run([sys.executable, "-c", code])
        if found.stdout.strip() != str((self.root / "src" / "adderlab").resolve()):
            raise SystemExit(
                f"the {self.name} tree {self.root} does not run its own code but "
                f"{found.stdout.strip() or found.complaint}"
            )


@dataclass(frozen=True, kw_only=True)
class Pair:
    """The tree to compare with, and this one."""

    old: Checkout
    new: Checkout

    @property
    def old_rates(self) -> Path:
        """The measured rates of the old tree, in the old form."""
        return self.old.root / "records" / "rates"

    def run(self, *args: str | Path) -> tuple[Outcome, Outcome]:
        """`adderlab *args` in both trees, at the same time."""
        return self.run_each(self.old.adderlab(*args), self.new.adderlab(*args))

    def run_each(self, old: list[str], new: list[str]) -> tuple[Outcome, Outcome]:
        """A command in either tree, at the same time."""
        with ThreadPoolExecutor(2) as pool:
            before, now = pool.submit(self.old.run, old), pool.submit(self.new.run, new)
            return before.result(), now.result()


@contextlib.contextmanager
def checkouts(against: str) -> Iterator[Pair]:
    """This checkout beside `against`, a folder or a revision; everything made for it is removed again.

    Raises `SystemExit` where `against` is neither.
    """
    # A plain kill tidies up as Ctrl-C does: a worktree would stay in the books of the repository.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="adderlab-compare-") as temporary:
        work = Path(temporary)
        for name in ("old", "new"):
            (work / name).mkdir()
        with _tree(against, work / "tree") as root:
            pair = Pair(
                old=Checkout(name="old", root=root, folder=work / "old"),
                new=Checkout(name="new", root=HERE, folder=work / "new"),
            )
            pair.old.check_runs_itself()
            pair.new.check_runs_itself()
            yield pair


@contextlib.contextmanager
def _tree(against: str, place: Path) -> Iterator[Path]:
    if (Path(against) / "src" / "adderlab").is_dir():
        yield Path(against).resolve()
        return
    added = _git("worktree", "add", "--detach", str(place), against)
    if added.returncode != 0:
        raise SystemExit(f"{against} is neither a checkout nor a revision: {added.stderr.strip()}")
    try:
        yield place
    finally:
        _git("worktree", "remove", "--force", str(place))


def _git(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", "-C", str(HERE), *args], capture_output=True, text=True, check=False)

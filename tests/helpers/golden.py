"""Prose is compared with files in ``tests/golden``, and nowhere else.

A message, a page or a help text that is worth keeping word for word lies there as a file of its own.
After a change of wording, one command writes all of them again; ``git diff`` then shows the change:

    pytest --refresh-golden

In a test: ``def test_...(golden: Golden): golden("log/two_runs.md", text)``. The text must hold nothing
that changes from run to run: no clock, no temporary folder (``monkeypatch.chdir``, relative paths).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "golden"


@dataclass(frozen=True)
class Golden:
    """Compares texts with their files, or writes these again (``--refresh-golden``)."""

    refresh: bool = False
    folder: Path = FOLDER

    def __call__(self, name: str, text: str) -> None:
        """Fail unless ``text`` is what the file ``name`` in ``tests/golden`` holds."""
        path = self.folder / name
        if self.refresh:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            return
        if not path.is_file():
            pytest.fail(f"there is no golden file {path}; pytest --refresh-golden writes it")
        assert text == path.read_text(encoding="utf-8"), f"{name} differs; see pytest --refresh-golden"

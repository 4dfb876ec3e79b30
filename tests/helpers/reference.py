"""Where the published checkpoints lie, when they are at hand. They are not part of the product."""

from pathlib import Path

import pytest

from helpers.paths import ROOT

FOLDER = ROOT.parent / "shared" / "reference" / "checkpoints"


def reference_checkpoint(name: str) -> Path:
    """The path of a published checkpoint; skips the test, with the reason, where it is absent."""
    path = FOLDER / name
    if not path.exists():
        pytest.skip(f"published checkpoint {name} is not at hand (looked in {FOLDER})")
    return path

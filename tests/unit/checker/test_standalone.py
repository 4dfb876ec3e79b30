"""What the checker imports: its package docstring says so, and nothing more."""

import ast
import sys
from pathlib import Path

import pytest

import adderlab.checker

FOLDER = Path(adderlab.checker.__file__).parent
RUNS_THE_MODEL = {
    "enclosure",
    "tracing",
    "fp32",
    "own_pass",
    "primitives",
    "recorded",
    "verify",
}
"""Files that run the model's own code, on other numbers than its own, or PyTorch itself."""
OUTSIDE = {"numpy", "flint"}
SHARED = {"adderlab.errors", "adderlab.results"}
MODEL = {
    "adderlab.models.transformer",
    "adderlab.models.config",
    "adderlab.models.tables",
    "adderlab.models.maps",
}


RECORDING = {
    "adderlab.reading.attention",
    "adderlab.reading.dependence",
    "adderlab.reading.file_model",
    "adderlab.reading.reading",
    "adderlab.reading.trace",
}
"""What was recorded of a file's model, for the two modules that follow it."""


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.module is not None and not node.level, "absolute imports only"
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_the_checker_stands_alone(path: Path) -> None:
    names = imported(path)
    ours = {name for name in names if name.split(".")[0] == "adderlab"}
    other = {name.split(".")[0] for name in names - ours} - sys.stdlib_module_names
    ours = {name for name in ours if not name.startswith("adderlab.checker")}
    if path.stem in RUNS_THE_MODEL:
        recording = RECORDING if path.stem in ("recorded", "verify") else set()
        assert other <= OUTSIDE | {"torch"} and ours <= SHARED | MODEL | recording
    else:
        assert other <= OUTSIDE and ours <= SHARED


def test_the_files_that_run_the_model_are_named_in_the_docstring() -> None:
    using = {
        path.stem for path in FOLDER.glob("*.py") if "torch" in {n.split(".")[0] for n in imported(path)}
    }
    assert using == RUNS_THE_MODEL
    assert adderlab.checker.__doc__ is not None
    assert all(f"``{name}``" in adderlab.checker.__doc__ for name in using)

"""The notebook runs from top to bottom, in a process and a folder of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from helpers.paths import ROOT

NOTEBOOK = ROOT / "notebooks" / "adderlab.ipynb"

QUICK = """
PRESET, RECIPE, SEEDS, RUN_NAME = "456p", "published", "0-1", "notebook"
CHANGES = "--steps 10 --device cpu --engine torch --threads 1 --evaluate fresh:50".split()
CHANGES += "--set recipe.batch_size=8 recipe.val_size=20 recipe.eval_interval=4".split()
"""


def cells() -> list[dict[str, Any]]:
    return json.loads(NOTEBOOK.read_text())["cells"]


def source(cell: dict[str, Any]) -> str:
    return "".join(cell["source"])


def execute(folder: Path, parameters: str | None) -> str:
    """Run all code cells in order, as a kernel would; the cell tagged "parameters" may be replaced.
    The value of a last expression is shown the way a notebook shows it."""
    script = ["import ast", "def _show(value):", "    if hasattr(value, '_repr_html_'):"]
    script += ["        print('HTML', len(value._repr_html_()))"]
    for cell in cells():
        if cell["cell_type"] != "code":
            continue
        code = source(cell)
        if parameters is not None and "parameters" in cell["metadata"].get("tags", ()):
            code = parameters
        script.append(f"_tree = ast.parse({code!r})")
        script.append("_last = _tree.body.pop() if isinstance(_tree.body[-1], ast.Expr) else None")
        script.append("exec(compile(_tree, 'cell', 'exec'))")
        script.append("if _last is not None:")
        script.append("    _show(eval(compile(ast.Expression(_last.value), 'cell', 'eval')))")
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(script)],
        capture_output=True,
        text=True,
        cwd=folder,
        env=environment,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_is_a_notebook_without_outputs_that_colab_opens() -> None:
    book = json.loads(NOTEBOOK.read_text())
    assert (book["nbformat"], book["nbformat_minor"]) == (4, 5)
    assert book["metadata"]["kernelspec"]["name"] == "python3"
    ids = [cell["id"] for cell in cells()]
    assert len(set(ids)) == len(ids)
    for cell in cells():
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None
            compile(source(cell), cell["id"], "exec")
    assert sum("parameters" in cell["metadata"].get("tags", ()) for cell in cells()) == 1


def test_it_runs_from_top_to_bottom(tmp_path: Path) -> None:
    out = execute(tmp_path, QUICK)
    assert "success rate: 0/2" in out and "Report: results/runs/notebook/report.html" in out
    assert "HTML " in out and "No seed grokked this time" in out
    assert "9999999999 + 1 = 10000000000" in out


@pytest.mark.slow
def test_as_it_stands_it_ends_with_a_proved_adder(tmp_path: Path) -> None:
    out = execute(tmp_path, None)
    assert "proved on all 10^20 pairs" in out or "Proved after" in out

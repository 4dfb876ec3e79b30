"""The notebook runs from top to bottom, in a process and a folder of its own."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import adderlab as al
from helpers.paths import ROOT

NOTEBOOK = ROOT / "notebooks" / "adderlab.ipynb"

QUICK = """
PRESET, RECIPE, SEEDS, STEPS, FOLDER = "456p", "published", range(2), 10, "results/runs/notebook"
SETTINGS = {"recipe.batch_size": 8, "recipe.val_size": 20, "recipe.eval_interval": 4}
"""


def cells() -> list[dict[str, Any]]:
    return json.loads(NOTEBOOK.read_text())["cells"]


def source(cell: dict[str, Any]) -> str:
    return "".join(cell["source"])


def execute(folder: Path, parameters: str | None) -> str:
    """Run all code cells in order, as a kernel would; the cell tagged "parameters" may be replaced.
    The value of a last expression is shown the way a notebook shows it."""
    script = ["import ast", "def _show(value):"]
    script += ["    for form in ('_repr_html_', '_repr_svg_'):"]
    script += [
        "        if hasattr(value, form):",
        "            print(form, len(getattr(value, form)()))",
    ]
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


def code_cells() -> list[dict[str, Any]]:
    return [cell for cell in cells() if cell["cell_type"] == "code"]


def test_it_is_a_notebook_that_colab_opens() -> None:
    book = json.loads(NOTEBOOK.read_text())
    assert (book["nbformat"], book["nbformat_minor"]) == (4, 5)
    assert book["metadata"]["kernelspec"]["name"] == "python3"
    ids = [cell["id"] for cell in cells()]
    assert len(set(ids)) == len(ids)
    for cell in code_cells():
        compile(source(cell), cell["id"], "exec")
    assert sum("parameters" in cell["metadata"].get("tags", ()) for cell in cells()) == 1


def test_it_uses_the_public_names_alone() -> None:
    for cell in code_cells():
        for node in ast.walk(ast.parse(source(cell))):
            if isinstance(node, ast.ImportFrom):
                assert node.module is not None and not node.module.startswith("adderlab"), node.module
            if isinstance(node, ast.Import):
                names = {alias.name for alias in node.names}
                assert not any(name.startswith("adderlab.") for name in names), names
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert node.value.id != "al" or node.attr in al.__all__, node.attr


def test_it_keeps_the_outputs_of_one_run_from_top_to_bottom() -> None:
    counts = [cell["execution_count"] for cell in code_cells()]
    assert counts == list(range(1, len(counts) + 1))
    outputs = [output for cell in code_cells() for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error"]
    drawn = [output for output in outputs if "image/svg+xml" in output.get("data", {})]
    assert len(drawn) >= 6
    assert "PROVED" in json.dumps(outputs)
    assert NOTEBOOK.stat().st_size < 400_000


def test_it_runs_from_top_to_bottom(tmp_path: Path) -> None:
    out = execute(tmp_path, QUICK)
    assert "0 of 2 seeds learned to add" in out and "No seed is at 99% this time" in out
    assert "Report: results/runs/notebook/report.html" in out
    assert "_repr_html_ " in out and out.count("_repr_svg_ ") >= 6
    assert "9999999999 + 1 = " in out


@pytest.mark.slow
def test_as_it_stands_it_ends_with_a_proved_adder(tmp_path: Path) -> None:
    assert "PROVED" in execute(tmp_path, None)

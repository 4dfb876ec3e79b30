"""The plan of the packages: a directed graph without circles, and modules that can be seen whole."""

import ast
import graphlib
from pathlib import Path

from helpers.paths import ROOT

SOURCE = ROOT / "src" / "adderlab"


def packages() -> set[str]:
    return {path.parent.name for path in SOURCE.glob("*/__init__.py")}


def imported(path: Path) -> set[str]:
    """Packages of adderlab that a module imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "adderlab" and len(parts) > 1 and parts[1] in packages():
                found.add(parts[1])
    return found


def graph() -> dict[str, set[str]]:
    """Package -> packages that it imports."""
    found: dict[str, set[str]] = {name: set() for name in packages()}
    for name in found:
        for path in (SOURCE / name).rglob("*.py"):
            found[name] |= imported(path) - {name}
    return found


def test_packages_form_a_graph_without_circles() -> None:
    graphlib.TopologicalSorter(graph()).prepare()  # raises CycleError, which names the circle


def test_every_package_is_found() -> None:
    assert {"files", "task", "models", "engine", "proof", "checker", "training", "study"} <= packages()


def test_files_are_below_everything() -> None:
    assert graph()["files"] == set()


def test_proof_never_imports_training_or_studies() -> None:
    assert not graph()["proof"] & {"training", "study"}


def test_nothing_imports_the_command_line() -> None:
    assert not [name for name, needs in graph().items() if "cli" in needs]


def test_modules_are_short() -> None:
    long = [
        str(path.relative_to(SOURCE))
        for path in SOURCE.rglob("*.py")
        if len(path.read_text().splitlines()) > 700
    ]
    assert not long

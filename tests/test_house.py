"""The plan of the house: a room imports only rooms above it, and modules can be seen whole."""

import ast
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[1] / "src" / "adderlab"
ROOMS = (
    "task",
    "models",
    "runs",
    "engine",
    "evaluation",
    "proof",
    "training",
    "fleet",
    "report",
    "publish",
    "cli",
)


def imported_rooms(path: Path) -> set[str]:
    """Rooms of adderlab that a module imports, anywhere in it."""
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "adderlab" and len(parts) > 1 and parts[1] in ROOMS:
                rooms.add(parts[1])
    return rooms


def test_rooms_import_only_rooms_above() -> None:
    wrong = []
    for path in SOURCE.rglob("*.py"):
        room = path.relative_to(SOURCE).parts[0]
        if room not in ROOMS:
            continue
        below = ROOMS[ROOMS.index(room) + 1 :]
        wrong += [
            f"{path.relative_to(SOURCE)} imports {other}"
            for other in imported_rooms(path)
            if other in below
        ]
    assert not wrong


def test_proof_never_imports_training_or_engine() -> None:
    for path in (SOURCE / "proof").rglob("*.py"):
        assert not imported_rooms(path) & {"training", "engine"}, path


def test_modules_are_short() -> None:
    long = [path.name for path in SOURCE.rglob("*.py") if len(path.read_text().splitlines()) > 400]
    assert not long

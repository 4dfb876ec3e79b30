"""What a committed file must not hold: the folders of one person's machine."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = next(
    folder for folder in Path(__file__).resolve().parents if (folder / "pyproject.toml").is_file()
)

# A path starts where no other path, address or variable runs into it: https://host/home/x is none.
_START = r"(?<![\w.~$}/*-])"
MACHINE_PATHS = re.compile(
    rf"{_START}/(?:home|Users)/[A-Za-z_]"
    rf"|{_START}/(?:root|work)/"
    r"|[A-Za-z]:\\{1,2}Users\\"
    # A checkout, wherever it is: an absolute path that runs through its sources or its environment.
    rf"|{_START}/(?:[\w.-]+/){{2,}}(?:src/adderlab|\.venv)/"
)


def committed() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    return [ROOT / name for name in listed.stdout.decode().split("\0") if name]


@pytest.mark.parametrize(
    ("parts", "found"),
    [
        (("", "home", "ada", "runs"), True),
        (("in ", "Users", "ada"), True),
        (('"', "root", ".cache"), True),
        (("python ", "work", "main", "x.py"), True),
        (("C:", "Users", "ada"), True),
        (("File ", "opt", "checkout", ".venv", "bin"), True),
        (("", "x", ".venv", "bin"), False),
        (("https:", "", "example.org", "home", "ada"), False),
        (("experiments", "work", "x.py"), False),
        (("~", ".venv", "bin"), False),
        (("", "usr", "bin"), False),
    ],
)
def test_the_pattern_finds_folders_of_a_machine_and_nothing_else(
    parts: tuple[str, ...], found: bool
) -> None:
    # Joined here, so that this file does not itself hold what it forbids.
    joined = ("\\" if parts[0] == "C:" else "/").join(parts)
    assert bool(MACHINE_PATHS.search(joined)) is found


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a git checkout: nothing is committed here")
def test_no_committed_file_names_the_folders_of_a_machine() -> None:
    files = committed()
    assert ROOT / "README.md" in files
    offences = []
    for path in files:
        data = path.read_bytes() if path.is_file() else b""  # a file deleted but not yet committed
        if b"\0" in data or path.suffix == ".gz":
            continue
        for number, line in enumerate(data.decode("utf-8").splitlines(), 1):
            if match := MACHINE_PATHS.search(line):
                offences.append(f"{path.relative_to(ROOT)}:{number}: {match.group()}")
    assert not offences, "write these paths relative to the repository:\n" + "\n".join(offences)

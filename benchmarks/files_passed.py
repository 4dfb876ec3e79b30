"""How many of our own files one command passes: modules of which at least one function runs.

    python benchmarks/files_passed.py prove records/best/456p/model.pt --no-check --threads 1
    python benchmarks/files_passed.py train 456p --seeds 0-63 --steps 60 --evaluate none --no-prove
    python benchmarks/files_passed.py --functions --at-most 15 prove records/best/456p/model.pt

Everything after our own options is a command line of adderlab. It runs in a temporary folder, where a
run's files may go; paths of existing files are made absolute first. Its own output goes to stderr.

A file counts when a function of it runs in any thread of this process (hence --threads 1: what copies of
it do is not seen). What runs while a module is being imported
(its body, its class bodies, its decorators) does not: that is reading the file, not passing it, and a
module that is imported for a type alone would count otherwise. Methods that `dataclass` generates have
no file, so a file that holds nothing but fields is not passed.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

ENTRY_POINT = "adderlab.cli.main"
"""The module whose `main(argv) -> exit code` is the command line."""
IMPORT_MACHINERY = "<frozen importlib._bootstrap>"


class Passed:
    """Code objects below `folder` that ran outside an import, by a profile hook in every thread."""

    def __init__(self, folder: Path) -> None:
        self._prefix = f"{folder}{os.sep}"
        self._codes: set[CodeType] = set()

    def functions(self) -> dict[str, list[str]]:
        """File relative to the folder -> names of the functions that ran, both sorted."""
        files: dict[str, set[str]] = {}
        for code in self._codes:
            name = code.co_filename.removeprefix(self._prefix)
            files.setdefault(name, set()).add(code.co_qualname)
        return {name: sorted(files[name]) for name in sorted(files)}

    def watch(self, call: Callable[[], int]) -> int:
        """What `call` returns, with every frame of this and of new threads seen."""
        threading.setprofile(self._on_event)
        sys.setprofile(self._on_event)
        try:
            return call()
        finally:
            sys.setprofile(None)
            threading.setprofile(None)  # type: ignore[arg-type]  # the documented way to unset it

    def _on_event(self, frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event != "call" or code in self._codes or not code.co_filename.startswith(self._prefix):
            return
        # An import started by a function has the import machinery between that function and the frame.
        if not _importing(frame):
            self._codes.add(code)


def _importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == IMPORT_MACHINERY:
            return True
        frame = frame.f_back
    return False


def _absolute(argument: str) -> str:
    return str(Path(argument).resolve()) if Path(argument).exists() else argument


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--functions", action="store_true", help="name the functions of every file too")
    parser.add_argument("--at-most", type=int, metavar="N", help="exit 1 if more files are passed")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="a command line of adderlab")
    args = parser.parse_args()
    if not args.command:
        parser.error("give a command of adderlab, for example: prove records/best/456p/model.pt")

    entry = importlib.import_module(ENTRY_POINT)
    command = [args.command[0], *map(_absolute, args.command[1:])]
    package = Path(importlib.import_module("adderlab").__file__ or "").parent
    passed = Passed(package)
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.chdir(folder),
        contextlib.redirect_stdout(sys.stderr),
    ):
        code = passed.watch(lambda: entry.main(command))

    files = passed.functions()
    print(f"adderlab {' '.join(args.command)}: {len(files)} files passed (exit code {code})")
    for name, functions in files.items():
        print(f"  {name} ({len(functions)})")
        if args.functions:
            print(f"      {', '.join(functions)}")
    if code != 0:
        return code
    return int(args.at_most is not None and len(files) > args.at_most)


if __name__ == "__main__":
    sys.exit(main())

"""``adderlab``: finds the subcommand, parses its arguments, reports errors in one line.

Nothing heavy is imported before it is needed: ``adderlab --help`` loads neither PyTorch nor tyro.
"""

import contextlib
import errno
import importlib
import io
import os
import re
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

from adderlab import __version__
from adderlab.errors import UsageError

COMMANDS = {
    "train": "train a population of seeds of one architecture",
    "plan": "how long a run will take, what it costs, how many seeds it needs",
    "sweep": "train a grid or random space of settings; which succeed most often",
    "evaluate": "exact match of checkpoints on a suite of pairs, with intervals",
    "predict": "one addition: the answer, how sure each digit is, right or wrong",
    "prove": "decide all 10^20 pairs for a checkpoint",
    "check": "check a certificate independently, in rigorous arithmetic",
    "attack": "the strongest cheap test, also for models that cannot be proved",
    "repair": "train on the worst pairs until proved",
    "inspect": "the parameter table of a checkpoint or preset",
    "rate": "measure how often a recipe gives a proved adder, over many seeds",
    "zoo": "the published architectures",
    "settings": "every setting of a model and a recipe: type, default, what it does",
    "log": "write EXPERIMENTS.md from runs, evaluations and certificates",
    "replay": "run a declared series of experiments, check and log it",
    "report": "one HTML file about a run: curves, digits, attention, margins, failures",
    "compare": "runs side by side: success rates, tests, settings that differ",
    "export": "publish a checkpoint: a one-file submission, weights, a hub folder, ONNX",
    "verify": "check anybody's submission, in a sandbox: sums, parameters, whose sums they are",
}
"""Subcommand -> what it does. Each lives in ``adderlab.cli.<name>`` as ``Args`` and ``run``."""

USAGE, FAILURE, INTERRUPTED = 2, 1, 130
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def main(argv: list[str] | None = None) -> int:
    """Run one command; the exit code is 0, 1 (failure), 2 (usage) or 130 (interrupted)."""
    argv = sys.argv[1:] if argv is None else argv
    if threading.current_thread() is threading.main_thread():
        # Schedulers stop a job by SIGTERM: like Ctrl-C it ends a run so that it can be resumed.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    if not argv or argv[0] in ("-h", "--help"):
        return _guarded(lambda: _print(_help(), 0 if argv else USAGE))
    if argv[0] in ("-V", "--version"):
        return _guarded(lambda: _print(f"adderlab {__version__}", 0))
    name = argv[0]
    if name not in COMMANDS:
        return complain(f"no command {name!r}; there are {', '.join(COMMANDS)}", USAGE)
    return run_command(importlib.import_module(f"adderlab.cli.{name}"), argv[1:], f"adderlab {name}")


def run_command(module: Any, argv: list[str], prog: str) -> int:
    """Parse ``module.Args`` from ``argv`` and call ``module.run``; the exit code."""
    return _guarded(lambda: module.run(parse(module.Args, argv, prog, module.__doc__)))


def _print(text: str, code: int) -> int:
    print(text)
    return code


def _guarded(work: Callable[[], int]) -> int:
    """The exit code of ``work``; an error for users is one line on stderr, no traceback."""
    try:
        code = work()
        sys.stdout.flush()
        return code
    except UsageError as error:
        return complain(str(error), USAGE)
    except BrokenPipeError:
        # The reader of our output (head, a pager) has closed it: no error, and no line to print.
        _drop_output()
        return FAILURE
    except (ValueError, OSError) as error:
        try:
            sys.stdout.flush()
        except OSError:
            _drop_output()
        return complain(_one_line(error), FAILURE)
    except KeyboardInterrupt:
        return INTERRUPTED


def _drop_output() -> None:
    """Without this the interpreter flushes stdout once more at its end, and fails again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def parse(kind: type, argv: list[str], prog: str, description: str | None) -> Any:
    """Read arguments into the dataclass ``kind``; a wrong one is a ``UsageError`` in one line."""
    import tyro

    # tyro prints a framed paragraph and exits; it has no public way to get the message itself.
    captured = io.StringIO()
    try:
        with contextlib.redirect_stderr(captured):
            return tyro.cli(kind, args=argv, prog=prog, description=description)
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise UsageError(f"{_plain(captured.getvalue())} (see {prog} --help)") from None


def _plain(boxed: str) -> str:
    """The message inside tyro's frame, as one line: what stands between its title and its rule."""
    parts: list[str] = []
    titled = "\u256d" in boxed
    for line in boxed.splitlines():
        inside = line.strip().strip("\u2502").strip()
        if inside.startswith("\u256d"):
            continue
        if inside.startswith("---") and not titled:
            # A terminal without Unicode gets no frame: a title, a rule, and then the message.
            parts, titled = [], True
            continue
        if not inside or inside.startswith(("\u2500", "\u2570", "---")):
            break
        parts.append(inside)
    message = " ".join(parts).rstrip(".:") or "wrong arguments"
    # None is what an option is where it is left out; nobody can type it.
    message = re.sub(r"(Expected one of \(.*)(?:'None', |, 'None')", r"\1", message)
    # Of an optional value tyro says how its parsers failed; which value it was says more.
    return re.sub(
        r"^Error parsing (\S+): no type matching (?:\{None\}\|)?(\S+) could be instantiated from "
        r"\['(.*)'\]$",
        r"\1 must be \2, not '\3'",
        message,
    )


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is None and error.errno in _NO_ROOM:
        # Files are written by ``files.atomic``, which names them: this is what was printed.
        return "cannot print the output: there is no room where it goes; make some, or print elsewhere"
    return " ".join(str(error).split()) or type(error).__name__


def complain(message: str, code: int) -> int:
    """One line on stderr; returns ``code``."""
    print(f"adderlab: {message}", file=sys.stderr)
    return code


def _help() -> str:
    width = max(map(len, COMMANDS))
    rows = "\n".join(f"  {name:<{width}}  {text}" for name, text in COMMANDS.items())
    return (
        "usage: adderlab COMMAND ...\n\n"
        "Train, measure and prove tiny transformers that add two 10-digit numbers.\n\n"
        f"commands:\n{rows}\n\n"
        "adderlab COMMAND --help lists a command's arguments; adderlab --version prints the version."
    )


if __name__ == "__main__":
    sys.exit(main())

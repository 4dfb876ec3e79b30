"""``adderlab``: finds the subcommand, parses its arguments, reports errors in one line; runs the
commands of a series as if they had been typed; and completes what is typed (``adderlab completion
SHELL``).

Nothing heavy is imported before it is needed: ``adderlab --help`` loads neither PyTorch nor tyro.

Output that a terminal's encoding lacks falls back to ASCII instead of ending the command: a finished
training must not be lost to a Latin-1 terminal because its last line has a character outside it
(``PYTHONIOENCODING=latin-1``, ``LC_ALL=C`` with UTF-8 mode off, a Windows code page).
"""

from __future__ import annotations

import atexit
import codecs
import contextlib
import errno
import gc
import importlib
import io
import os
import re
import signal
import sys
import threading
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from adderlab import __version__
from adderlab.errors import Failure, UsageError
from adderlab.format import did_you_mean

if TYPE_CHECKING:
    from adderlab.report.replay import SeriesStep, StepStatus


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
    "explore": "one HTML file to type two numbers and watch a model add, and to move its parameters",
    "compare": "runs side by side: success rates, tests, settings that differ",
    "export": "publish a checkpoint: a one-file submission, weights, a hub folder, ONNX",
    "verify": "check anybody's submission, in a sandbox: sums, parameters, whose sums they are",
}
"""Subcommand -> what it does."""

_MODULES = {
    "training": ("train",),
    "studies": ("plan", "sweep", "rate"),
    "models": ("evaluate", "predict", "inspect", "zoo", "settings"),
    "proofs": ("prove", "check", "attack", "repair"),
    "reports": ("log", "replay", "report", "explore", "compare"),
    "publishing": ("export", "verify"),
}
"""Module of ``adderlab.cli`` -> the subcommands that it has, each as a dataclass of that name: its
docstring and its fields are the help, and ``run`` does it."""

USAGE, FAILURE, INTERRUPTED = 2, 1, 130
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def main(argv: list[str] | None = None) -> int:
    """Run one command; the exit code is 0, 1 (failure), 2 (usage) or 130 (interrupted)."""
    if argv is None:
        argv = sys.argv[1:]
        _collect_less()
    if threading.current_thread() is threading.main_thread():
        # Schedulers stop a job by SIGTERM: like Ctrl-C it ends a run so that it can be resumed.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    if not argv or argv[0] in ("-h", "--help"):
        return _guarded(lambda: _print(_help(), 0 if argv else USAGE))
    if argv[0] in ("-V", "--version"):
        return _guarded(lambda: _print(f"adderlab {__version__}", 0))
    name = argv[0]
    if name == "help" and len(argv) == 1:
        return _guarded(lambda: _print(_help(), 0))
    if name == "help":
        name, argv = argv[1], [argv[1], "--help"]
    if name == "completion":
        return _guarded(lambda: _completion(argv[1:]))
    if name not in COMMANDS:
        near = did_you_mean(name, COMMANDS, otherwise="there are")
        return complain(f"no command {name!r}{near}", USAGE)
    return run_command(command_of(name), argv[1:], f"adderlab {name}")


def _collect_less() -> None:
    """For a process that is one command: importing PyTorch makes half a million objects, none of which
    is garbage. Looking through them again and again takes a tenth of the start, and once more at the
    end, when the system takes everything back anyway, half a second."""
    gc.set_threshold(50_000, 20, 20)
    atexit.register(gc.freeze)


def _completion(shells: list[str]) -> int:
    if len(shells) != 1:
        raise UsageError(f"adderlab completion takes a shell: {' or '.join(SHELLS)}")
    return _print(completion(shells[0], {name: command_of(name) for name in COMMANDS}), 0)


def command_of(name: str) -> Any:
    """The dataclass of a subcommand."""
    module = next(module for module, names in _MODULES.items() if name in names)
    return getattr(importlib.import_module(f"adderlab.cli.{module}"), name.capitalize())


def run_command(kind: Any, argv: list[str], prog: str) -> int:
    """Parse the command ``kind`` from ``argv`` and run it; the exit code."""
    return _guarded(lambda: parse(kind, argv, prog).run(), tuple(field.name for field in fields(kind)))


def _print(text: str, code: int) -> int:
    print(text)
    return code


def _guarded(work: Callable[[], int], options: tuple[str, ...] = ()) -> int:
    """The exit code of ``work``; an error for users is one line on stderr, no traceback. ``options``:
    names of the command's own, by which the line calls them."""
    make_printable(sys.stdout, sys.stderr)
    try:
        code = work()
        sys.stdout.flush()
        return code
    except UsageError as error:
        return complain(_as_typed(str(error), options), USAGE)
    except BrokenPipeError:
        # The reader of our output (head, a pager) has closed it: no error, and no line to print.
        _drop_output()
        return FAILURE
    except (ValueError, OSError) as error:
        try:
            sys.stdout.flush()
        except OSError:
            _drop_output()
        return complain(_as_typed(_one_line(error), options), FAILURE)
    except KeyboardInterrupt:
        return INTERRUPTED


def _drop_output() -> None:
    """Without this the interpreter flushes stdout once more at its end, and fails again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def parse(kind: type, argv: list[str], prog: str) -> Any:
    """Read arguments into the dataclass ``kind``; a wrong one is a ``UsageError`` in one line."""
    import tyro

    description = " ".join((kind.__doc__ or "").split())

    # tyro prints a framed paragraph and exits; it has no public way to get the message itself.
    captured = io.StringIO()
    if any(field.name == "set" for field in fields(kind)):
        argv = _model_before_settings(argv)
    try:
        with contextlib.redirect_stderr(captured):
            return tyro.cli(kind, args=argv, prog=prog, description=description)
    except SystemExit as stop:
        if stop.code in (0, None):
            _print_examples(prog)
            raise
        message = _plain(captured.getvalue())
        if unknown := re.match(r"Unrecognized options: (-[^,\s]+)", message):
            options = [f"--{field.name.replace('_', '-')}" for field in fields(kind)]
            message += did_you_mean(unknown[1], options)
        raise UsageError(f"{message} (see {prog} --help)") from None


_MODEL = re.compile(r"\d+p\S*|[^=]*\.(py|pt|npz|safetensors)")


def _model_before_settings(argv: list[str]) -> list[str]:
    """``--set recipe.lr=0.01 456p`` -> ``456p --set recipe.lr=0.01``: tyro takes every word that follows
    ``--set`` for a setting, and a preset or a file is none."""
    models, rest, after_set = [], [], False
    for word in argv:
        after_set = word == "--set" or (after_set and not word.startswith("-"))
        moved = after_set and _MODEL.fullmatch(word)
        (models if moved else rest).append(word)
    return [*models, *rest]


def _print_examples(prog: str) -> None:
    examples = EXAMPLES.get(prog.removeprefix("adderlab "), ())
    if examples:
        print("examples:", *(f"  {example}" for example in examples), sep="\n")


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


_OPTION_OF = {"minutes": "budget", "rows": "output"}
"""Arguments of the API that are options of another name."""


def _as_typed(message: str, options: tuple[str, ...]) -> str:
    """What an error calls ``threads=0`` or ``overwrite=True``, because the API raised it, as the options
    of a command: ``--threads 0``, ``--overwrite``."""

    def shown(found: re.Match[str]) -> str:
        name = found["name"] if found["name"] in options else _OPTION_OF.get(found["name"], "")
        if name not in options:
            return found[0]
        return f"--{name.replace('_', '-')}" + ("" if found["true"] else " ")

    # Neither a setting (recipe.steps=5) nor what a user has typed (in quotes).
    return re.sub(r"(?<![\w.\-'\"])(?P<name>[a-z_]+)=(?P<true>True\b)?", shown, message)


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
        "adderlab COMMAND --help (or adderlab help COMMAND) lists a command's arguments; adderlab\n"
        'completion bash (or zsh) prints what makes a shell complete them: eval "$(adderlab completion\n'
        'bash)"; adderlab --version prints the version.'
    )


# The commands of a declared series, run in this process as if they had been typed.

_STOPPED: Any = ("interrupted", "stopped by hand")


class CommandLine:
    """Runs steps (``adderlab.report.replay.Runner``)."""

    def check(self, command: str) -> None:
        """Raises ``UsageError`` for a command with wrong arguments, without running it."""
        _parsed(command)

    def device(self, command: str) -> str:
        """Where the command will compute."""
        from adderlab.engine.base import choose_device

        args, _ = _parsed(command)
        return str(choose_device(getattr(args, "device", "cpu"))[0])

    def run(self, step: SeriesStep) -> tuple[StepStatus, str]:
        """Run a step, or go on with its run if that was stopped; (how it ended, why if not well)."""
        args, argv = _parsed(step.command)
        run = None if step.run is None else Path(step.run)
        try:
            with _command_line(argv):
                go_on = run is not None and _is_stopped(run, argv)
                code = _resume(args, run) if go_on and run is not None else args.run()
        except KeyboardInterrupt:
            return _STOPPED
        except (ValueError, OSError) as error:
            return "failed", " ".join(str(error).split())
        if code == INTERRUPTED or (run is not None and _status(run) in ("running", "stopped")):
            return _STOPPED
        if not Path(step.product).exists():
            return "failed", f"it left no {step.product}"
        return "done", ""


def _parsed(command: str) -> tuple[Any, list[str]]:
    """(the command with its arguments, the command line as the run will record it)."""
    from adderlab.report.replay import split_command

    entry, rest = split_command(command)
    if entry == "adderlab":
        name, rest = rest[0], rest[1:]
        if name not in COMMANDS or name == "replay":
            raise UsageError(f"{command!r}: a series cannot run adderlab {name}")
        kind, argv, program = command_of(name), ["adderlab", name, *rest], f"adderlab {name}"
    else:
        from adderlab.cli.r456 import R456Evaluate, R456Train

        trains = entry == "src.train"
        kind = R456Train if trains else R456Evaluate
        argv = ["src/train.py" if trains else "evaluate_checkpoints.py", *rest]
        program = "python -m src.train" if trains else "python evaluate_checkpoints.py"
    return parse(kind, rest, program), argv


@contextlib.contextmanager
def _command_line(argv: list[str]) -> Iterator[None]:
    """What a run records as its command is the series' command, not ``adderlab replay``."""
    before = sys.argv
    sys.argv = argv
    try:
        yield
    finally:
        sys.argv = before


def _status(run: Path) -> str | None:
    from adderlab.runs.metadata import read_summary

    try:
        return str(read_summary(run)["status"])
    except Failure:
        return None


def _is_stopped(run: Path, argv: list[str]) -> bool:
    """Whether the folder holds a run of this very command that was stopped or killed."""
    from adderlab.runs.folder import STATE_FILE
    from adderlab.runs.metadata import read_config

    if _status(run) not in ("running", "stopped") or not (run / STATE_FILE).is_file():
        return False
    try:
        return list(read_config(run).command) == argv
    except Failure:
        return False


def _resume(args: Any, run: Path) -> int:
    """Go on with a training; the flags that choose where to compute are the command's own."""
    from adderlab.cli.training import Train

    shared = ("device", "engine", "threads", "evaluate", "prove", "keep", "quiet")
    given = {name: getattr(args, name) for name in shared if hasattr(args, name)}
    if not isinstance(args, Train):
        given["evaluate"] = "none"  # the published program does not evaluate after training
    return Train(resume=run, **given).run()


# Completion, and examples for the help.


SHELLS = ("bash", "zsh")

EXAMPLES = {
    "train": ("adderlab train 456p --until proved", "adderlab train 7p --seeds 0-15 --run-name seven"),
    "plan": ("adderlab plan 456p --seeds 0-511 --nodes 4", "adderlab plan 7p --price-per-hour 0.4"),
    "sweep": ("adderlab sweep lr.toml", "adderlab sweep lr.toml --resume"),
    "evaluate": (
        "adderlab evaluate best.pt",
        "adderlab evaluate best.pt --suite fresh:1000000 --json -o best.json",
    ),
    "predict": ("adderlab predict best.pt 9999999999 1", "adderlab predict my_adder.py 12 30 --json"),
    "prove": (
        "adderlab prove best.pt -o best.cert.json.gz",
        "adderlab prove my_adder.py --weights best.pt",
    ),
    "check": (
        "adderlab check best.cert.json.gz best.pt",
        "adderlab check best.cert.json.gz best.pt --json",
    ),
    "attack": ("adderlab attack best.pt", "adderlab attack my_adder.py --json"),
    "repair": (
        "adderlab repair best.pt -o repaired.pt",
        "adderlab repair best.pt -o better.pt --rounds 3",
    ),
    "inspect": ("adderlab inspect best.pt", "adderlab inspect 456p --set model.d_ff=16"),
    "rate": ("adderlab rate 456p --seeds 1000-1095", "adderlab rate --table"),
    "zoo": ("adderlab zoo", "adderlab zoo 456p"),
    "settings": ("adderlab settings", "adderlab settings recipe.prefit"),
    "log": ("adderlab log", "adderlab log results/runs -o runs.md"),
    "replay": (
        "adderlab replay experiments/seed-log.toml",
        "adderlab replay experiments/seed-log.toml --only E4",
    ),
    "report": (
        "adderlab report results/runs/main",
        "adderlab report results/runs/a results/runs/b -o both.html",
    ),
    "explore": ("adderlab explore best.pt", "adderlab explore results/runs/main -o main.html"),
    "compare": (
        "adderlab compare results/runs/a results/runs/b",
        "adderlab compare results/sweeps/lr --json",
    ),
    "export": (
        "adderlab export best.pt --to adderboard -o adder.py",
        "adderlab export best.pt --to safetensors -o best.safetensors",
    ),
    "verify": ("adderlab verify adder.py", "adderlab verify adder.py --json"),
}


def completion(shell: str, kinds: dict[str, Any]) -> str:
    """A script for the shell to read: ``eval "$(adderlab completion bash)"``. ``kinds``: command ->
    dataclass. Raises ``UsageError`` for a shell that there is none for."""
    if shell not in SHELLS:
        raise UsageError(f"no completion for {shell!r}; there is one for {' and '.join(SHELLS)}")
    cases = [f'        {name}) words="{" ".join(_options(kind))}" ;;' for name, kind in kinds.items()]
    first = ["autoload -U +X bashcompinit && bashcompinit"] if shell == "zsh" else []
    return "\n".join(
        [
            *first,
            "_adderlab() {",
            '    local word="${COMP_WORDS[COMP_CWORD]}" words=""',
            '    if [ "$COMP_CWORD" -eq 1 ]; then',
            f'        COMPREPLY=($(compgen -W "{" ".join([*kinds, "help", "completion"])}" -- "$word"))',
            "        return",
            "    fi",
            '    case "${COMP_WORDS[1]}" in',
            *cases,
            f'        help) words="{" ".join(kinds)}" ;;',
            f'        completion) words="{" ".join(SHELLS)}" ;;',
            "    esac",
            '    case "$word" in',
            '        -*) COMPREPLY=($(compgen -W "$words" -- "$word")) ;;',
            '        *) COMPREPLY=($(compgen -f -- "$word")) ;;',
            "    esac",
            "}",
            "complete -o filenames -F _adderlab adderlab",
        ]
    )


def _options(kind: Any) -> Iterator[str]:
    yield "--help"
    for field in fields(kind):
        if "Positional" not in str(field.type):
            yield f"--{field.name.replace('_', '-')}"


# Output in a terminal's encoding.


_NEAREST = {
    **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212\u2500\u2501\u254c\u2578\u257a", "-"),
    **dict.fromkeys("\u2018\u2019", "'"),
    **dict.fromkeys("\u201c\u201d", '"'),
    **dict.fromkeys("\u2502\u2503", "|"),
    **dict.fromkeys("\u2588\u2593\u2592", "#"),
    "\u2026": "...",
    "\u00d7": "x",
    "\u00b7": ".",
    "\u2022": "*",
    "\u00b1": "+-",
    "\u2192": "->",
    "\u2264": "<=",
    "\u2265": ">=",
    "\u00df": "ss",
    "\u00f8": "o",
    "\u0142": "l",
}
"""What Unicode does not take apart into ASCII."""


def to_ascii(text: str) -> str:
    """The nearest ASCII: accents are dropped, dashes are hyphens, what is left a question mark."""
    parts = []
    for character in text:
        plain = _NEAREST.get(character) or unicodedata.normalize("NFKD", character)
        parts.append(plain.encode("ascii", "ignore").decode() or "?")
    return "".join(parts)


def _replace(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return to_ascii(error.object[error.start : error.end]), error.end


codecs.register_error("adderlab.ascii", _replace)


def make_printable(*streams: TextIO) -> None:
    """From now on the streams print whatever they are given, in their own encodings. Those that fail
    nowhere stay as they are."""
    for stream in streams:
        if isinstance(stream, io.TextIOWrapper) and not _is_unicode(stream.encoding):
            stream.reconfigure(errors="adderlab.ascii")


def _is_unicode(encoding: str) -> bool:
    return codecs.lookup(encoding).name.startswith("utf")


if __name__ == "__main__":
    sys.exit(main())

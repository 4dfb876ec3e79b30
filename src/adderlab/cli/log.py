"""Write the experiments log from run folders, replayed series, evaluations and certificates."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True, kw_only=True)
class Args:
    """Where the evidence lies and where the log goes."""

    paths: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[PATH ...]")] = ()
    """Folders of records or runs, single runs, JSON files; default: records and results, where there."""
    output: Annotated[Path, tyro.conf.arg(metavar="F")] = Path("EXPERIMENTS.md")
    """The file to write; /dev/stdout prints it."""


DEFAULT_PATHS = (Path("records"), Path("results"))


def run(args: Args) -> int:
    """Write the log; 0 also where evidence is missing, which the log then says."""
    from adderlab.errors import UsageError

    paths = args.paths or tuple(path for path in DEFAULT_PATHS if path.is_dir())
    if not paths:
        raise UsageError("there is no folder records or results here; name where the runs are")
    for path in paths:
        if not path.exists():
            raise UsageError(f"there is no file or folder {path}; check the name")
    write(paths, args.output, _command(args))
    if args.output != Path("/dev/stdout"):
        print(f"Log: {args.output}")
    return 0


def write(paths: tuple[Path, ...], output: Path, command: str) -> None:
    """The log of everything below ``paths``, all or nothing. Raises ``Failure``."""
    from adderlab.files.atomic import write_text
    from adderlab.report.history import collect
    from adderlab.report.log import log_text

    write_text(output, log_text(collect(paths), command))


def _command(args: Args) -> str:
    import shlex

    words = ["adderlab", "log", *map(str, args.paths)]
    if args.output not in (Path("EXPERIMENTS.md"), Path("/dev/stdout")):
        words += ["--output", str(args.output)]
    return shlex.join(words)

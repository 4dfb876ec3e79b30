"""Check anybody's AdderBoard submission, safely: right sums, a true count, sums from the model."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

if TYPE_CHECKING:
    from adderlab.publish.verify import Verification


@dataclass(frozen=True, kw_only=True)
class Args:
    """A Python file with build_model and add, and how much it may use."""

    submission: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SUBMISSION.py")]
    """The file. It is run in a sandbox, with no network."""
    timeout: float = 1800.0
    """Seconds for everything."""
    answer_timeout: float = 30.0
    """Seconds for one answer."""
    memory: int = 4096
    """MiB it may use."""
    pairwise: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Ask every pair through add, also where the model can be driven in batches."""
    strata: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Pairs of each stratum; else 1000 in batches, 10 through add."""
    prove: bool = True
    """Prove it if it is a file that adderlab wrote."""
    sandbox: Literal["auto", "bubblewrap", "namespaces", "limits"] = "auto"
    """How to shut it in; auto is the strongest that works here."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print one object instead of text."""


def run(args: Args) -> int:
    """0 if it is qualified, 1 if not."""
    import torch

    from adderlab.cli.options import emit_json
    from adderlab.errors import UsageError
    from adderlab.publish.sandbox import Limits, works
    from adderlab.publish.verify import Settings

    torch.set_num_threads(1)
    for name in ("timeout", "answer_timeout", "memory"):
        if not getattr(args, name) > 0:
            raise UsageError(f"--{name.replace('_', '-')} must be above 0, not {getattr(args, name)}")
    if args.strata is not None and not 1 <= args.strata <= 5000:
        raise UsageError(f"--strata must be 1 to 5000, not {args.strata}")
    mode = None if args.sandbox == "auto" else args.sandbox
    if mode is not None and not works(mode):
        raise UsageError(f"--sandbox {mode} does not work on this machine; use auto")
    limits = Limits(seconds=args.timeout, answer_seconds=args.answer_timeout, memory_mib=args.memory)
    settings = Settings(
        limits=limits,
        mode=mode,
        pairwise=args.pairwise,
        strata_pairs=args.strata,
        prove=args.prove,
    )
    result = _watched(args.submission, settings)
    if args.json:
        emit_json(as_json(result), None)
    else:
        for line in in_words(result):
            print("".join(c if c.isprintable() else "?" for c in line))
    return 0 if result.verdict == "qualified" else 1


def _watched(path: Path, settings: Any) -> "Verification":
    """Verify with a bar on stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from adderlab.publish.verify import verify

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        bar = bars.add_task("loading", total=None)
        return verify(
            path,
            settings,
            lambda stage, done, total: bars.update(
                bar, description=stage, completed=done, total=total if total > 1 else None
            ),
        )


def in_words(result: "Verification") -> list[str]:
    """The verdict and what it rests on, for people. May hold whatever the stranger wrote."""
    from adderlab.publish.evidence import accuracy_line

    lines = [f"{result.file}: {result.verdict.upper()}"]
    lines += [f"  {reason}" for reason in (*result.tried, *result.rejections)]
    if result.failure is not None:
        lines.append(f"  {result.failure}")
    for report in result.reports:
        lines.append(accuracy_line(report))
        lines += [f"  wrong: {miss}" for miss in report.failures[:3]]
    if result.how:
        lines.append(f"asked: {result.how}")
    if result.counts is not None:
        named = ", ".join(f"{name} {value:,}" for name, value in result.counts.named().items())
        lines.append(f"counted: {named}")
        lines.append(f"claim: {result.claim}")
    if result.proof is not None:
        lines.append(result.proof.sentence())
    lines += [f"note: {note}" for note in result.notes]
    lines.append(f"sandbox: {result.sandbox}; {result.seconds:.1f} s")
    return lines


def as_json(result: "Verification") -> dict[str, Any]:
    """The same as plain values."""
    from dataclasses import asdict

    return {
        "schema_version": 1,
        "file": result.file,
        "verdict": result.verdict,
        "failure": result.failure,
        "tried": result.tried,
        "rejections": result.rejections,
        "notes": result.notes,
        "metadata": result.metadata,
        "counts": None if result.counts is None else result.counts.named(),
        "claim": result.claim,
        "suites": [report.to_json() for report in result.reports],
        "how": result.how,
        "proof": None if result.proof is None else asdict(result.proof),
        "sandbox": result.sandbox,
        "seconds": round(result.seconds, 3),
    }

"""Check a certificate against a checkpoint: proof again from the stored weights, trusting neither."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

if TYPE_CHECKING:
    from adderlab.checker import FloatReport, Report

NOT_COVERED = ("fp16", "bf16", "TF32", "fast-math kernels", "quantised weights")


@dataclass(frozen=True, kw_only=True)
class Args:
    """A certificate of ``adderlab prove`` and the checkpoint it is about."""

    certificate: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="CERT")]
    """A certificate file, .json or .json.gz."""
    checkpoint: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="CKPT")]
    """A checkpoint file."""
    real_only: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Leave out the floating-point question, which takes most of the time."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print one object instead of text."""


def run(args: Args) -> int:
    """Check; 0 if the certificate is accepted, 1 if not."""
    from rich.console import Console
    from rich.progress import Progress

    from adderlab.cli.options import emit_json
    from adderlab.errors import Failure
    from adderlab.runs.checkpoints import load_checkpoint

    try:
        from adderlab.checker import check_file
    except ModuleNotFoundError as error:
        if error.name != "flint":
            raise
        raise Failure("the check needs python-flint: pip install 'adderlab[proof]'") from error

    checkpoint = load_checkpoint(args.checkpoint)
    with Progress(console=Console(stderr=True), transient=True) as bars:
        bar = bars.add_task("checking leaves and cells", total=None)
        report = check_file(
            args.certificate,
            checkpoint,
            lambda done, total: bars.update(bar, completed=done, total=total),
            fp32=not args.real_only,
        )
    if args.json:
        emit_json(as_json(report), None)
    else:
        for line in in_words(report):
            print(line)
    return 0 if report.accepted else 1


def as_json(report: "Report") -> dict[str, Any]:
    """The report as plain values."""
    from dataclasses import asdict

    return asdict(report) | {"not_covered": list(NOT_COVERED)}


def fp32_in_words(fp32: "FloatReport") -> list[str]:
    """The floating-point question, answered."""
    if fp32.covered:
        answer = (
            "fp32: COVERED: greedy decoding by the readable model in IEEE fp32 adds every pair right "
            f"too, with margins of at least {fp32.margin:.3g} logits, under the assumptions of "
            'docs/proof.md ("Floating point").'
        )
    elif fp32.reason is not None:
        answer = f"fp32: NOT COVERED: {fp32.reason}."
    else:
        answer = f"fp32: NOT COVERED: rounding may matter on {fp32.left:,} leaves and cells."
    return [answer, f"Not covered either: {', '.join(NOT_COVERED)}."]


def in_words(report: "Report") -> list[str]:
    """What the check means, for people."""
    lines = []
    if report.accepted:
        lines.append(
            f"ACCEPTED: in real arithmetic the stored weights add every one of the "
            f"{report.pairs_per_step:,} pairs right."
        )
        lines.append(
            f"Every step's {report.leaves:,} leaves and {report.cells:,} cells were proved again; "
            f"the right digit wins by at least {report.margin:.6g} logits everywhere."
        )
    elif report.counterexample_confirmed:
        lines.append(f"NOT A PROOF: {report.reason}.")
    else:
        lines.append(f"REJECTED: {report.reason}.")
    if report.witness is not None:
        low, high = report.witness
        which = "counterexample" if report.verdict == "refuted" else "worst pair named"
        lines.append(f"At the {which} the margin is between {low:.9g} and {high:.9g}.")
    if report.fp32 is not None:
        lines += fp32_in_words(report.fp32)
    if report.unchecked:
        lines.append(f"Not checked: {'; '.join(report.unchecked)}.")
    lines.append(f"{report.seconds:.1f} s")
    return lines

"""Check a certificate against a checkpoint: proof again from the stored weights, trusting neither."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from adderlab.cli.options import Switch, arg, emit_json


@dataclass(frozen=True, kw_only=True)
class Args:
    """A certificate of ``adderlab prove`` and the checkpoint it is about."""

    certificate: Annotated[Path, tyro.conf.Positional, arg(metavar="CERT")]
    """A certificate file, .json or .json.gz."""
    checkpoint: Annotated[Path, tyro.conf.Positional, arg(metavar="CKPT")]
    """A checkpoint file, or the folder of a run: its best model."""
    real_only: Switch = False
    """Leave out the floating-point question, which takes most of the time."""
    json: Switch = False
    """Print one object instead of text."""


def run(args: Args) -> int:
    """Check; 0 if the certificate is accepted, 1 if not."""
    import adderlab
    from adderlab.cli.progress import Bar

    with Bar("checking leaves and cells") as bar:
        report = adderlab.check(
            args.certificate, args.checkpoint, fp32=not args.real_only, progress=bar.advance
        )
    if args.json:
        emit_json(report.to_dict())
    else:
        print(*report.describe(), sep="\n")
    return 0 if report.accepted else 1

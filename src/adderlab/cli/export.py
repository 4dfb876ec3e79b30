"""Publish a checkpoint: a one-file AdderBoard submission, weights, a hub folder, or an ONNX graph."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

if TYPE_CHECKING:
    from adderlab.publish.evidence import Evidence
    from adderlab.runs.checkpoints import Checkpoint


@dataclass(frozen=True, kw_only=True)
class Args:
    """What to publish, as what, and under whose name."""

    checkpoint: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="CKPT")]
    """A checkpoint file."""
    to: Literal["adderboard", "safetensors", "hub-folder", "onnx"]
    """adderboard: one Python file that needs torch only, and the text of the board's issue form.
    safetensors, onnx: one file and a model card. hub-folder: all of a model page."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="OUT")]
    """File to write, or the folder for hub-folder."""
    name: str | None = None
    """Name of the model; else the zoo's, or the parameter count."""
    author: str | None = None
    """Name of the author; else that of git's settings."""
    certificate: Annotated[Path | None, tyro.conf.arg(metavar="F")] = None
    """A certificate of adderlab prove for these weights."""
    prove: bool = True
    """Without a certificate, ask the prover (up to a minute)."""
    suites: tuple[str, ...] = ("adderboard", "published", "strata")
    """Pairs to measure the accuracy on, as for adderlab evaluate."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print one object instead of text."""


def run(args: Args) -> int:
    """Measure, prove, write, and say what was written."""
    import torch

    from adderlab.cli.options import emit_json
    from adderlab.publish.evidence import accuracy_line
    from adderlab.publish.export import Publication, export
    from adderlab.publish.submission import Credits
    from adderlab.publish.words import title
    from adderlab.runs.checkpoints import load_checkpoint

    torch.set_num_threads(1)
    checkpoint = load_checkpoint(args.checkpoint)
    evidence = _evidence(args, checkpoint)
    credits = Credits(name=args.name or title(checkpoint.config), author=args.author or _git_author())
    publication = Publication(checkpoint=checkpoint, credits=credits, evidence=evidence)
    paths = export(publication, args.to, args.output)
    if args.json:
        proof = evidence.proof
        emit_json(
            {
                "written": [str(path) for path in paths],
                "parameters": checkpoint.num_parameters,
                "accuracy": {r.suite: r.total.exact_match for r in evidence.reports},
                "verdict": None if proof is None else proof.verdict,
            },
            None,
        )
        return 0
    for report in evidence.reports:
        print(accuracy_line(report))
    print(evidence.proof.sentence() if evidence.proof else f"No proof: {evidence.why_no_proof}.")
    print(f"Written, and compared with the checkpoint: {', '.join(map(str, paths))}")
    return 0


def _evidence(args: Args, checkpoint: "Checkpoint") -> "Evidence":
    from adderlab.engine.torch_tables import TorchEngine
    from adderlab.models.mapping import why_no_tables
    from adderlab.publish.evidence import (
        Evidence,
        measure,
        proved,
        read_certificate,
        success_rate,
    )

    certificate, proof, reason = None, None, "the prover was not asked"
    if args.certificate is not None:
        proof, certificate = read_certificate(args.certificate, checkpoint)
    elif args.prove:
        reason = why_no_tables(checkpoint.config) or ""
        proof = None if reason else proved(checkpoint)
    return Evidence(
        reports=measure(checkpoint, TorchEngine(1), args.suites),
        proof=proof,
        why_no_proof=reason,
        rate=success_rate(args.checkpoint),
        certificate=certificate,
    )


def _git_author() -> str:
    import subprocess

    try:
        done = subprocess.run(["git", "config", "user.name"], capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return "anonymous"
    return done.stdout.strip() or "anonymous"

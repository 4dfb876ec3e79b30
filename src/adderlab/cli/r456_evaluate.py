"""Evaluate a checkpoint exactly as the published program does: ten test sets, its output file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from adderlab.cli.options import arg


@dataclass(frozen=True, kw_only=True)
class Args:
    """Flags of the published program."""

    checkpoint: Annotated[Path, tyro.conf.Positional, arg(metavar="CKPT")]
    """A checkpoint file."""
    device: str = "cpu"
    """cpu, cuda, mps or auto."""
    batch_size: int = 512
    """Has no effect on any number; kept so that published commands run."""
    output: Annotated[Path | None, arg(metavar="F")] = None
    """Default: results/final_<parameters>params.json."""


def run(args: Args) -> int:
    """Print a line per test set, then write the JSON file."""
    import adderlab
    from adderlab.cli.options import emit_json
    from adderlab.files.atomic import make_folder

    checkpoint = adderlab.load(args.checkpoint)
    print(f"Model: {checkpoint.num_parameters} parameters")
    report = checkpoint.evaluate("published", device=args.device, log=print)
    for group in report.groups:
        verdict = "PASS" if group.errors == 0 else f"FAIL ({group.errors} errors)"
        print(f"  seed={group.name:>5}: exact_match={group.exact_match:.6f}  {verdict}")
    total = report.total
    print(f"Aggregate: {total.exact_match:.6f} ({total.errors} errors in {total.n} examples)")
    output = args.output or Path(f"results/final_{checkpoint.num_parameters}params.json")
    make_folder(output.parent)
    emit_json(_published_form(checkpoint, report), output)
    print(f"Results saved to {output}")
    return 0


def _published_form(checkpoint, report) -> dict:  # type: ignore[no-untyped-def]
    """The published program's JSON; its ``config`` names where the model is of its family."""
    from adderlab.runs.foreign import model_to_dict

    config = model_to_dict(checkpoint.config)
    total = report.total
    return {
        "model": f"{checkpoint.num_parameters}-parameter transformer",
        "checkpoint": str(checkpoint.path),
        "parameters": checkpoint.num_parameters,
        "config": {**config, "weight_tying": True, "precision": "fp32"},
        "training": {
            "seed": 42 if checkpoint.seed is None else checkpoint.seed,
            "total_steps": checkpoint.step,
        },
        "multi_seed_validation": {
            "total_examples": total.n,
            "num_test_sets": len(report.groups),
            "aggregate_exact_match": round(total.exact_match, 6),
            "aggregate_errors": total.errors,
            "per_seed": {
                group.name: {"exact_match": group.exact_match, "errors": group.errors}
                for group in report.groups
            },
        },
    }

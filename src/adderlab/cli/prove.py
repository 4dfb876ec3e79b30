"""Decide all 10^20 pairs for a checkpoint: proved, refuted with a count, or undecided."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

if TYPE_CHECKING:
    from adderlab.proof.prove import Count, Verdict

PAIRS = 10**20


@dataclass(frozen=True, kw_only=True)
class Args:
    """Which model, and how hard to try."""

    checkpoint: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="CKPT")]
    """A checkpoint file."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"], metavar="CERT")] = None
    """Write the certificate here; a name ending in .gz compresses it (2.6 MB, not 4.8, for 456p)."""
    cells: int = 3_000_000
    """Cells that the branch and bound may bound before it reports what is left."""
    seconds: float = 120.0
    """Time after which the branch and bound stops."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print one object instead of text."""


def run(args: Args) -> int:
    """Prove; the exit code is 0 whatever the verdict."""
    import torch

    from adderlab.cli.options import emit_json
    from adderlab.errors import UsageError
    from adderlab.proof.certificate import certificate, write_certificate
    from adderlab.proof.prove import prove_checkpoint
    from adderlab.proof.search import Limits
    from adderlab.runs.checkpoints import load_checkpoint

    if args.cells < 0 or args.seconds <= 0:
        raise UsageError("--cells must be 0 or more and --seconds above 0")
    torch.set_num_threads(1)
    checkpoint = load_checkpoint(args.checkpoint)
    with _Live() as live:
        proof, tables = prove_checkpoint(
            checkpoint, limits=Limits(cells=args.cells, seconds=args.seconds), progress=live.show
        )
    if args.output is not None:
        content = certificate(proof, tables, checkpoint.weights_sha256)
        write_certificate(args.output, content)
    if args.json:
        emit_json(as_json(proof.verdict), None)
    else:
        print(f"{args.checkpoint}: {checkpoint.num_parameters} parameters")
        for line in in_words(proof.verdict):
            print(line)
        if args.output is not None:
            print(f"certificate: {args.output}")
            if proof.verdict.verdict == "proved":
                print(f"check it: adderlab check {args.output} {args.checkpoint}")
    return 0


class _Live:
    """Progress on stderr: a bar on a terminal, nothing elsewhere."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._bar = self._bars.add_task("tables", total=None, note="")

    def __enter__(self) -> _Live:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def show(self, progress: Any) -> None:
        words = {
            "leaves": "leaves of every step",
            "search": "splitting open leaves",
            "union": "counting each failing pair once",
        }
        note = f"{progress.done:,} cells, {progress.open_inputs / PAIRS:.2e} of 10^20 open"
        self._bars.update(
            self._bar,
            description=words[progress.phase],
            completed=progress.done,
            total=progress.total if progress.phase == "leaves" else None,
            note=note if progress.phase == "search" else "",
        )


def as_json(verdict: Verdict) -> dict[str, Any]:
    """The verdict as plain values."""
    margin = verdict.margin
    return {
        "verdict": verdict.verdict,
        "failing_pairs": _plain(verdict.failing_pairs),
        "failing_by_step": [_plain(count) for count in verdict.failing_by_step],
        "counterexample": None if verdict.counterexample is None else list(verdict.counterexample),
        "answer": verdict.answer,
        "margin": {"bound": margin.bound, "witness": margin.witness, "pair": list(margin.pair)},
        "reason": verdict.reason,
        "leaves": verdict.leaves,
        "cells": verdict.cells,
        "seconds": verdict.seconds,
    }


def _plain(count: Count) -> int | list[int]:
    return count if isinstance(count, int) else list(count)


def in_words(verdict: Verdict) -> list[str]:
    """What the verdict means, for people."""
    lines = []
    if verdict.verdict == "proved":
        lines.append(
            "PROVED: greedy decoding of the stored weights, in real arithmetic, adds every one of the "
            "10^20 pairs of ten-digit numbers right."
        )
    elif verdict.verdict == "refuted":
        lines.append(f"REFUTED: {_number(verdict.failing_pairs)} of the 10^20 pairs fail.")
        steps = [
            f"s_{i} {_number(count)}" for i, count in enumerate(verdict.failing_by_step) if count != 0
        ]
        lines.append(f"by digit of the sum (s_0 the units): {'; '.join(steps)}")
    else:
        lines.append(f"UNDECIDED: no failing pair is known; {_number(verdict.failing_pairs)} may fail.")
    if verdict.counterexample is not None:
        a, b = verdict.counterexample
        said = ""
        if verdict.answer is not None:
            answer = "no number" if verdict.answer < 0 else str(verdict.answer)
            said = f"; the model, run in fp32, answers {answer}"
        lines.append(f"for example {a} + {b} = {a + b}{said}")
    if verdict.reason:
        lines.append(verdict.reason)
    margin, (a, b) = verdict.margin, verdict.margin.pair
    bound = "no bound is known" if margin.bound is None else f"at least {margin.bound:.4f} everywhere"
    lines.append(
        f"smallest margin: {margin.witness:.4f} logits at {a} + {b} (digit s_{margin.step}); {bound}"
    )
    splits = f", {verdict.split_leaves:,} split into {verdict.cells:,} cells" if verdict.cells else ""
    lines.append(f"{verdict.leaves:,} leaves{splits}, {verdict.seconds:.1f} s")
    return lines


def _number(count: Count) -> str:
    if isinstance(count, int):
        return f"{count:,} ({count / PAIRS:.4e})"
    low, high = count
    return f"{low:,} to {high:,} ({low / PAIRS:.4e} to {high / PAIRS:.4e})"

"""Evaluating from a terminal: what ``adderlab evaluate``, ``train`` and the log's command share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from adderlab.engine.base import choose_device
from adderlab.engine.select import select_engine
from adderlab.evaluation.exact import SuiteReport, decoder_for, evaluate
from adderlab.evaluation.suites import Suite
from adderlab.format import percent
from adderlab.runs.checkpoints import Checkpoint
from adderlab.task.digits import SUM_DIGITS
from adderlab.task.layouts import get_layout


def evaluate_checkpoint(
    checkpoint: Checkpoint,
    suite: Suite,
    *,
    device: str,
    engine: str,
    say: Callable[[str], None],
) -> SuiteReport:
    """Exact match of one checkpoint on a suite, on the chosen device and engine."""
    torch.set_num_threads(1)
    where, why = choose_device(device)
    if device == "auto":
        say(f"device: {where} ({why})")
    chosen = select_engine(engine, checkpoint.config, where, threads=1, say=say)
    params = {name: tensor.to(where) for name, tensor in checkpoint.stacked().items()}
    decoder = decoder_for(checkpoint.config, params, chosen)
    return evaluate(decoder, get_layout(checkpoint.config.layout), suite)


def print_report(console: Console, report: SuiteReport) -> None:
    """Groups as a table, the total in words, the first failures."""
    total = report.total
    if len(report.groups) > 1:
        table = Table(box=None, pad_edge=False)
        for column in ("group", "pairs", "errors", "exact match"):
            table.add_column(column, justify="left" if column == "group" else "right")
        for group in report.groups:
            table.add_row(group.name, f"{group.n:,}", f"{group.errors:,}", percent(group.exact_match))
        console.print(table)
    # Without emoji=False, "fresh:100:" is printed as a picture.
    console.print(total_line(report), highlight=False, markup=False, emoji=False, soft_wrap=True)
    if total.errors:
        weak = [i for i in range(SUM_DIGITS) if total.digit_accuracy[i] < 1]
        digits = ", ".join(f"s_{i} {percent(total.digit_accuracy[i])}" for i in weak)
        console.print(f"digits that fail (units first): {digits}", highlight=False, soft_wrap=True)
        for miss in report.failures:
            console.print(f"  {miss}", highlight=False, markup=False, soft_wrap=True)


def total_line(report: SuiteReport) -> str:
    """For example: published: 0 errors of 100,000 pairs (error rate below 3.7e-05, 95%), 0.4 s."""
    total, rate = report.total, report.total.error_rate
    if total.errors == 0:
        bound = f"error rate below {rate.high:.1e}, 95%"
    else:
        bound = f"error rate {rate.value:.3e} [{rate.low:.1e}, {rate.high:.1e}], 95%"
    return (
        f"{report.suite}: {total.n - total.errors}/{total.n} right, {total.errors:,} errors of "
        f"{total.n:,} pairs ({bound}), {report.seconds:.2f} s"
    )


def report_entry(checkpoint: Checkpoint, report: SuiteReport) -> dict[str, Any]:
    """The report as JSON with what it was measured on."""
    return {
        "checkpoint": str(checkpoint.path),
        "weights_sha256": checkpoint.weights_sha256,
        "parameters": checkpoint.num_parameters,
        **report.to_json(),
    }

"""Which ingredients of the generic recipe ``auto`` carry its rates: each left out or changed alone.

    python experiments/ingredients.py commands     # a measurement for each arm of each architecture
    python experiments/ingredients.py table        # of those measured so far, for docs/lab-notebook.md
    python experiments/ingredients.py differences  # of each arm from the control, with their tests

All arms train the same seeds. An arm changes one setting of what ``auto`` chose for the model and
nothing else; its row in records/rates is named ``auto-ARM``, the control's ``auto``.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from adderlab.evaluation.suites import Rate
from adderlab.report.comparison import Contrast, Grokking, contrast, corrected, steps_to_grok
from adderlab.study.rate import FOLDER, RateRecord, file_name, read_rate

PRESETS = ("456p", "122p", "67p", "44p", "7p")
SEEDS = "30000-30047"
ARMS = {
    "auto": "",
    "auto-one-start": "recipe.restarts=null",
    "auto-no-wide": "recipe.restarts.widths=[0.0]",
    "auto-no-scale": "recipe.logit_scale=1",
    "auto-no-anneal": "recipe.stages=[]",
    "auto-batch-64": "recipe.batch_size=64",
    "auto-beta2-0.99": "recipe.beta2=0.99",
}
SAME = {("7p", "auto-no-scale")}
"""Where the setting is what ``auto`` chooses anyway."""


def commands() -> Iterator[str]:
    """Every measurement, on one core each."""
    for preset in PRESETS:
        for arm, change in ARMS.items():
            if (preset, arm) not in SAME:
                words = ["adderlab", "rate", preset, "--recipe", "auto", "--seeds", SEEDS]
                words += ["--set", change, "--name", arm] if change else []
                yield shlex.join([*words, "--threads", "1"])


def table(folder: Path) -> str:
    """Markdown: an arm a row, an architecture a column, seeds proved and, in brackets, at 99%."""
    lines = ["| arm | " + " | ".join(PRESETS) + " |", "|---|" + "---|" * len(PRESETS)]
    for arm in ARMS:
        cells = [_cell(folder, preset, arm) for preset in PRESETS]
        lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(folder: Path, preset: str, arm: str) -> str:
    if (preset, arm) in SAME:
        return "as auto"
    row = _row(folder, preset, arm)
    return f"{row.pure} ({row.exact_at_end.count})" if row else "-"


def _row(folder: Path, preset: str, arm: str) -> RateRecord | None:
    path = folder / file_name(preset, arm)
    return read_rate(path) if path.is_file() else None


def differences(folder: Path) -> str:
    """Markdown: of each measured arm from its control, by the methods of docs/statistics.md.

    Seeds proved and seeds at 99% at the end, with Fisher's p and, in brackets, that corrected for all
    rows of the table; the median step to 99% of either, with the p of the log-rank test between them.
    """
    pairs = []
    for preset in PRESETS:
        control, *arms = (_row(folder, preset, arm) for arm in ARMS)
        pairs += [(control, arm) for arm in arms if control and arm]
    lines = [
        "| preset | arm | proved | points | p (Holm) | 99% at end | p (Holm) | steps to 99% | p |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    proved = corrected([contrast(_proved(control), _proved(arm)) for control, arm in pairs])
    exact = corrected([contrast(_exact(control), _exact(arm)) for control, arm in pairs])
    for (control, arm), of_proved, of_exact in zip(pairs, proved, exact, strict=True):
        (rate, steps), (arm_rate, arm_steps) = _proved(control), _proved(arm)
        points = (100 * x for x in (of_proved.difference, of_proved.low, of_proved.high))
        cells = (
            arm.preset,
            arm.recipe,
            f"{rate.count} to {arm_rate.count}",
            "{:+.0f} [{:+.0f}, {:+.0f}]".format(*points),
            _p_values(of_proved),
            f"{control.exact_at_end.count} to {arm.exact_at_end.count}",
            _p_values(of_exact),
            f"{_median(steps)} to {_median(arm_steps)}",
            "-" if of_exact.log_rank_p is None else f"{of_exact.log_rank_p:.2g}",
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _proved(row: RateRecord) -> tuple[Rate, Grokking]:
    assert row.pure is not None, f"{row.preset} has tables"
    return row.pure, steps_to_grok(row.results)


def _exact(row: RateRecord) -> tuple[Rate, Grokking]:
    return row.exact_at_end, steps_to_grok(row.results)


def _median(steps: Grokking) -> str:
    return "never" if steps.median is None else f"{steps.median:,.0f}"


def _p_values(of: Contrast) -> str:
    return f"{of.fisher_p:.2g} ({of.fisher_holm_p:.2g})"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("commands", "table", "differences"))
    parser.add_argument("--rates", type=Path, default=FOLDER)
    args = parser.parse_args(argv)
    tables = {"table": table, "differences": differences}
    print(tables[args.what](args.rates) if args.what in tables else "\n".join(commands()))
    return 0


if __name__ == "__main__":
    sys.exit(main())

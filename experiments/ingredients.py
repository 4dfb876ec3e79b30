"""Which ingredients of the generic recipe ``auto`` carry its rates: each left out or changed alone.

    python experiments/ingredients.py commands     # a measurement for each arm of each architecture
    python experiments/ingredients.py table        # of those measured so far, for docs/lab-notebook.md

All arms train the same seeds. An arm changes one setting of what ``auto`` chose for the model and
nothing else; its row in records/rates is named ``auto-ARM``, the control's ``auto``.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from adderlab.study.rate import FOLDER, file_name, read_rate

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
    path = folder / file_name(preset, arm)
    if not path.is_file():
        return "-"
    row = read_rate(path)
    return f"{row.pure} ({row.exact_at_end.count})"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("commands", "table"))
    parser.add_argument("--rates", type=Path, default=FOLDER)
    args = parser.parse_args(argv)
    print("\n".join(commands()) if args.what == "commands" else table(args.rates))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Every command of the README, with small arguments: the same exit codes and the same answers."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from checkouts import Checkout, Outcome, Pair
from gate_parts.answers import differences, pick
from gate_parts.check import Check, compared, same_code

SWEEP = """preset = "456p"
recipe = "circle"
seeds = "0-1"
steps = 20
output = "results/sweeps/small"
[grid]
recipe.lr = [0.01, 0.02]
"""
SERIES = """schema_version = 1
name = "small"
title = "One evaluation"
reported_by = "the log"
reported_environment = "any"

[[experiment]]
name = "E1"
title = "A model on record"
reported = "0 errors"

[[experiment.step]]
command = "python evaluate_checkpoints.py {model} --output results/series.json"
output = "results/series.json"
needs = ["{model}"]

[[experiment.expect]]
file = "results/series.json"
key = "multi_seed_validation.aggregate_errors"
equals = 0
says = "0 of 100,000 pairs are wrong"
"""
PUBLISHED = (
    "--pos-rank 3 --qkv-rank 3 --attn-out-rank 2 --ffn-rank 3 --use-rmsnorm --tie-qkv shareA_tieKV"
)
SMALL = ("--steps", "40", "--evaluate", "none", "--no-prove")


@dataclass(frozen=True, kw_only=True)
class Case:
    """A command line of adderlab; `module` or `script` if it is one of the published log instead."""

    args: tuple[str, ...]
    module: str = ""
    script: str = ""
    keys: tuple[str, ...] = ()
    """Keys of its JSON output that have to be equal."""
    writes: tuple[str, ...] = ()
    """Files that it has to leave behind."""

    @property
    def row(self) -> str:
        """The first words of its row in the README's table."""
        if self.module:
            return f"python -m {self.module}"
        return f"python {self.script}" if self.script else f"adderlab {self.args[0]}"

    def command(self, tree: Checkout) -> list[str]:
        if self.module:
            return [sys.executable, "-m", self.module, *self.args]
        if self.script:
            return [sys.executable, str(tree.root / self.script), *self.args]
        return tree.adderlab(*self.args)


def cases(best: Path) -> list[Case]:
    """In an order in which later ones find what earlier ones wrote. `best`: records/best."""
    model, larger = (str(best / name / "model.pt") for name in ("7p", "456p"))
    small = "results/runs/small"

    def case(line: str, *more: str, **options: tuple[str, ...] | str) -> Case:
        return Case(args=(*line.split(), *more), **options)  # type: ignore[arg-type]

    def export(to: str, output: str, *writes: str) -> Case:
        options = f"--to {to} -o {output} --no-prove --suites fresh:1000 --author Nobody"
        return case(f"export {model} {options}", writes=writes)

    return [
        case(
            "train 7p --until proved --proved 1 --budget 5 --seeds 0- --run-name search --evaluate none"
        ),
        case("train --until proved --resume results/runs/search --evaluate none"),
        case(
            "train 456p --seeds 0-3 --steps 40 --set recipe.lr=0.01 --device auto --run-name small "
            "--evaluate fresh:1000",
            writes=(f"{small}/summary.json", f"{small}/checkpoints/best.pt"),
        ),
        case(f"train --resume {small} --evaluate none"),
        case("train 456p --seeds 0-1 --recipe circle --run-name other", *SMALL),
        case("train 456p --seeds 0-1 --recipe circle --run-name other", *SMALL),  # it is there already
        case("train 456p --seeds 0-1 --json-lines --run-name lines", *SMALL),
        case(f"evaluate {model} {larger} --suite published --json"),
        case(f"evaluate {model} --suite adderboard"),
        case(f"evaluate {model} --suite strata --output strata.json", writes=("strata.json",)),
        case(
            f"predict {model} 9999999999 1 --json",
            keys=("a", "b", "answer", "sum", "right", "confidences"),
        ),
        case(f"predict {model} 9999999999 -1"),
        case(f"prove {model} -o cert.json", writes=("cert.json",)),
        case(f"check cert.json {model}"),
        case(f"check cert.json {larger}"),  # of another model: rejected
        case(f"repair {larger} -o repaired.pt --json", keys=("verdict", "trainings", "margin.bound")),
        case(
            f"attack {model} --pairs 20 --starts 1 --json",
            keys=("counterexample", "margin.witness", "margin.pair", "checked", "failures"),
        ),
        case("rate 456p --recipe circle --seeds 1000-1001 --steps 40 --prove-seconds 1 -o rows"),
        case("rate --resume results/rates/456p_circle+steps=40_1000-1001 -o rows --overwrite"),
        case(
            "plan 456p --seeds 512 --nodes 4 --json", keys=("preset", "forecast.nodes", "forecast.seeds")
        ),
        case("sweep small.toml"),
        case(f"report {small}", writes=(f"{small}/report.html",)),
        case(f"compare {small} results/runs/other --json"),
        case("log results", writes=("EXPERIMENTS.md",)),
        case("replay series.toml", writes=("results/series.json",)),
        case("replay series.toml"),  # run already
        case(f"inspect {model}"),
        case("inspect 456p --json", keys=("parameters", "table_form")),
        export("adderboard", "submission.py", "submission.py", "submission.md"),
        export("safetensors", "model.safetensors", "model.safetensors"),
        export("hub-folder", "hub", "hub/README.md", "hub/model.safetensors", "hub/config.json"),
        case(f"export {model} --to onnx -o model.onnx --no-prove --suites fresh:1000"),
        case(
            "verify submission.py --sandbox limits --strata 5 --no-prove --json",
            keys=("verdict", "counts"),
        ),
        case("zoo"),
        case("zoo 456p"),
        case("zoo --markdown"),
        case(f"--run-name a --train-steps 40 {PUBLISHED}", module="src.train"),
        case(f"{larger} --output results/final.json", script="evaluate_checkpoints.py"),
        case("--version"),
        case("--help"),
        case("nonsense"),
        case("evaluate nowhere.pt"),
        case("train 456p --recipe nonsense"),
        case("train 456p --set recipe.nonsense=1"),
    ]


def check_commands(pair: Pair) -> Iterator[Check]:
    chosen = cases(pair.old.root / "records" / "best")
    yield check_table(pair.old.root / "README.md", pair.new.root / "README.md", chosen)
    for tree in (pair.old, pair.new):
        (tree.folder / "small.toml").write_text(SWEEP)
        model = pair.old.root / "records" / "best" / "456p" / "model.pt"
        (tree.folder / "series.toml").write_text(SERIES.replace("{model}", str(model)))
    for case in chosen:
        old, new = pair.run_each(case.command(pair.old), case.command(pair.new))
        shown = " ".join(Path(each).name if "/" in each else each for each in case.args)
        line = f"{case.row} {shown}" if case.module or case.script else shown
        problems = same_code(old, new) + answers(case, old, new) + missing(case, pair, old)
        yield compared(line, problems, f"exit code {old.code}")
    yield from check_old_runs(pair)


def check_table(old: Path, new: Path, chosen: list[Case]) -> Check:
    """Every row of the new README's table is the beginning of a command that is run here, but for
    commands that the old tree does not have: there is nothing to compare them with."""
    known = {" ".join(row.split()[:2]) for row in _rows(old)}
    rows = [row for row in _rows(new) if " ".join(row.split()[:2]) in known]
    covered = {each.row for each in chosen}
    problems = [] if rows else [f"{new.name} has no table of commands"]
    problems += [f"not run here: {row}" for row in rows if not any(row.startswith(c) for c in covered)]
    problems += [f"no row: {command}" for command in known - {" ".join(row.split()[:2]) for row in rows}]
    return compared(f"README: {len(rows)} rows, all of them run", problems)


def _rows(readme: Path) -> list[str]:
    """The commands in a README's table."""
    return re.findall(r"^\| `((?:adderlab|python) [^`]*)`", readme.read_text(), re.MULTILINE)


def answers(case: Case, old: Outcome, new: Outcome) -> list[str]:
    if not case.keys:
        return []
    return differences(pick(old.document, case.keys), pick(new.document, case.keys))


def missing(case: Case, pair: Pair, old: Outcome) -> list[str]:
    if old.code != 0:
        return []
    return [
        f"the {tree.name} tree wrote no {name}"
        for tree in (pair.old, pair.new)
        for name in case.writes
        if not (tree.folder / name).exists()
    ]


def check_old_runs(pair: Pair) -> Iterator[Check]:
    """Folders that the old tree wrote, in this one."""
    results = pair.new.folder / "old-results"
    shutil.copytree(pair.old.folder / "results", results)
    for args in (
        ["report", results / "runs" / "small"],
        ["compare", results / "runs" / "small", results / "runs" / "other"],
        ["log", results, "--output", "old.md"],
        ["train", "--resume", results / "runs" / "small", "--evaluate", "none"],
        ["train", "--until", "proved", "--resume", results / "runs" / "search", "--evaluate", "none"],
    ):
        done = pair.new.run(pair.new.adderlab(*args))
        problems = [] if done.code == 0 else [f"exit code {done.code}: {done.complaint}"]
        shown = " ".join(each.name if isinstance(each, Path) else each for each in args)
        yield compared(f"of the old tree's folders: {shown}", problems)

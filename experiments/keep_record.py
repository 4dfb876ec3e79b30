"""Keep the best model of a measured rate: checkpoint, certificate, and where it came from.

    python experiments/keep_record.py results/rates/456p_prefit_5000-5095 [FOLDER...]

reads a finished measurement (``adderlab rate``), takes the seed whose smallest margin over all pairs is
provably largest, among those proved as trained (of a preset without one: after repair), proves it anew
and writes

    records/best/456p/model.pt, model.cert.json.gz, about.json

unless a record with a larger margin is there. ``records/best/README.md`` lists them all. A preset of
which no seed is proved in a measurement may have one mended by hand with ``adderlab repair``:

    python experiments/keep_record.py results/rates/36p_wide-36_9200-9231 --mended FILE \
        --trainings 2 --command "adderlab repair ..."
"""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from adderlab.engine.base import select_engine
from adderlab.errors import Failure, UsageError
from adderlab.evaluation.suites import published
from adderlab.files import schema
from adderlab.files.atomic import (
    make_folder,
    read_json,
    write_json,
    write_text,
)
from adderlab.format import seed_list
from adderlab.proof.certificate import write_beside
from adderlab.proof.prove import Proof, prove_checkpoint
from adderlab.runs.checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from adderlab.runs.metadata import now, start_of
from adderlab.runs.records import Repair, SeedRecord
from adderlab.study.rate import RateExperiment, RatePlan, read_plan
from adderlab.study.verdicts import REPAIRED_FILE, count_errors

RECORDS = Path("records/best")


def keep(folder: Path, records: Path, mended: Mended | None = None) -> str:
    """Keep the best model of the measurement in ``folder``; what was done, in a line."""
    experiment = RateExperiment(read_plan(folder), folder)
    plan = experiment.plan
    outcomes = [each for each in experiment.records.values() if each.verdict is not None]
    command = shlex.join(plan.command)
    if mended:
        outcomes = [_by_hand(mended, outcomes)]
        command = f"{command} && {mended.command}"
    found = [each for each in map(_of, outcomes) if each is not None]
    if not found:
        return f"{plan.preset}: none of {len(outcomes)} seeds is proved"
    best = max(found, key=lambda each: (each.rank, -each.outcome.seed))
    target = records / plan.preset
    before = read_json(target / "about.json") if (target / "about.json").is_file() else None
    if before and (before["trainings_of_repair"] == 0, before["margin_bound"]) >= best.rank:
        return f"{plan.preset}: the record's margin {before['margin_bound']:.4g} stands"
    seed = best.outcome.seed
    population = next(each for each in experiment.populations if seed in each.seeds)
    place = population.checkpoints(seed) / best.file
    checkpoint = load_checkpoint(mended.file if mended else place)
    proof = prove_checkpoint(checkpoint)
    if proof.verdict != "proved":
        raise Failure(f"{plan.preset} seed {seed}: the proof did not go through again")
    make_folder(target)
    save_checkpoint(target / "model.pt", checkpoint)
    write_beside(target / "model.pt", proof)
    environment = read_json(population.folder / "environment.json")
    write_json(target / "about.json", _about(plan, command, best, proof, checkpoint, environment))
    return f"{plan.preset}: seed {seed}, margin at least {best.margin_bound:.4g}"


@dataclass(frozen=True, kw_only=True)
class Mended:
    """A seed's model after ``adderlab repair``, run by hand."""

    file: Path
    trainings: int
    command: str


def _by_hand(mended: Mended, outcomes: Sequence[SeedRecord]) -> SeedRecord:
    """The outcome of the model's seed as if the measurement had repaired it so."""
    checkpoint = load_checkpoint(mended.file)
    outcome = next((each for each in outcomes if each.seed == checkpoint.seed), None)
    if outcome is None:
        raise UsageError(f"{mended.file} is of seed {checkpoint.seed}, which was not measured there")
    verdict = prove_checkpoint(checkpoint)
    engine = select_engine("torch", checkpoint.config, torch.device("cpu"), threads=1, log=print)
    repaired = Repair(
        verdict=verdict.verdict,
        margin_bound=verdict.margin.bound,
        trainings=mended.trainings,
        published_errors=count_errors(checkpoint, engine, published()),
        core_seconds=0.0,
    )
    return dataclasses.replace(outcome, repair=repaired)


@dataclass(frozen=True)
class _Candidate:
    """A seed with a proved model."""

    outcome: SeedRecord
    file: str
    margin_bound: float
    trainings: int
    """Of repair; 0: proved as trained."""

    @property
    def rank(self) -> tuple[bool, float]:
        return self.trainings == 0, self.margin_bound


def _of(outcome: SeedRecord) -> _Candidate | None:
    if outcome.route == "pure" and outcome.margin_bound is not None:
        return _Candidate(outcome, f"{outcome.weights}.pt", outcome.margin_bound, 0)
    mended = outcome.repair
    if mended and mended.verdict == "proved" and mended.margin_bound is not None:
        return _Candidate(outcome, REPAIRED_FILE, mended.margin_bound, mended.trainings)
    return None


def _about(
    plan: RatePlan,
    command: str,
    best: _Candidate,
    proof: Proof,
    checkpoint: Checkpoint,
    machine: dict[str, Any],
) -> dict[str, Any]:
    margin = proof.margin
    mended = best.outcome.repair if best.trainings else None
    names = ("cpu", "cpu_count", "adderlab", "python", "torch", "numpy", "git_revision")
    return {
        "preset": plan.preset,
        "parameters": checkpoint.num_parameters,
        "recipe": plan.recipe_name,
        "start": start_of(checkpoint),
        "command": command,
        "seed": best.outcome.seed,
        "weights": best.file.removesuffix(".pt"),
        "weights_sha256": checkpoint.weights_sha256,
        "step": checkpoint.step,
        "chosen_among": f"{len(plan.seeds)} seeds ({seed_list(plan.seeds)}), for the largest smallest "
        "margin",
        "verdict": "proved on all 10^20 pairs, "
        + (f"after {best.trainings} trainings on its worst pairs" if mended else "as trained"),
        "trainings_of_repair": best.trainings,
        "margin_bound": margin.bound,
        "margin_witness": margin.witness,
        "weakest_pair": list(margin.pair),
        "published_errors": (mended or best.outcome).published_errors,
        "date": now(),
        "trained_on": {name: machine[name] for name in names},
    }


def index(records: Path) -> str:
    """README.md of the folder: a row a record."""
    lines = [
        "# Proved models",
        "",
        "The best model of each preset: trained from its own seed and right on all 10^20 pairs, with no",
        "repair where that succeeded. Written by `python experiments/keep_record.py`; each folder has",
        "the checkpoint, its certificate and about.json. To check one:",
        "`adderlab check records/best/456p/model.cert.json.gz records/best/456p/model.pt`.",
        "",
        "| preset | recipe | start | seed | repair | smallest margin, logits | weakest pair "
        "| trained by |",
        "|---|---|---|---|---|---|---|---|",
    ]
    found = [(read_json(path), path.with_name("model.pt")) for path in records.glob("*/about.json")]
    for about, model in sorted(found, key=lambda each: -each[0]["parameters"]):
        a, b = about["weakest_pair"]
        start = start_of(load_checkpoint(model))
        lines.append(
            f"| {about['preset']} | {schema.recipe_name(about['recipe'])} | {start} "
            f"| {about['seed']} | {about['trainings_of_repair'] or 'none'} "
            f"| {about['margin_bound']:.4g} to {about['margin_witness']:.4g} | {a} + {b} | "
            f"`{' '.join(schema.command(about['command'].split(' ')))}` |"
        )
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("-o", "--output", type=Path, default=RECORDS)
    parser.add_argument("--mended", type=Path, metavar="FILE", help="a seed's model after repair")
    parser.add_argument("--trainings", type=int)
    parser.add_argument("--command", help="that repaired it")
    args = parser.parse_args(argv)
    mended = None
    if args.mended:
        if None in (args.trainings, args.command) or len(args.folders) != 1:
            parser.error("--mended goes with one FOLDER, --trainings and --command")
        mended = Mended(file=args.mended, trainings=args.trainings, command=args.command)
    try:
        for folder in args.folders:
            print(keep(folder, args.output, mended))
        if args.output.is_dir():
            write_text(args.output / "README.md", index(args.output))
    except (UsageError, Failure) as error:
        print(f"keep_record: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

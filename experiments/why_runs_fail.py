"""Why runs fail: the numbers and figures of docs/why-runs-fail.md and docs/lab-notebook.md.

    python experiments/why_runs_fail.py RUN [RUN...] -o docs/figures/

reads populations of one preset and one recipe (trained with --keep all, so that every seed's last
weights are there) and writes why-runs-fail.json and its figures. ``--film SEED`` trains a seed of
the first run again, to the same bits, and records where its answer steps attend along the way.
``--document FILE`` rewrites the generated sections of a page: docs/why-runs-fail.md has the summary,
docs/lab-notebook.md the full tables and figures.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import why_runs_fail_figures as figures
import why_runs_fail_measures as measures
import why_runs_fail_text as text

from adderlab.engine.base import select_engine
from adderlab.errors import Failure, UsageError
from adderlab.files.atomic import make_folder, write_json, write_text
from adderlab.models.tables import Tables, tables, why_no_tables
from adderlab.report.evidence import RunEvidence, SeedHistory, read_run
from adderlab.runs.checkpoints import load_checkpoint
from adderlab.runs.folder import seed_folder
from adderlab.task.addition import OPERAND_DIGITS
from adderlab.training.objective import objective_for
from adderlab.training.population import Population
from adderlab.training.recipe import Recipe
from adderlab.training.run import Job, read_job

PREFIX = "why-runs-fail"
ROOT = Path(__file__).resolve().parents[1]


class Study:
    """The runs, as one population; seeds in the order of ``histories``."""

    def __init__(self, folders: Sequence[Path]) -> None:
        runs = [read_run(folder) for folder in folders]
        self.jobs = [read_job(folder) for folder in folders]
        first = self.jobs[0]
        for folder, job in zip(folders, self.jobs, strict=True):
            if (job.config, job.recipe) != (first.config, first.recipe):
                raise UsageError(f"{folder} has another model or recipe than {folders[0]}")
        reason = why_no_tables(first.config)
        if reason:
            raise UsageError(f"attention and keys are read from the tables: {reason}")
        self.histories: list[SeedHistory] = []
        self.weights: list[dict[str, torch.Tensor]] = []
        for run, job in zip(runs, self.jobs, strict=True):
            for history in run.histories:
                self.histories.append(history)
                self.weights.append(_last_weights(run, job, history))
        seeds = [history.seed for history in self.histories]
        if len(set(seeds)) < len(seeds):
            raise UsageError("a seed is in two of these runs; name each population once")

    @property
    def recipe(self) -> Recipe:
        return self.jobs[0].recipe

    def form(self, weights: Sequence[dict[str, torch.Tensor]] | None = None) -> Tables:
        """The tables of all seeds' last weights."""
        with torch.no_grad():
            return tables(self.jobs[0].config, measures.stack(weights or self.weights))


def _last_weights(run: RunEvidence, job: Job, history: SeedHistory) -> dict[str, torch.Tensor]:
    folder = seed_folder(run.path, history.seed) if len(job.seeds) > 1 else run.path
    path = folder / "checkpoints" / "last.pt"
    if not path.is_file():
        raise UsageError(f"seed {history.seed} has no {path}: train with --keep all")
    return load_checkpoint(path).params


def from_root(argument: str | Path) -> str:
    """An absolute path as seen from the repository, or its last part where it lies outside: what is
    written must not name the folders of one machine. Anything else is returned unchanged."""
    path = Path(argument)
    if not path.is_absolute():
        return str(argument)
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name


def study(
    folders: Sequence[Path], output: Path, films: Sequence[int], command: Sequence[str] = ()
) -> dict[str, Any]:
    """Measure, draw, write; returns what is in the JSON. ``command``: the arguments of the program."""
    found = Study(folders)
    histories, recipe = found.histories, found.recipe
    form = found.form()
    attention_SIJ, margin_SJ = measures.attention(form), measures.margins(form)
    numbers: dict[str, Any] = {
        "runs": [from_root(folder) for folder in folders],
        "command": shlex.join(["python", from_root(Path(__file__).resolve()), *map(from_root, command)]),
        "parameters": sum(tensor.numel() for tensor in found.weights[0].values()),
        "steps": recipe.total_steps,
        "outcome": measures.outcome(histories),
        "prediction": measures.prediction(histories, recipe.total_steps),
        "giving_up": measures.giving_up(histories, recipe),
        "geometry": measures.by_state(histories, attention_SIJ, margin_SJ),
    }
    drawn = {
        "steps-learned": figures.steps_learned(numbers["outcome"]["steps_learned_at_end"]),
        "stuck-steps": figures.per_step(numbers["outcome"]["per_answer_step"], len(histories)),
        "learning": figures.learning(histories),
        "learned-when": figures.learned_when(histories),
        "prediction": figures.prediction(numbers["prediction"], recipe.total_steps),
        "margins": figures.margins(
            *(_margins_of(histories, margin_SJ, s) for s in ("learned", "stuck"))
        ),
    }
    for name, map_IJ in measures.mean_maps(histories, attention_SIJ).items():
        drawn[f"attention-{name}"] = figures.attention(map_IJ, f"attention of {name} answer steps")
        numbers[f"attention_{name}"] = _rounded(map_IJ)
    for seed in films:
        numbers.setdefault("films", []).append(film(found, seed, drawn))
    make_folder(output)
    for name, svg in drawn.items():
        write_text(output / f"{PREFIX}-{name}.svg", svg + "\n")
    write_json(output / f"{PREFIX}.json", numbers)
    return numbers


def _margins_of(histories: Sequence[SeedHistory], margin_SJ: np.ndarray, name: str) -> list[float]:
    return [
        float(margin_SJ[s, i])
        for s, history in enumerate(histories)
        for i in range(OPERAND_DIGITS)
        if measures.state(history.last.step_acc[i]) == name
    ]


def film(found: Study, seed: int, drawn: dict[str, str]) -> dict[str, Any]:
    """Train ``seed`` of the first run again; attention and margins at every evaluation, maps before
    and after the step that is learned last (or, in a seed that fails, of its first stuck step)."""
    job, cpu = found.jobs[0], torch.device("cpu")
    place = next((s for s, history in enumerate(found.histories) if history.seed == seed), None)
    if place is None or seed not in job.seeds:
        raise UsageError(f"--film {seed}: the first run has no such seed")
    engine = select_engine("auto", job.config, cpu, threads=1, log=lambda line: None)
    population = Population(
        job.config,
        job.recipe,
        (seed,),
        objective_for(job.config, engine, cpu),
        cpu,
    )
    steps, accuracy, weights = [], [], []
    while not population.done:
        loss_S = population.advance(job.recipe.eval_interval)
        step = population.next_step - 1
        if job.recipe.looks_at(step):
            look = population.evaluate(loss_S)
            steps.append(step)
            accuracy.append(look.step_acc_SI[0].numpy())
            weights.append(
                {name: tensor[0].clone() for name, tensor in population.params(look.weights_SN).items()}
            )
    same = all(torch.equal(weights[-1][name], found.weights[place][name]) for name in weights[-1])
    form = found.form(weights)
    attention_TIJ, margin_TJ = measures.attention(form), measures.margins(form)
    columns = [measures.own_column(i) for i in range(attention_TIJ.shape[1])]
    own_TI = np.stack([attention_TIJ[:, i, j] for i, j in enumerate(columns)], 1)
    accuracy_TI = np.stack(accuracy)
    for what in ("attention", "accuracy"):
        drawn[f"film-{seed}-{what}"] = figures.film(steps, own_TI, accuracy_TI, what)
    watched, before, after = _moment(accuracy_TI)
    for when, t in (("before", before), ("after", after)):
        about = f"attention of seed {seed} at step {steps[t]}"
        drawn[f"film-{seed}-{when}"] = figures.attention(attention_TIJ[t], about)
    return {
        "seed": seed,
        "ends_in_the_same_bits": same,
        "answer_step": watched,
        "steps": [steps[before], steps[after]],
        "accuracy": [float(accuracy_TI[t, watched]) for t in (before, after)],
        "own_column_attention": [float(own_TI[t, watched]) for t in (before, after)],
        "margin": [float(margin_TJ[t, columns[watched]]) for t in (before, after)],
    }


def _moment(accuracy_TI: np.ndarray) -> tuple[int, int, int]:
    """(answer step, evaluation before, evaluation after) worth looking at."""
    last = len(accuracy_TI) - 1
    stuck = [i for i, a in enumerate(accuracy_TI[-1]) if measures.state(a) == "stuck"]
    if stuck:
        return stuck[0], last // 2, last
    # Of every step the first evaluation from which it stays above 90%; the latest of them.
    right_TI = accuracy_TI >= measures.STUCK_BELOW
    since = [int(np.flatnonzero(~right_TI[:, i]).max(initial=-1)) + 1 for i in range(right_TI.shape[1])]
    watched = int(np.argmax(since))
    after = min(since[watched], last)
    return watched, max(0, after - 1), after


def _rounded(map_IJ: np.ndarray) -> list[list[float | None]]:
    return [[None if np.isnan(v) else round(float(v), 4) for v in row] for row in map_IJ]


def summary(numbers: dict[str, Any]) -> list[str]:
    """The main findings."""
    outcome, geometry = numbers["outcome"], numbers["geometry"]
    low, high = outcome["success"]["wilson_95"]
    success = outcome["success"]
    return [
        f"{success['count']} of {success['n']} seeds succeed [{low:.1%}, {high:.1%}]",
        f"answer steps learned at the end, 0 to 11: {outcome['steps_learned_at_end']}",
        *(
            f"{name}: {of['answer_steps']} answer steps, median margin {of['margin_median']}, "
            f"{of['in_the_hull']} in the hull"
            for name, of in geometry.items()
        ),
        f"giving up: {json.dumps(numbers['giving_up'])}",
    ]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("-o", "--output", type=Path, default=Path("docs/figures"))
    parser.add_argument("--film", type=int, action="append", default=[], metavar="SEED")
    parser.add_argument("--document", type=Path, action="append", default=[], metavar="FILE")
    command = list(sys.argv[1:] if argv is None else argv)
    args = parser.parse_args(command)
    torch.set_num_threads(1)
    try:
        numbers = study(args.runs, args.output, args.film, command)
        for document in args.document:
            text.fill(document, numbers, args.output)
    except (UsageError, Failure) as error:
        print(f"why_runs_fail: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    for line in summary(numbers):
        print(line)
    print(f"written to {args.output}/")
    return 0


if __name__ == "__main__":
    sys.exit(main())

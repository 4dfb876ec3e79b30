"""A run's folder from start to end, stopped and resumed, refused and repeated."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from adderlab.engine.torch_tables import TorchEngine
from adderlab.errors import UsageError
from adderlab.models.zoo import get_preset
from adderlab.runs.checkpoints import load_checkpoint
from adderlab.runs.folder import load_state
from adderlab.runs.metadata import read_summary
from adderlab.runs.records import SeedRecord, best_of, read_metrics, read_records, read_seed_metrics
from adderlab.training.finetune import Targeting
from adderlab.training.ingredients import MICROADDER_DECAY, Average, Freeze, Grokfast
from adderlab.training.measure import Evaluation, Listener, SeedTracker
from adderlab.training.objective import objective_for
from adderlab.training.population import Population
from adderlab.training.recipe import Recipe, Stage
from adderlab.training.run import Job, RunResult, read_job, run

CPU = torch.device("cpu")
CONFIG = get_preset("456p").config
RECIPE = Recipe(steps=21, batch_size=32, warmup_steps=4, val_size=40, test_size=20, eval_interval=5)
STAGED = dataclasses.replace(
    RECIPE,
    steps=6,
    eval_interval=4,
    grokfast=Grokfast(),
    adaptive_decay=MICROADDER_DECAY,
    stages=(
        Stage(steps=3, average=Average(), logit_scale=2.0),
        Stage(steps=3, targeting=Targeting(fresh=10, per_stratum=0, most=5)),
    ),
)


class Watcher(Listener):
    """Notes evaluations; asks for a stop after a given step."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.evaluations: list[Evaluation] = []
        self.stop_at = stop_at

    def on_step(self, seeds: tuple[int, ...], step: int, models: int) -> None:
        if step == self.stop_at:
            import signal

            signal.raise_signal(signal.SIGINT)

    def on_evaluation(self, evaluation: Evaluation, records: tuple[SeedRecord, ...]) -> None:
        self.evaluations.append(evaluation)


def train(job: Job, watcher: Watcher | None = None, resume: bool = False) -> RunResult:
    objective = objective_for(CONFIG, TorchEngine(), CPU)
    return run(job, objective, CPU, watcher or Watcher(), resume=resume)


def job(folder: Path, seeds: tuple[int, ...] = (3, 4), recipe: Recipe = RECIPE) -> Job:
    return Job(config=CONFIG, recipe=recipe, seeds=seeds, folder=folder, keep="all")


def test_a_population_leaves_its_tables_and_kept_seeds(tmp_path: Path) -> None:
    watcher = Watcher()
    outcome = train(job(tmp_path / "run"), watcher)
    assert outcome.status == "done"
    assert [each.step for each in watcher.evaluations] == [0, 5, 10, 15, 20]
    summary = read_summary(tmp_path / "run")
    assert summary["status"] == "done" and summary["params"] == 456
    assert summary["success"]["seeds"] == 2 and summary["success"]["successes"] == 0
    low, high = summary["success"]["wilson_95"]
    assert low == pytest.approx(0.0, abs=1e-12) and high == pytest.approx(0.6576, abs=1e-3)
    assert [row.step for row in read_metrics(tmp_path / "run")] == [0, 5, 10, 15, 20]
    assert {row.seed for row in read_records(tmp_path / "run")} == {3, 4}
    for seed in (3, 4):
        best = load_checkpoint(tmp_path / "run" / f"seed_{seed:04d}" / "checkpoints" / "best.pt")
        assert best.config == CONFIG and best.seed == seed
    assert (
        outcome.best.weights_sha256
        == load_checkpoint(tmp_path / "run/checkpoints/best.pt").weights_sha256
    )


def test_a_staged_run_is_looked_at_to_its_last_step(tmp_path: Path) -> None:
    watcher = Watcher()
    outcome = train(job(tmp_path / "run", seeds=(3,), recipe=STAGED), watcher)
    assert outcome.status == "done"
    assert [each.step for each in watcher.evaluations] == [0, 4, 5, 8, 11]
    last = watcher.evaluations[-1]
    saved = load_checkpoint(tmp_path / "run/checkpoints/last.pt")
    flat_N = torch.cat([tensor.flatten() for tensor in saved.params.values()])
    assert saved.step == 11 and torch.equal(flat_N, last.weights_SN[0])


def test_the_best_checkpoint_scores_what_its_row_says(tmp_path: Path) -> None:
    """The weights written as best are those of the best evaluation, not of another."""
    watcher = Watcher()
    outcome = train(job(tmp_path / "run", seeds=(3,)), watcher)
    best = max(watcher.evaluations, key=lambda each: each.score(0))
    assert outcome.best.step == best.step
    (record,) = outcome.records
    assert record.best_step == best.step and record.last_token_accuracy == float(
        watcher.evaluations[-1].val_token_acc_S[0]
    )


@pytest.mark.parametrize(("recipe", "stop"), [(RECIPE, 8), (STAGED, 8), (STAGED, 11)])
def test_stopped_and_resumed_equals_uninterrupted(tmp_path: Path, recipe: Recipe, stop: int) -> None:
    whole = train(job(tmp_path / "whole", recipe=recipe))
    stopped = train(job(tmp_path / "parts", recipe=recipe), Watcher(stop_at=stop))
    assert stopped.status == "stopped"
    assert read_summary(tmp_path / "parts")["status"] == "stopped"
    resumed = train(dataclasses.replace(read_job(tmp_path / "parts"), keep="all"), resume=True)
    assert resumed.status == "done"
    for seed in (3, 4):
        for name in ("best.pt", "last.pt"):
            one = load_checkpoint(tmp_path / "whole" / f"seed_{seed:04d}" / "checkpoints" / name)
            two = load_checkpoint(tmp_path / "parts" / f"seed_{seed:04d}" / "checkpoints" / name)
            assert one.weights_sha256 == two.weights_sha256
    untimed = [
        {
            seed: [dataclasses.replace(row, elapsed_sec=0.0) for row in rows]
            for seed, rows in read_seed_metrics(tmp_path / name).items()
        }
        for name in ("whole", "parts")
    ]
    assert untimed[0] == untimed[1]
    assert (tmp_path / "whole/seeds.csv").read_text() == (tmp_path / "parts/seeds.csv").read_text()
    assert whole.records == resumed.records


def test_rows_written_after_the_state_are_dropped_on_resume(tmp_path: Path) -> None:
    """A kill between the tables and the state must not leave a step twice."""
    train(job(tmp_path / "run"), Watcher(stop_at=8))
    for name, row in (("metrics.csv", "10,9,9,9,9,9"), ("seed_metrics.csv", "3,10,9,9,9,9,9")):
        with (tmp_path / "run" / name).open("a") as file:
            file.write(row + "," * 11 + "\n7,half a li")
    train(read_job(tmp_path / "run"), resume=True)
    assert [row.step for row in read_metrics(tmp_path / "run")] == [0, 5, 10, 15, 20]


def test_an_existing_run_is_refused_and_overwritten_on_request(tmp_path: Path) -> None:
    train(job(tmp_path / "run", seeds=(1,)))
    before = (tmp_path / "run/metrics.csv").read_text()
    with pytest.raises(UsageError, match="overwrite=True"):
        train(job(tmp_path / "run", seeds=(1,)))
    assert (tmp_path / "run/metrics.csv").read_text() == before
    train(dataclasses.replace(job(tmp_path / "run", seeds=(2,)), overwrite=True))
    assert json.loads((tmp_path / "run/config.json").read_text())["seeds"] == [2]


def test_resume_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        train(job(tmp_path / "nothing"), resume=True)


def perfect_at(each: Evaluation, step: int, *exact: float) -> Evaluation:
    """The evaluation with its step and exact match forced."""
    return dataclasses.replace(each, step=step, val_exact_S=torch.tensor(exact, dtype=torch.float64))


def first_evaluation(recipe: Recipe = RECIPE) -> tuple[SeedTracker, Evaluation]:
    population = Population(CONFIG, RECIPE, (1, 2), objective_for(CONFIG, TorchEngine(), CPU), CPU)
    tracker = SeedTracker(CONFIG, recipe, (1, 2), population.flat_SN)
    return tracker, population.evaluate(population.advance())


def test_seeds_that_are_perfect_for_long_enough_stop() -> None:
    """Perfect at 10, not at 15, perfect from 20 on: ten steps are over at 30, not at 20."""
    tracker, evaluation = first_evaluation(dataclasses.replace(RECIPE, stop_perfect_steps=10))
    stopped = {}
    for step, exact in ((10, 1.0), (15, 0.9), (20, 1.0), (25, 1.0), (30, 1.0)):
        each = perfect_at(evaluation, step, exact, 0.0)
        tracker.take(each, 0.0)
        stopped[step] = tracker.perfect_long_enough(each)
        # What a resume restores must give the same answer.
        tracker.load_state(tracker.state())
    assert stopped == {10: [], 15: [], 20: [], 25: [], 30: [1]}
    assert tracker.successes().count == 1
    never, _ = first_evaluation()
    for step in (10, 1000):
        perfect = perfect_at(evaluation, step, 1.0, 0.5)
        never.take(perfect, 0.0)
    assert never.perfect_long_enough(perfect) == []


def test_a_recipe_that_does_not_fit_is_refused_before_a_folder_is_made(tmp_path: Path) -> None:
    recipe = dataclasses.replace(RECIPE, freeze=(Freeze(prefix="pos_embedding", until=0.5),))
    with pytest.raises(UsageError, match="pos_embedding"):
        train(job(tmp_path / "run", recipe=recipe))
    assert not (tmp_path / "run").exists()


def test_the_summary_names_the_seed_and_step_of_the_best_checkpoint(tmp_path: Path) -> None:
    """Of seeds that are equally often right, the answer steps and then the margins decide."""
    seeds = (0, 1, 2, 3, 4, 5)
    watcher = Watcher()
    outcome = train(job(tmp_path / "run", seeds=seeds), watcher)
    scores = [
        (each.score(row), -seeds.index(seed), -each.step, seed)
        for each in watcher.evaluations
        for row, seed in enumerate(each.seeds)
    ]
    assert len({exact for (exact, _, _), *_ in scores}) == 1, "exact match alone must not decide"
    (_, _, step, seed) = max(scores)
    best = load_checkpoint(tmp_path / "run/checkpoints/best.pt")
    summary = read_summary(tmp_path / "run")
    assert (best.seed, best.step) == (seed, -step)
    assert (summary["best_seed"], summary["best_step"]) == (seed, -step)
    assert best_of(outcome.records).seed == seed and outcome.best.seed == seed
    kept = read_records(tmp_path / "run")
    assert [record.checkpoint for record in kept] == [
        f"seed_{record.seed:04d}/checkpoints/best.pt" for record in kept
    ]


def test_a_state_of_version_0_1_is_gone_on_with(tmp_path: Path) -> None:
    """It kept less of every seed, under other names; the tables have the rest."""
    whole = train(job(tmp_path / "whole"))
    train(job(tmp_path / "run"), Watcher(stop_at=8))
    state = load_state(tmp_path / "run")
    known = {seed: SeedRecord(**each) for seed, each in state["tracker"].pop("records").items()}
    state["ledger"] = state.pop("tracker") | {
        "rows": {
            seed: {
                "seed": seed,
                "best_val_exact": each.best_exact,
                "best_step": each.best_step,
                "final_val_exact": each.last_exact,
                "final_token_acc": each.last_token_accuracy,
                "steps_learned": each.steps_learned,
                "first_step_100": each.first_perfect_step,
                "step_acc": each.step_accuracy,
                "status": "running",
            }
            for seed, each in known.items()
        },
        "score": {seed: each.best_score for seed, each in known.items()},
        "last_step": {seed: each.steps - 1 for seed, each in known.items()},
    }
    torch.save(state, tmp_path / "run/state.pt")
    (tmp_path / "run/seeds.json").unlink()
    resumed = train(dataclasses.replace(read_job(tmp_path / "run"), keep="all"), resume=True)
    assert resumed.records == whole.records
    assert resumed.best.weights_sha256 == whole.best.weights_sha256

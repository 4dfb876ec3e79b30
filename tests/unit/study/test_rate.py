"""A rate from its command to its row: trained, stopped, resumed, judged, repaired, counted."""

import dataclasses
import json
import shutil
import signal
from pathlib import Path

import pytest
import torch

from adderlab.cli.main import INTERRUPTED, USAGE, main
from adderlab.engine.base import select_engine
from adderlab.errors import UsageError
from adderlab.evaluation.suites import fresh
from adderlab.models.zoo import get_preset
from adderlab.proof.prove import Margin
from adderlab.proof.prove import Verdict as ProverVerdict
from adderlab.proof.search import Limits
from adderlab.runs.checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from adderlab.runs.metadata import read_summary
from adderlab.runs.records import SeedRecord, from_history
from adderlab.study import verdicts
from adderlab.study.rate import (
    Population,
    RateExperiment,
    RatePlan,
    RateRecord,
    rate_of,
    read_rate,
    write_plan,
)
from adderlab.study.verdicts import Assistance, decide, repair_seed, verify_seed, worth_repair
from adderlab.training.recipe import Recipe
from helpers.rates import outcome
from helpers.reference import reference_checkpoint
from helpers.runs import GROKS, LATE, LOST, NEVER, checkpoint, metrics, write_run

TINY = (
    *("recipe.batch_size=16", "recipe.val_size=20", "recipe.eval_interval=5", "recipe.warmup_steps=2"),
    "recipe.prefit.steps=2",
)
SHORT = [
    "456p",
    "--recipe",
    "prefit",
    "--seeds",
    "3-5",
    "--steps",
    "12",
    "--device",
    "cpu",
    "--engine",
    "torch",
]
COMMAND = ["rate", *SHORT, "--batch-of-seeds", "2", "--quiet", "--name", "tiny", "--set", *TINY]
LIMITS = Limits(cells=3_000_000, seconds=30.0, union_seconds=1.0)


def measured(folder: Path, *more: str) -> RateRecord:
    assert main([*COMMAND, *more]) == 0
    return read_rate(folder / "records/rates/456p_tiny.json")


def without_times(record: RateRecord) -> RateRecord:
    """Everything that must not depend on how the measurement went."""
    return dataclasses.replace(
        record,
        command=(),
        date="",
        training_core_seconds=0.0,
        median_training_core_seconds=0.0,
        results=tuple(dataclasses.replace(each, training_core_seconds=0.0) for each in record.results),
    )


def test_a_measurement_leaves_its_row_and_its_runs(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    record = measured(tmp_path)
    assert "proved on all 10^20 pairs as trained: 0/3" in capsys.readouterr().out
    assert (record.preset, record.parameters, record.n, record.seeds) == ("456p", 456, 3, "3-5")
    assert record.steps == 12 and record.recipe_settings["batch_size"] == 16 and not record.published
    assert record.pure is not None and record.pure.count == 0 and record.pure.n == 3
    assert record.assisted is None and record.expected_seconds_on_2_cores is None
    assert [each.verdict for each in record.results] == ["missed"] * 3
    assert [each.steps for each in record.results] == [12] * 3
    total = sum(each.training_core_seconds or 0.0 for each in record.results)
    assert 0 < total == pytest.approx(record.training_core_seconds)
    work = tmp_path / "results/rates/456p_tiny_3-5"
    assert [read_summary(work / f"population_0{i}")["seeds"] for i in (0, 1)] == [1, 2]
    assert (work / "population_01/seed_0005/checkpoints/last.pt").is_file()

    assert main(COMMAND) == USAGE and "--overwrite" in capsys.readouterr().err
    (tmp_path / "records/rates/456p_tiny.json").unlink()
    assert main(COMMAND) == USAGE and "rate --resume" in capsys.readouterr().err
    assert without_times(measured(tmp_path, "--overwrite")) == without_times(record)


def test_stopped_and_resumed_gives_the_same_row(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    whole = measured(tmp_path)
    shutil.rmtree(tmp_path / "results")
    (tmp_path / "records/rates/456p_tiny.json").unlink()

    from adderlab.report.live import LiveView

    calls = 0

    def stop_in_the_second_population(self: LiveView, seeds: object, step: int, models: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 12 + 7:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(LiveView, "on_step", stop_in_the_second_population)
        assert main(COMMAND) == INTERRUPTED
    work = "results/rates/456p_tiny_3-5"
    again = f"adderlab rate --resume {work} --device cpu --engine torch"
    assert capsys.readouterr().err.splitlines() == [f"Stopped. To go on: {again}"]
    assert not (tmp_path / "records/rates/456p_tiny.json").exists()
    assert read_summary(tmp_path / work / "population_01")["status"] == "stopped"
    assert main(["rate", "--resume", work, "--recipe", "circle"]) == USAGE
    capsys.readouterr()
    assert main([*again.split()[1:], "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    record = read_rate(tmp_path / "records/rates/456p_tiny.json")
    assert printed["n"] == 3
    assert without_times(record) == without_times(whole)


def test_settings_changed_by_hand_go_into_the_name(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    args = ["rate", "456p", "--recipe", "circle", "--steps", "0"]
    assert main(args) == USAGE
    assert main(["rate", "456p", "--name", "other"]) == USAGE
    assert main(["rate", "456p", "--table"]) == USAGE
    assert main(["rate"]) == USAGE and "--table" in capsys.readouterr().err
    assert main(["rate", "--resume", "nowhere"]) == USAGE
    assert main(["rate", "456p", "--steps", "2", "--repair-from", "2"]) == USAGE
    assert main(["rate", "456p", "--steps", "2", "--batch-of-seeds", "0"]) == USAGE
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("exact", "wanted"),
    [
        ((0.0, 1.0, 1.0), 1000),
        ((0.99, 0.98, 0.99), 2000),
        ((0.0, 1.0, 0.5), None),
        ((1.0, 1.0), 0),
        ((0.9899,), None),
    ],
)
def test_steps_to_grok_is_where_success_begins_to_stay(exact, wanted) -> None:
    history = [metrics(1000 * k, value) for k, value in enumerate(exact)]
    assert from_history(1, history).grokked_at == wanted


def experiment(folder: Path, curves: dict[int, list[float]]) -> tuple[RateExperiment, Population]:
    """One population with these curves of exact match; its kept seeds hold untrained weights."""
    plan = RatePlan(
        preset="456p",
        recipe_name="made-up",
        published=False,
        config=get_preset("456p").config,
        recipe=Recipe(steps=3001),
        seeds=tuple(curves),
        batch_of_seeds=48,
        limits=LIMITS,
        assistance=Assistance(seconds=2.0),
        command=("adderlab", "rate"),
    )
    write_plan(folder, plan)
    made = RateExperiment(plan, folder)
    (population,) = made.populations
    write_run(population.folder, curves)
    (population.folder / "cost.json").write_text('{"core_seconds": 12.0}')
    for seed in curves:
        population.checkpoints(seed).mkdir(parents=True, exist_ok=True)
        for name in ("last.pt", "best.pt"):
            held = load_checkpoint(population.folder / "checkpoints/best.pt")
            save_checkpoint(population.checkpoints(seed) / name, held)
    made.records |= {record.seed: record for record in population.records()}
    return made, population


def verify(made: RateExperiment, population: Population, seed: int, pairs: int) -> SeedRecord:
    places = population.checkpoints(seed)
    record = verify_seed(made.records[seed], places, made.plan.limits, engine(), fresh(pairs))
    made.records[seed] = record
    return record


def put(population: Population, seed: int, name: str, checkpoint: Checkpoint) -> None:
    save_checkpoint(population.checkpoints(seed) / name, checkpoint)


def engine():  # type: ignore[no-untyped-def]
    return select_engine("torch", get_preset("456p").config, torch.device("cpu"), threads=1, log=print)


def verdict(word: str, margin: float) -> ProverVerdict:
    smallest = Margin(bound=margin, witness=margin + 0.01, pair=(1, 2), step=3)
    return ProverVerdict(
        verdict=word,  # type: ignore[arg-type]
        failing_pairs=0,
        failing_by_step=(),
        counterexample=None,
        answer=None,
        margin=smallest,
        reason="",
        seconds=0.0,
        leaves=0,
        cells=0,
        split_leaves=0,
    )


def test_last_weights_are_tried_before_the_best(tmp_path: Path, monkeypatch) -> None:
    made, population = experiment(tmp_path, {1: GROKS, 2: LOST, 3: NEVER, 4: [0.0, 1.0, 0.99, 0.995]})
    torch.manual_seed(0)
    for seed in (1, 2, 3, 4):
        for name in ("last.pt", "best.pt"):
            held = load_checkpoint(population.checkpoints(seed) / name)
            moved = {key: t + torch.rand_like(t) for key, t in held.params.items()}
            put(population, seed, name, dataclasses.replace(held, params=moved))
    answers = {(1, "last"): "proved", (2, "best"): "refuted", (4, "last"): "refuted"}
    tried = []

    def decided(checkpoint: Checkpoint, limits: Limits) -> ProverVerdict:
        assert checkpoint.path is not None
        seed = int(checkpoint.path.parent.parent.name[-4:])
        tried.append((seed, checkpoint.path.stem))
        return verdict(answers.get(tried[-1], "proved"), 0.5)

    monkeypatch.setattr(verdicts, "decide", decided)
    found = {seed: verify(made, population, seed, 20) for seed in (1, 2, 3, 4)}
    assert tried == [(1, "last"), (2, "best"), (4, "last"), (4, "best")]
    assert [each.verdict for each in found.values()] == ["proved", "refuted", "missed", "proved"]
    assert [each.weights for each in found.values()] == ["last", "best", None, "best"]
    assert [each.grokked_at for each in found.values()] == [2000, None, None, 1000]
    assert found[1].margin_bound == 0.5 and found[2].margin_bound is None
    assert found[3].published_errors is None and found[2].published_errors == 20
    assert found[2].best_exact == 1.0 and found[2].last_exact == 0.4


def test_a_seed_that_stopped_early_cost_its_own_steps(tmp_path: Path) -> None:
    _, population = experiment(tmp_path, {1: GROKS, 2: [0.0, 1.0]})
    costs = [None, *(record.training_core_seconds for record in population.records())]
    assert costs[1] == pytest.approx(12 * 3001 / 4002) and costs[2] == pytest.approx(12 * 1001 / 4002)


def test_who_is_worth_repair() -> None:
    near = Assistance(exact=0.9, missing=2)
    assert worth_repair(outcome(1, 0.95, "refuted"), near)
    assert not worth_repair(outcome(1, 1.0, "proved"), near)
    assert not worth_repair(outcome(1, 0.5, "missed", steps_learned=8), near)
    assert worth_repair(outcome(1, 0.1, "missed", steps_learned=9), near)
    assert not worth_repair(outcome(1, 0.1, "missed", steps_learned=11), Assistance(exact=0.9))


@pytest.mark.slow
def test_a_proved_a_repaired_and_a_lost_seed(tmp_path: Path) -> None:
    """The published 456p, the same with a little noise, and one that learned nothing."""
    right = load_checkpoint(reference_checkpoint("lowrank_456p_s43.pt"))
    made, population = experiment(tmp_path, {7: GROKS, 8: LATE, 9: NEVER})
    torch.manual_seed(1)
    noisy = {key: t * (1 + 0.01 * torch.randn_like(t)) for key, t in right.params.items()}
    for name in ("last.pt", "best.pt"):
        put(population, 7, name, right)
        put(population, 8, name, dataclasses.replace(right, params=noisy))
    first, second, third = (verify(made, population, seed, 300) for seed in made.plan.seeds)
    assert (first.verdict, second.verdict, third.verdict) == ("proved", "refuted", "missed")
    assert first.margin_bound == pytest.approx(0.5099, rel=0.01) and first.published_errors == 0
    assert second.margin_witness is not None and second.margin_witness < 0
    assert made.plan.assistance is not None
    assistance = made.plan.assistance
    assert [worth_repair(each, assistance) for each in (first, second, third)] == [False, True, False]
    places = population.checkpoints(8)
    repaired = repair_seed(second, places, assistance, made.plan.limits, engine(), fresh(300))
    made.records[8] = repaired
    assert repaired.repair is not None and repaired.repair.core_seconds is not None
    assert repaired.repair.verdict == "proved" and repaired.repair.published_errors == 0
    assert repaired.route == "assisted"
    assert repaired.checkpoint == "population_00/checkpoints/repaired.pt"
    held = load_checkpoint(population.checkpoints(8) / "repaired.pt")
    assert decide(held, LIMITS).verdict == "proved"

    record = rate_of(made, engine="torch", threads=1)
    assert record.pure is not None and record.assisted is not None
    assert (record.pure.count, record.assisted.count, record.n) == (1, 2, 3)
    assert record.exact_at_end.count == 2 and record.published_perfect.count == 1
    assert record.median_steps_to_grok == 2500.0
    spent = 12.0 + sum(each.proving_core_seconds or 0.0 for each in record.results)
    assert record.expected_seconds_on_2_cores == pytest.approx(spent / 2)
    more = spent + repaired.repair.core_seconds
    assert record.expected_assisted_seconds_on_2_cores == pytest.approx(more / 2 / 2)


def test_a_model_without_tables_is_not_called_unproved(tmp_path: Path) -> None:
    made, population = experiment(tmp_path, {7: GROKS})
    config = get_preset("6080p").config
    made.plan = dataclasses.replace(made.plan, preset="6080p", config=config)
    for name in ("last.pt", "best.pt"):
        put(population, 7, name, checkpoint(7, 2000, 1.0, config))
    found = verify(made, population, 7, 20)
    assert found.verdict == "no tables" and found.weights is None
    record = rate_of(made, engine="torch", threads=1)
    assert record.pure is None and record.assisted is None
    assert record.expected_seconds_on_2_cores is None


def test_batches_are_even() -> None:
    plan = RatePlan(
        preset="456p",
        recipe_name="x",
        published=False,
        config=get_preset("456p").config,
        recipe=Recipe(),
        seeds=tuple(range(97)),
        batch_of_seeds=48,
        limits=LIMITS,
        assistance=None,
        command=(),
    )
    assert [len(batch) for batch in plan.batches] == [32, 32, 33]
    assert sum(plan.batches, ()) == plan.seeds
    with pytest.raises(UsageError):
        dataclasses.replace(plan, limits=dataclasses.replace(LIMITS, seconds=0.0))

"""Searches for proved models: order, counting, stopping, going on; proofs and repairs are real where
the test is about them."""

import dataclasses
import functools
import gzip
import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from adderlab.cli.main import main
from adderlab.engine.torch_tables import TorchEngine
from adderlab.errors import Failure, UsageError
from adderlab.models.zoo import get_preset
from adderlab.proof.prove import Proof, prove_checkpoint
from adderlab.runs.checkpoints import Checkpoint, load_checkpoint
from adderlab.runs.metadata import kind_of, read_summary
from adderlab.runs.records import SeedRecord
from adderlab.study.search import (
    SearchPlan,
    SearchResult,
    _Search,
    read_search,
    search_until_proved,
)
from adderlab.study.verdicts import Interrupted, SeedVerifier
from adderlab.training.measure import Evaluation, Listener, SeedTracker, Start
from adderlab.training.objective import Objective, objective_for
from adderlab.training.recipe import Recipe
from adderlab.training.run import Job, run
from helpers.golden import Golden
from helpers.models import config_of
from helpers.reference import disturbed, proved_model

CPU = torch.device("cpu")
CONFIG = get_preset("456p").config
RECIPE = Recipe(steps=11, batch_size=16, warmup_steps=4, val_size=20, test_size=20, eval_interval=5)


class Watcher(Listener):
    """Notes what happens; asks for a stop at a given evaluation, and goes on once ``heard`` returns."""

    def __init__(self, stop_at: int | None = None, heard: Callable[[], object] = int) -> None:
        self.begun: list[tuple[int, ...]] = []
        self.resumed: list[bool] = []
        self.verdicts: list[tuple[int, str]] = []
        self.looks = 0
        self.stop_at, self.heard = stop_at, heard

    def on_start(self, start: Start) -> None:
        self.begun.append(start.seeds)
        self.resumed.append(start.resumed)

    def on_step(self, seeds: tuple[int, ...], step: int, models: int) -> None:
        assert 1 <= step <= RECIPE.steps

    def on_evaluation(self, evaluation: Evaluation, records: tuple[SeedRecord, ...]) -> None:
        self.looks += 1
        if self.looks == self.stop_at:
            os.kill(os.getpid(), signal.SIGINT)
            self.heard()

    def on_verdict(self, record: SeedRecord, verdict: str) -> None:
        self.verdicts.append((record.seed, verdict))


@functools.cache
def objective() -> Objective:
    return objective_for(CONFIG, TorchEngine(), CPU)


def plan(folder: Path, **changes) -> SearchPlan:  # type: ignore[no-untyped-def]
    values: dict[str, Any] = {
        "config": CONFIG,
        "recipe": RECIPE,
        "seeds": (3, 4, 5, 6),
        "folder": folder,
    }
    return SearchPlan(**(values | changes))


def search(what: SearchPlan | Path, watcher: Watcher | None = None, **settings) -> SearchResult:  # type: ignore[no-untyped-def]
    how: dict[str, Any] = {"seconds": 60.0, "workers": 1} | settings
    return search_until_proved(what, objective(), CPU, watcher or Watcher(), **how)


@pytest.fixture
def proves(monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """A way to say at which (seed, step) a seed is taken for proved, or given up."""

    def arrange(proved: dict[int, int], hopeless: dict[int, int]) -> None:
        real = SeedVerifier.verify

        def verify(self: SeedVerifier, evaluation: Evaluation, tracker: SeedTracker) -> None:
            real(self, evaluation, tracker)
            for seed in evaluation.seeds:
                for status, when in (("proved", proved), ("dropped", hopeless)):
                    if when.get(seed) == evaluation.step:
                        verdict = "proved" if status == "proved" else None
                        self._decide(
                            tracker, seed, status, status=status, verdict=verdict, margin_witness=1.0
                        )

        monkeypatch.setattr(SeedVerifier, "verify", verify)

    return arrange


def test_seeds_used_up_are_all_tried_in_order_and_counted(tmp_path: Path) -> None:
    watcher = Watcher()
    summary = search(plan(tmp_path / "search"), watcher)
    assert summary.status == "seeds used up"
    assert watcher.begun == [(3,), (4,), (5,), (6,)]
    assert watcher.verdicts == [(seed, "unproved") for seed in (3, 4, 5, 6)]
    table = read_summary(tmp_path / "search")
    assert table["counts"]["unproved"] == 4 and table["proved"] == []
    assert table["spent"]["seed_steps"] == 4 * 11 and table["spent"]["core_seconds"] > 0
    assert table["status"] == "stopped" and table["search"] == "seeds used up"


@pytest.mark.parametrize("checked", [True, None])
def test_only_what_the_checker_accepted_is_called_proved(
    tmp_path: Path, checked: bool | None, golden: Golden
) -> None:
    own = {"verdict": "proved", "margin_bound": 0.25, "margin_witness": 0.5, "checked": checked}
    files = {"checkpoint": "proved/seed_0003.pt", "certificate": "proved/seed_0003.cert.json.gz"}
    record = SeedRecord(seed=3, status="proved", steps=11, **own, **files)  # type: ignore[arg-type]
    found = SearchResult(plan=plan(Path("results/runs/s")), records={3: record}, wanted=1)
    name = "checked" if checked else "not_checked"
    golden(f"study/search_{name}.txt", "\n".join(found.describe()) + "\n")


def test_a_batch_is_an_ordinary_run_with_the_same_bits(tmp_path: Path) -> None:
    search(plan(tmp_path / "search"), workers=2)
    job = Job(config=CONFIG, recipe=RECIPE, seeds=(4,), folder=tmp_path / "alone")
    run(job, objective(), CPU)
    hashes = {
        load_checkpoint(folder / "checkpoints/last.pt").weights_sha256
        for folder in (tmp_path / "alone", tmp_path / "search/seed_0004")
    }
    assert len(hashes) == 1
    assert read_summary(tmp_path / "search/seed_0004")["status"] == "done"


def test_it_stops_at_the_first_proof_and_fresh_seeds_follow_dropped_ones(tmp_path, proves) -> None:
    proves(proved={8: 10}, hopeless={6: 5, 7: 10})
    watcher = Watcher()
    summary = search(plan(tmp_path / "search", seeds=(6,), onward=True), watcher)
    assert summary.status == "proved" and [record.seed for record in summary.proved] == [8]
    assert watcher.verdicts == [(6, "dropped"), (7, "dropped"), (8, "proved")]
    assert summary.spent.seed_steps == 6 + 11 + 11
    counts = read_summary(tmp_path / "search")["counts"]
    assert counts == {
        "proved": 1, "dropped": 2, "unproved": 0, "proved_pure": 1, "proved_assisted": 0,
        "unfinished": 0,
    }  # fmt: skip


def test_more_can_be_wanted_now_or_later(tmp_path: Path, proves) -> None:
    proves(proved={3: 5, 5: 5, 6: 5}, hopeless={})
    summary = search(plan(tmp_path / "search"), wanted=2)
    assert [record.seed for record in summary.proved] == [3, 5]
    again = search(tmp_path / "search", wanted=3)
    assert [record.seed for record in again.proved] == [3, 5, 6] and again.status == "proved"
    assert again.spent.seed_steps == 6 + 11 + 6 + 6


def test_a_search_that_has_what_is_wanted_trains_no_more(tmp_path: Path, proves) -> None:
    proves(proved={3: 5}, hopeless={})
    search(plan(tmp_path / "search"), wanted=1)
    watcher = Watcher()
    again = search(tmp_path / "search", watcher, wanted=1)
    assert watcher.begun == [] and again.status == "proved"
    assert again.spent.seed_steps == 6 and list(again.records) == [3]


def test_a_resumed_search_stops_at_as_many_as_it_was_asked_for(
    tmp_path: Path, proves, monkeypatch: pytest.MonkeyPatch
) -> None:
    proves(proved={3: 5, 5: 5, 6: 5}, hopeless={})
    begun: list[_Search] = []
    begin = _Search.__init__
    monkeypatch.setattr(_Search, "__init__", lambda self, *a: begin(self, *a) or begun.append(self))
    watcher = Watcher(stop_at=3, heard=lambda: begun[-1].stop.wait(60))
    stopped = search(plan(tmp_path / "search"), watcher, wanted=2)
    assert stopped.status == "stopped" and [record.seed for record in stopped.proved] == [3]
    again = search(tmp_path / "search")
    assert [record.seed for record in again.proved] == [3, 5] and again.wanted == 2


def test_no_search_to_go_on_with(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no search in"):
        search(tmp_path / "nowhere")


def test_seeds_together_end_one_by_one(tmp_path: Path, proves) -> None:
    proves(proved={4: 10}, hopeless={3: 5, 5: 5})
    summary = search(plan(tmp_path / "search", together=3), wanted=2)
    assert {r.seed: r.run for r in summary.records.values()} == {
        **dict.fromkeys((3, 4, 5), "seeds_0003-0005"),
        6: "seed_0006",
    }
    assert summary.spent.seed_steps == 3 * 6 + 5 + 11
    assert (tmp_path / "search/seeds_0003-0005/seeds.csv").read_text().count("dropped") == 2


def test_stopped_and_resumed_equals_uninterrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = search(plan(tmp_path / "whole/search", seeds=(3, 4, 5)))
    begun: list[_Search] = []
    begin = _Search.__init__
    monkeypatch.setattr(_Search, "__init__", lambda self, *a: begin(self, *a) or begun.append(self))
    # The main thread gets the signal; the worker waits for it, or it would go on meanwhile.
    watcher = Watcher(stop_at=5, heard=lambda: begun[-1].stop.wait(60))
    stopped = search(plan(tmp_path / "parts/search", seeds=(3, 4, 5)), watcher)
    assert stopped.status == "stopped"
    assert [record.status for record in stopped.records.values()] == ["unproved", "training"]
    (tmp_path / "parts/search/environment.json").unlink()  # version 0.1 wrote none
    watcher = Watcher()
    resumed = search(tmp_path / "parts/search", watcher)
    assert watcher.begun == [(4,), (5,)] and watcher.resumed == [True, False]
    assert resumed.records == whole.records and resumed.spent.seed_steps == whole.spent.seed_steps
    for seed in (3, 4, 5):
        one, two = (
            load_checkpoint(tmp_path / name / f"search/seed_000{seed}/checkpoints/last.pt")
            for name in ("whole", "parts")
        )
        assert one.weights_sha256 == two.weights_sha256


def test_a_proof_that_a_stop_broke_off_is_made_of_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adderlab.study.verdicts.worth_a_proof", lambda history: history[-1].step == 5)
    whole = search(plan(tmp_path / "whole/search", seeds=(3,)))
    assert whole.records[3].proofs == 1 and whole.records[3].verdict == "refuted"
    begun: list[_Search] = []
    begin = _Search.__init__
    monkeypatch.setattr(_Search, "__init__", lambda self, *a: begin(self, *a) or begun.append(self))
    tried: list[tuple[int, str]] = []

    def stopped_at_first(checkpoint: Checkpoint, **how: Any) -> Proof:
        tried.append((checkpoint.step, checkpoint.weights_sha256))
        if len(tried) == 1:
            os.kill(os.getpid(), signal.SIGINT)
            assert begun[-1].stop.wait(60)
        return prove_checkpoint(checkpoint, **how)

    monkeypatch.setattr("adderlab.study.verdicts.prove_checkpoint", stopped_at_first)
    stopped = search(plan(tmp_path / "parts/search", seeds=(3,)))
    assert stopped.status == "stopped" and stopped.records[3].proofs == 0
    resumed = search(tmp_path / "parts/search")
    assert len(tried) == 2 and tried[0] == tried[1] and tried[0][0] == 5
    assert resumed.records == whole.records


class Budget(Watcher):
    """A clock by which every step takes a second."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.seconds = 0.0
        clock = SimpleNamespace(monotonic=lambda: self.seconds, process_time=time.process_time)
        monkeypatch.setattr("adderlab.study.search.time", clock)

    def on_step(self, seeds: tuple[int, ...], step: int, models: int) -> None:
        self.seconds = float(step)


def test_the_budget_ends_a_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    endless = dataclasses.replace(RECIPE, steps=10**6)
    summary = search(plan(tmp_path / "search", recipe=endless), Budget(monkeypatch), seconds=7.0)
    assert summary.status == "budget spent" and summary.count("training") == 1
    assert 7 <= summary.spent.seed_steps < 10**6


def test_folders_are_refused_or_overwritten(tmp_path: Path) -> None:
    search(plan(tmp_path / "search"))
    assert kind_of(tmp_path / "search") == "search"
    with pytest.raises(UsageError, match="overwrite=True"):
        search(plan(tmp_path / "search"))
    search(plan(tmp_path / "search", seeds=(9,)), overwrite=True)
    assert not (tmp_path / "search/seed_0003").exists()
    (tmp_path / "other").mkdir()
    (tmp_path / "other/config.json").write_text("{}")
    with pytest.raises(UsageError, match="another kind"):
        search(plan(tmp_path / "other"), overwrite=True)
    (tmp_path / "search/config.json").write_text('{"kind": "search", "seeds": 1}')
    with pytest.raises(Failure, match=r"config\.json"):
        read_search(tmp_path / "search")


@pytest.mark.parametrize(
    ("changes", "settings", "word"),
    [
        ({}, {"wanted": 0}, "proved=0"),
        ({}, {"seconds": 0.0}, "minutes=0"),
        ({"config": get_preset("6080p").config}, {}, "cannot be proved"),
    ],
)
def test_what_cannot_be_is_refused_before_a_folder_is_made(tmp_path, changes, settings, word) -> None:
    with pytest.raises(UsageError, match=word):
        search(plan(tmp_path / "search", **changes), **settings)
    assert not (tmp_path / "search").exists()


def test_a_failure_in_a_worker_ends_the_search(tmp_path: Path, monkeypatch) -> None:
    def full(*_: object) -> None:
        raise Failure("cannot write: the disk is full")

    monkeypatch.setattr("adderlab.training.run.save_state", full)
    with pytest.raises(Failure, match="the disk is full"):
        search(plan(tmp_path / "search"), workers=2)


def damaged() -> Checkpoint:
    """Our 456p with every weight off by a third of a percent: wrong on some pairs in a thousand."""
    return disturbed(proved_model())


def conclude(
    folder: Path,
    *,
    assisted: bool,
    stop: threading.Event | None = None,
    told: list[tuple[int, str]] | None = None,
) -> tuple[SeedRecord, SeedVerifier]:
    """The last word on the damaged weights, as if a seed had ended with them."""
    checkpoint = damaged()
    flat_SN = torch.cat([tensor.flatten() for tensor in checkpoint.params.values()])[None]
    tracker = SeedTracker(config_of(checkpoint), RECIPE, (43,), flat_SN)
    tracker.put([SeedRecord(seed=43, steps=21, best_exact=1.0, best_step=20, last_exact=1.0)])
    verifier = SeedVerifier(
        RECIPE,
        folder,
        Watcher().on_verdict,
        stop or threading.Event(),
        on_activity=lambda seed, doing: told.append((seed, doing)) if told is not None else None,
    )
    verifier.conclude(tracker, assisted=assisted)
    return tracker.records[43], verifier


def test_the_pure_route_ends_with_a_refutation(tmp_path: Path) -> None:
    told: list[tuple[int, str]] = []
    record, _ = conclude(tmp_path / "proved", assisted=False, told=told)
    assert told == [(43, "proving")]
    assert (record.status, record.verdict, record.proofs) == ("unproved", "refuted", 1)
    assert record.repair is None and record.route is None
    assert not (tmp_path / "proved").exists()


@pytest.mark.slow
def test_the_assisted_route_repairs_and_leaves_a_certificate(tmp_path: Path) -> None:
    told: list[tuple[int, str]] = []
    record, verifier = conclude(tmp_path / "proved", assisted=True, told=told)
    assert told == [(43, "proving"), (43, "repairing")]
    assert (record.status, record.route) == ("proved", "assisted")
    assert record.repair is not None and record.repair.trainings >= 1
    assert record.repair.margin_bound is not None and record.repair.margin_bound > 0
    checkpoint, certificate = verifier.files[43]
    saved = load_checkpoint(checkpoint)
    assert saved.seed == 43 and certificate.is_file()
    assert saved.weights_sha256 != damaged().weights_sha256


def test_a_seed_has_the_cores_from_its_leaf_pass_until_its_verdict_is_out(tmp_path: Path) -> None:
    """Another seed's proof, which takes them next, cannot hold the verdict back."""
    checkpoint, events = proved_model(), []
    flat_SN = torch.cat([tensor.flatten() for tensor in checkpoint.params.values()])[None]
    tracker = SeedTracker(config_of(checkpoint), RECIPE, (43,), flat_SN)
    tracker.put([SeedRecord(seed=43, steps=21, best_exact=1.0, best_step=20, last_exact=1.0)])
    verifier = SeedVerifier(
        RECIPE,
        tmp_path,
        lambda record, verdict: events.append(verdict),
        threading.Event(),
        on_activity=lambda seed, doing: events.append(doing),
        threads=2,
        on_cores=events.append,
    )
    verifier.conclude(tracker, assisted=False)
    assert events == ["proving", True, "checking", "proved", False]


def test_a_stop_interrupts_a_proof(tmp_path: Path) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(Interrupted):
        conclude(tmp_path / "proved", assisted=True, stop=stop)


def test_perfect_weights_are_proved_at_once(tmp_path: Path) -> None:
    """Two perfect evaluations of our 456p: proved by the weights that were measured."""
    checkpoint = proved_model()
    flat_SN = torch.cat([tensor.flatten() for tensor in checkpoint.params.values()])[None]
    tracker = SeedTracker(config_of(checkpoint), RECIPE, (43,), flat_SN)
    watcher = Watcher()
    verifier = SeedVerifier(RECIPE, tmp_path, watcher.on_verdict, threading.Event())
    look = Evaluation(
        step=5,
        lr=0.02,
        seeds=(43,),
        train_loss_S=torch.zeros(1),
        val_exact_S=torch.ones(1),
        val_token_acc_S=torch.ones(1),
        step_acc_SI=torch.ones(1, 11),
        margin_S=torch.ones(1),
        weights_SN=flat_SN,
        averaged_S=torch.zeros(1, dtype=torch.bool),
    )
    for evaluation in (look, dataclasses.replace(look, step=7)):
        assert watcher.verdicts == []
        tracker.take(evaluation, 0.0)
        verifier.verify(evaluation, tracker)
    assert watcher.verdicts == [(43, "proved")]
    record = tracker.records[43]
    assert (record.status, record.route, record.steps, record.proofs) == ("proved", "pure", 8, 1)
    assert record.margin_witness == pytest.approx(8.4982, abs=1e-3)
    assert record.checked is True
    saved = load_checkpoint(tmp_path / "seed_0043.pt")
    assert saved.weights_sha256 == checkpoint.weights_sha256
    content = json.loads(gzip.decompress((tmp_path / "seed_0043.cert.json.gz").read_bytes()))
    assert content["weights_sha256"] == checkpoint.weights_sha256


TINY = ["--steps", "11", "--engine", "torch", "--device", "cpu", "--evaluate", "none", "--set"]
TINY += ["recipe.batch_size=16", "recipe.val_size=20", "recipe.test_size=20", "recipe.eval_interval=10"]


def test_the_command_ends_in_one_line(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["train", "456p", "--until", "proved", "--run-name", "s"]
    assert main([*command, *TINY, "--seeds", "3,4"]) == 1
    said = capsys.readouterr()
    (line,) = said.err.splitlines()
    assert "no model is proved" in line and "2 seeds" in line and "--seeds 0-" in line
    assert "2 unproved" in said.out and "22 seed-steps" in said.out
    assert main([*command, *TINY, "--seeds", "3-", "--budget", "0.005", "--overwrite"]) == 1
    assert "go on: adderlab train --until proved --resume results/runs/s" in capsys.readouterr().err
    assert read_summary(tmp_path / "results/runs/s")["search"] == "budget spent"
    assert main(["train", "--resume", "results/runs/s"]) == 2
    assert "--until proved --resume" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["456p", "--proved", "2"], "go with --until proved"),
        (["456p", "--seeds", "5-"], "'5-'"),
        (["456p", "--until", "proved", "--seeds", "x-"], "'x-'"),
        (["456p", "--until", "proved", "--keep", "all"], "do not go with --until"),
        (["6080p", "--until", "proved"], "cannot be proved"),
        (["--until", "proved", "--resume", "nowhere"], "there is no run in nowhere"),
        (["456p", "--until", "proved", "--resume", "x"], "give no preset"),
    ],
)
def test_wrong_usage_of_the_command(options, word, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", *options]) == 2
    assert word in capsys.readouterr().err
    assert not (tmp_path / "results").exists()

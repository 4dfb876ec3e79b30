"""Worker processes: what they report, how they fail, and that they end with their parent."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from adderlab.engine.native.build import NativeUnavailable
from adderlab.errors import Failure, UsageError
from adderlab.models.zoo import get_preset
from adderlab.runs.checkpoints import load_checkpoint
from adderlab.runs.metadata import read_summary
from adderlab.runs.records import SeedRecord
from adderlab.study.search import SearchPlan, SearchResult, search_until_proved
from adderlab.study.verdicts import SeedVerifier
from adderlab.training.measure import Evaluation, Listener, SeedTracker, Start
from adderlab.training.objective import Compute, open_backend
from adderlab.training.recipe import Recipe
from adderlab.workers import Flag, Report, Work, Worker, can_fork, share_out, sharing

pytestmark = pytest.mark.skipif(not can_fork(), reason="workers are threads here")


@pytest.fixture
def made() -> Iterator[Callable[[Work], Worker]]:
    workers: list[Worker] = []

    def make(work: Work) -> Worker:
        workers.append(Worker(work))
        return workers[-1]

    yield make
    for worker in workers:
        worker.close()


def test_reports_come_in_order_and_the_worker_waits_for_each(made) -> None:
    stop = Flag()

    def work(task: int, report: Report) -> None:
        while not stop.is_set():
            report("has", task, torch.full((2,), float(task)), os.getpid())
            task += 1

    worker, heard = made(work), []

    def hear(name: str, number: int, tensor: torch.Tensor, process: int) -> None:
        assert name == "has" and process != os.getpid()
        heard.append((number, tensor.tolist()))
        if len(heard) == 3:
            stop.set()  # the worker sees it before it begins the fourth

    worker.do(7, hear)
    assert heard == [(7, [7.0, 7.0]), (8, [8.0, 8.0]), (9, [9.0, 9.0])]
    assert stop.wait(0)


def test_a_worker_computes_after_its_parent_did_so_in_threads(made) -> None:
    numbers, before, sums = torch.ones(2_000_000), torch.get_num_threads(), []
    torch.set_num_threads(2)
    try:
        numbers.exp()
        worker = made(lambda task, report: report("sum", float((task * numbers).sum())))
    finally:
        torch.set_num_threads(before)
    worker.do(2.0, lambda name, found: sums.append(found))
    assert sums == [4_000_000.0]


def test_processor_time_of_the_worker_is_known(made) -> None:
    def work(task: float, report: Report) -> None:
        while time.process_time() < task:
            pass

    worker = made(work)
    worker.do(0.05, print)
    first = worker.core_seconds
    worker.do(0.1, print)
    assert 0.05 <= first < worker.core_seconds and worker.core_seconds >= 0.1


class Unsendable(Exception):
    def __init__(self, one: int, other: int) -> None:
        super().__init__(f"{one} is not {other}")


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (Failure("the disk is full"), Failure, "the disk is full"),
        (UsageError("steps=0"), UsageError, "steps=0"),
        (Unsendable(1, 2), RuntimeError, "1 is not 2"),
    ],
)
def test_what_a_task_raises_is_raised_here(made, error: Exception, kind: type, words: str) -> None:
    def work(task: Any, report: Report) -> None:
        raise error

    worker = made(work)
    for _ in range(2):  # and the worker goes on
        with pytest.raises(kind, match=words):
            worker.do(None, print)


def test_what_a_report_meets_ends_the_task(made) -> None:
    def work(task: Any, report: Report) -> None:
        report("stop")

    def hear(*_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        made(work).do(None, hear)


def test_a_worker_that_is_killed_is_a_failure(made) -> None:
    def work(task: Any, report: Report) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(Failure, match="a worker process has ended"):
        made(work).do(None, print)


def test_workers_take_no_signals_and_end_with_their_parent(tmp_path: Path) -> None:
    """A parent with two workers, one of which has nothing to do, is killed."""
    parent = os.fork()
    if parent == 0:

        def work(task: Path, report: Report) -> None:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGTERM)
            (task / "pid").write_text(str(os.getpid()))
            while True:
                pass

        worker, _ = Worker(work), Worker(work)
        worker.do(tmp_path, print)
        os._exit(0)
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        time.sleep(0.01)
    process = int((tmp_path / "pid").read_text())
    assert _is_alive(process)
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    deadline = time.monotonic() + 30
    while _is_alive(process) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not _is_alive(process)


def _is_alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_a_worker_is_ended_whatever_it_does(made, tmp_path: Path) -> None:
    def work(task: Any, report: Report) -> None:
        report("asleep")
        while time.process_time() < 0.1:
            pass
        (tmp_path / "busy").touch()
        time.sleep(600)

    worker = made(work)

    def end() -> None:
        while not (tmp_path / "busy").exists():
            time.sleep(0.01)
        worker.end()

    ending = threading.Thread(target=end)

    def hear(name: str) -> None:
        ending.start()

    with pytest.raises(Failure, match="a worker process has ended"):
        worker.do(None, hear)
    ending.join()
    worker.end()
    assert worker.core_seconds >= 0.09  # what nobody was told of counts


@pytest.mark.parametrize("number", [1, 2, 5])
def test_tasks_are_shared_out_and_reports_are_answered(number: int) -> None:
    heard: dict[int, int] = {}
    processes: set[int] = set()

    def work(task: int, report: Report) -> None:
        report("end", task, report("factor"), os.getpid())

    def hear(name: str, *what: int) -> int | None:
        if name == "factor":
            return 3
        task, factor, process = what
        heard[task] = task * factor
        processes.add(process)
        return None

    share_out(work, 4, hear, number=number)
    assert heard == {0: 0, 1: 3, 2: 6, 3: 9}
    assert (processes == {os.getpid()}) == (number == 1)


@pytest.mark.parametrize("number", [1, 2])
def test_the_first_task_that_fails_is_what_is_raised(number: int) -> None:
    def work(task: int, report: Report) -> None:
        if task == 1:
            time.sleep(0.2)
        if task:
            raise Failure(f"task {task}")

    with pytest.raises(Failure, match="task 1"):
        share_out(work, 9, print, number=number)


@pytest.mark.parametrize("number", [1, 2])
def test_what_hears_of_shared_work_may_end_it(number: int) -> None:
    def hear(name: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        share_out(lambda task, report: report("stop"), 9, hear, number=number)


def test_no_process_is_too_few() -> None:
    with pytest.raises(UsageError, match="threads=0: it must be at least 1"):
        sharing(0)


CONFIG = get_preset("456p").config
RECIPE = Recipe(steps=11, batch_size=16, warmup_steps=4, val_size=20, test_size=20, eval_interval=5)


def search(folder: Path, workers: int, listener: Listener, *, resume: bool = False) -> SearchResult:
    try:
        compute = Compute(device="cpu", engine="native", threads=workers)
        backend = open_backend(CONFIG, compute, engine_threads=1)
    except NativeUnavailable as error:
        pytest.skip(str(error))
    plan = SearchPlan(config=CONFIG, recipe=RECIPE, seeds=(3, 4, 5, 6), folder=folder)
    return search_until_proved(
        folder if resume else plan,
        backend.objective,
        backend.device,
        listener,
        wanted=4 if resume else 1,
        seconds=120.0,
        workers=workers,
    )


def test_a_search_by_processes_is_that_of_one_thread(tmp_path: Path) -> None:
    class Heard(Listener):
        def __init__(self) -> None:
            self.begun: list[int] = []
            self.verdicts: list[tuple[int, str]] = []
            self.steps = 0

        def on_start(self, start: Start) -> None:
            self.begun.extend(start.seeds)

        def on_step(self, seeds: tuple[int, ...], step: int, models: int) -> None:
            self.steps = max(self.steps, step)

        def on_verdict(self, record: Any, verdict: str) -> None:
            self.verdicts.append((record.seed, verdict))

    one, two = Heard(), Heard()
    alone, together = search(tmp_path / "one", 1, one), search(tmp_path / "two", 2, two)
    assert together.records == alone.records
    assert together.spent.seed_steps == alone.spent.seed_steps == 4 * 11
    assert together.spent.core_seconds > 0
    assert sorted(two.begun) == one.begun == [3, 4, 5, 6] and two.steps == one.steps == 11
    assert sorted(two.verdicts) == one.verdicts
    for seed in together.plan.seeds:
        hashes = {
            load_checkpoint(tmp_path / name / f"seed_000{seed}/checkpoints/last.pt").weights_sha256
            for name in ("one", "two")
        }
        assert len(hashes) == 1


def test_who_proves_nothing_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seed 4 sleeps until long after seed 3 is proved; the search goes on with it later."""
    asleep, slept = 600.0, Flag()

    def verify(self: SeedVerifier, evaluation: Evaluation, tracker: SeedTracker) -> None:
        if evaluation.step != 5:
            return
        if evaluation.seeds == (4,) and not slept.is_set():
            slept.set()
            time.sleep(asleep)
        if evaluation.seeds == (3,):
            while not slept.is_set():
                time.sleep(0.01)
            self._decide(tracker, 3, "proved", status="proved", verdict="proved", margin_witness=1.0)

    monkeypatch.setattr(SeedVerifier, "verify", verify)
    started = time.monotonic()
    found = search(tmp_path / "it", 2, Listener())
    assert time.monotonic() - started < asleep / 2
    assert found.status == "proved" and [record.seed for record in found.proved] == [3]
    assert found.num_unfinished == 1 and set(found.records) == {3, 4}
    assert read_summary(tmp_path / "it/seed_0003")["status"] == "done"
    more = search(tmp_path / "it", 2, Listener(), resume=True)
    assert more.status == "seeds used up" and more.num_unfinished == 0
    assert more.records[4].steps == RECIPE.steps and more.records[3] == found.records[3]


def test_who_trains_gives_way_while_a_proof_has_the_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proving, heard = Flag(), []

    def verify(self: SeedVerifier, evaluation: Evaluation, tracker: SeedTracker) -> None:
        if evaluation.step != 5:
            return
        if evaluation.seeds == (3,):
            self._take_cores(True)
            proving.set()
            time.sleep(1.0)
            self._decide(tracker, 3, "undecided")
            self._take_cores(False)
        while not proving.is_set():
            time.sleep(0.01)

    class Heard(Listener):
        def on_evaluation(self, evaluation: Evaluation, records: tuple[SeedRecord, ...]) -> None:
            heard.append((evaluation.seeds, evaluation.step))

        def on_verdict(self, record: SeedRecord, verdict: str) -> None:
            heard.append((record.seed, verdict))

    monkeypatch.setattr(SeedVerifier, "verify", verify)
    search(tmp_path / "it", 2, Heard())
    assert heard.index((3, "undecided")) < heard.index(((4,), 10))


def test_one_proof_at_a_time_has_the_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both seeds are proved at once: each waits until the other's proof is done."""
    busy, both = tmp_path / "busy", []

    def verify(self: SeedVerifier, evaluation: Evaluation, tracker: SeedTracker) -> None:
        if evaluation.step != 5:
            return
        self._take_cores(True)
        alone = not busy.exists()
        busy.touch()
        time.sleep(0.3)
        busy.unlink()
        self._take_cores(False)
        self._decide(tracker, evaluation.seeds[0], "undecided" if alone else "refuted")

    class Heard(Listener):
        def on_verdict(self, record: SeedRecord, verdict: str) -> None:
            if record.steps == 6:
                both.append(verdict)

    monkeypatch.setattr(SeedVerifier, "verify", verify)
    search(tmp_path / "it", 2, Heard())
    assert len(both) >= 2 and set(both) == {"undecided"}

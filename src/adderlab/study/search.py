"""Train fresh seeds until one is proved on all pairs: ``adderlab train PRESET --until proved``.

Lanes, one thread each, train one *try* after another side by side; a try is an ordinary run of the
next seeds in order: on a CPU one seed for every core, because a seed is sequential and two seeds on
one core take twice as long as one; on an accelerator one lane with many seeds. A seed ends early
when it is proved or hopeless (training/until_rules.py), and the lane starts the next. Everything
spent is counted, on failures too: what a user pays is the time from nothing to a proved model.

The folder of a search:
    until.json          model, recipe, seeds, route; written once, at the start
    summary.json        the fate of every seed and everything spent; rewritten as it goes
    seed_0043/          a try: an ordinary run folder (seeds_0000-0031/ where seeds train together)
    proved/             seed_0043.pt and seed_0043.cert.json.gz for every proved seed
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import torch

from adderlab.errors import UsageError
from adderlab.files.lock import RunLock
from adderlab.models.mapping import why_no_tables
from adderlab.runs.folder import STATE_FILE, load_state, seed_folder
from adderlab.runs.metrics import Metrics, read_metrics, read_seed_metrics
from adderlab.study.search_files import (
    Plan,
    Spent,
    Summary,
    Try,
    create,
    reopen,
    write_summary,
)
from adderlab.study.search_verifier import Fate, Interrupted, Judge
from adderlab.training.job import Job
from adderlab.training.measure import Evaluation
from adderlab.training.objective import Objective
from adderlab.training.run import run, stop_requests
from adderlab.training.start import check_fits

_TICK = 0.1
"""Seconds between looks at the clock and the signals."""


class Watcher(Protocol):
    """Whoever watches a search. Called from the lanes, one call at a time."""

    def began(self, seeds: tuple[int, ...], resumed: bool) -> None: ...

    def stepped(self, seeds: tuple[int, ...], step: int) -> None:
        """``step`` steps of the try with these seeds are done."""
        ...

    def evaluated(self, evaluation: Evaluation) -> None: ...

    def judged(self, fate: Fate, verdict: str) -> None:
        """See ``until_judge.Judged``."""
        ...


def until_proved(
    plan: Plan | Path,
    objective: Callable[[], Objective],
    device: torch.device,
    watcher: Watcher,
    *,
    wanted: int = 1,
    seconds: float,
    lanes: int,
    overwrite: bool = False,
) -> Summary:
    """Search as planned, or go on in the folder of a search, until ``wanted`` seeds are proved in
    all, ``seconds`` have passed, the seeds are used up, or a signal comes: ``Summary.status`` says
    which. Every end but the first leaves unfinished tries that another call goes on with.

    ``objective`` is called once per lane. Raises ``UsageError`` if the plan cannot be, ``Failure``
    if the disk refuses.
    """
    if wanted < 1:
        raise UsageError(f"--proved must be at least 1, not {wanted}")
    if not seconds > 0:
        raise UsageError("--budget must be above 0 minutes")
    if isinstance(plan, Path):
        plan, summary = reopen(plan)
    else:
        reason = why_no_tables(plan.config)
        if reason:
            raise UsageError(f"--until proved: this model cannot be proved: {reason}")
        check_fits(plan.config, plan.recipe, plan.seeds[:1])
        create(plan, overwrite=overwrite)
        summary = Summary(plan=plan)
    with RunLock(plan.folder), stop_requests() as asked:
        search = _Search(summary, wanted, device, watcher)
        return search.run([objective() for _ in range(lanes)], asked, seconds)


class _Search:
    """The state that lanes share; everything in ``summary`` is touched under the lock only."""

    def __init__(self, summary: Summary, wanted: int, device: torch.device, watcher: Watcher) -> None:
        self.summary, self.wanted, self.device = summary, wanted, device
        self.plan = summary.plan
        self.watcher = watcher
        self.stop = threading.Event()
        self._lock = threading.RLock()
        self._failure: BaseException | None = None
        self._open = [each for each in summary.tries if each.unfinished]
        self._fresh = self._fresh_tries()
        self._before = summary.spent
        self._started = time.monotonic(), time.process_time()
        self._steps = 0

    def run(self, objectives: list[Objective], asked: threading.Event, seconds: float) -> Summary:
        """Until the end; the summary says which."""
        threads = [threading.Thread(target=self._lane, args=(each,)) for each in objectives]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + seconds
        status = "seeds used up"
        while any(thread.is_alive() for thread in threads):
            if not self.stop.is_set() and (asked.is_set() or time.monotonic() >= deadline):
                status = "stopped" if asked.is_set() else "budget spent"
                self.stop.set()
            for thread in threads:
                thread.join(_TICK / len(threads))
        if self._failure is not None:
            raise self._failure
        self._write("proved" if self._enough() else status)
        return self.summary

    def _lane(self, objective: Objective) -> None:
        try:
            while (each := self._next()) is not None:
                self._train(each, objective)
        except BaseException as error:
            # The thread that waits raises it.
            self._failure = self._failure or error
            self.stop.set()

    def _next(self) -> Try | None:
        """Stopped tries first, then fresh ones; None where none is wanted any more."""
        with self._lock:
            if self.stop.is_set():
                return None
            if self._open:
                return self._open.pop(0)
            each = next(self._fresh, None)
            if each is not None:
                self.summary.tries.append(each)
                self._write("running")
            return each

    def _fresh_tries(self) -> Iterator[Try]:
        """As many seeds as train together, in order, none twice."""
        plan = self.plan
        used = {fate.seed for fate in self.summary.fates}
        onward = itertools.count(max(plan.seeds) + 1) if plan.onward else ()
        seeds = (seed for seed in itertools.chain(plan.seeds, onward) if seed not in used)
        while group := tuple(itertools.islice(seeds, plan.together)):
            folder = seed_folder(plan.folder, group[0])
            if len(group) > 1:
                folder = plan.folder / f"seeds_{group[0]:04d}-{group[-1]:04d}"
            yield Try(folder=folder, fates=tuple(Fate(seed=seed) for seed in group))

    def _train(self, each: Try, objective: Objective) -> None:
        plan = self.plan
        resumed = (each.folder / STATE_FILE).is_file()
        first = load_state(each.folder)["population"]["next_step"] if resumed else 0
        follower = _Follower(self, each, first)
        judge = Judge(plan.config, plan.recipe, each.fates, plan.folder / "proved", follower, self.stop)
        follower.judge = judge
        if resumed:
            judge.histories |= _histories(each)
        job = Job(
            config=plan.config,
            recipe=plan.recipe,
            seeds=each.seeds,
            folder=each.folder,
            overwrite=not resumed,
        )
        with self._lock:
            self.watcher.began(each.seeds, resumed)
        outcome = run(
            job,
            objective,
            self.device,
            follower,
            resume=resumed,
            stop=self.stop,
            retire=judge.evaluated,
        )
        if outcome.status == "done":
            with contextlib.suppress(Interrupted):
                judge.conclude(outcome.tracker, assisted=plan.assisted)
        follower.take()

    def take(self, each: Try, judge: Judge) -> None:
        """Put a try's fates into the summary; stop all lanes once enough seeds are proved."""
        with self._lock:
            place = next(i for i, other in enumerate(self.summary.tries) if other.folder == each.folder)
            fates = tuple(judge.fates[seed] for seed in each.seeds)
            self.summary.tries[place] = Try(folder=each.folder, fates=fates)
            self._write("running")
            if self._enough():
                self.stop.set()

    def count(self, steps: int) -> None:
        """Seed-steps taken."""
        with self._lock:
            self._steps += steps

    def _enough(self) -> bool:
        return self.summary.count("proved") >= self.wanted

    def _write(self, status: str) -> None:
        wall, cpu = time.monotonic() - self._started[0], time.process_time() - self._started[1]
        self.summary.status = status
        self.summary.wanted = self.wanted
        self.summary.spent = self._before.plus(
            Spent(seed_steps=self._steps, wall_seconds=wall, core_seconds=cpu)
        )
        write_summary(self.summary)


class _Follower:
    """One try's listener: counts steps, passes everything on under the search's lock."""

    judge: Judge

    def __init__(self, search: _Search, each: Try, first: int) -> None:
        """``first``: steps that the try has behind it."""
        self.search, self.each, self._last = search, each, first

    def stepped(self, step: int, active: int) -> None:
        self.search.count((step - self._last) * active)
        self._last = step
        with self.search._lock:
            self.search.watcher.stepped(self.each.seeds, step)

    def evaluated(self, evaluation: Evaluation) -> None:
        with self.search._lock:
            self.search.watcher.evaluated(evaluation)

    def judged(self, fate: Fate, verdict: str) -> None:
        with self.search._lock:
            self.search.watcher.judged(fate, verdict)
        self.take()

    def take(self) -> None:
        self.search.take(self.each, self.judge)


def _histories(each: Try) -> dict[int, list[Metrics]]:
    """What a stopped try recorded of each seed."""
    if len(each.seeds) == 1:
        return {each.seeds[0]: read_metrics(each.folder)}
    return read_seed_metrics(each.folder)

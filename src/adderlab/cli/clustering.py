"""Training on a cluster from a terminal: what ``train --cluster`` and ``sweep --cluster`` share."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from adderlab.errors import UsageError
from adderlab.study.cluster.merge import differing_machines, is_sharded, train_sharded
from adderlab.study.cluster.ray import RayFleet, Stopped, connect
from adderlab.training.job import Job, Outcome
from adderlab.training.run import stop_requests


@contextmanager
def fleet_at(
    address: str, *, device: str, engine: str, threads: int | None, say: Callable[[str], None]
) -> Iterator[RayFleet]:
    """The cluster; Ctrl-C and SIGTERM ask it to stop."""
    if threads is not None and threads < 1:
        raise UsageError(f"--threads must be at least 1, not {threads}")
    # Signals after the connection: Ray sets handlers of its own.
    with (
        connect(address, device=device, engine=engine, threads=threads, say=say) as fleet,
        stop_requests() as stop,
    ):
        fleet.stop = stop
        yield fleet


def train_on_cluster(
    job: Job,
    address: str,
    *,
    shards: int | None,
    store: str | None,
    device: str,
    engine: str,
    threads: int | None,
    resume: bool,
    quiet: bool,
    json_lines: bool,
    prove: bool,
) -> Outcome | None:
    """Train ``job`` in shards, say what came of it; None if the user stopped it."""
    from adderlab.cli.proving import prove_outcome
    from adderlab.report.describe import describe
    from adderlab.report.live import write_event

    def say(line: str) -> None:
        if json_lines:
            write_event(sys.stdout, "note", text=line)
        elif not quiet:
            print(line, flush=True)

    if shards is not None and shards < 1:
        raise UsageError(f"--shards must be at least 1, not {shards}")
    if resume and not is_sharded(job.folder):
        raise UsageError(f"the run in {job.folder} has no shards; go on with it without --cluster")
    where = {"device": device, "engine": engine, "threads": threads, "say": say}
    try:
        with fleet_at(address, **where) as fleet:
            say(f"{len(job.seeds)} seeds, {job.recipe.total_steps} steps -> {job.folder}")
            outcome = train_sharded(job, fleet, shards=shards, store=store, resume=resume)
    except Stopped:
        say(f"stopped. To go on: adderlab train --resume {job.folder} --cluster {address}")
        return None
    for line in warnings([job.folder]):
        say(line)
    verdicts: list[str] = []
    if prove:
        prove_outcome(outcome, say=verdicts.append)
    if json_lines:
        rate = outcome.tracker.successes()
        success = {"count": rate.count, "n": rate.n, "wilson_95": [rate.low, rate.high]}
        write_event(sys.stdout, "end", status=outcome.status, run=str(job.folder), success=success)
    for line in (*describe(outcome), *verdicts):
        say(line)
    return outcome


def warnings(folders: Sequence[Path]) -> list[str]:
    """In what merged runs may differ from ones trained on one machine."""
    different = dict.fromkeys(name for folder in folders for name in differing_machines(folder))
    if not different:
        return []
    return [
        f"the machines differ in {' and '.join(different)} (environment.json): a seed is reproducible "
        "on the kind of machine that trained it, not on another"
    ]

"""Shards on a Ray cluster: handed out, watched, handed out again when a machine dies, and put together
as if one machine had trained all seeds.

Ray does the moving: it starts workers, sees nodes die and runs their tasks elsewhere. A task that is
run again goes on from its shard's state in the store.

Everything a run folder holds is a function of what is kept of every seed, so the shards' states are
joined along the seed axis and written by the same writer that a run on one machine uses. Only times
differ: steps were timed where they were taken.

Shapes: S seeds still training, N parameters of one model.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import secrets
import socket
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from adderlab.errors import Failure, UsageError
from adderlab.files import schema
from adderlab.files.atomic import read_json, write_json
from adderlab.runs.folder import RunFolder, drop_rows_after, load_state
from adderlab.runs.metadata import ENDED, collect_environment, read_config
from adderlab.runs.records import Metrics, read_metrics, read_seed_metrics
from adderlab.runs.stored import tracker_state
from adderlab.study.shards import (
    MACHINES_FILE,
    Store,
    Task,
    split,
    train_shard,
    unpack,
)
from adderlab.training.measure import SeedTracker
from adderlab.training.objective import Compute
from adderlab.training.run import Job, RunResult, Writer, stop_requests
from adderlab.training.start import check_fits

RETRIES = 20
"""How often a shard may lose its machine."""

_LOOK_SECONDS = 5.0
_OBJECT_STORE_BYTES = 80 * 2**20
"""Tasks exchange a few kilobytes; Ray's default would reserve a third of the memory."""


class Stopped(Exception):
    """The user asked for a stop; what is done is kept."""


@dataclass(frozen=True, kw_only=True)
class Done:
    """A shard at its goal, and the machine that brought it there."""

    task: Task
    machine: dict[str, Any]


class Fleet(Protocol):
    """Something that carries out tasks, on one machine or many."""

    compute: Compute

    @property
    def slots(self) -> int:
        """Tasks at once."""
        ...

    def carry_out(self, tasks: Sequence[Task], finished: Callable[[Done], None]) -> None:
        """Bring every task to its goal. Raises ``Stopped``, or ``Failure`` with what went wrong."""
        ...


@contextmanager
def connected(address: str, compute: Compute, log: Callable[[str], None]) -> Iterator[RayFleet]:
    """See ``connect``; Ctrl-C and SIGTERM ask the fleet to stop."""
    # Signals after the connection: Ray sets handlers of its own.
    with connect(address, compute, log) as fleet, stop_requests() as stop:
        fleet.stop = stop
        yield fleet


@contextmanager
def connect(address: str, compute: Compute, log: Callable[[str], None]) -> Iterator[RayFleet]:
    """The cluster at ``address``: "local" (this machine), "auto" (the one that this machine belongs
    to), "HOST:PORT", or "ray://HOST:PORT" from outside.

    Raises ``UsageError`` if Ray is not installed, or nothing answers there.
    """
    ray = _import_ray()
    local = {"num_cpus": None, "object_store_memory": _OBJECT_STORE_BYTES, "include_dashboard": False}
    options = local if address == "local" else {}
    _must_answer(address)
    try:
        with warnings.catch_warnings(action="ignore"):  # what they say is in the error
            context = ray.init(address=address, log_to_driver=False, logging_level="error", **options)
    except (OSError, ValueError, RuntimeError) as error:
        raise _no_cluster(address, error) from error
    try:
        yield RayFleet(ray, compute, log)
    finally:
        context.disconnect()
        ray.shutdown()


def _must_answer(address: str) -> None:
    """Raises ``UsageError`` at once where Ray itself would go on trying for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():
        if address not in ("local", "auto"):
            raise UsageError(f"cluster={address}: use local, auto, HOST:6379 or ray://HOST:10001")
        return
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise _no_cluster(address, error) from error


def _no_cluster(address: str, error: Exception) -> UsageError:
    reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return UsageError(
        f"cluster={address}: no Ray cluster answers there ({reason}); use local, auto, or "
        "ray://HOST:10001, with RAY_AUTH_MODE=token if the cluster asks for its token"
    )


class RayFleet:
    """A Ray cluster that this process is connected to."""

    def __init__(self, ray: Any, compute: Compute, log: Callable[[str], None]) -> None:
        self._ray, self._log = ray, log
        has, device, threads = ray.cluster_resources(), compute.device, compute.threads or 1
        if device == "auto":
            device = "cuda" if has.get("GPU", 0) >= 1 else "cpu"
        self.compute = replace(compute, device=device, threads=threads)
        self.stop = threading.Event()
        """Set it to have ``carry_out`` end as soon as it can."""
        self._need = {"CPU": threads} | ({"GPU": 1} if device == "cuda" else {})
        machines = len(self._slots())
        log(
            f"cluster: {machines} machine{'s' if machines > 1 else ''}, {self.slots} shard"
            f"{'s' if self.slots > 1 else ''} at once, on {device}"
        )

    @property
    def slots(self) -> int:
        """Tasks at once. Raises ``UsageError`` if there is room for none."""
        return sum(self._slots())

    def _slots(self) -> list[int]:
        """Tasks at once, of every machine that has room for any."""
        alive = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        slots = [min(int(has.get(kind, 0) // n) for kind, n in self._need.items()) for has in alive]
        if not any(slots):
            need = " and ".join(f"{n} {kind}" for kind, n in self._need.items())
            raise UsageError(f"no machine of the cluster has {need} for a shard; lower threads=N")
        return [each for each in slots if each]

    def carry_out(self, tasks: Sequence[Task], finished: Callable[[Done], None]) -> None:
        """See ``Fleet``. A task that fails does not stop the others; it is named at the end."""
        ray = self._ray
        need = {f"num_{kind.lower()}s": n for kind, n in self._need.items()}
        remote = ray.remote(train_shard).options(max_retries=RETRIES, **need)
        pending = {remote.remote(schema.to_dict(task)): task for task in tasks}
        failures: list[str] = []
        looked = time.monotonic()
        try:
            while pending:
                ready, _ = ray.wait(list(pending), num_returns=1, timeout=0.5)
                if self.stop.is_set():
                    raise Stopped
                for reference in ready:
                    task = pending.pop(reference)
                    try:
                        finished(Done(task=task, machine=ray.get(reference)))
                    except ray.exceptions.RayError as error:
                        failures.append(f"{task.label}: {_reason(error)}")
                        self._log(failures[-1])
                if time.monotonic() - looked >= _LOOK_SECONDS and pending:
                    self._log(_progress(tasks, pending.values()))
                    looked = time.monotonic()
        finally:
            for reference in pending:
                ray.cancel(reference, force=True)
        if failures:
            raise Failure(f"{failures[0]} ({len(failures)} of {len(tasks)} shards failed)")


def _progress(tasks: Sequence[Task], pending: Iterable[Task]) -> str:
    """One line about the shards that are on their way, from what they left in their stores."""
    stores: dict[str, Store] = {}
    steps, success = [], 0
    for task in pending:
        data = stores.setdefault(task.store, Store(task.store)).read(task.progress)
        seen = json.loads(data) if data else {"step": 0, "at_success": 0}
        steps.append(min(seen["step"], task.until))
        success += seen["at_success"]
    return (
        f"{len(tasks) - len(steps)} of {len(tasks)} shards done; the others at step "
        f"{min(steps):,} to {max(steps):,}, {success} of their seeds at 99% or more"
    )


def _reason(error: Exception) -> str:
    """What a worker says about its failure, in one line."""
    cause = getattr(error, "cause", None)
    known = cause if isinstance(cause, (Failure, UsageError)) else error
    return " ".join(str(known).split())[-400:]


def _import_ray() -> Any:
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise UsageError(
            "cluster=ADDRESS needs Ray, on every machine: pip install 'adderlab[cluster]'"
        ) from error


# Put together.


def merge(job: Job, folder: RunFolder, shards: Sequence[Path]) -> RunResult:
    """Write the run of ``job`` to ``folder`` (open, and of this job) from the shards' run folders, in
    the order of their seeds; the shards have all reached the same goal.

    Ends as "done" if every shard is at its end, else as "stopped", ready to be resumed.
    Raises ``Failure`` if a shard is damaged or belongs to another run.
    """
    states = [load_state(path) for path in shards]
    seeds = [read_config(path).seeds for path in shards]
    if tuple(seed for own in seeds for seed in own) != job.seeds:
        raise Failure(f"the shards of {job.folder} hold other seeds than the run; train it anew")
    population = _Joined([state["population"] for state in states])
    first_SN = torch.zeros(len(job.seeds), population.num_parameters)
    tracker = SeedTracker(job.config, job.recipe, job.seeds, first_SN)
    known = [tracker_state(state, path) for state, path in zip(states, shards, strict=True)]
    tracker.load_state(joined(known, [len(own) for own in seeds]))
    drop_rows_after(job.folder, -1)
    folder.record(*_by_step(job.seeds, shards))
    done = not population.seeds or population.next_step >= job.recipe.total_steps
    return Writer(job, folder, population, tracker).finish("done" if done else "stopped")


def joined(parts: Sequence[Any], sizes: Sequence[int]) -> Any:
    """Values that belong to the shards, as one value of the whole run.

    Tensors and lists with an entry for each of a shard's ``sizes`` seeds are put behind one another,
    tables by seed united, other tables joined entry by entry. Anything else is the same in all shards.
    """
    first = parts[0]
    if isinstance(first, dict):
        if all(isinstance(key, int) for key in first):
            return {seed: value for part in parts for seed, value in part.items()}
        return {key: joined([part[key] for part in parts], sizes) for key in first}
    if isinstance(first, Tensor):
        assert all(len(part) == size for part, size in zip(parts, sizes, strict=True))
        return torch.cat(list(parts))
    if isinstance(first, list):
        per_seed = all(len(part) == size for part, size in zip(parts, sizes, strict=True))
        assert per_seed or not any(parts), parts
        return [value for part in parts for value in part]
    assert all(part == first for part in parts), parts
    return first


class _Joined:
    """What the writer asks of a population, from the shards' last states."""

    def __init__(self, states: Sequence[dict[str, Any]]) -> None:
        # Shards whose seeds have all stopped early ended at an earlier step, with nothing to join.
        active = [state for state in states if state["seeds"]]
        furthest = max(states, key=lambda state: state["next_step"])
        self.next_step: int = furthest["next_step"]
        self.seconds: float = max(state["seconds"] for state in states)
        same: dict[str, Any] = {"next_step": self.next_step, "seconds": self.seconds}
        sizes = [len(state["seeds"]) for state in active]
        self._state: dict[str, Any] = (
            joined([state | same for state in active], sizes) if active else furthest | same
        )
        self.seeds = tuple(self._state["seeds"])

    @property
    def num_parameters(self) -> int:
        return self._state["params"].shape[1]

    def state(self) -> dict[str, Any]:
        return self._state


def _by_step(seeds: tuple[int, ...], shards: Sequence[Path]) -> list[dict[int, Metrics]]:
    """The evaluations of every step, by seed, as they would have been recorded together."""
    history: dict[int, list[Metrics]] = {}
    for path in shards:
        own = read_config(path).seeds
        history |= read_seed_metrics(path) if len(own) > 1 else {own[0]: read_metrics(path)}
    steps: dict[int, dict[int, Metrics]] = {}
    for seed in seeds:
        for metrics in history.get(seed, []):
            steps.setdefault(metrics.step, {})[seed] = metrics
    return [steps[step] for step in sorted(steps)]


# A run whose seeds are trained in shards elsewhere and merged here.
#
# RUN/
#     fleet.json          the shards and their store; gone once they are merged
#     shards/ID/          the store, unless another was named
#     config.json, ...    the run folder; its tables are written when the shards are merged


FLEET_FILE = "fleet.json"
SCHEMA_VERSION = 1

SAME = ("cpu", "device_name", "engine", "torch")
"""What must be the same on all machines for a seed to be the same on all."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """Which shards there are and where their state lies; fixed when the run begins."""

    schema_version: int = SCHEMA_VERSION
    id: str
    """Names the run's objects, so that a store can hold several runs."""
    store: str
    shards: tuple[tuple[int, ...], ...]
    """The seeds of each."""
    goals: tuple[int, ...]
    engine: str
    """Asked for at the start; a resume that asks for none in particular keeps it, and so the bits."""

    @property
    def marker(self) -> str:
        """The object by which a worker knows that it sees the same store."""
        return f"{self.id}/plan.json"

    def name(self, shard: int) -> str:
        return f"{self.id}/shard_{shard:04d}"


def is_sharded(folder: Path) -> bool:
    """Whether a run's shards are still to be trained or merged."""
    return (folder / FLEET_FILE).is_file()


class ShardedRun:
    """The run folder and its shards; holds the folder's lock until it is closed."""

    def __init__(self, job: Job, folder: RunFolder, plan: Plan, compute: Compute) -> None:
        self.job, self.plan, self.compute = job, plan, compute
        self.store = Store(plan.store)
        self._folder = folder

    @classmethod
    def create(
        cls, job: Job, compute: Compute, *, shards: int, store: str | None, pauses: Sequence[int] = ()
    ) -> ShardedRun:
        """Start a run. ``store``: None is a folder below the run's. ``pauses``: steps at which shards
        wait for one another, as well as at the end. Raises as ``training.run.run`` does."""
        check_fits(job.config, job.recipe, job.seeds)
        environment = collect_environment(compute.device)
        config = job.run_config(environment["command"])
        earlier = _stored_plan(job.folder) if job.overwrite and is_sharded(job.folder) else None
        if is_sharded(job.folder) and not job.overwrite:
            raise UsageError(
                f"{job.folder} holds a run that is not finished; resume it, pass "
                "overwrite=True to delete it, or another folder"
            )
        total = job.recipe.total_steps
        plan = Plan(
            id=secrets.token_hex(4),
            store=store or str((job.folder / "shards").resolve()),
            shards=tuple(split(job.seeds, shards)),
            goals=(*(goal for goal in pauses if goal < total), total),
            engine=compute.engine,
        )
        opened = Store(plan.store)
        folder = RunFolder.create(job.folder, config, environment, overwrite=job.overwrite)
        try:
            if earlier:
                _remove_objects(Store(earlier.store), earlier)
            opened.write(plan.marker, json.dumps(schema.to_dict(plan)).encode())
            write_json(job.folder / FLEET_FILE, schema.to_dict(plan))
            return cls(job, folder, plan, compute)
        except BaseException:
            folder.close()
            raise

    @classmethod
    def open(cls, job: Job, compute: Compute) -> ShardedRun:
        """Go on with a run. Raises ``UsageError`` if there is none, ``Failure`` if it is in use."""
        folder = RunFolder.open(job.folder)
        try:
            plan = _stored_plan(job.folder)
            if compute.engine == "auto":
                compute = dataclasses.replace(compute, engine=plan.engine)
            return cls(job, folder, plan, compute)
        except BaseException:
            folder.close()
            raise

    def tasks(self, until: int | None = None) -> list[Task]:
        """What is to be done to bring every shard to ``until`` steps, one of the plan's goals."""
        total = self.job.recipe.total_steps
        return [
            Task(
                store=self.plan.store,
                marker=self.plan.marker,
                name=self.plan.name(i),
                label=f"{self._folder.name}, shard {i + 1} of {len(self.plan.shards)}",
                config=self.job.config,
                recipe=self.job.recipe,
                seeds=seeds,
                goals=self.plan.goals,
                until=total if until is None else min(until, total),
                compute=self.compute,
            )
            for i, seeds in enumerate(self.plan.shards)
        ]

    def merge(self, until: int | None = None) -> RunResult:
        """The run folder, once every task is done. A run that is done needs its shards no more."""
        with tempfile.TemporaryDirectory(prefix="adderlab-merge-") as scratch:
            folders = []
            for i, task in enumerate(self.tasks(until)):
                place = Path(scratch) / str(i)
                unpack(self.store.must_read(task.final(task.until)), place)
                folders.append(place)
            self._note_machines(folders)
            outcome = merge(self.job, self._folder, [place / "run" for place in folders])
        if outcome.status in ENDED:
            _remove_objects(self.store, self.plan)
            (self.job.folder / FLEET_FILE).unlink()
        return outcome

    def close(self) -> None:
        """Give the folder's lock back."""
        self._folder.close()

    def __enter__(self) -> ShardedRun:
        return self

    def __exit__(self, *trouble: object) -> None:
        self.close()

    def _note_machines(self, folders: Sequence[Path]) -> None:
        path = self.job.folder / "environment.json"
        machines: list[dict[str, Any]] = []
        for place, seeds in zip(folders, self.plan.shards, strict=True):
            for machine in read_json(place / MACHINES_FILE)["machines"]:
                machines.append({"seeds": list(seeds)} | machine)
        write_json(path, read_json(path) | {"machines": machines})


def differing_machines(folder: Path) -> list[str]:
    """What the machines of a merged run did not have in common: a seed trained on another kind of
    machine is another draw."""
    machines = read_json(folder / "environment.json").get("machines", [])
    return [name for name in SAME if len({str(machine[name]) for machine in machines}) > 1]


def describe_machines(folders: Sequence[Path]) -> list[str]:
    """In what merged runs may differ from ones trained on one machine."""
    different = dict.fromkeys(name for folder in folders for name in differing_machines(folder))
    if not different:
        return []
    return [
        f"the machines differ in {' and '.join(different)} (environment.json): a seed is reproducible "
        "on the kind of machine that trained it, not on another"
    ]


def _stored_plan(folder: Path) -> Plan:
    path = folder / FLEET_FILE
    try:
        return schema.from_dict(Plan, read_json(path), "fleet")
    except UsageError as error:
        raise Failure(f"{path} does not fit: {error}; train the run anew") from error


def _remove_objects(store: Store, plan: Plan) -> None:
    names = [plan.marker]
    for i in range(len(plan.shards)):
        name = plan.name(i)
        names += [f"{name}.zip", f"{name}.json", *(f"{name}.at-{goal}.zip" for goal in plan.goals)]
    store.remove(names)


def train_sharded(
    job: Job, fleet: Fleet, *, shards: int | None = None, store: str | None = None, resume: bool = False
) -> RunResult:
    """Train a run's seeds on ``fleet`` and merge them. ``shards``: None is as many as run at once.

    Raises ``Stopped``: what is done is kept, ``resume`` goes on. Otherwise as ``training.run.run``.
    """
    if resume:
        run = ShardedRun.open(job, fleet.compute)
    else:
        run = ShardedRun.create(job, fleet.compute, shards=shards or fleet.slots, store=store)
    with run:
        fleet.carry_out(run.tasks(), lambda done: None)
        return run.merge()

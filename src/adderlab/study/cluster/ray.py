"""Shards on a Ray cluster: handed out, watched, handed out again when a machine dies.

Ray does the moving: it starts workers, sees nodes die and runs their tasks elsewhere. A task that is
run again goes on from its shard's state in the store.
"""

from __future__ import annotations

import importlib
import json
import socket
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

from adderlab.errors import Failure, UsageError
from adderlab.files import schema
from adderlab.study.cluster.shards import Task, train_shard
from adderlab.study.cluster.store import Store
from adderlab.training.objective import Compute
from adderlab.training.run import stop_requests

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
            raise UsageError(f"--cluster {address}: use local, auto, HOST:6379 or ray://HOST:10001")
        return
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise _no_cluster(address, error) from error


def _no_cluster(address: str, error: Exception) -> UsageError:
    reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return UsageError(
        f"--cluster {address}: no Ray cluster answers there ({reason}); use local, auto, or "
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
            raise UsageError(f"no machine of the cluster has {need} for a shard; lower --threads")
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
            "--cluster needs Ray, on every machine: pip install 'adderlab[cluster]'"
        ) from error

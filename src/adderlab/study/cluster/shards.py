"""Some seeds of a run, trained by whichever machine takes them, and gone on with by another.

A shard is an ordinary run folder, kept in a store as one object after each evaluation. It is written
whole, so whatever instant a machine dies at, the store holds a state that a run can go on from. Since
a seed's numbers are a pure function of (model, recipe, seed), a machine that was given up for dead and
goes on beside its successor writes the same numbers and does no harm.
"""

from __future__ import annotations

import io
import json
import os
import platform
import re
import socket
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from adderlab import __version__
from adderlab.errors import Failure
from adderlab.files import schema
from adderlab.files.atomic import read_json, write_json
from adderlab.models.config import ModelConfig
from adderlab.runs.metadata import cpu_model, device_name
from adderlab.runs.records import SeedRecord
from adderlab.study.cluster.store import Store
from adderlab.training.measure import Evaluation, Listener
from adderlab.training.objective import Compute, cached_backend
from adderlab.training.recipe import Recipe
from adderlab.training.run import Job, run

PUSH_SECONDS = 5.0
"""The store gets a state at most so often: a restart loses that and one evaluation interval."""

MACHINES_FILE = "machines.json"

_KEPT_SEED = re.compile(r"seed_\d+")


@dataclass(frozen=True, kw_only=True)
class Task:
    """One shard to be brought to ``until`` steps: all that a worker gets, as plain values."""

    store: str
    marker: str
    """An object that is in the store from the beginning."""
    name: str
    """Of the shard's objects in the store."""
    label: str
    """For people."""
    config: ModelConfig
    recipe: Recipe
    seeds: tuple[int, ...]
    goals: tuple[int, ...]
    """Steps at which shards wait for one another; the last is the recipe's end."""
    until: int
    """One of the goals."""
    compute: Compute
    version: str = __version__

    def final(self, goal: int) -> str:
        """The object with the state at a goal."""
        return f"{self.name}.at-{goal}.zip"

    @property
    def running(self) -> str:
        """The object with the state on the way."""
        return f"{self.name}.zip"

    @property
    def progress(self) -> str:
        """The object that says how far the shard is."""
        return f"{self.name}.json"

    def objects(self) -> list[str]:
        """Every name the shard may use."""
        return [self.running, self.progress, *(self.final(goal) for goal in self.goals)]


def split(seeds: Sequence[int], count: int) -> list[tuple[int, ...]]:
    """``seeds`` in ``count`` runs of neighbours (or fewer: none is empty) whose lengths differ by at
    most one."""
    count = min(count, len(seeds))
    size, longer = divmod(len(seeds), count)
    ends = [(i + 1) * size + min(i + 1, longer) for i in range(count)]
    return [tuple(seeds[start:end]) for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def train_shard(data: dict[str, Any], scratch: Path | None = None) -> dict[str, Any]:
    """Bring the shard of a ``Task`` (as a dict) to its goal; what was computed with.

    Starts from the furthest state in the store. Signals keep their default effect: a worker that is
    told to go goes at once, and another one takes over. Raises ``Failure`` and ``UsageError``.
    """
    task = schema.from_dict(Task, data, "task")
    if task.version != __version__:
        raise Failure(
            f"host {socket.gethostname()} has adderlab {__version__}, the run was started with "
            f"{task.version}; install the same version on every machine"
        )
    store = Store(task.store)
    store.must_read(task.marker)
    with tempfile.TemporaryDirectory(prefix="adderlab-shard-", dir=scratch) as folder:
        return _Work(task, store, Path(folder) / "run").do()


class _Work(Listener):
    """One attempt at a task, in a folder of its own. It is also the run's listener."""

    def __init__(self, task: Task, store: Store, folder: Path) -> None:
        self.task, self.store, self.folder = task, store, folder
        self._dirty, self._pushed, self._at_success = False, time.monotonic(), 0

    def do(self) -> dict[str, Any]:
        task = self.task
        step = restore(self.store, task, self.folder)
        backend = cached_backend(task.config, task.compute)
        machine = _machine(backend.engine, backend.device, step)
        if self.store.read(task.final(task.until)) is None:
            job = Job(config=task.config, recipe=task.recipe, seeds=task.seeds, folder=self.folder)
            self._note(machine)
            never = threading.Event()
            going_on = {"resume": step > 0, "until": task.until, "stop": never}
            result = run(job, backend.objective, backend.device, self, **going_on)
            self._at_success = sum(record.succeeded for record in result.records)
            self._push(task.final(task.until), task.until)
        return machine

    def on_step(self, seeds: tuple[int, ...], step: int, models: int) -> None:
        """The run folder is in order here: an evaluation before this step is written by now."""
        if self._dirty and time.monotonic() - self._pushed >= PUSH_SECONDS:
            try:
                self._push(self.task.running, step)
            except Failure as error:
                # The next one may work; only the state at the goal must arrive.
                print(f"adderlab: {error}; going on", file=sys.stderr)
            self._dirty, self._pushed = False, time.monotonic()

    def on_evaluation(self, evaluation: Evaluation, records: tuple[SeedRecord, ...]) -> None:
        self._dirty = True
        self._at_success = sum(record.succeeded for record in records)

    def _note(self, machine: dict[str, Any]) -> None:
        """One more machine that worked on the shard; travels with its state."""
        path = self.folder.parent / MACHINES_FILE
        known = read_json(path)["machines"] if path.is_file() else []
        write_json(path, {"machines": [*known, machine]})

    def _push(self, name: str, step: int) -> None:
        self.store.write(name, pack(self.folder.parent))
        progress = {
            "step": step,
            "until": self.task.until,
            "seeds": len(self.task.seeds),
            "at_success": self._at_success,
            "host": socket.gethostname(),
        }
        self.store.write(self.task.progress, json.dumps(progress).encode())


def restore(store: Store, task: Task, folder: Path) -> int:
    """Unpack the furthest state of a shard to ``folder`` and beside it; the steps it has done, 0 if
    there is none. Raises ``Failure``."""
    goals = [goal for goal in task.goals if goal <= task.until]
    names = [task.running, *(task.final(goal) for goal in goals)]
    found = [data for data in map(store.read, names) if data is not None]
    # Equals: the later name, which is the state at a goal.
    step, _, data = max(
        ((packed_step(data), i, data) for i, data in enumerate(found)), default=(0, 0, b"")
    )
    if step:
        unpack(data, folder.parent)
    return step


def pack(folder: Path) -> bytes:
    """The files below ``folder`` as one zip, without locks, leftovers and kept seeds (the merged run
    writes its own)."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder)
            left_out = any(part.startswith(".") or _KEPT_SEED.fullmatch(part) for part in name.parts)
            if path.is_file() and not left_out:
                archive.write(path, name)
    return buffer.getvalue()


def unpack(data: bytes, folder: Path) -> None:
    """The files of ``pack``, again. Raises ``Failure``."""
    with _opened(data) as archive:
        archive.extractall(folder)


def packed_step(data: bytes) -> int:
    """How many steps the run in a zip has done; 0 if it has not been evaluated. Raises ``Failure``."""
    with _opened(data) as archive:
        if not {"run/summary.json", "run/state.pt"} <= set(archive.namelist()):
            return 0
        return int(json.loads(archive.read("run/summary.json"))["step"]) + 1


def _opened(data: bytes) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(io.BytesIO(data))
    except zipfile.BadZipFile as error:
        raise Failure(f"a shard in the store is damaged ({error}); train the run anew") from error


def _machine(engine: str, device: torch.device, step: int) -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "platform": platform.platform(),
        "cpu": cpu_model(),
        "device": str(device),
        "device_name": device_name(str(device)),
        "engine": engine,
        "torch": torch.__version__,
        "from_step": step,
    }

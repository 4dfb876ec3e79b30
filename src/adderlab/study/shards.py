"""Some seeds of a run, trained by whichever machine takes them, and gone on with by another; and the
store where they leave their state.

A shard is an ordinary run folder, kept in a store as one object after each evaluation. It is written
whole, so whatever instant a machine dies at, the store holds a state that a run can go on from. Since
a seed's numbers are a pure function of (model, recipe, seed), a machine that was given up for dead and
goes on beside its successor writes the same numbers and does no harm.

A store is a folder that every machine sees, or a URL that fsspec knows (file, s3, gs, ...). Objects are
small and written whole: a reader sees the old one or the new one.
"""

from __future__ import annotations

import io
import json
import logging
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

import fsspec
import torch
from fsspec.implementations.local import LocalFileSystem
from fsspec.utils import get_protocol

from adderlab import __version__
from adderlab.errors import Failure, UsageError
from adderlab.files import schema
from adderlab.files.atomic import disk_failure, make_folder, read_json, write_bytes, write_json
from adderlab.models.config import ModelConfig
from adderlab.reading.file_model import FileModel
from adderlab.runs.metadata import cpu_model, device_name
from adderlab.runs.records import SeedRecord
from adderlab.training.measure import Evaluation, Listener
from adderlab.training.objective import Compute, cached_backend
from adderlab.training.recipe import Recipe
from adderlab.training.run import Job, run

BUCKETS = ("s3", "s3a", "gs", "gcs")
"""Protocols whose URLs begin with a bucket's name."""

# s3fs reads a large object in several requests at once, between which another worker may replace it:
# the reader would get half of each. One request gets one object.
_OPTIONS: dict[str, dict[str, Any]] = {protocol: {"max_concurrency": 1} for protocol in ("s3", "s3a")}

# It logs, with a traceback, what our ``Failure`` says in a line.
logging.getLogger("gcsfs").setLevel(logging.CRITICAL)


class Store:
    """Named objects below one place."""

    def __init__(self, url: str) -> None:
        """Raises ``UsageError`` for a URL of an unknown kind, or one whose package is missing."""
        self.url = url
        protocol = get_protocol(url)
        try:
            self._system, self._root = fsspec.url_to_fs(url, **_OPTIONS.get(protocol, {}))
        except ImportError as error:
            raise UsageError(f"store={url}: {error} (pip install it on every machine)") from error
        except ValueError as error:
            raise UsageError(f"store={url}: {error}; use a folder, file://, s3:// or gs://") from error
        if protocol in BUCKETS and not self._root.strip("/"):
            raise UsageError(f"store={url} names no bucket; write {protocol}://BUCKET/PATH")
        self._system.use_listings_cache = False

    @property
    def folder(self) -> Path | None:
        """The folder, if the store is one."""
        return Path(self._root) if isinstance(self._system, LocalFileSystem) else None

    def write(self, name: str, data: bytes) -> None:
        """Replace an object, all or nothing. Raises ``Failure``."""
        path = self._path(name)
        if self.folder is not None:
            make_folder(Path(path).parent)
            write_bytes(path, data)
            return
        try:
            self._system.pipe_file(path, data)
        except Exception as error:
            raise self._failure(error, name, "write") from error

    def read(self, name: str) -> bytes | None:
        """An object, None if there is none. Raises ``Failure``."""
        try:
            return bytes(self._system.cat_file(self._path(name)))
        except FileNotFoundError:
            return None
        except Exception as error:
            raise self._failure(error, name, "read") from error

    def must_read(self, name: str) -> bytes:
        """An object that has to be there. Raises ``Failure``."""
        data = self.read(name)
        if data is None:
            raise Failure(
                f"{self._object(name)} is not there; every machine must see the same store: use a "
                "shared folder, or store=s3://... or gs://..."
            )
        return data

    def remove(self, names: list[str]) -> None:
        """Delete objects, as far as they are there, and the folders that this leaves empty."""
        for name in names:
            try:
                self._system.rm_file(self._path(name))
            except FileNotFoundError:
                continue
            except Exception as error:
                raise self._failure(error, name, "remove") from error
        if self.folder is not None:
            below = {Path(self._path(name)).parent for name in names}
            for folder in (*below, self.folder):
                if folder.is_dir() and not any(folder.iterdir()):
                    folder.rmdir()

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    def _failure(self, error: Exception, name: str, action: str) -> Failure:
        """One line. The packages behind fsspec raise errors of their own, with no class in common."""
        if self.folder is not None and isinstance(error, OSError):
            return disk_failure(error, self._path(name), action)
        whole = f"cannot {action} {self._object(name)}"
        if isinstance(error, FileNotFoundError):
            return Failure(f"{whole}: there is no such bucket; make it first")
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        return Failure(
            f"{whole}: {reason}; check the store's address, and on every machine endpoint and "
            "credentials (docs/scale.md)"
        )

    def _object(self, name: str) -> str:
        return f"{self.url.rstrip('/')}/{name}"


# Shards.


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
    config: ModelConfig | FileModel
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
        """The run folder is in order here: what was due of it before this step is written by now."""
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

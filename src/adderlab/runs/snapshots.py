"""Snapshots: the weights of every seed every so many steps, for those who study how a model comes to be.

One array file in the run's folder, ``checkpoints/snapshots.npy``, which numpy opens as it is: float32
(F, S, N), frame k taken after step k * ``every`` (so with the evaluations of these steps), seeds in the
run's order, parameters flat in the module's order. A seed that trains no more is NaN. The file grows in
place: a frame is written behind the last one, and then the header counts it, so that what a kill leaves
can be read. A run that goes on drops the frames that its state does not know.

Shapes: F frames, S seeds, N parameters of one model, flat.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.lib import format as npy
from torch import Tensor

from adderlab.errors import Failure, UsageError
from adderlab.files.atomic import disk_failure, make_folder, write_bytes
from adderlab.runs.checkpoints import Checkpoint, parameter_shapes
from adderlab.runs.metadata import RunConfig, read_config

FILE = Path("checkpoints") / "snapshots.npy"
MOST_BYTES = 4 << 30
"""Of one file: what a reader would still open."""
_FLOAT = np.dtype("<f4")


def file_size(steps: int, every: int, seeds: int, parameters: int) -> int:
    """Bytes of the snapshots of a whole run. Raises ``UsageError`` for a step below 1, and for too many
    of them."""
    if every < 1:
        raise UsageError(f"checkpoint_every must be at least 1 step, not {every}")
    size = -(-steps // every) * seeds * parameters * _FLOAT.itemsize
    if size > MOST_BYTES:
        least = every * -(-size // MOST_BYTES)
        raise UsageError(
            f"a checkpoint every {every:,} steps of {seeds:,} seeds takes {size / 2**30:,.0f} GiB; take "
            f"at least {least:,} steps"
        )
    return size


class SnapshotFile:
    """The snapshots of a run that trains."""

    def __init__(self, folder: Path, every: int, seeds: Sequence[int], parameters: int) -> None:
        self.path, self.every = folder / FILE, every
        self._row = {seed: s for s, seed in enumerate(seeds)}
        self._shape = (len(seeds), parameters)

    def next_step(self, step: int) -> int:
        """The first step from ``step`` on after which there is a snapshot."""
        return -(-step // self.every) * self.every

    def go_on(self, next_step: int) -> None:
        """Keep the frames of steps before ``next_step`` and no others; where some are missing, for
        somebody deleted the file, they are NaN. Raises ``Failure``."""
        frames = self.next_step(next_step) // self.every
        there = self._frames()
        with self._opened() as file:
            file.seek(self._place(there))
            empty = np.full(self._shape, np.nan, dtype=_FLOAT).tobytes()
            for _ in range(there, frames):
                file.write(empty)
            file.truncate(self._place(frames))
            self._count(file, frames)

    def append(self, step: int, seeds: Sequence[int], flat_SN: Tensor) -> None:
        """The weights after ``step`` of the seeds that are training. Raises ``Failure``."""
        frame, weights_SN = step // self.every, np.full(self._shape, np.nan, dtype=_FLOAT)
        weights_SN[[self._row[seed] for seed in seeds]] = flat_SN.float().cpu().numpy()
        with self._opened() as file:
            file.seek(self._place(frame))
            file.write(weights_SN.tobytes())
            self._count(file, frame + 1)

    def _opened(self) -> _Opened:
        return _Opened(self.path)

    def _frames(self) -> int:
        """Frames in a file of this run; 0 if there is none."""
        if not self.path.is_file():
            make_folder(self.path.parent)
            write_bytes(self.path, self._header(0))
            return 0
        try:
            weights_FSN = np.load(self.path, mmap_mode="r")
        except (OSError, ValueError) as error:
            raise _damaged(self.path, str(error)) from error
        if weights_FSN.shape[1:] != self._shape or weights_FSN.dtype != _FLOAT:
            raise _damaged(self.path, f"its shape is {weights_FSN.shape}")
        return len(weights_FSN)

    def _place(self, frame: int) -> int:
        """Where a frame begins."""
        return len(self._header(frame)) + frame * self._shape[0] * self._shape[1] * _FLOAT.itemsize

    def _count(self, file: io.BufferedRandom, frames: int) -> None:
        """The header says how many frames there are: only once they are on the disk."""
        file.flush()
        os.fsync(file.fileno())
        file.seek(0)
        file.write(self._header(frames))

    def _header(self, frames: int) -> bytes:
        buffer = io.BytesIO()
        shape = (frames, *self._shape)
        # The format leaves room for the first axis to grow: its length is the same for all counts.
        fields = {"descr": npy.dtype_to_descr(_FLOAT), "fortran_order": False, "shape": shape}
        npy.write_array_header_1_0(buffer, fields)
        return buffer.getvalue()


class _Opened:
    """A file to be changed in place, whose errors are ``Failure``."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> io.BufferedRandom:
        try:
            self._file = self._path.open("r+b")
        except OSError as error:
            raise disk_failure(error, self._path, "append to") from error
        return self._file

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            self._file.close()
        except OSError as closing:
            error = closing
        if isinstance(error, OSError):
            raise disk_failure(error, self._path, "append to") from error


@dataclass(frozen=True, kw_only=True)
class Snapshots:
    """The snapshots of one seed."""

    config: RunConfig
    seed: int
    steps: tuple[int, ...]
    """After which each was taken."""
    weights_FN: Tensor
    """float32, finite."""

    def thinned(self, most: int) -> Snapshots:
        """At most so many, the first and the last among them, evenly spread."""
        count = len(self.steps)
        if count <= most:
            return self
        rows = sorted({round(k * (count - 1) / (most - 1)) for k in range(most)})
        steps = tuple(self.steps[row] for row in rows)
        return Snapshots(
            config=self.config, seed=self.seed, steps=steps, weights_FN=self.weights_FN[rows]
        )

    def stacked(self) -> dict[str, Tensor]:
        """Parameters by name, frames where seeds stand elsewhere: (F, ...)."""
        shapes = parameter_shapes(self.config.model)
        parts = self.weights_FN.split([torch.Size(shape).numel() for shape in shapes.values()], 1)
        named = zip(shapes.items(), parts, strict=True)
        return {name: part.reshape(len(part), *shape) for (name, shape), part in named}

    def checkpoint(self, frame: int) -> Checkpoint:
        """One snapshot as a model."""
        return Checkpoint(
            config=self.config.model,
            params={name: stacked[frame].clone() for name, stacked in self.stacked().items()},
            recipe=self.config.recipe,
            seed=self.seed,
            step=self.steps[frame],
            val_exact=math.nan,
        )


def read_snapshots(folder: Path, seed: int) -> Snapshots | None:
    """The snapshots of a seed in a run folder or in that of a kept seed; None if none were taken.
    Raises ``Failure`` for a damaged file."""
    path = folder / FILE
    if not path.is_file():
        return None
    config = read_config(folder)
    every = config.checkpoint_every
    if every is None or seed not in config.seeds:
        return None
    try:
        weights_FSN = np.load(path, mmap_mode="r")
        weights_FN = np.array(weights_FSN[:, config.seeds.index(seed)], dtype=np.float32)
    except (OSError, ValueError, IndexError) as error:
        raise _damaged(path, str(error)) from error
    parameters = sum(torch.Size(shape).numel() for shape in parameter_shapes(config.model).values())
    if weights_FN.ndim != 2 or weights_FN.shape[1] != parameters:
        raise _damaged(path, f"it has {weights_FN.shape[-1]} parameters, the model {parameters}")
    taken = np.isfinite(weights_FN).all(1)
    return Snapshots(
        config=config,
        seed=seed,
        steps=tuple(int(k) * every for k in np.nonzero(taken)[0]),
        weights_FN=torch.from_numpy(weights_FN[taken]),
    )


def keep_seed(run: Path, folder: Path, config: RunConfig, seed: int) -> None:
    """Write the snapshots of one seed of a population into its own folder. Raises ``Failure``."""
    if config.checkpoint_every is None or not (run / FILE).is_file():
        return
    weights_FSN = np.load(run / FILE, mmap_mode="r")
    place = config.seeds.index(seed)
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(weights_FSN[:, place : place + 1]))
    write_bytes(folder / FILE, buffer.getvalue())


def _damaged(path: Path, why: str) -> Failure:
    return Failure(f"{path} does not fit the run ({why}); restore it from a copy, or delete it")

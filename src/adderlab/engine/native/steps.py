"""Many steps of a population in one call of C++ (steps.cpp), bit for bit those taken one by one.

Shapes: S seeds, N parameters of one model, flat; C steps of the call; B pairs, P input positions,
A answer steps.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from adderlab.engine.base import Stretch
from adderlab.engine.native.adamw import AdamWRequest, adamw_library
from adderlab.engine.native.build import FOLDER, NativeUnavailable, load_library
from adderlab.engine.native.program import Program
from adderlab.engine.native.request import TABLE_NAMES, Request
from adderlab.engine.native.sampler import NativeSampler, SamplingRequest, sampler_library
from adderlab.models.tables import Tables

_FUNCTIONS = (
    "sample",
    "train_key",
    "map",
    "pull_back",
    "train_seed",
    "train_threads",
    "new_workspace",
    "delete_workspace",
    "adamw_seed",
)


class _Running(ctypes.Structure):
    """Mirrors ``Running`` in adamw.hpp."""

    _fields_ = [
        ("slow", ctypes.c_void_p),
        *[(name, ctypes.c_float) for name in ("slow_keep", "slow_rest", "strength")],
        ("average", ctypes.c_void_p),
        ("average_rest", ctypes.c_float),
    ]


class _Steps(ctypes.Structure):
    """Mirrors ``Steps`` in steps.cpp."""

    _fields_ = [
        *[(name, ctypes.c_int32) for name in ("seeds", "count", "threads")],
        *[(name, ctypes.c_int32) for name in ("size", "params", "tables")],
        ("first", ctypes.c_int64),
        *[(name, ctypes.c_void_p) for name in ("param_offset", "table_size", "table_index", "seed")],
        *[(name, ctypes.c_void_p) for name in ("max_digits", "threshold")],
        *[(name, ctypes.c_void_p) for name in ("lr", "correction", "scale", "weight_decay")],
        ("clip", ctypes.c_float),
        ("loss", ctypes.c_void_p),
        ("sampling", SamplingRequest),
        ("request", Request),
        ("adamw", AdamWRequest),
        ("running", _Running),
        *[(name, ctypes.c_void_p) for name in _FUNCTIONS],
    ]


@cache
def _library() -> ctypes.CDLL:
    library = load_library(FOLDER / "steps.cpp", optimise="-O2")
    if library.adderlab_steps_size() != ctypes.sizeof(_Steps):
        raise NativeUnavailable("its sources changed while this program was running; start it again")
    return library


class NativeSteps:
    """Steps of one model on the data of one sampler; see ``engine.base.Stepper``."""

    def __init__(
        self, map: Program, pull_back: Program, kernel: ctypes.CDLL, form: Tables, sampler: NativeSampler
    ) -> None:
        """``form``: tables of any number of seeds, for their form and shapes. ``map``: parameters to
        tables; ``pull_back``: its derivative. Raises ``NativeUnavailable``."""
        names = [name for name, _ in form.items()]
        sizes = [table[0].numel() for _, table in form.items()]
        params = [math.prod(shape) for shape in pull_back.shapes]
        self._size, self._threads, self._sampler = sum(params), sampler.threads, sampler
        self._keep = {
            "param_offset": _longs([sum(params[:i]) for i in range(len(params))]),
            "table_size": _longs(sizes),
            "table_index": torch.tensor([TABLE_NAMES.index(n) for n in names], dtype=torch.int32),
        }
        self._request = _Steps(size=self._size, params=len(params), tables=len(sizes))
        self._request.threads = self._threads
        self._request.request.eps2 = form.form.norm2.eps
        self._request.request.epsf = form.form.norm_f.eps
        sampling, adamw = sampler_library(), adamw_library()
        functions = (
            sampling.adderlab_sample_seed,
            sampling.adderlab_train_key,
            map.run_seed,
            pull_back.run_seed,
            kernel.adderlab_train_seed,
            kernel.adderlab_loss_and_grad,
            kernel.adderlab_new_workspace,
            kernel.adderlab_delete_workspace,
            adamw.adderlab_adamw_seed,
        )
        for name, function in zip(_FUNCTIONS, functions, strict=True):
            setattr(self._request, name, ctypes.cast(function, ctypes.c_void_p).value)
        self._libraries = (map, pull_back, kernel)

    def __call__(self, stretch: Stretch) -> Tensor:
        """Take the steps; loss_S before the last one. Raises ``MemoryError``."""
        S, N, C, B = *stretch.params_SN.shape, len(stretch.lr), stretch.batch_size
        assert self._size == N, (self._size, N)
        request, sampler = self._request, self._sampler
        data, layout = sampler.data, sampler.layout
        steps = range(stretch.first, stretch.first + C)
        loss_S = torch.empty(S)
        arrays = {
            **self._keep,
            "seed": stretch.seeds_S.contiguous(),
            "max_digits": torch.tensor(
                [data.curriculum.max_digits(step) for step in steps], dtype=torch.int32
            ),
            "threshold": _longs([sampler.threshold(step) for step in steps]),
            "lr": torch.tensor(stretch.lr),
            "correction": torch.tensor(stretch.correction),
            "scale": torch.tensor(stretch.scale),
            "weight_decay": stretch.weight_decay_S,
            "loss": loss_S,
        }
        for name, tensor in arrays.items():
            assert tensor.is_contiguous(), name
            setattr(request, name, tensor.data_ptr())
        request.seeds, request.count, request.first, request.clip = S, C, stretch.first, stretch.clip
        request.sampling = sampler.request(1, B)
        request.request.seeds, request.request.batch, request.request.threads = 1, B, self._threads
        request.request.token_row, request.request.target_row = layout.num_positions, layout.num_answers
        request.adamw = AdamWRequest(
            seeds=1,
            size=N,
            beta1_rest=1.0 - stretch.beta1,
            beta2=stretch.beta2,
            beta2_rest=1.0 - stretch.beta2,
            eps=stretch.eps,
            params=_floats(stretch.params_SN, (S, N)),
            mean=_floats(stretch.mean_SN, (S, N)),
            square=_floats(stretch.square_SN, (S, N)),
            lr_scale=None if stretch.lr_scale_N is None else _floats(stretch.lr_scale_N, (N,)),
        )
        request.running = _running(stretch, (S, N))
        status = _library().adderlab_steps(ctypes.byref(request))
        if status == 2:
            raise MemoryError("the native engine ran out of memory; use a smaller batch")
        assert status == 0, "the sampler draws tokens of its own layout"
        return loss_S


def _running(stretch: Stretch, shape: tuple[int, int]) -> _Running:
    running = _Running()
    if stretch.slow:
        mean_SN, alpha, strength = stretch.slow
        running.slow, running.strength = _floats(mean_SN, shape), strength
        running.slow_keep, running.slow_rest = alpha, 1.0 - alpha
    if stretch.average:
        mean_SN, decay = stretch.average
        running.average, running.average_rest = _floats(mean_SN, shape), 1.0 - decay
    return running


def _longs(values: Sequence[int]) -> Tensor:
    return torch.tensor(values, dtype=torch.int64)


def _floats(tensor: Tensor, shape: tuple[int, ...]) -> int:
    """Where its numbers lie."""
    assert tensor.shape == shape and tensor.is_contiguous(), (tensor.shape, shape)
    assert tensor.dtype == torch.float32 and tensor.device.type == "cpu", (tensor.dtype, tensor.device)
    return tensor.data_ptr()

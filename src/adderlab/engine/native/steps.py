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

from adderlab.engine.native.adamw import AdamWRequest, adamw_library, point
from adderlab.engine.native.build import FOLDER, NativeUnavailable, load_library
from adderlab.engine.native.program import Program
from adderlab.engine.native.request import TABLE_NAMES, Request
from adderlab.engine.native.sampler import NativeSampler, SamplingRequest, sampler_library
from adderlab.engine.stretch import Stretch
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
    "descend_seed",
)


class _Steps(ctypes.Structure):
    """Mirrors ``Steps`` in steps.cpp."""

    _fields_ = [
        *[(name, ctypes.c_int32) for name in ("seeds", "count", "settings", "threads")],
        *[(name, ctypes.c_int32) for name in ("size", "params", "tables")],
        ("first", ctypes.c_int64),
        *[(name, ctypes.c_void_p) for name in ("param_offset", "table_size", "table_index", "seed")],
        *[(name, ctypes.c_void_p) for name in ("max_digits", "threshold")],
        *[(name, ctypes.c_void_p) for name in ("setting", "rates", "constants", "lr_scale", "loss")],
        ("sampling", SamplingRequest),
        ("request", Request),
        ("adamw", AdamWRequest),
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
            "table_index": _ints([TABLE_NAMES.index(n) for n in names]),
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
            adamw.adderlab_descend_seed,
        )
        for name, function in zip(_FUNCTIONS, functions, strict=True):
            setattr(self._request, name, ctypes.cast(function, ctypes.c_void_p).value)
        self._libraries = (map, pull_back, kernel)

    def __call__(self, stretch: Stretch) -> Tensor:
        """Take the steps; loss_S before the last one. Raises ``MemoryError``."""
        (S, N), C, B = stretch.params_SN.shape, stretch.count, stretch.batch_size
        assert self._size == N, (self._size, N)
        request, sampler = self._request, self._sampler
        data, layout = sampler.data, sampler.layout
        steps = range(stretch.first, stretch.first + C)
        loss_S = torch.empty(S)
        arrays = {
            **self._keep,
            "seed": stretch.seeds_S.contiguous(),
            "max_digits": _ints([data.curriculum.max_digits(step) for step in steps]),
            "threshold": _longs([sampler.threshold(step) for step in steps]),
            "setting": stretch.setting_S,
            "rates": stretch.rates_CGR(),
            "constants": stretch.constants_GX(),
            "lr_scale": stretch.lr_scale_GN(),
            "loss": loss_S,
        }
        for name, tensor in arrays.items():
            assert tensor is None or tensor.is_contiguous(), name
            setattr(request, name, None if tensor is None else tensor.data_ptr())
        assert stretch.setting_S.shape == (S,) and stretch.setting_S.dtype == torch.int32
        request.seeds, request.count, request.first = S, C, stretch.first
        request.settings = len(stretch.settings)
        request.sampling = sampler.request(1, B)
        request.request.seeds, request.request.batch, request.request.threads = 1, B, self._threads
        request.request.token_row, request.request.target_row = layout.num_positions, layout.num_answers
        request.adamw = AdamWRequest(seeds=1, size=N)
        point(request.adamw, stretch, (S, N))
        status = _library().adderlab_steps(ctypes.byref(request))
        if status == 2:
            raise MemoryError("the native engine ran out of memory; use a smaller batch")
        assert status == 0, "the sampler draws tokens of its own layout"
        return loss_S


def _ints(values: Sequence[int]) -> Tensor:
    return torch.tensor(values, dtype=torch.int32)


def _longs(values: Sequence[int]) -> Tensor:
    return torch.tensor(values, dtype=torch.int64)

"""The native engine: the C++ kernel behind the ``Engine`` interface, and the three calls of training:
draw pairs, descend, take steps.

Each ctypes structure mirrors one of the headers. Training pairs are drawn as tokens, equal bit for bit
to ``task.sampling``. A descent step is one call, for a few hundred parameters a seed are a microsecond
of work but twenty PyTorch operations a hundred; and many steps of a population are one call too
(steps.cpp), bit for bit those taken one by one.

Shapes: S seeds, N parameters of one model, flat; C steps of a call; B pairs, P input positions, T prompt
positions, A answer steps; X and R as in ``engine.step_batch``.
"""

from __future__ import annotations

import ctypes
import hashlib
import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, float32

from adderlab.engine.base import Compiled, Descent, Function, Sampler, Stepper, too_large
from adderlab.engine.native.build import (
    FOLDER,
    Log,
    NativeUnavailable,
    NoCode,
    Program,
    cache_folder,
    isa_flags,
    load_library,
    to_stderr,
)
from adderlab.engine.native.head import head_source
from adderlab.engine.step_batch import CONSTANTS, RATES, Descending, StepBatch
from adderlab.errors import UsageError
from adderlab.files.atomic import write_text
from adderlab.models.tables import ATTENTION, TableForm, Tables
from adderlab.task import sampling
from adderlab.task.addition import MAX_COLUMNS, Layout
from adderlab.task.sampling import PATTERNS, DataConfig, Stream, pool_keys
from adderlab.workers import usable_cores

KERNEL_FLAGS = (
    "-fvisibility=hidden",
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-w",
    f"-I{FOLDER}",
)


def why_not(form: TableForm) -> str | None:
    """None if the kernel can compute this form, otherwise the reason in a few words."""
    program = form.program
    if program.vocab_size != form.layout.vocab_size:
        return f"it has {program.vocab_size} logits for {form.layout.vocab_size} tokens"
    if form.score_function in ("gelu", "negate"):
        return f"its scores are {form.score_function} of a product, for which the kernel has no code"
    if form.layout.num_positions != form.layout.num_prompt + form.layout.num_answers - 1:
        return "its answer does not follow its prompt token by token"
    widths = [program.row_width, *(operation.width for operation in program.operations)]
    sizes = {"width": (max(widths), 128), "number of values": (sum(widths), 2048)}
    return too_large(form, sizes, "native")


class NativeEngine:
    """See ``engine.base.Engine``. float32 tables on the CPU; tokens are uint8.

    The kernel of a form is compiled when first needed. Raises ``NativeUnavailable`` where that
    fails and ``UsageError`` for a form outside its limits (``why_not``).
    """

    name = "native"

    def __init__(
        self,
        threads: int | None = None,
        *,
        isa: str | None = None,
        optimise: str = "-O3",
        log: Log = to_stderr,
    ) -> None:
        """``threads``: all cores by default; no effect on any result. ``isa``, ``optimise``, ``log``:
        see ``build.load_library``."""
        self.threads = threads or usable_cores()
        isa_flags(isa)  # an unknown name is refused here
        self._build = {"isa": isa, "optimise": optimise, "log": log}
        self._libraries: dict[Any, ctypes.CDLL] = {}

    def compile(
        self,
        function: Function,
        examples: Sequence[Tensor],
        key: str | None = None,
        *,
        lean: bool = False,
    ) -> Compiled | None:
        log = self._build["log"]
        try:
            return Program(function, examples, self.threads, key=key, lean=lean, log=log)
        except NoCode as error:
            log(f"the tables are computed with PyTorch: {error}")
            return None

    def descent(self) -> Descent | None:
        adamw_library(self._build["log"])
        return native_descent

    def sampler(self, data: DataConfig, layout: Layout) -> Sampler | None:
        sampler_library(self._build["log"])
        return NativeSampler(data, layout, self.threads)

    def stepper(
        self, map: Compiled, vjp: Compiled, form: Tables, data: DataConfig, layout: Layout
    ) -> Stepper | None:
        assert isinstance(map, Program) and isinstance(vjp, Program)
        # Here, where the engine's log is known: a compiler that runs says so on one stream.
        for shared in (adamw_library, sampler_library, steps_library):
            shared(self._build["log"])
        sampler = NativeSampler(data, layout, self.threads)
        return NativeSteps(map, vjp, self._library(form), form, sampler)

    def prepare(self, tables: Tables) -> None:
        """Compile now what these tables need, rather than at the first step."""
        self._library(tables)

    def loss_and_grad(
        self, tables: Tables, tokens_SBP: Tensor, targets_SBA: Tensor
    ) -> tuple[Tensor, Tables]:
        request, keep = self._request(tables, tokens_SBP, targets_SBA)
        grads = {name: torch.empty(table.shape) for name, table in tables.items()}
        loss_S = torch.empty(tables.num_seeds)
        pointers = _pointers([grads.get(name) for name in table_names(tables.form)])
        request.grad = ctypes.addressof(pointers)
        request.loss = loss_S.data_ptr()
        self._run(tables, "adderlab_loss_and_grad", request)
        del keep
        return loss_S, _like(tables, grads)

    def margins(self, tables: Tables, tokens_SBP: Tensor, targets_SBA: Tensor) -> Tensor:
        request, keep = self._request(tables, tokens_SBP, targets_SBA)
        margin_SBA = torch.empty(tables.num_seeds, request.batch, tables.form.layout.num_answers)
        request.margins = margin_SBA.data_ptr()
        self._run(tables, "adderlab_margins", request)
        del keep
        return margin_SBA

    def decode(self, tables: Tables, prompt_SBT: Tensor) -> Tensor:
        request, keep = self._request(tables, prompt_SBT, None)
        shape = (tables.num_seeds, request.batch, tables.form.layout.num_answers)
        answers_SBA = torch.empty(shape, dtype=torch.uint8)
        request.answers = answers_SBA.data_ptr()
        self._run(tables, "adderlab_decode", request)
        del keep
        return answers_SBA

    def _request(
        self, tables: Tables, tokens_SBT: Tensor, targets_SBA: Tensor | None
    ) -> tuple[Request, list[Any]]:
        """The request without its outputs, and what it points into."""
        form = tables.form
        found: list[Tensor | None] = []
        for name in table_names(form):
            table = tables.get(name)
            if table is None:
                found.append(None)
                continue
            if table.dtype != torch.float32 or table.device.type != "cpu":
                kind = f"{table.dtype} on {table.device}"
                raise UsageError(f"the native engine needs float32 on the CPU, not {kind}")
            found.append(table.contiguous())
        pointers = _pointers(found)
        keep: list[Any] = [found, pointers]
        request = Request(
            seeds=tables.num_seeds,
            batch=tokens_SBT.shape[1],
            threads=self.threads,
            tables=len(found),
            table=ctypes.addressof(pointers),
        )
        width = form.layout.num_positions if targets_SBA is not None else form.layout.num_prompt
        tokens, request.token_seed, request.token_row = _tokens(tokens_SBT, tables.num_seeds, width)
        request.tokens = tokens.data_ptr()
        keep.append(tokens)
        if targets_SBA is not None:
            assert targets_SBA.shape[1] == request.batch, (targets_SBA.shape, tokens_SBT.shape)
            A = form.layout.num_answers
            targets, request.target_seed, request.target_row = _tokens(targets_SBA, tables.num_seeds, A)
            request.targets = targets.data_ptr()
            keep.append(targets)
        return request, keep

    def _run(self, tables: Tables, function: str, request: Request) -> None:
        if request.batch == 0 or request.seeds == 0:
            raise UsageError("the native engine needs at least one seed and one pair")
        status = getattr(self._library(tables), function)(ctypes.byref(request))
        if status == 1:
            last = tables.form.layout.vocab_size - 1
            raise UsageError(
                f"some token is outside the vocabulary 0-{last} of layout {tables.form.layout.name}"
            )
        if status == 2:
            raise MemoryError("the native engine ran out of memory; use a smaller batch")

    def _library(self, tables: Tables) -> ctypes.CDLL:
        score = None if tables.score is None else tuple(tables.score.shape[1:])
        key = (tables.form, score, tables.sink is None)
        if key not in self._libraries:
            self._libraries[key] = self._load(tables)
        return self._libraries[key]

    def _load(self, tables: Tables) -> ctypes.CDLL:
        reason = why_not(tables.form)
        if reason:
            raise UsageError(f"the native engine cannot compute this model: {reason}")
        score = None if tables.score is None else tables.score.shape[1:]
        source = head_source(tables.form, score=score, sink=tables.sink is not None)
        digest = hashlib.sha256(source.encode()).hexdigest()[:16]
        path = cache_folder(self._build["log"]) / f"kernel-{digest}.cpp"
        if not path.is_file():
            write_text(path, source)
        what = f"the kernel of this model (layout {tables.form.layout.name})"
        library = load_library(path, what=what, extra=KERNEL_FLAGS, **self._build)
        if library.adderlab_request_size() != ctypes.sizeof(Request):
            raise NativeUnavailable("its sources changed while this program was running; start it again")
        return library


def _pointers(tensors: Sequence[Tensor | None]) -> Any:
    return (ctypes.c_void_p * len(tensors))(*(None if t is None else t.data_ptr() for t in tensors))


def _like(tables: Tables, values: dict[str, Tensor]) -> Tables:
    """Tables of the same form and shapes. Made without their checks, which take longer, between two
    runs of the kernel, than everything else done here in Python."""
    made = object.__new__(Tables)
    attention = {name: values.get(name) for name in ATTENTION}
    head = {name: values[name] for name in tables.head}
    made.__dict__.update(attention, form=tables.form, head=head)
    return made


def _tokens(tokens: Tensor, S: int, width: int) -> tuple[Tensor, int, int]:
    """The tokens as the kernel reads them; bytes from one seed to the next and between rows."""
    assert tokens.dtype == torch.uint8 and tokens.shape[2] == width, (tokens.dtype, tokens.shape, width)
    assert tokens.shape[0] in (1, S), (tokens.shape, S)
    if tokens.stride(2) != 1:
        tokens = tokens.contiguous()
    return tokens, 0 if tokens.shape[0] == 1 else tokens.stride(0), tokens.stride(1)


# What the C++ sources are asked for, and the calls of training.


def table_names(form: TableForm) -> tuple[str, ...]:
    """Every table the kernel may be given, in its order: ``enum Table`` and the head's constants."""
    return (*ATTENTION, *form.program.shapes)


class Request(ctypes.Structure):
    """Mirrors ``Request`` in request.hpp."""

    _fields_ = [
        ("seeds", ctypes.c_int32),
        ("batch", ctypes.c_int32),
        ("threads", ctypes.c_int32),
        ("tables", ctypes.c_int32),
        ("tokens", ctypes.c_void_p),
        ("targets", ctypes.c_void_p),
        ("token_seed", ctypes.c_int64),
        ("target_seed", ctypes.c_int64),
        ("token_row", ctypes.c_int64),
        ("target_row", ctypes.c_int64),
        ("table", ctypes.c_void_p),
        ("grad", ctypes.c_void_p),
        ("loss", ctypes.c_void_p),
        ("margins", ctypes.c_void_p),
        ("answers", ctypes.c_void_p),
    ]


ADAMW_SOURCE = Path(__file__).with_name("adamw.cpp")
ADAMW_FLAGS = ("-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-ftree-vectorize")


class AdamWRequest(ctypes.Structure):
    """Mirrors ``AdamW`` in adamw.hpp."""

    _fields_ = [
        *[(name, ctypes.c_int32) for name in ("seeds", "size")],
        *[(name, ctypes.c_void_p) for name in ("params", "mean", "square", "slow", "average", "grad")],
        *[(name, ctypes.c_void_p) for name in ("rates", "constants", "weight_decay", "lr_scale")],
    ]


@cache
def adamw_library(log: Log = to_stderr) -> ctypes.CDLL:
    """The optimiser's step. Raises ``NativeUnavailable``."""
    library = load_library(
        ADAMW_SOURCE, what="the optimiser's step", optimise="-O2", extra=ADAMW_FLAGS, log=log
    )
    if library.adderlab_adamw_size() != ctypes.sizeof(AdamWRequest):
        raise NativeUnavailable("its sources changed while this program was running; start it again")
    return library


def native_descent(
    state: Descending,
    grad_SN: Tensor,
    rates_SR: Tensor,
    constants_SX: Tensor,
    lr_scale_SN: Tensor | None = None,
) -> None:
    """``engine.step_batch.descend`` on contiguous float32 tensors on the CPU; overwrites ``grad_SN``.

    The same operations in the same order. The results may differ from its in the last bit: PyTorch's
    square root is that of MKL, which is not always correctly rounded. Raises ``NativeUnavailable``.
    """
    S, N = state.params_SN.shape
    request = AdamWRequest(seeds=S, size=N)
    point(request, state, (S, N))
    request.grad = floats(grad_SN, (S, N))
    request.rates = floats(rates_SR, (S, len(RATES)))
    request.constants = floats(constants_SX, (S, len(CONSTANTS)))
    request.lr_scale = None if lr_scale_SN is None else floats(lr_scale_SN, (S, N))
    adamw_library().adderlab_descend(ctypes.byref(request))


def point(request: AdamWRequest, state: Descending, shape: tuple[int, int]) -> None:
    """Let a request point at the tensors that a step updates, and at the weight decay."""
    for name in ("params", "mean", "square", "slow", "average"):
        tensor = getattr(state, f"{name}_SN")
        setattr(request, name, None if tensor is None else floats(tensor, shape))
    request.weight_decay = floats(state.weight_decay_S, shape[:1])


def floats(tensor: Tensor, shape: tuple[int, ...]) -> int:
    """Where its numbers lie."""
    assert tensor.shape == shape and tensor.is_contiguous(), (tensor.shape, shape)
    assert tensor.dtype == float32 and tensor.device.type == "cpu", (tensor.dtype, tensor.device)
    return tensor.data_ptr()


SAMPLER_SOURCE = Path(__file__).with_name("sampler.cpp")


class SamplingRequest(ctypes.Structure):
    """Mirrors ``Sampling`` in sampling.hpp."""

    _fields_ = [
        *[(name, ctypes.c_int32) for name in ("seeds", "batch", "max_digits")],
        *[(name, ctypes.c_int32) for name in ("uniform_lengths", "threads")],
        *[(name, ctypes.c_int32) for name in ("columns", "base")],
        *[(name, ctypes.c_int32) for name in ("positions", "prompt", "answers", "end_token")],
        ("threshold", ctypes.c_uint64),
        ("pattern_count", ctypes.c_int32),
        ("patterns", ctypes.c_int32 * 5),
        ("a_position", ctypes.c_int32 * MAX_COLUMNS),
        ("b_position", ctypes.c_int32 * MAX_COLUMNS),
        ("pool", ctypes.c_int64),
        *[(name, ctypes.c_void_p) for name in ("key", "pool_key", "blank", "tokens", "targets")],
    ]


@cache
def sampler_library(log: Log = to_stderr) -> ctypes.CDLL:
    """The sampler. Raises ``NativeUnavailable``."""
    return load_library(SAMPLER_SOURCE, what="the sampler of training pairs", log=log)


class NativeSampler:
    """The training pairs of one data configuration and layout, as tokens: equal bit for bit to
    ``layout.encode(*sample_pairs(...))``. Not for layouts of pair tokens."""

    def __init__(self, data: DataConfig, layout: Layout, threads: int = 1) -> None:
        self.data, self.layout, self.threads = data, layout, threads
        zeros = torch.zeros(1, layout.columns, dtype=torch.uint8)
        self._blank = layout.encode_prompt(zeros, zeros)[0].contiguous()
        self._request = SamplingRequest(
            uniform_lengths=data.curriculum.lengths == "uniform",
            threads=threads,
            columns=layout.columns,
            base=layout.base,
            positions=layout.num_positions,
            prompt=layout.num_prompt,
            answers=layout.num_answers,
            end_token=-1 if layout.end_token is None else layout.end_token,
            a_position=(ctypes.c_int32 * MAX_COLUMNS)(*layout.a_positions),
            b_position=(ctypes.c_int32 * MAX_COLUMNS)(*layout.b_positions),
            pool=data.pool or 0,
            blank=self._blank.data_ptr(),
        )
        if data.carry_mix is not None:
            names = data.carry_mix.patterns
            self._request.pattern_count = len(names)
            self._request.patterns[: len(names)] = [PATTERNS.index(name) for name in names]

    def threshold(self, step: int) -> int:
        """Rows whose word is smaller are carry patterns."""
        mix = self.data.carry_mix
        return int((mix.share_at(step) if mix else 0.0) * (1 << sampling.WORD_BITS))

    def request(self, seeds: int, batch_size: int) -> SamplingRequest:
        """What does not change from step to step."""
        request = SamplingRequest.from_buffer_copy(self._request)
        request.seeds, request.batch = seeds, batch_size
        return request

    def __call__(self, seeds_S: Tensor, step: int, batch_size: int) -> tuple[Tensor, Tensor]:
        """(tokens_SBP, targets_SBA), uint8, of one step."""
        S, layout = len(seeds_S), self.layout
        tokens_SBP = torch.empty((S, batch_size, layout.num_positions), dtype=torch.uint8)
        targets_SBA = torch.empty((S, batch_size, layout.num_answers), dtype=torch.uint8)
        key_S, pool_key_S = sampling.keys(seeds_S, Stream.TRAIN, step), pool_keys(seeds_S)
        request = self.request(S, batch_size)
        request.max_digits = self.data.curriculum.max_digits(step, layout.columns)
        request.threshold = self.threshold(step)
        request.key, request.pool_key = key_S.data_ptr(), pool_key_S.data_ptr()
        request.tokens, request.targets = tokens_SBP.data_ptr(), targets_SBA.data_ptr()
        sampler_library().adderlab_sample(ctypes.byref(request))
        return tokens_SBP, targets_SBA


_FUNCTIONS = (
    "sample",
    "train_key",
    "map",
    "vjp",
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
def steps_library(log: Log = to_stderr) -> ctypes.CDLL:
    """Many steps in one call. Raises ``NativeUnavailable``."""
    library = load_library(FOLDER / "steps.cpp", what="the loop over steps", optimise="-O2", log=log)
    if library.adderlab_steps_size() != ctypes.sizeof(_Steps):
        raise NativeUnavailable("its sources changed while this program was running; start it again")
    return library


class NativeSteps:
    """Steps of one model on the data of one sampler; see ``engine.base.Stepper``."""

    def __init__(
        self, map: Program, vjp: Program, kernel: ctypes.CDLL, form: Tables, sampler: NativeSampler
    ) -> None:
        """``form``: tables of any number of seeds, for their form and shapes. ``map``: parameters to
        tables; ``vjp``: its derivative. Raises ``NativeUnavailable``."""
        names = table_names(form.form)
        sizes = [table[0].numel() for _, table in form.items()]
        params = [math.prod(shape) for shape in vjp.shapes]
        self._size, self._threads, self._sampler = sum(params), sampler.threads, sampler
        self._keep = {
            "param_offset": _longs([sum(params[:i]) for i in range(len(params))]),
            "table_size": _longs(sizes),
            "table_index": _ints([names.index(name) for name, _ in form.items()]),
        }
        self._request = _Steps(size=self._size, params=len(params), tables=len(sizes))
        self._request.threads = self._threads
        self._request.request.tables = len(names)
        sampling, adamw = sampler_library(), adamw_library()
        functions = (
            sampling.adderlab_sample_seed,
            sampling.adderlab_train_key,
            map.run_seed,
            vjp.run_seed,
            kernel.adderlab_train_seed,
            kernel.adderlab_loss_and_grad,
            kernel.adderlab_new_workspace,
            kernel.adderlab_delete_workspace,
            adamw.adderlab_descend_seed,
        )
        for name, function in zip(_FUNCTIONS, functions, strict=True):
            setattr(self._request, name, ctypes.cast(function, ctypes.c_void_p).value)
        self._libraries = (map, vjp, kernel)

    def __call__(self, step_batch: StepBatch) -> Tensor:
        """Take the steps; loss_S before the last one. Raises ``MemoryError``."""
        (S, N), C, B = step_batch.params_SN.shape, step_batch.count, step_batch.batch_size
        assert self._size == N, (self._size, N)
        request, sampler = self._request, self._sampler
        data, layout = sampler.data, sampler.layout
        steps = range(step_batch.first, step_batch.first + C)
        loss_S = torch.empty(S)
        arrays = {
            **self._keep,
            "seed": step_batch.seeds_S.contiguous(),
            "max_digits": _ints([data.curriculum.max_digits(step, layout.columns) for step in steps]),
            "threshold": _longs([sampler.threshold(step) for step in steps]),
            "setting": step_batch.setting_S,
            "rates": step_batch.rates_CGR(),
            "constants": step_batch.constants_GX(),
            "lr_scale": step_batch.lr_scale_GN(),
            "loss": loss_S,
        }
        for name, tensor in arrays.items():
            assert tensor is None or tensor.is_contiguous(), name
            setattr(request, name, None if tensor is None else tensor.data_ptr())
        assert step_batch.setting_S.shape == (S,) and step_batch.setting_S.dtype == torch.int32
        request.seeds, request.count, request.first = S, C, step_batch.first
        request.settings = len(step_batch.settings)
        pool_key_S = pool_keys(step_batch.seeds_S)
        request.sampling = sampler.request(1, B)
        request.sampling.pool_key = pool_key_S.data_ptr()
        request.request.seeds, request.request.batch, request.request.threads = 1, B, self._threads
        request.request.token_row, request.request.target_row = layout.num_positions, layout.num_answers
        request.adamw = AdamWRequest(seeds=1, size=N)
        point(request.adamw, step_batch, (S, N))
        status = steps_library().adderlab_steps(ctypes.byref(request))
        if status == 2:
            raise MemoryError("the native engine ran out of memory; use a smaller batch")
        assert status == 0, "the sampler draws tokens of its own layout"
        return loss_S


def _ints(values: Sequence[int]) -> Tensor:
    return torch.tensor(values, dtype=torch.int32)


def _longs(values: Sequence[int]) -> Tensor:
    return torch.tensor(values, dtype=torch.int64)

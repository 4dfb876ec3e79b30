"""The native engine: the C++ kernel behind the ``Engine`` interface.

Shapes: S seeds, B pairs, P input positions, T prompt positions, A answer steps.
"""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from adderlab.engine.base import Compiled, Descent, Function, Sampler, Stepper, too_large
from adderlab.engine.native.build import (
    FOLDER,
    Log,
    NativeUnavailable,
    cache_folder,
    isa_flags,
    load_library,
    to_stderr,
)
from adderlab.engine.native.head import head_source
from adderlab.engine.native.program import NoCode, Program
from adderlab.engine.native.steps import (
    NativeSampler,
    NativeSteps,
    Request,
    adamw_library,
    native_descent,
    sampler_library,
    steps_library,
    table_names,
)
from adderlab.errors import UsageError
from adderlab.files.atomic import write_text
from adderlab.models.tables import ATTENTION, TableForm, Tables
from adderlab.task.layouts import Layout
from adderlab.task.sampling import DataConfig
from adderlab.workers import usable_cores

FLAGS = (
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
        library = load_library(path, what=what, extra=FLAGS, **self._build)
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

"""What every engine does, and on what to compute: which device, how many threads of PyTorch, which
engine.

An engine sees tables and tokens, never parameters. Device and engine are each chosen once, and the
reason is given in one line.

Shapes: S seeds, B pairs, P input positions, T prompt positions, A answer steps. Token tensors may
have S = 1 in front: then every seed sees the same pairs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from adderlab.engine.step_batch import Descending, StepBatch
from adderlab.errors import Failure, UsageError
from adderlab.models.tables import TableForm, Tables, stack_parameters, tables, why_not_trained_by_tables
from adderlab.models.transformer import Architecture, build_model
from adderlab.task.addition import Layout
from adderlab.task.sampling import DataConfig, uniform_pairs

Function = Callable[..., tuple[Tensor, ...]]
"""A pure function of stacked tensors."""

Compiled = Callable[[Sequence[Tensor]], list[Tensor]]
"""The same function, of any number of seeds."""

Sampler = Callable[[Tensor, int, int], tuple[Tensor, Tensor]]
"""(seeds_S, step, batch size) -> (tokens_SBP, targets_SBA), uint8, on the seeds' device."""

Descent = Callable[[Descending, Tensor, Tensor, Tensor, Tensor | None], None]
"""See ``engine.step_batch.descend``."""

Stepper = Callable[[StepBatch], Tensor]
"""Takes the steps; loss_S before the last one."""


class Engine(Protocol):
    """Loss, gradient, margins and greedy answers of S models from their tables.

    Seed s's results depend only on seed s's tables and tokens, bit for bit on the CPU.
    """

    name: str
    """As ``--engine`` names it."""

    def loss_and_grad(
        self, tables: Tables, tokens_SBP: Tensor, targets_SBA: Tensor
    ) -> tuple[Tensor, Tables]:
        """Mean cross-entropy over the B * A targets, loss_S, and its gradient for every table."""
        ...

    def margins(self, tables: Tables, tokens_SBP: Tensor, targets_SBA: Tensor) -> Tensor:
        """Teacher-forced: logit of the target minus the best other logit, margin_SBA."""
        ...

    def compile(
        self,
        function: Function,
        examples: Sequence[Tensor],
        key: str | None = None,
        *,
        lean: bool = False,
    ) -> Compiled | None:
        """A faster twin of a pure function of stacked tensors, if the engine has a compiler and code
        for all of its operations.

        ``examples`` hold one seed and give the shapes. ``key``: a text that decides, together with
        this package's code, what the function computes, so that its twin can be kept for later.
        ``lean``: leave out what no result needs.
        """
        ...

    def descent(self) -> Descent | None:
        """A faster twin of ``engine.step_batch.descend``, if the engine has one."""
        ...

    def sampler(self, data: DataConfig, layout: Layout) -> Sampler | None:
        """A faster twin of ``task.sampling``, if the engine has one."""
        ...

    def stepper(
        self, map: Compiled, vjp: Compiled, form: Tables, data: DataConfig, layout: Layout
    ) -> Stepper | None:
        """Many steps in one call, if the engine can: ``map`` takes parameters to tables like ``form``,
        ``vjp`` is its derivative, both from ``compile``."""
        ...

    def decode(self, tables: Tables, prompt_SBT: Tensor) -> Tensor:
        """Greedy decoding; ties go to the lowest token. answers_SBA, uint8."""
        ...


TABLE_ROW = 32
"""A row of a lookup table is one or two vector registers of 16 lanes."""


def too_large(form: TableForm, sizes: Mapping[str, tuple[int, int]], engine: str) -> str | None:
    """None if an engine's kernels go as far as this form, otherwise the first size that they do not.

    ``sizes``: name -> (size, limit), beside those of the attention.
    """
    attention = {
        "vocabulary": (form.layout.vocab_size, TABLE_ROW),
        "number of heads": (form.heads, 4),
        "key dimension": (form.key_dim, 16),
        "value dimension": (form.value_dim, 16),
    }
    for name, (size, limit) in {**attention, **sizes}.items():
        if size > limit:
            return f"its {name} is {size}; the {engine} engine goes up to {limit}"
    return None


# On what to compute.


DEVICES = ("auto", "cpu", "cuda", "mps")
ENGINES = ("auto", "native", "triton", "torch")

CHECKED_PAIRS = 64
"""Pairs on which the Triton kernels are compared with PyTorch before they are trusted with a run."""

CHECK_TOLERANCE = 1e-3
"""Largest error over a table's largest gradient; rounding stays a hundred times below."""


def choose_device(name: str) -> tuple[torch.device, str]:
    """The device for ``--device name`` and the reason in a few words.

    Raises ``UsageError`` for an unknown name or a device this machine does not have.
    """
    if name not in DEVICES:
        raise UsageError(f"no device {name!r}; there are {', '.join(DEVICES)}")
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda"), f"a CUDA GPU is here ({torch.cuda.get_device_name()})"
        # Apple's backend has no 64-bit integer shifts worth the name and no bit-stable sums;
        # models this small are faster on its CPU anyway.
        return torch.device("cpu"), "no CUDA GPU is here"
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("device=cuda: this machine has no CUDA GPU; use device=cpu or auto")
    if name == "mps" and not torch.backends.mps.is_available():
        raise UsageError("device=mps: this machine has no Apple GPU; use device=cpu or auto")
    return torch.device(name), "you asked for it"


@contextlib.contextmanager
def single_threaded() -> Iterator[None]:
    """PyTorch splits no sum among threads inside this block, or function if used as a decorator.

    The order of a sum would depend on the machine's cores, and with it the last bits; seeds are spread
    over threads instead. Afterwards the process has the threads that it had.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def select_engine(
    name: str,
    config: Architecture,
    device: torch.device,
    *,
    threads: int,
    log: Callable[[str], None],
) -> Engine:
    """The engine for ``--engine name``; ``log`` gets a line when it compiles or is not the fastest.

    Raises ``UsageError`` for an unknown name, or for ``native`` or ``triton`` where it cannot be had.
    """
    if name not in ENGINES:
        raise UsageError(f"no engine {name!r}; there are {', '.join(ENGINES)}")
    if name == "torch":
        return _torch(device, threads)
    fastest = "triton" if device.type == "cuda" else "native"
    chosen = fastest if name == "auto" else name
    try:
        if chosen == "triton":
            return _triton(config, device, threads)
        return _native(config, device, threads, log)
    except Failure as error:
        if name != "auto":
            raise UsageError(f"engine={name}: {error}") from error
        log(f"the {chosen} engine is not used: {error}; computing with PyTorch")
        return _torch(device, threads)


def _torch(device: torch.device, threads: int) -> Engine:
    from adderlab.engine.torch_tables import TorchEngine

    return TorchEngine(threads, whole_steps=device.type == "cuda")


def _example(config: Architecture) -> Tables:
    """The tables of one new model of the configuration. Raises ``Failure`` where there are none."""
    reason = why_not_trained_by_tables(config)
    if reason:
        raise Failure(f"this model has no table form to train by: {reason}")
    with torch.no_grad():
        return tables(config, stack_parameters([build_model(config, 0)]))


def _triton(config: Architecture, device: torch.device, threads: int) -> Engine:
    """The Triton engine, its kernels compiled for this model and compared with PyTorch on this very
    device. Raises ``Failure`` saying why it cannot be had."""
    from adderlab.engine.triton import biased, why_not

    example = _example(config)
    form = example.form
    if biased(example):
        form = replace(form, key_dim=form.key_dim + form.layout.num_answers)
    reason = why_not(form, device)
    if reason:
        raise Failure(reason)
    other = example.score is not None and not biased(example)
    if other or example.sink is not None or form.score_function is not None:
        raise Failure(
            "its scores are more than queries times keys and biases of positions, which is all that "
            "Triton computes"
        )
    from adderlab.engine.triton.engine import TritonEngine

    engine = TritonEngine()
    try:
        error = _worst_error(engine, _torch(device, threads), example.to(device=device))
    except Exception as problem:  # a compiler and a driver may fail in any way; a run need not
        raise Failure(f"its kernels do not run here ({_first_line(problem)})") from problem
    if not error < CHECK_TOLERANCE:
        raise Failure(f"its gradients are off by {error:.1e} here")
    return engine


def _worst_error(engine: Engine, trusted: Engine, example: Tables) -> float:
    """Largest difference of two engines' gradients over each table's largest gradient, or of losses."""
    layout, device = example.form.layout, example.query.device
    a_BJ, b_BJ = uniform_pairs(0, CHECKED_PAIRS, layout.addition)
    tokens, targets = layout.encode(a_BJ.to(device)[None], b_BJ.to(device)[None])
    loss_S, grads = engine.loss_and_grad(example, tokens, targets)
    want_S, wanted = trusted.loss_and_grad(example, tokens, targets)
    errors = [(loss_S - want_S).abs().max() / want_S.abs().max()]
    for (_, grad), (_, want) in zip(grads.items(), wanted.items(), strict=True):
        errors.append((grad - want).abs().max() / want.abs().max().clamp(min=1e-5))
    return float(torch.stack(errors).max())


def _first_line(problem: Exception) -> str:
    return next(iter(str(problem).splitlines()), "") or type(problem).__name__


def _native(
    config: Architecture, device: torch.device, threads: int, log: Callable[[str], None]
) -> Engine:
    """The native engine, compiled for this model. Raises ``Failure`` saying why it cannot be had."""
    from adderlab.engine.native import NativeEngine, why_not

    if device.type != "cpu":
        raise Failure(f"it computes on the CPU, not on {device.type}")
    example = _example(config)
    reason = why_not(example.form)
    if reason:
        raise Failure(reason)
    engine = NativeEngine(threads, log=log)
    engine.prepare(example)
    return engine

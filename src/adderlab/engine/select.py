"""On what to compute: which device, how many threads of PyTorch, which engine.

Each is chosen once, and its reason is given in one line.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch

from adderlab.engine.base import Engine
from adderlab.engine.coordinates import biased
from adderlab.engine.torch_tables import TorchEngine
from adderlab.errors import Failure, UsageError
from adderlab.models.architecture import Architecture
from adderlab.models.tables import Tables, stack_parameters, tables, why_not_trained_by_tables
from adderlab.models.transformer import build_model
from adderlab.task.sampling import uniform_pairs

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


def _torch(device: torch.device, threads: int) -> TorchEngine:
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
    from adderlab.engine.triton import why_not

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

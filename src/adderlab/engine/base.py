"""What every engine does. An engine sees tables and tokens, never parameters.

Shapes: S seeds, B pairs, P input positions, T prompt positions, A answer steps. Token tensors may
have S = 1 in front: then every seed sees the same pairs.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from adderlab.engine.step_batch import Descending, StepBatch
from adderlab.errors import UsageError
from adderlab.models.tables import Tables
from adderlab.task.layouts import Layout
from adderlab.task.sampling import DataConfig

Function = Callable[..., tuple[Tensor, ...]]
Compiled = Callable[[Sequence[Tensor]], list[Tensor]]
"""The same function, of any number of seeds."""

Sampler = Callable[[Tensor, int, int], tuple[Tensor, Tensor]]
"""(seeds_S, step, batch size) -> (tokens_SBP, targets_SBA), uint8, on the seeds' device."""


Descent = Callable[[Descending, Tensor, Tensor, Tensor, Tensor | None], None]
"""See ``engine.descent.descend``."""

Stepper = Callable[[StepBatch], Tensor]
"""Takes the steps; loss_S before the last one."""


class Engine(Protocol):
    """Loss, gradient, margins and greedy answers of S models from their tables.

    Seed s's results depend only on seed s's tables and tokens, bit for bit on the CPU.
    """

    name: str

    def loss_and_grad(
        self, tables: Tables, tokens_SBP: Tensor, targets_SBA: Tensor
    ) -> tuple[Tensor, Tables]:
        """Mean cross-entropy over the B * A targets, loss_S, and its gradient for every table."""
        ...

    def margins(self, tables: Tables, tokens_SBP: Tensor, targets_SBA: Tensor) -> Tensor:
        """Teacher-forced: logit of the target minus the best other logit, margin_SBA."""
        ...

    def compile(
        self, function: Function, examples: Sequence[Tensor], key: str | None = None
    ) -> Compiled | None:
        """A faster twin of a pure function of stacked tensors, if the engine has a compiler.

        ``examples`` hold one seed and give the shapes. ``key``: a text that decides, together with
        this package's code, what the function computes, so that its twin can be kept for later.
        """
        ...

    def descent(self) -> Descent | None:
        """A faster twin of ``engine.descent.descend``, if the engine has one."""
        ...

    def sampler(self, data: DataConfig, layout: Layout) -> Sampler | None:
        """A faster twin of ``task.sampling``, if the engine has one."""
        ...

    def stepper(
        self, map: Compiled, pull_back: Compiled, form: Tables, data: DataConfig, layout: Layout
    ) -> Stepper | None:
        """Many steps in one call, if the engine can: ``map`` takes parameters to tables like ``form``,
        ``pull_back`` is its derivative, both from ``compile``."""
        ...

    def decode(self, tables: Tables, prompt_SBT: Tensor) -> Tensor:
        """Greedy decoding; ties go to the lowest token. answers_SBA, uint8."""
        ...


# Which device to compute on and why, and with how many threads.


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


DEVICES = ("auto", "cpu", "cuda", "mps")


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
        raise UsageError("--device cuda: this machine has no CUDA GPU; use --device cpu or auto")
    if name == "mps" and not torch.backends.mps.is_available():
        raise UsageError("--device mps: this machine has no Apple GPU; use --device cpu or auto")
    return torch.device(name), "you asked for it"

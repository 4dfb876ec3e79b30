"""What every engine does. An engine sees tables and tokens, never parameters.

Shapes: S seeds, B pairs, P input positions, T prompt positions, A answer steps. Token tensors may
have S = 1 in front: then every seed sees the same pairs.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from torch import Tensor

from adderlab.engine.step_batch import Descending, StepBatch
from adderlab.models.tables import TableForm, Tables
from adderlab.task.layouts import Layout
from adderlab.task.sampling import DataConfig

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

"""What an architecture is to the rest of the program: a ``ModelConfig``, or a model read from a file.

Everything that takes an architecture goes through a handful of functions (``transformer.build_model``,
``tables.tables``, ``tables.why_no_tables``, ``runs.checkpoints.parameter_shapes``); they ask an
architecture that is no configuration for the methods below.

Shapes: B batch, T positions read so far, P input positions, A answer steps, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import torch
from torch import Tensor, nn

from adderlab.models.config import ModelConfig
from adderlab.task.layouts import Layout

if TYPE_CHECKING:
    from adderlab.models.tables import Tables


class Adder(nn.Module):
    """A module that adds: the layout's tokens (B, T) -> logits (B, T, V) of the layout's tokens.

    Parameters may be read, written and moved by ``named_parameters`` and ``to`` as those of any module.
    """

    config: Any

    @property
    def layout(self) -> Layout:
        return self.config.token_layout

    def next_logits(self, tokens_BT: Tensor) -> Tensor:
        """Logits (B, V) of the token that follows."""
        return self(tokens_BT)[:, -1]

    def answer_logits(self, tokens_BP: Tensor) -> Tensor:
        """Logits (B, A, V) of the answer steps, teacher-forced."""
        return self(tokens_BP)[:, list(self.layout.query_positions)]

    def loss(self, tokens_BP: Tensor, targets_BA: Tensor) -> Tensor:
        """Mean cross-entropy over the B * A answer tokens."""
        logits_BAV = self.answer_logits(tokens_BP)
        return nn.functional.cross_entropy(logits_BAV.flatten(0, 1), targets_BA.flatten().long())

    @torch.no_grad()
    def generate(self, prompt_BT: Tensor) -> Tensor:
        """Greedy decoding: prompt tokens -> answer tokens (B, A), uint8."""
        tokens = prompt_BT.long()
        for _ in range(self.layout.num_answers):
            tokens = torch.cat([tokens, self.next_logits(tokens).argmax(-1, keepdim=True)], 1)
        return tokens[:, prompt_BT.shape[1] :].to(torch.uint8)

    def own_sum(self, a: int, b: int) -> int | None:
        """What the model's own ``add`` answers to a + b, -1 where that is no number; None where it has
        none, and its greedy answer is the answer."""
        return None


class ReadArchitecture(Protocol):
    """An architecture that is no ``ModelConfig``. Hashable; equal ones have the same parameters."""

    @property
    def token_layout(self) -> Layout: ...

    @property
    def layout(self) -> str:
        """The layout's name."""
        ...

    @property
    def file(self) -> str:
        """What the user calls it."""
        ...

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of every parameter, in the module's order. Needs no code of the model."""
        ...

    def build(self, seed: int) -> Adder:
        """A freshly initialised model. Raises ``UsageError`` where its code is not at hand."""
        ...

    def tables(self, params: Mapping[str, Tensor], *, exact: bool = False) -> Tables:
        """Tables of S models, differentiable; ``exact``: hidden keys have the score minus infinity, as a
        proof needs it. Raises ``UsageError`` where its code is not at hand."""
        ...

    def why_no_tables(self) -> str | None:
        """None if it has a table form, otherwise the reason."""
        ...

    def bound(self) -> dict[str, Any]:
        """What a certificate binds of it besides weights and head program, as JSON values. Raises
        ``UsageError`` where its code is not at hand."""
        ...


Architecture: TypeAlias = "ModelConfig | ReadArchitecture"
"""What every function that takes an architecture takes."""

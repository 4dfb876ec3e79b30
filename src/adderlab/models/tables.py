"""The table form: everything a one-layer decoder computes, as a few small dense tensors.

Before the softmax, every quantity in a one-layer decoder depends only on (position, token). So a
model of any parametrisation is fully described by these tables; training, evaluation and proof
share them and nothing else (docs/architecture.md).

One answer step i, holding the token z at its query position, head h:

    score[p]  = query[i, z, h] . key[p, t_p, h]         for p <= query_positions[i]
    mixed[h]  = sum_p softmax(score)[p] * value[p, t_p, h]
    x         = residual[i, z] + sum_h mixed[h] @ attn_out[h]
    u         = norm2(x)
    x         = x + act(u @ fc1 + fc1_bias) @ fc2 + fc2_bias        (GELU, ReLU)
              = x + (silu(u @ gate) * (u @ fc1)) @ fc2 + fc2_bias   (SwiGLU)
    logits    = norm_f(x) @ unembed

The attention scale is folded into ``query``, the first norm into query, key and value, an output
bias of the attention into ``residual``.

Shapes: S seeds, A answer steps, P input positions, V vocabulary, H heads, K key dimension,
E value dimension, D width, F hidden units of the MLP.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from adderlab.task.layouts import Layout, get_layout

NormKind = Literal["none", "rms", "layer"]
Activation = Literal["gelu", "relu", "swiglu"]


@dataclass(frozen=True, kw_only=True)
class NormForm:
    """RMS: x / sqrt(mean(x^2) + eps) * weight. Layer: (x - mean) / sqrt(var + eps) * weight + bias."""

    kind: NormKind
    eps: float


@dataclass(frozen=True, kw_only=True)
class TableForm:
    """What the numbers in a set of tables mean: sizes and kinds, no weights. Hashable."""

    layout_name: str
    heads: int
    key_dim: int
    value_dim: int
    width: int
    hidden: int
    norm2: NormForm
    norm_f: NormForm
    activation: Activation

    @property
    def layout(self) -> Layout:
        return get_layout(self.layout_name)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each table without the seed axis, in the order of ``Tables``' fields.

        Optional tables (biases, the SwiGLU gate) are listed too; whether a model has them is seen
        from the table being None.
        """
        layout = self.layout
        A, P, V = layout.num_answers, layout.num_positions, layout.vocab_size
        H, K, E, D, F = self.heads, self.key_dim, self.value_dim, self.width, self.hidden
        return {
            "query": (A, V, H, K),
            "key": (P, V, H, K),
            "value": (P, V, H, E),
            "residual": (A, V, D),
            "attn_out": (H, E, D),
            "norm2_weight": (D,),
            "norm2_bias": (D,),
            "fc1": (D, F),
            "fc1_bias": (F,),
            "gate": (D, F),
            "fc2": (F, D),
            "fc2_bias": (D,),
            "norm_f_weight": (D,),
            "norm_f_bias": (D,),
            "unembed": (D, V),
        }


@dataclass(frozen=True, kw_only=True)
class Tables:
    """The tables of S models of one form; every tensor has the seed axis first.

    ``norm*_weight`` is None only for norm kind "none"; a norm bias is None unless the model has
    one; ``gate`` is None unless the activation is "swiglu".
    """

    form: TableForm
    query: Tensor
    key: Tensor
    value: Tensor
    residual: Tensor
    attn_out: Tensor
    norm2_weight: Tensor | None = None
    norm2_bias: Tensor | None = None
    fc1: Tensor
    fc1_bias: Tensor | None = None
    gate: Tensor | None = None
    fc2: Tensor
    fc2_bias: Tensor | None = None
    norm_f_weight: Tensor | None = None
    norm_f_bias: Tensor | None = None
    unembed: Tensor

    def __post_init__(self) -> None:
        shapes = self.form.shapes()
        for name, tensor in self.items():
            assert tensor.shape[1:] == shapes[name], (name, tensor.shape, shapes[name])

    @property
    def num_seeds(self) -> int:
        return self.query.shape[0]

    def items(self) -> Iterator[tuple[str, Tensor]]:
        """(name, tensor) of every table that is present, in field order."""
        for field in dataclasses.fields(self):
            tensor = getattr(self, field.name)
            if isinstance(tensor, Tensor):
                yield field.name, tensor

    def map(self, function: Callable[[Tensor], Tensor]) -> Tables:
        """The same form with ``function`` applied to every table that is present."""
        return dataclasses.replace(self, **{name: function(tensor) for name, tensor in self.items()})

    def detach(self) -> Tables:
        return self.map(Tensor.detach)

    def seeds(self, start: int, stop: int) -> Tables:
        """The tables of seeds start..stop-1 (views)."""
        return self.map(lambda tensor: tensor[start:stop])

    def to(
        self, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> Tables:
        return self.map(lambda tensor: tensor.to(dtype=dtype, device=device))

"""Random tables of any form, and random pairs as tokens, for tests of the engines."""

from collections.abc import Collection

import torch
from torch import Tensor

from adderlab.models.tables import (
    Activation,
    NormForm,
    NormKind,
    TableForm,
    Tables,
)
from adderlab.task.layouts import OPERAND_LIMIT, to_digits

BIASES = ("norm2_bias", "fc1_bias", "fc2_bias", "norm_f_bias")


def table_form(
    layout: str,
    *,
    heads: int = 1,
    key: int = 3,
    value: int = 2,
    width: int = 7,
    hidden: int = 14,
    norm2: NormKind = "rms",
    norm_f: NormKind = "rms",
    activation: Activation = "gelu",
) -> TableForm:
    return TableForm(
        layout_name=layout,
        heads=heads,
        key_dim=key,
        value_dim=value,
        width=width,
        hidden=hidden,
        norm2=NormForm(kind=norm2, eps=1e-5),
        norm_f=NormForm(kind=norm_f, eps=1e-5),
        activation=activation,
    )


def random_tables(form: TableForm, S: int, biases: Collection[str] = (), seed: int = 0) -> Tables:
    """Standard normal tables; matrices are scaled to keep the size of what they multiply."""
    generator = torch.Generator().manual_seed(seed)
    absent = {name for name in BIASES if name not in biases}
    for norm, kind in (("norm2", form.norm2.kind), ("norm_f", form.norm_f.kind)):
        if kind == "none":
            absent |= {f"{norm}_weight", f"{norm}_bias"}
    if form.activation != "swiglu":
        absent.add("gate")
    tables = {}
    for name, shape in form.shapes().items():
        tensor = torch.randn(S, *shape, generator=generator)
        if name in ("attn_out", "fc1", "gate", "fc2", "unembed"):
            tensor = tensor / shape[-2] ** 0.5
        if name not in absent:
            tables[name] = tensor
    return Tables(form=form, **tables)


def random_tokens(form: TableForm, S: int, B: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """(tokens_SBP, targets_SBA) of uniform ten-digit pairs."""
    generator = torch.Generator().manual_seed(seed)
    a_SB, b_SB = torch.randint(OPERAND_LIMIT, (2, S, B), generator=generator)
    return form.layout.encode(to_digits(a_SB), to_digits(b_SB))

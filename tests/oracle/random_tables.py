"""Random tables of any form, and random pairs as tokens, for tests of the engines."""

import dataclasses
from collections.abc import Collection

import torch
from torch import Tensor

from adderlab.models.head_program import Activation, NormForm, NormKind, standard_head, standard_program
from adderlab.models.tables import TableForm, Tables, tables_of
from adderlab.task.addition import Layout, get_layout, to_digits

BIASES = ("norm2_bias", "fc1_bias", "fc2_bias", "norm_f_bias")


def table_form(
    layout: str | Layout,
    *,
    heads: int = 1,
    key: int = 3,
    value: int = 2,
    width: int = 7,
    hidden: int = 14,
    norm2: NormKind = "rms",
    norm_f: NormKind = "rms",
    activation: Activation = "gelu",
    biases: Collection[str] = (),
) -> TableForm:
    """A form with a standard head."""
    layout = get_layout(layout) if isinstance(layout, str) else layout
    return TableForm(
        layout=layout,
        heads=heads,
        key_dim=key,
        value_dim=value,
        program=standard_program(
            mixed=heads * value,
            width=width,
            hidden=hidden,
            vocab=layout.vocab_size,
            norm2=NormForm(kind=norm2, eps=1e-5),
            norm_f=NormForm(kind=norm_f, eps=1e-5),
            activation=activation,
            biases=biases,
        ),
    )


def with_biases(form: TableForm, biases: Collection[str]) -> TableForm:
    """The same form, with these of ``BIASES``."""
    head = standard_head(form.program)
    assert head is not None
    program = standard_program(
        mixed=form.program.mixed_width,
        width=form.width,
        hidden=head.hidden,
        vocab=form.program.vocab_size,
        norm2=head.norm2,
        norm_f=head.norm_f,
        activation=head.activation,
        biases=biases,
    )
    return dataclasses.replace(form, program=program)


def random_tables(form: TableForm, S: int, biases: Collection[str] = (), seed: int = 0) -> Tables:
    """Standard normal tables; matrices are scaled to keep the size of what they multiply."""
    form = with_biases(form, biases)
    generator = torch.Generator().manual_seed(seed)
    tables = {}
    for name, shape in form.shapes().items():
        if name == "score_scale":
            continue
        tensor = torch.randn(S, *shape, generator=generator)
        if name in form.program.shapes and len(shape) == 2:
            tensor = tensor / shape[-2] ** 0.5
        if name not in ("score", "sink"):
            tables[name] = tensor
    return tables_of(form, tables)


def with_value_dim(tables: Tables, value: Tensor, attn_out_SHED: Tensor) -> Tables:
    """The tables with other values and another output map, with as many heads and coordinates as these;
    queries and keys are those of the first heads."""
    head = standard_head(tables.form.program)
    assert head is not None
    _, H, E, _ = attn_out_SHED.shape
    program = dataclasses.replace(
        tables.form.program,
        mixed_width=H * E,
        constants=tuple(
            (name, (H * E, tables.form.width) if name == "attn_out" else shape)
            for name, shape in tables.form.program.constants
        ),
    )
    form = dataclasses.replace(tables.form, heads=H, value_dim=E, program=program)
    changed = {"value": value, "attn_out": attn_out_SHED.flatten(1, 2)}
    for name in ("query", "key"):
        changed[name] = getattr(tables, name).repeat_interleave(H // tables.form.heads, 3)
    return tables_of(form, {**dict(tables.items()), **changed})


def random_tokens(form: TableForm, S: int, B: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """(tokens_SBP, targets_SBA) of uniform pairs of the layout's task."""
    generator = torch.Generator().manual_seed(seed)
    task = form.layout.addition
    a_SB, b_SB = torch.randint(task.limit, (2, S, B), generator=generator)
    return form.layout.encode(
        to_digits(a_SB, task.columns, task.base), to_digits(b_SB, task.columns, task.base)
    )

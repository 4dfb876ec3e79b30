"""One model's JavaScript: what is written for it, and the form that ``engine.js`` needs to know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adderlab.engine.javascript.head import function_source, head_source
from adderlab.engine.javascript.table_map import map_source
from adderlab.engine.native.program import NoCode
from adderlab.models.architecture import Architecture
from adderlab.models.tables import Tables, tables
from adderlab.task.layouts import Layout

ENGINE = Path(__file__).with_name("engine.js")


@dataclass(frozen=True, kw_only=True)
class Script:
    """A model as JavaScript."""

    source: str
    """``createEngine`` and what it calls of this model."""
    form: dict[str, Any]
    """What ``createEngine`` is given, as JSON values."""
    parameters: dict[str, Tensor]
    """What its ``setParameters`` is given, flat and in this order: the model's parameters, float64."""
    are_tables: bool
    """Whether these are the tables instead, for the map to them has an operation without code."""


@torch.no_grad()
def script(config: Architecture, params: Mapping[str, Tensor]) -> Script:
    """A model of one seed (no seed axis) as JavaScript. Raises ``UsageError`` for one outside the table
    form."""
    names = list(params)
    values = [params[name][None].double() for name in names]
    built = tables(config, dict(zip(names, values, strict=True)))

    def table_tuple(*values: Tensor) -> tuple[Tensor, ...]:
        made = tables(config, dict(zip(names, values, strict=True)))
        return tuple(table for _, table in made.items())

    are_tables = False
    try:
        source = map_source(table_tuple, values)
    except NoCode:
        named = dict(built.items())
        names, values, are_tables = list(named), [each.double() for each in named.values()], True
        source = "function createMap() { return (tables) => tables; }"
    text = [
        ENGINE.read_text(encoding="utf-8"),
        head_source(built.form.program),
        function_source("scoreFunction", built.form.score_function),
        source,
    ]
    return Script(
        source="\n".join(text),
        form=_form(built),
        parameters={name: value[0] for name, value in zip(names, values, strict=True)},
        are_tables=are_tables,
    )


def _form(built: Tables) -> dict[str, Any]:
    form, score = built.form, built.score
    return {
        "heads": form.heads,
        "keyDim": form.key_dim,
        "valueDim": form.value_dim,
        "rowWidth": form.width,
        "scoreTokens": [1, 1] if score is None else [score.shape[2], score.shape[5]],
        "tables": [name for name, _ in built.items()],
        "constants": list(form.program.shapes),
        "layout": _layout(form.layout),
    }


def _layout(layout: Layout) -> dict[str, Any]:
    zeros = torch.zeros(1, layout.columns, dtype=torch.uint8)
    return {
        "name": layout.name,
        "columns": layout.columns,
        "base": layout.base,
        "vocabulary": list(layout.vocabulary),
        "a": list(layout.a_positions),
        "b": list(layout.b_positions),
        "prompt": layout.encode_prompt(zeros, zeros)[0].tolist(),
        "positions": layout.num_positions,
        "decided": layout.num_decided,
        "end": layout.end_token,
        "pairs": layout.pairs,
        "pairToken": layout.pair_token if layout.pairs else 0,
    }

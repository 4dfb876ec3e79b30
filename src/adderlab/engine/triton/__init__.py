"""The Triton engine: where it can be had, asked without importing Triton where it is not, and biases of
scores as coordinates of queries and keys, for its kernels know nothing else.

Shapes: S seeds, A answer steps, P positions, V vocabulary, H heads, K key dimension.
"""

from __future__ import annotations

import importlib.util
import os
from dataclasses import replace

import torch

from adderlab.engine.base import too_large
from adderlab.models.head_program import standard_head
from adderlab.models.tables import TableForm, Tables, tables_of


def why_not(form: TableForm, device: torch.device) -> str | None:
    """None if the kernels can be had for this form and device, otherwise the reason in a few words."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed (on Linux: pip install -c constraints.txt -e '.[gpu]')"
    if device.type != "cuda" and not (
        device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1"
    ):
        return f"it computes on CUDA, not on {device.type}"
    head = standard_head(form.program)
    if head is None:
        return "its head is not that of a pre-norm MLP, which is all that the Triton engine computes"
    for name, norm in (("norm2", head.norm2), ("norm_f", head.norm_f)):
        if norm.kind != "none" and f"{name}_weight" not in head.roles:
            return "a norm without a weight, which the Triton engine does not compute"
    sizes = {"width": (form.width, 32), "number of hidden units": (head.hidden, 64)}
    return too_large(form, sizes, "Triton")


# Biases of scores as coordinates of queries and keys.


def biased(tables: Tables) -> bool:
    """Whether what is added to scores depends on no token."""
    return tables.score is not None and tables.score.shape[2] == tables.score.shape[5] == 1


def with_coordinates(tables: Tables) -> Tables:
    """The same scores with one coordinate more of queries and keys for each step in place of the bias;
    the tables themselves where there is none."""
    if tables.score is None:
        return tables
    assert biased(tables)
    S, A, V, H, K = tables.query.shape
    P = tables.key.shape[1]
    which_AA = torch.eye(A, dtype=tables.query.dtype, device=tables.query.device)
    which_SAVHA = which_AA[None, :, None, None].expand(S, A, V, H, A)
    bias_SPVHA = tables.score[:, :, :, :, :, 0].permute(0, 4, 2, 3, 1).expand(S, P, V, H, A)
    changed = {
        "query": torch.cat([tables.query, which_SAVHA], 4),
        "key": torch.cat([tables.key, bias_SPVHA], 4),
    }
    rest = {name: tensor for name, tensor in tables.items() if name not in ("score", *changed)}
    return tables_of(replace(tables.form, key_dim=K + A), {**rest, **changed})


def without_coordinates(grads: Tables, tables: Tables) -> Tables:
    """Gradients of ``tables`` from those of ``with_coordinates(tables)``."""
    K = tables.form.key_dim
    # A step's coordinate is the same for all tokens of a key.
    score = grads.key[..., K:].sum(2).permute(0, 3, 2, 1)[:, :, None, :, :, None]
    changed = {"query": grads.query[..., :K], "key": grads.key[..., :K], "score": score}
    return tables_of(tables.form, {**dict(grads.items()), **changed})

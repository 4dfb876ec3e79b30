"""Biases of scores as coordinates of queries and keys, for kernels that know nothing else.

Shapes: S seeds, A answer steps, P positions, V vocabulary, H heads, K key dimension.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from adderlab.models.tables import Tables, tables_of


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

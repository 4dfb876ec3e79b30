"""Small models that add, and certificates for them, for the tests of the checker.

The adder is written by hand (no norms, ReLU): attention reads w = 10 (a_i + b_i) + a_(i-1) + b_(i-1),
the residual stream subtracts z = s_(i-1), so l = (w - z) / 10 is a_i + b_i plus the carry, less at
most a tenth; two hidden units subtract ten from l where it reaches ten; logit_t = 2 t l - t^2.

Shapes: n columns, A steps, P positions, V = 14 tokens, H heads, K key dimension, E bottleneck, D = 2.
"""

import base64
import hashlib
from typing import Any

import numpy as np

from adderlab.checker.document import Frame, canonical, digest_of
from adderlab.checker.head import Head
from adderlab.checker.intervals import Interval
from adderlab.checker.model import (
    Geometry,
    Leaves,
    Model,
    leaves_of,
    smallest_margin,
)
from adderlab.checker.program import read_program
from adderlab.checker.ranges import cell_excess, leaf_excess, project, read_tree
from adderlab.checker.steps import functionals
from adderlab.checker.verify import plain_config
from adderlab.models.config import ModelConfig
from adderlab.models.head_program import Activation, NormForm, NormKind, standard_program

PLUS, EQUALS = 10, 11
LEAK = 1e-4
"""Weight of a key the adder has no use for, against 1 for a digit of column i - 1."""


def geometry(n: int) -> Geometry:
    """Layout P with n columns: aaa+bbb=ssss, operands most significant first."""
    return Geometry(
        a_positions=tuple(n - 1 - j for j in range(n)),
        b_positions=tuple(2 * n - j for j in range(n)),
        sum_positions=tuple(range(2 * n + 2, 3 * n + 3)),
        query_positions=tuple(range(2 * n + 1, 3 * n + 2)),
        separators=((n, PLUS), (2 * n + 1, EQUALS)),
    )


def hand_made(n: int, leak: float = LEAK, bottleneck: int = 1) -> Model:
    """An n-digit adder. ``leak`` near 1 spoils it; bottleneck 2 keeps a and b in two coordinates."""
    where = geometry(n)
    V, A, P, D, E = 14, n + 1, 3 * n + 2, 2, bottleneck
    total = 22.0  # of all weights that matter: 10 + 10 + 1 + 1
    query = np.full((A, V, 1, P), np.log(leak))
    for i in range(A):
        weights = {}
        if i < n:
            weights |= {where.a_positions[i]: 10.0, where.b_positions[i]: 10.0}
        if i > 0:
            weights |= {where.a_positions[i - 1]: 1.0, where.b_positions[i - 1]: 1.0}
        weights[n] = total - sum(weights.values()) or leak  # "+" takes the rest; its value is 0
        for position, weight in weights.items():
            query[i, :, 0, position] = np.log(weight)
    key = np.broadcast_to(np.eye(P)[:, None, None], (P, V, 1, P))
    value = np.zeros((P, V, 1, E))
    for e, positions in enumerate((where.a_positions, where.b_positions)):
        value[list(positions), :10, 0, e % E] += np.arange(10)
    residual = np.zeros((A, V, D))
    residual[:, :, 1] = 1.0
    residual[1:, :10, 0] = -np.arange(10) / 10
    out = np.zeros((1, E, D))
    out[0, :, 0] = total / 10
    # 10 (relu(4 l - 37.8) - relu(4 l - 38.8)) is 0 up to l = 9.45 and 10 from l = 9.7 on.
    fc1 = np.array([[4.0, 4.0], [-37.8, -38.8]])
    fc2 = np.array([[-10.0, 0.0], [10.0, 0.0]])
    unembed = np.full((D, V), 0.0)
    unembed[0, :10] = 2 * np.arange(10)
    unembed[1] = -(np.arange(V) ** 2.0)
    return Model(
        geometry=where,
        query_AVHK=Interval(query),
        key_PVHK=Interval(key),
        value_PVHE=Interval(value),
        residual_AVD=Interval(residual),
        out_HED=Interval(out),
        head=head_of({"fc1": fc1, "fc2": fc2, "unembed": unembed}, norm2="none", norm_f="none"),
    )


def head_of(
    constants: dict[str, np.ndarray],
    *,
    norm2: NormKind,
    norm_f: NormKind,
    activation: Activation = "relu",
    eps: float = 1e-5,
) -> Head:
    """A standard head, from the stream after the attention on."""
    (D, V), F = constants["unembed"].shape, constants["fc1"].shape[1]
    program = standard_program(
        mixed=D,
        width=D,
        hidden=F,
        vocab=V,
        norm2=NormForm(kind=norm2, eps=eps),
        norm_f=NormForm(kind=norm_f, eps=eps),
        activation=activation,
        biases=[name for name in constants if name.endswith("_bias")],
    )
    enclosed = {name: Interval(array) for name, array in constants.items()}
    enclosed["attn_out"] = Interval(np.zeros((D, D)))
    # What joins the mixture to the row is left out: the stream stands for both.
    own = read_program(program, enclosed).without({0: 0, 1: 1, 2: 0, 3: 0}, D, 0)
    return Head(program=own, constants=enclosed)


FORM = {"layout_name": "P", "note": "hand made"}
WEIGHTS, TABLES = "a" * 64, "b" * 64
CONFIG = plain_config(ModelConfig(rope_theta=3.0, d_model=6, layout="M"))
CONFIG_SHA256 = hashlib.sha256(canonical(CONFIG).encode()).hexdigest()


def packed(array: np.ndarray, dtype: str) -> dict[str, Any]:
    array = np.ascontiguousarray(array, dtype=dtype)
    return {
        "dtype": dtype,
        "shape": list(array.shape),
        "data": base64.b64encode(array.tobytes()).decode("ascii"),
    }


def unpacked(value: dict[str, Any]) -> np.ndarray:
    data = base64.b64decode(value["data"])
    return np.frombuffer(data, dtype=value["dtype"]).reshape(value["shape"]).copy()


def axes_frame(rows: int, H: int, E: int) -> Frame:
    shear = np.zeros((rows, H, E))
    shear[..., 0] = 1.0
    return Frame(pivot_RH=np.zeros((rows, H), dtype=np.int64), shear_RHE=shear)


def leaf_bounds(model: Model, i: int, frame: Frame, nodes: int = 17, halvings: int = 26):
    """Bounds (float32, outward) of every leaf of step i and the nodes that prove them: by bisection
    with the checker's own test, which is slow and plain."""
    step = model.steps[i]
    leaves = leaves_of(step)
    Z = len(frame.pivot_RH)
    parts = project(step, np.arange(Z), functionals(frame))
    low = np.minimum(parts.projected_RHELT.low.min((3, 4)), parts.constant_RHEC.low.min(3))
    high = np.maximum(parts.projected_RHELT.high.max((3, 4)), parts.constant_RHEC.high.max(3))
    low, high = low - 1e-4, high + 1e-4
    share = np.linspace(-0.01, 1.01, nodes)
    grid = low[..., None] + (high - low)[..., None] * share
    grid = np.stack([grid, grid], 3)
    good = np.stack([low, high], -1)[leaves.row]  # proves every claim
    bad = good[..., ::-1].copy()
    for _ in range(halvings):
        middle = 0.5 * (good + bad)
        proved = leaf_excess(step, leaves, parts, grid, middle) <= 0
        good, bad = np.where(proved, middle, good), np.where(proved, bad, middle)
    bounds = good.astype(np.float32)
    bounds[..., 0] = np.nextafter(bounds[..., 0], np.float32(-np.inf))
    bounds[..., 1] = np.nextafter(bounds[..., 1], np.float32(np.inf))
    return bounds, grid


def certificate(
    model: Model, parts: int = 4, margin: float = 1e-3, pair: tuple[int, int] = (0, 0)
) -> dict[str, Any]:
    """A certificate without splits. ``margin`` is claimed as the bound of every step."""
    H, E, n = model.heads, model.bottleneck, model.columns
    steps = []
    for step in model.steps:
        i, Z = step.index, len(step.tokens)
        frame = axes_frame(Z, H, E)
        bounds, grid = leaf_bounds(model, i, frame)
        steps.append(
            {
                "step": i,
                "pivot": packed(frame.pivot_RH, "<i4"),
                "shear": packed(frame.shear_RHE, "<f8"),
                "nodes_low": packed(grid[:, :, :, 0], "<f8"),
                "nodes_high": packed(grid[:, :, :, 1], "<f8"),
                "bounds": packed(bounds, "<f4"),
                "parts": packed(np.full((len(bounds), H), parts), "<i4"),
                "inputs": 100**n,
                "margin_bound": margin,
                "splits": [],
            }
        )
    low, high = smallest_margin(model, *pair)
    document: dict[str, Any] = {
        "format": "adderlab-certificate",
        "version": 2,
        "adderlab": "0",
        "weights_sha256": WEIGHTS,
        "config": CONFIG,
        "config_sha256": CONFIG_SHA256,
        "tables_sha256": TABLES,
        "form": FORM,
        "bottleneck": E,
        "verdict": "proved",
        "failing_pairs": 0,
        "failing_by_step": [0] * (n + 1),
        "counterexample": None,
        "margin": {"bound": margin, "witness": 0.5 * (low + high), "pair": list(pair)},
        "leaves": sum(int(np.prod(step.leaf_shape)) for step in model.steps),
        "cells": 0,
        "steps": steps,
    }
    return sealed(document)


def sealed(document: dict[str, Any]) -> dict[str, Any]:
    """With the digest that fits."""
    return document | {"digest": digest_of(document)}


def with_split(
    document: dict[str, Any], model: Model, i: int, leaf: int, tree: list[int]
) -> dict[str, Any]:
    """The certificate with one more split leaf, its cells bounded by bisection."""
    step, H, E = model.steps[i], model.heads, model.bottleneck
    leaves = leaves_of(step)
    cells, _ = read_tree(tree, i, model.columns, int(leaves.carry[leaf]))
    frame = axes_frame(1, H, E)
    parts = project(step, leaves.row[[leaf]], functionals(frame))
    own = Leaves(**{k: np.repeat(v[[leaf]], len(cells)) for k, v in vars(leaves).items()})
    whole = unpacked(document["steps"][i]["bounds"])[leaf].astype(np.float64)
    good = np.broadcast_to(whole, (len(cells), H, E, 2)).copy()
    bad = good[..., ::-1].copy()
    rows = np.zeros(len(cells), dtype=np.intp)
    for _ in range(30):
        middle = 0.5 * (good + bad)
        proved = cell_excess(step, own, parts, rows, cells.digits_NS, cells.carries_NJ, middle) <= 0
        good, bad = np.where(proved, middle, good), np.where(proved, bad, middle)
    steps: list[dict[str, Any]] = [dict(each) for each in document["steps"]]
    entry: dict[str, Any] = {
        "leaf": leaf,
        "pivot": packed(frame.pivot_RH[0], "<i4"),
        "shear": packed(frame.shear_RHE[0], "<f8"),
        "tree": packed(np.array(tree), "|i1"),
        "bounds": packed(good, "<f8"),
        "parts": packed(np.ones((len(cells), H)), "<i4"),
    }
    steps[i]["splits"] = sorted([*steps[i]["splits"], entry], key=lambda each: each["leaf"])
    leaf_parts = unpacked(steps[i]["parts"])
    leaf_parts[leaf] = 0
    steps[i]["parts"] = packed(leaf_parts, "<i4")
    changed = document | {"steps": steps, "cells": document["cells"] + len(cells)}
    return sealed({key: value for key, value in changed.items() if key != "digest"})

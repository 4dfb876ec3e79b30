"""Enclosed tables contain the exact ones, for every kind of component."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from flint import arb, arb_mat, ctx
from torch import Tensor

from adderlab.checker import enclosure
from adderlab.checker.enclosure import enclose, enclose_tables, float64_tables, tables_of_intervals
from adderlab.checker.intervals import Interval
from adderlab.errors import Failure
from adderlab.models.config import ModelConfig
from adderlab.models.transformer import build_model
from adderlab.models.zoo import PRESETS

FAMILIES = {
    "layer norm, two heads, full": ModelConfig(d_model=6, n_head=2, d_ff=5),
    "rms, low rank, all tied": ModelConfig(
        d_model=6, d_ff=5, norm="rms", qkv_rank=2, pos_rank=2, tie_qkv="shareB_tieQK", attn_out_rank=1
    ),
    "456p": PRESETS["456p"].config,
    "arc, spiral, rotated query": ModelConfig(
        layout="M",
        d_model=5,
        d_ff=2,
        norm="rms",
        tokens="arc",
        token_dim=2,
        positions="fixed_spiral",
        learned_specials=("equals", "top"),
        head_dim=4,
        value_dim=5,
        tie_qkv="qk",
        qk_input="positions",
        value_input="tokens",
        query_rotation=True,
        values="head",
        attn_out_rank=1,
        share_norms="all",
        head="projected",
        norm_eps=1e-5,
    ),
    "rotary, q/k norm, SwiGLU": ModelConfig(
        layout="S",
        d_model=3,
        d_ff=3,
        norm="rms",
        activation="swiglu",
        tie_qkv="separate",
        positions="none",
        head_dim=4,
        qk_norm="own",
        rope_theta=3.0,
        rope_pairs="halves",
        norm_eps=1e-6,
    ),
}


def parameters(config: ModelConfig, seed: int = 0) -> dict[str, Tensor]:
    """fp32 weights away from the start."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: (p.detach() + 0.5 * torch.randn(p.shape, generator=generator)).float()
        for name, p in build_model(config, seed).named_parameters()
    }


@pytest.mark.parametrize("name", FAMILIES)
def test_all_parameters_between_the_ends_are_covered(name: str) -> None:
    """With wide parameters, the tables of any members must lie inside: each operation's direction
    matters then. The slack is float64's rounding."""
    config = FAMILIES[name]
    middle = parameters(config)
    ends = {k: Interval(v.double().numpy() - 1e-3, v.double().numpy() + 1e-3) for k, v in middle.items()}
    _, wide = tables_of_intervals(config, ends)
    rng = np.random.default_rng(0)
    reached = 0.0
    for trial in range(6):
        # Corners reach further than inner members do.
        share = {k: rng.integers(0, 2, x.shape) if trial else 0.5 for k, x in ends.items()}
        member = {k: torch.as_tensor(x.low + share[k] * (x.high - x.low)) for k, x in ends.items()}
        for key, table in float64_tables(config, member).items():
            slack = 1e-12 * (1 + np.abs(table))
            assert (wide[key].low - slack <= table).all() and (table <= wide[key].high + slack).all(), (
                key
            )
            mid, rad = wide[key].mid_rad()
            reached = max(reached, float((np.abs(table - mid) / rad.clip(1e-300)).max()))
    assert reached > 0.3, "the enclosures are far too wide to mean anything"


@pytest.mark.parametrize("name", FAMILIES)
def test_stored_weights_are_enclosed_within_rounding(name: str) -> None:
    config = FAMILIES[name]
    params = parameters(config)
    form, found = enclose_tables(config, params)
    for key, table in float64_tables(config, params).items():
        width = found[key].high - found[key].low
        assert (width <= 1e-11 * (1 + np.abs(table))).all(), key
    assert form.layout.name == config.layout


def exact_score_and_output(params: dict[str, Tensor], config: ModelConfig) -> Callable:
    """456p's attention in Arb: score of query (position, token) and key (position, token), and the
    output of a value through the projection; written from the module, not from the tables."""
    mat: dict[str, Any] = {
        k: arb_mat(v.double().tolist()) if v.ndim == 2 else [arb(x) for x in v.double().tolist()]
        for k, v in params.items()
    }
    D = config.d_model
    position = mat["pos_emb.A"] * mat["pos_emb.B"]

    def normed(p: int, t: int) -> arb_mat:
        x = [position[p, d] + mat["token_emb.weight"][t, d] for d in range(D)]
        root = (sum((each * each for each in x), arb(0)) / D + arb("1e-8")).sqrt()
        return arb_mat([[x[d] / root * mat["blocks.0.ln1.weight"][d] for d in range(D)]])

    first = mat["blocks.0.attn.qkv_A"]

    def at(query: tuple[int, int], key: tuple[int, int]) -> tuple[arb, list[arb]]:
        q = normed(*query) * first * mat["blocks.0.attn.qkv_Bq"]
        k = normed(*key) * first * mat["blocks.0.attn.qkv_Bkv"]
        score = (q * k.transpose())[0, 0] / arb(D).sqrt()
        out = k * mat["blocks.0.attn.proj.A"] * mat["blocks.0.attn.proj.B"]
        return score, [out[0, d] for d in range(D)]

    return at


def test_456p_against_arb() -> None:
    config = PRESETS["456p"].config
    params = parameters(config, seed=3)
    _, found = enclose_tables(config, params)
    before, ctx.prec = ctx.prec, 200
    try:
        exact = exact_score_and_output(params, config)
        for i, z, p, t in ((0, 11, 3, 7), (4, 9, 25, 0), (10, 1, 31, 5)):
            score, out = exact((21 + i, z), (p, t))
            query, key = found["query"][i, z, 0], found["key"][p, t, 0]
            dot = (query * key).sum(0)
            assert arb(float(dot.low)) <= score <= arb(float(dot.high))
            assert dot.high - dot.low < 1e-11 * (1 + abs(float(score)))
            value = found["value"][p, t, 0]
            for d in range(config.d_model):
                through = (value * found["attn_out"][:, d]).sum(0)
                assert arb(float(through.low)) <= out[d] <= arb(float(through.high))
    finally:
        ctx.prec = before


def scoped(function: Callable[[Tensor], Tensor], x: Interval) -> Interval:
    """``function`` run on intervals."""
    wide = enclosure._wide(x)
    with torch.no_grad(), enclosure._Enclosing():
        result = function(wide)
    return enclosure._interval(result)


def test_unknown_operations_are_refused() -> None:
    for function in (torch.round, lambda x: x // 2, lambda x: x.cumsum(0), lambda x: torch.sort(x)[0]):
        with pytest.raises(Failure, match="no enclosure"):
            scoped(function, Interval(np.ones(3)))
    # Of numbers that may be on either side, a comparison has no answer.
    for function in (lambda x: x > 1, lambda x: x == 1):
        with pytest.raises(Failure, match="cannot"):
            scoped(function, Interval(np.array([0.5]), np.array([1.5])))


OPERATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sums": lambda x: torch.cat(
        [x.sum(0, keepdim=True), x.mean(1).reshape(1, -1), x.sum()[None, None].expand(1, 3)]
    ),
    "variance": lambda x: x.var(1) + x.var(1, unbiased=False),
    "layer norm": lambda x: torch.nn.functional.layer_norm(x, (3,), x[0], x[1], 1e-5),
    "softmax": lambda x: torch.softmax(x.masked_fill(torch.eye(3, dtype=torch.bool), -torch.inf), -1),
    "softmax of columns": lambda x: torch.softmax(x, 0),
    "powers": lambda x: x**2 + x**3 - (x * x + 0.1) ** -0.5 + (x * x + 0.1) ** -1 + x**4,
    "sigmoid": lambda x: torch.sigmoid(x) * torch.nn.functional.silu(x),
    "gelu": lambda x: torch.nn.functional.gelu(x) + torch.nn.functional.gelu(x, approximate="tanh"),
    "softplus": lambda x: torch.nn.functional.softplus(x),
    "error function": lambda x: torch.erf(x) + torch.log(x.abs() + 1.5) + torch.expm1(x),
    "clamp": lambda x: (
        x.clamp(-0.3, 0.4) + x.clamp(min=0.1) + torch.maximum(x, -x) - torch.minimum(x, x * 0.5)
    ),
    "where": lambda x: (
        torch.where(torch.arange(3) > 1, x, 0.7 - x) + torch.where(torch.arange(3) == 1, 2.0, 1.0)
    ),
    "largest": lambda x: x.amax(-1, keepdim=True) - x.amin((0, 1)),
    "products": lambda x: (
        torch.addmm(x[0], x, x.T) + torch.baddbmm(x[None], x[None], x[None])[0] + (x @ x[0])
    ),
    "moves": lambda x: torch.nn.functional.pad(x, (1, 0))[:, :3] + torch.tril(x) + x.flip(0).roll(1, 1),
    "rows": lambda x: (
        torch.nn.functional.embedding(torch.tensor([2, 0, 1]), x)
        * torch.full((3,), 0.3, dtype=torch.float64)
    ),
    "circle": lambda x: torch.sin(x) + torch.cos(2 * x),
    "scaled sum": lambda x: torch.add(x, x.T, alpha=3),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_of_small_decoders_are_enclosed(name: str) -> None:
    """Members of an interval of matrices land inside, and the enclosure is of their size."""
    function, rng = OPERATIONS[name], np.random.default_rng(0)
    middle = rng.normal(size=(3, 3))
    wide = scoped(function, Interval(middle - 1e-3, middle + 1e-3))
    point = scoped(function, Interval(middle))
    for trial in range(20):
        share = rng.integers(0, 2, middle.shape) if trial % 2 else rng.random(middle.shape)
        member = function(torch.as_tensor(middle + 1e-3 * (2 * share - 1))).numpy()
        assert (wide.low - 1e-12 <= member).all() and (member <= wide.high + 1e-12).all()
    value = function(torch.as_tensor(middle)).numpy()
    tolerance = 1e-8 if name == "softplus" else 1e-12
    assert (np.abs(point.low - value) < tolerance).all() and (
        np.abs(point.high - value) < tolerance
    ).all()
    assert (wide.high - wide.low < 0.3).all()


def test_hidden_keys_stay_hidden() -> None:
    params = {"score": Interval(np.zeros((2, 2)) - 1e-3, np.zeros((2, 2)) + 1e-3)}

    def masked(found: dict[str, Tensor]) -> dict[str, Tensor]:
        visible = torch.ones(2, 2).tril().bool()
        score = found["score"].masked_fill(~visible, -torch.inf) + 0.5
        return {"score": torch.where(torch.isinf(score), score, score * 2)}

    score = enclose(masked, params)["score"]
    assert score.low[0, 1] == score.high[0, 1] == -np.inf
    assert abs(score.low[1, 0] - 1.0) < 3e-3 and abs(score.high[1, 1] - 1.0) < 3e-3
    with pytest.raises(Failure, match="cannot be enclosed"):
        enclose(
            lambda found: {
                "x": found["score"] / found["score"].abs().masked_fill(torch.eye(2).bool(), torch.inf)
            },
            params,
        )


def test_constants_are_widened_and_plain_tensors_do_not_round_unseen() -> None:
    """0.1 + 0.2 computed on plain tensors inside the scope would be rounded without notice."""
    result = scoped(lambda x: x * (torch.tensor(0.1, dtype=torch.float64) + 0.2), Interval(np.ones(1)))
    assert result.low[0] < 0.3 < result.high[0] and result.high[0] - result.low[0] < 1e-14


def test_writing_through_a_view_changes_the_tensor() -> None:
    def function(x: Tensor) -> Tensor:
        doubled = x * 2
        doubled.transpose(0, 1).narrow(0, 0, 1).add_(1)
        return doubled

    result = scoped(function, Interval(np.ones((2, 3))))
    assert (result.low <= np.array([[3, 2, 2], [3, 2, 2]])).all() and result.high[0, 0] < 3.1
    assert (result.high >= np.array([[3, 2, 2], [3, 2, 2]])).all() and result.low[0, 0] > 2.9


def test_integers_are_left_to_pytorch_only_where_it_is_exact() -> None:
    with pytest.raises(Failure, match="no enclosure"):
        scoped(lambda x: x * (torch.arange(3) / 7), Interval(np.ones(3)))

"""Bounds of fp32 rounding: every operation against fp32 itself, whole models against perturbed runs.

Shapes: N rows, V vocabulary, H heads, E bottleneck, K = H * E, D width.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from adderlab.checker import rounding
from adderlab.checker.fp32 import (
    FloatCheck,
    ReadableArithmetic,
    attention_errors,
)
from adderlab.checker.head import residual_stream
from adderlab.checker.intervals import Array, Interval
from adderlab.checker.mean_value import MeanValueForm
from adderlab.checker.model import digits_of
from adderlab.checker.rounding import FP32, Rounded, moved_along_each, moved_by_rounding
from adderlab.checker.tracing import Noisy, Tracing
from adderlab.checker.verify import fp32_module, read_model
from adderlab.errors import Failure
from adderlab.models.config import ModelConfig
from adderlab.models.transformer import build_model
from adderlab.runs.checkpoints import Checkpoint, load_checkpoint
from helpers.fp32_runs import Perturbed, allowed, point_batch
from helpers.paths import ROOT
from helpers.reference import reference_checkpoint

aten = torch.ops.aten
Operation = Callable[..., Tensor]

FIRST, SECOND = torch.arange(8) < 4, torch.arange(8) > 5
UNARY: dict[str, Operation] = {
    "gelu": torch.nn.functional.gelu,
    "silu": torch.nn.functional.silu,
    "relu": torch.relu,
    "square": lambda x: x.pow(2),
    "gelu by tanh": lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "softplus": torch.nn.functional.softplus,
    "exp": lambda x: torch.exp(x.clamp(max=20.0)),
    "abs": torch.abs,
    "clamp": lambda x: x.clamp(-0.3, 0.7),
    "inverse root": lambda x: torch.rsqrt(x.square() + 0.1),
    "reciprocal": lambda x: (x.square() + 0.1).reciprocal(),
    "choice": lambda x: torch.where(FIRST, x, 2 * x).masked_fill(SECOND, 0.25),
    "vector": lambda x: x @ x[0],
    "root": lambda x: torch.sqrt(x.pow(2) + 1e-8),
    "cos": torch.cos,
    "sin": torch.sin,
    "mean": lambda x: x.mean(-1, keepdim=True),
    "sum": lambda x: x.sum(-1),
    "neg": lambda x: -x,
    "constant": lambda x: x * 0.1 + 1 / 3,
    "layer norm": lambda x: torch.nn.functional.layer_norm(x, x.shape[-1:], eps=1e-5),
    "rms norm": lambda x: x / torch.sqrt(x.pow(2).mean(-1, keepdim=True) + 1e-8),
    "views": lambda x: torch.cat([x.t()[1:], x.view(x.shape[1], -1)[:1]], 0),
}
BINARY: dict[str, Operation] = {
    "add": lambda x, y: x + y,
    "subtract": lambda x, y: x - y,
    "multiply": lambda x, y: x * y,
    "divide": lambda x, y: x / (y * y + 0.1),
    "one minus": lambda x, y: 1.5 - x * y,
    "larger": lambda x, y: torch.maximum(x, y),
    "smaller": lambda x, y: torch.minimum(x, 2 * y),
    "matmul": lambda x, y: x @ y.t(),
}


def traced(function: Operation, *args: Rounded) -> Rounded:
    wrapped = [Noisy(x) for x in args]
    with torch.no_grad(), Tracing(), np.errstate(all="ignore"):
        out = function(*wrapped)
    assert isinstance(out, Noisy)
    return out.value


def near(x: Tensor, rng: np.random.Generator, error: float) -> tuple[Rounded, Tensor]:
    """A real value, fp32 numbers within ``error`` of it, and the real one as float64."""
    real = x.double() + torch.from_numpy(rng.uniform(-error, error, tuple(x.shape)))
    distance = (x.double() - real).abs().numpy()
    return Rounded(Interval(real.numpy()), np.full(distance.shape, distance.max())), real


@pytest.mark.parametrize("error", [0.0, 1e-4])
@pytest.mark.parametrize("name", [*UNARY, *BINARY])
def test_fp32_stays_within_the_bound(name: str, error: float) -> None:
    """fp32 from perturbed operands, against float64 from the real ones; and the bound is not idle."""
    rng = np.random.default_rng(0)
    closest = math.inf
    for scale in (0.01, 1.0, 30.0):
        count = 1 if name in UNARY else 2
        inputs = [torch.from_numpy(rng.normal(size=(6, 8)) * scale).float() for _ in range(count)]
        pairs = [near(x, rng, error * scale) for x in inputs]
        function = (UNARY | BINARY)[name]
        bound = traced(function, *(value for value, _ in pairs))
        exact = function(*(real for _, real in pairs)).numpy()
        low, high = bound.known.low, bound.known.high
        slack = 1e-12 * (1 + np.abs(exact))  # of float64
        assert (low <= exact + slack).all() and (exact <= high + slack).all()
        distance = np.abs(function(*inputs).double().numpy() - exact)
        assert (distance <= bound.err + slack).all(), name
        closest = min(closest, float((bound.err / distance.clip(1e-30)).min()))
    if name not in ("neg", "relu", "views") or error:
        assert closest < (60 if error else 300), "far too pessimistic to be meant"


def test_any_order_of_summation_is_covered() -> None:
    """Sums that cancel, in many orders."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=64).astype(np.float32)
    x = np.concatenate([x * 1e4, -x * 1e4 + rng.normal(size=64).astype(np.float32)])
    bound = rounding.total(rounding.exact(x[None].astype(np.float64)), (1,), False)
    exact = math.fsum(x.astype(np.float64))
    worst = 0.0
    for _ in range(200):
        total = np.float32(0)
        for each in rng.permutation(x):
            total = np.float32(total + each)
        worst = max(worst, abs(float(total) - exact))
    assert worst <= bound.err[0] and worst > bound.err[0] / 1e4


def sloped(rng: np.random.Generator, N: int, D: int, K: int = 2) -> MeanValueForm:
    x0, R = Interval(rng.normal(size=(N, D))), Interval(rng.normal(size=(N, K, D)))
    low = rng.normal(size=(N, K))
    return residual_stream(x0, R, low, low + 0.01)


def test_slopes_enclose_and_are_tighter_than_plain_intervals() -> None:
    """x - x is zero, and a norm of a moving vector is known closely."""
    rng = np.random.default_rng(2)
    x = Rounded(sloped(rng, 5, 4), np.zeros((5, 4)), varies=True)
    difference = traced(lambda t: t * 3 - t * 2 - t, x).range
    assert (difference.low <= 0).all() and (difference.high >= 0).all()
    assert (difference.high - difference.low < 1e-4).all()
    normed = traced(UNARY["rms norm"], x).range
    plain = Rounded(x.range, np.zeros((5, 4)))
    wide = traced(UNARY["rms norm"], plain).range
    assert (normed.high - normed.low).max() < 0.7 * (wide.high - wide.low).max()


def small_head(x: Tensor, weights: list[Tensor]) -> Tensor:
    first, second, third = weights
    h = torch.nn.functional.gelu(UNARY["rms norm"](x) @ first)
    return UNARY["layer norm"](x + h @ second) @ third


def test_drawing_back_bounds_every_perturbed_run_and_beats_adding_up() -> None:
    rng = np.random.default_rng(3)
    N, D, F, V = 6, 5, 9, 4
    sizes = ((D, F), (F, D), (D, V))
    weights = [torch.from_numpy(rng.normal(size=s)).float() for s in sizes]
    x32 = torch.from_numpy(rng.normal(size=(N, D))).float()
    err = np.zeros((N, D))
    x = Rounded(Interval(x32.double().numpy()), err, varies=True, local=err)
    logits = traced(lambda t: small_head(t, weights), x)
    direction = np.tile([1.0, -1.0, 0.0, 0.0], (N, 1))
    with np.errstate(all="ignore"):
        bound_N = moved_by_rounding(logits, Interval(direction))
    forward_N = logits.err[:, 0] + logits.err[:, 1]
    assert (bound_N < forward_N).all() and bound_N.mean() < 0.7 * forward_N.mean()
    exact = small_head(x32.double(), [w.double() for w in weights])
    exact_N = (exact[:, 0] - exact[:, 1]).numpy()
    worst = np.zeros(N)
    for seed in range(200):
        with Perturbed(seed):
            run = small_head(x32.double(), [w.double() for w in weights])
        worst = np.maximum(worst, np.abs((run[:, 0] - run[:, 1]).numpy() - exact_N))
    plain = small_head(x32, weights).double()
    worst = np.maximum(worst, np.abs((plain[:, 0] - plain[:, 1]).numpy() - exact_N))
    assert (worst <= bound_N).all() and (worst > bound_N / 100).all()


def test_many_directions_drawn_back_along_axes_are_each_drawn_back() -> None:
    rng = np.random.default_rng(4)
    N, D, F, V, A = 6, 5, 9, 4, 7
    weights = [torch.from_numpy(rng.normal(size=s)).float() for s in ((D, F), (F, D), (D, V))]
    numbers = torch.from_numpy(rng.normal(size=(N, D))).float().double().numpy()
    x = Rounded(Interval(numbers), np.zeros((N, D)), varies=True, local=np.zeros((N, D)))
    logits = traced(lambda t: small_head(t, weights), x)
    direction_AV = rng.normal(size=(A, V))
    axes = [Interval(np.tile(row, (N, 1))) for row in np.eye(V)]
    with np.errstate(all="ignore"):
        together_AN = moved_along_each(logits, axes, Interval(direction_AV))
        alone_AN = [moved_by_rounding(logits, Interval(np.tile(d, (N, 1)))) for d in direction_AV]
    np.testing.assert_allclose(together_AN, np.stack(alone_AN), rtol=1e-3)


def test_unknown_operations_are_refused() -> None:
    x = rounding.exact(np.ones((2, 2)))
    for function in (
        torch.erfinv,
        lambda t: t.cumsum(0),
        lambda t: torch.nn.functional.softplus(t, beta=2.0),
        lambda t: t.half(),
        lambda t: torch.add(t, t, alpha=2),
    ):
        with pytest.raises(Failure, match=r"rounds"):
            traced(function, x)


FAMILIES = {
    "layer norm, two heads": ModelConfig(d_model=6, n_head=2, d_ff=5, qkv_rank=2, attn_out_rank=2),
    "456p": ModelConfig(
        norm="rms", pos_rank=3, qkv_rank=3, attn_out_rank=2, ffn_rank=3, tie_qkv="shareA_tieKV"
    ),
    "biases, layer norm": ModelConfig(d_model=4, d_ff=3, bias="all"),
    "rotary, SwiGLU, q/k norm, shared heads": ModelConfig(
        layout="S",
        d_model=4,
        d_ff=3,
        n_head=2,
        n_kv_head=1,
        norm="rms",
        activation="swiglu",
        tie_qkv="separate",
        positions="none",
        head_dim=4,
        qk_norm="own",
        rope_theta=3.0,
        rope_pairs="halves",
    ),
    "arc, spiral, projected head": ModelConfig(
        layout="M",
        d_model=5,
        d_ff=2,
        norm="rms",
        tokens="arc",
        token_dim=2,
        positions="spiral",
        learned_specials=("equals", "top"),
        head_dim=4,
        value_dim=5,
        tie_qkv="qk",
        qk_input="positions",
        value_input="tokens",
        query_rotation=True,
        values="head",
        attn_out_rank=1,
        head="projected",
        fc2="head",
    ),
}


def example(config: ModelConfig, seed: int) -> Checkpoint:
    generator = torch.Generator().manual_seed(seed)
    params = {
        name: p.detach() + 0.7 * torch.randn(p.shape, generator=generator)
        for name, p in build_model(config, seed).named_parameters()
    }
    return Checkpoint(config=config, params=params, recipe={}, step=0, val_exact=0.0)


def runs(checkpoint: Checkpoint, a: int, b: int, perturbed: int) -> Iterator[Array]:
    """Logits (11, V) of fp32 runs: the real one, and float64 ones with every operation disturbed."""
    digits = torch.tensor([digits_of(a, 10), digits_of(b, 10)], dtype=torch.uint8)
    module = fp32_module(checkpoint)
    tokens, _ = module.layout.encode(digits[:1], digits[1:])
    with torch.no_grad():
        yield module.answer_logits(tokens)[0, :11].double().numpy()
        wide = fp32_module(checkpoint).double()
        for seed in range(perturbed):
            with Perturbed(seed):
                logits = wide.answer_logits(tokens)
            yield logits[0, :11].numpy()


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.slow
def test_fp32_margins_of_whole_models_stay_within_their_bounds(name: str) -> None:
    checkpoint = example(FAMILIES[name], 1)
    model, _ = read_model(checkpoint)
    arithmetic = ReadableArithmetic(fp32_module(checkpoint), model)
    errors = attention_errors(arithmetic, model)
    nearest = 0.0
    for a, b in ((1234567890, 9876543210), (9999999999, 1)):
        answer = digits_of(a + b, 11)
        outcomes = list(runs(checkpoint, a, b, 12))
        for i in (0, 1, 5, 10):
            low, high = allowed(model, arithmetic, errors, point_batch(model, i, a, b))
            for logits in outcomes:
                margin = logits[i, answer[i]] - np.delete(logits[i], answer[i])
                assert (low <= margin).all() and (margin <= high).all(), (name, i)
                middle, width = 0.5 * (low + high), 0.5 * (high - low)
                nearest = max(nearest, float((np.abs(margin - middle) / width).max()))
    assert nearest > 0.01, "the bounds are far too wide to mean anything"


def test_456p_is_bounded_closely_at_its_weakest_pair() -> None:
    """The fp32 margin at the pair with the smallest real one is known to a few hundredths."""
    checkpoint = load_checkpoint(reference_checkpoint("lowrank_456p_s43.pt"))
    model, _ = read_model(checkpoint)
    arithmetic = ReadableArithmetic(fp32_module(checkpoint), model)
    a, b, i = 9021820000, 2778180000, 9
    errors = attention_errors(arithmetic, model)
    low, high = allowed(model, arithmetic, errors, point_batch(model, i, a, b))
    assert low.min() > 0.4 and (high - low)[low.argmin()] < 0.2
    answer = digits_of(a + b, 11)
    for logits in runs(checkpoint, a, b, 6):
        margin = logits[i, answer[i]] - np.delete(logits[i], answer[i])
        assert (low <= margin).all() and (margin <= high).all()


def test_coarser_arithmetic_is_not_covered(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the unit of fp16 the same analysis must give up: 456p fails on some pairs in fp16."""
    checkpoint = load_checkpoint(reference_checkpoint("lowrank_456p_s43.pt"))
    model, _ = read_model(checkpoint)
    module = fp32_module(checkpoint)
    floating = FloatCheck.of(module, model)
    floating.take(point_batch(model, 9, 9021820000, 2778180000))
    assert floating.report().covered and (floating.report().margin or 0) > 0.2
    half = dataclasses.replace(FP32, unit=2.0**-11)
    for module_name in ("rounding", "fp32", "tracing"):
        monkeypatch.setattr(f"adderlab.checker.{module_name}.FP32", half)
    coarse = FloatCheck.of(module, model)
    coarse.take(point_batch(model, 9, 9021820000, 2778180000))
    report = coarse.report()
    assert not report.covered and (report.left == 1 or report.reason)


def test_a_stated_effort_ends_in_not_covered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where rounding matters everywhere, halving stops after the effort and says so."""
    checkpoint = load_checkpoint(reference_checkpoint("lowrank_456p_s43.pt"))
    model, _ = read_model(checkpoint)
    module = fp32_module(checkpoint)
    coarse = dataclasses.replace(FP32, unit=2.0**-15)
    for module_name in ("rounding", "fp32", "tracing"):
        monkeypatch.setattr(f"adderlab.checker.{module_name}.FP32", coarse)
    floating = dataclasses.replace(FloatCheck.of(module, model), effort=50)
    batch = point_batch(model, 9, 9021820000, 2778180000)
    floating.take(batch)
    report = floating.report()
    assert not report.covered and report.margin is None
    assert "effort of 50 halves" in (report.reason or "") and "step 9" in (report.reason or "")
    assert floating.halves < 150
    floating.take(batch)
    assert floating.halves < 150, "nothing is examined after giving up"


@pytest.mark.parametrize("name", ["root", "inverse", "layer norm"])
def test_what_may_break_down_has_no_bound_and_harms_no_other_row(name: str) -> None:
    """Row 0 may come out as zero, or negative under a root; row 1 is harmless."""
    functions: dict[str, Operation] = {
        "root": torch.sqrt,
        "inverse": lambda x: (x * 0 + 1) / x,
        "layer norm": lambda x: torch.nn.functional.layer_norm(x, x.shape[-1:], eps=1e-9),
    }
    numbers = np.array([[1e-6, 1.2e-6, 1e-6, 1e-6], [1.0, 2.0, 3.0, 4.0]])
    x = Rounded(Interval(numbers), np.full((2, 4), 1e-5), varies=True, local=np.full((2, 4), 1e-5))
    if name == "layer norm":
        # Near 100, the rounding of the squares reaches beyond the variance.
        numbers = np.array([[100.0, 100.001, 100.0, 100.0], [1.0, 2.0, 3.0, 4.0]])
        x = Rounded(Interval(numbers), np.full((2, 4), 1e-5), varies=True, local=np.full((2, 4), 1e-5))
    after = traced(lambda t: functions[name](t) * 3.0, x)
    assert not np.isfinite(after.err[0]).any() and np.isfinite(after.err[1]).all()
    direction = np.zeros((2, 4))
    direction[:, 0] = 1.0
    with np.errstate(all="ignore"):
        moved = moved_by_rounding(after, Interval(direction))
    assert not moved[0] < 1e300 and moved[1] < 1e-2


def test_a_model_with_unknown_operations_is_reported_not_covered(tmp_path: Path) -> None:
    checkpoint = example(FAMILIES["456p"], 2)
    model, _ = read_model(checkpoint)
    module = fp32_module(checkpoint)
    module.block(0).ln1 = torch.nn.Softplus()  # type: ignore[assignment]
    report = FloatCheck.of(module, model).report()
    assert not report.covered and "softplus" in (report.reason or "")


SCALES = [2.0**k for k in (30, 60, 63, 80, 110, 124, 126)]


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", [name for name in [*UNARY, *BINARY] if name not in ("cos", "sin")])
def test_what_may_overflow_has_no_bound(name: str, scale: float) -> None:
    """Where fp32 gives no finite number the bound is infinite, and elsewhere it holds."""
    rng = np.random.default_rng(0)
    count = 1 if name in UNARY else 2
    inputs = [torch.from_numpy(rng.uniform(-3, 3, (6, 8)) * scale).float() for _ in range(count)]
    function = (UNARY | BINARY)[name]
    bound = traced(function, *(rounding.exact(x.double().numpy()) for x in inputs))
    exact, computed = (
        function(*each).double().numpy() for each in ([x.double() for x in inputs], inputs)
    )
    known = np.isfinite(bound.err)
    assert np.isfinite(computed[known]).all()
    distance = np.abs(computed - exact)[known]
    assert (distance <= bound.err[known] + 1e-12 * (1 + np.abs(exact[known]))).all()
    if scale == SCALES[0]:
        assert known.all(), "a bound that is always infinite says nothing"


def test_sums_count_as_overflowing_in_their_worst_order() -> None:
    """2^127 + 2^127 - 2^127 is finite in one order and not in another."""
    x = rounding.exact(np.array([[0.9, 0.9, -0.9, -0.9]]) * 2.0**127)
    ones = rounding.exact(np.ones((4, 1)))
    assert np.isinf(traced(lambda t: t.sum(-1), x).err).all()
    assert np.isinf(traced(lambda t, u: t @ u, x, ones).err).all()


def test_numbers_below_the_normal_range_may_be_zero() -> None:
    tiny = rounding.exact(np.array([1e-40, 1e-30, 0.0]))
    assert tiny.err.tolist() == [1e-40, 0.0, 0.0]
    inverse = traced(lambda x: (x * 0 + 1) / x, rounding.exact(np.array([1e-38, 1.0])))
    assert np.isinf(inverse.err[0]) and np.isfinite(inverse.err[1])


def overflowing(checkpoint: Checkpoint, power: int) -> Checkpoint:
    """The same function in real arithmetic (but for eps): stream, MLP and logits times 2^power."""
    scaled = ("token_emb.weight", "pos_emb.A", "blocks.0.attn.proj.B", "blocks.0.mlp.fc2.B")
    params = {n: p * 2.0**power if n in scaled else p for n, p in checkpoint.params.items()}
    return dataclasses.replace(checkpoint, params=params)


@pytest.mark.parametrize(
    "power", [59, *(pytest.param(power, marks=pytest.mark.slow) for power in (0, 30, 55, 66))]
)
def test_a_model_that_overflows_is_not_covered(power: int) -> None:
    """x^2 in the norms overflows from about 2^59 on; at 2^66 every fp32 logit is 0."""
    checkpoint = overflowing(load_checkpoint(ROOT / "records" / "best" / "456p" / "model.pt"), power)
    model, _ = read_model(checkpoint)
    module = fp32_module(checkpoint)
    for a, b in ((9933410000, 9966590000), (1234567890, 9876543210)):
        logits = next(runs(checkpoint, a, b, 0))
        answer = digits_of(a + b, 11)
        for i in (0, 5, 9, 10):
            floating = FloatCheck.of(module, model)
            floating.take(point_batch(model, i, a, b))
            margin = logits[i, answer[i]] - np.delete(logits[i], answer[i]).max()
            assert margin > 0 or not floating.report().covered
            assert floating.report().covered == (power < 55) or power in (55, 59)
    assert power < 66 or not logits.any(), "x / inf is 0, so are all logits"

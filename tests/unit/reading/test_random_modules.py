"""Random small modules made of the operations that files use, across positions too, in any order.

Whatever of them is read must be what the module computes; and where the bits of a number lack a
position, another token there must not change one bit of it.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from adderlab.errors import Failure
from adderlab.reading.agreement import read_foreign
from adderlab.reading.dependence import PARAMETER, UNWRITTEN, Dependence
from adderlab.reading.driving import Foreign, stated
from adderlab.reading.running import in_double, one_thread
from adderlab.reading.trace import Trace, record, run
from adderlab.task.addition import Layout

TINY = Layout(
    name="tiny",
    source="two digits and a separator: prompts of any length are read alike",
    vocabulary=tuple("0123456789"),
    a_positions=(0,) * 10,
    b_positions=(1,) * 10,
    num_prompt=3,
    separators=((2, 0),),
    end_token=None,
)
D = 6
INF = float("inf")
Own = Callable[[Any, Tensor], Tensor]


def _assigned(m: Any, x: Tensor) -> Tensor:
    out = torch.zeros_like(x)
    out[..., 1:4] = x[..., :3]
    out[..., 0] += 0.5
    return out


def _filled(m: Any, x: Tensor) -> Tensor:
    out = torch.empty(x.shape, dtype=x.dtype)
    out[..., :2], out[..., 2:] = x[..., 1:3], x[..., :4]
    return out


def _in_place(m: Any, x: Tensor) -> Tensor:
    y = x * 1.0
    view = y.view(-1, D)
    view[:, :2].mul_(0.5).add_(m.w[:2])
    view += 0.1
    return y


def _scattered(m: Any, x: Tensor) -> Tensor:
    at = torch.tensor([2, 0, 5]).expand(*x.shape[:-1], 3)
    return torch.zeros_like(x).scatter(-1, at, x[..., :3])


def _put(m: Any, x: Tensor) -> Tensor:
    y = x.clone()
    y[..., torch.tensor([0, 3])] = x[..., torch.tensor([4, 4])] * 2
    return y


CHANNELS: dict[str, Own] = {
    "linear": lambda m, x: m.a(x),
    "bias after": lambda m, x: x @ m.a.weight + m.w,
    "gelu": lambda m, x: functional.gelu(x),
    "gelu tanh": lambda m, x: functional.gelu(x, approximate="tanh"),
    "relu": lambda m, x: x.relu(),
    "squared relu": lambda m, x: x.relu().square(),
    "silu": lambda m, x: functional.silu(x) * m.a(x),
    "sigmoid gate": lambda m, x: torch.sigmoid(m.a(x)) * x,
    "tanh": lambda m, x: 3 * torch.tanh(x / 3),
    "softplus": lambda m, x: functional.softplus(x),
    "softplus beta": lambda m, x: functional.softplus(x, beta=2.0),
    "exp": lambda m, x: torch.exp(-x.abs()),
    "clamp": lambda m, x: x.clamp(-0.5, 0.7),
    "clamp tensor": lambda m, x: torch.clamp(x, min=m.w, max=m.w + 1),
    "min max": lambda m, x: torch.minimum(x, m.a(x)) + torch.maximum(x, m.w),
    "rms": lambda m, x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5),
    "rms module": lambda m, x: functional.rms_norm(x, (D,), m.w),
    "layer norm": lambda m, x: functional.layer_norm(x, (D,), m.w, m.w),
    "centre": lambda m, x: x - x.mean(dim=-1, keepdim=True),
    "var": lambda m, x: x / (x.var(dim=-1, keepdim=True) + 1).sqrt(),
    "std": lambda m, x: x / (x.std(-1, correction=0, keepdim=True) + 0.3),
    "norm": lambda m, x: functional.normalize(x, dim=-1),
    "sum": lambda m, x: x.sum(dim=-1, keepdim=True) * m.w,
    "amax": lambda m, x: x - x.amax(dim=-1, keepdim=True),
    "max": lambda m, x: x - x.max(dim=-1, keepdim=True)[0],
    "power": lambda m, x: x**3 + x**2,
    "power of": lambda m, x: (x.abs() + 0.5) ** m.w.abs(),
    "two to": lambda m, x: 2.0**x,
    "quotient": lambda m, x: x / (1 + x.abs()),
    "whole quotient": lambda m, x: torch.div(x, 0.25, rounding_mode="floor"),
    "minus twice": lambda m, x: torch.sub(x, m.w, alpha=2),
    "constant minus": lambda m, x: 1 - x,
    "leaky": lambda m, x: functional.leaky_relu(x, 0.1),
    "chunk": lambda m, x: torch.cat([x[..., 3:], -x[..., :3]], -1),
    "stack": lambda m, x: torch.stack(x.unbind(-1)[::-1], -1),
    "flip": lambda m, x: x.flip(-1),
    "roll": lambda m, x: x.roll(1, -1),
    "pairs": lambda m, x: x.view(*x.shape[:-1], 3, 2).transpose(-1, -2).reshape(x.shape),
    "index": lambda m, x: x[..., [3, 3, 1, 0, 5, 2]],
    "gather": lambda m, x: x.gather(-1, torch.tensor([1, 1, 0, 2, 3, 4]).expand(x.shape)),
    "where": lambda m, x: torch.where(torch.tensor([True, False] * 3), x, m.w),
    "masked": lambda m, x: x.masked_fill(torch.tensor([True, False] * 3), 0.25),
    "zeros": lambda m, x: x * torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0, 1.0]),
    "pad": lambda m, x: functional.pad(x[..., :4], (1, 1), value=0.5),
    "outer": lambda m, x: torch.einsum("btc,cd->btd", x, m.a.weight),
    "diagonal": lambda m, x: (x @ torch.diag(m.w)) @ m.a.weight.T,
    "repeat": lambda m, x: x[..., :1].expand(x.shape) @ m.a.weight,
    "first": lambda m, x: x[..., :1].expand(x.shape).sum(-1, keepdim=True) * m.w,
    "long": lambda m, x: x.mul(2).long().to(x.dtype),
    "greater": lambda m, x: (x > 0).to(x.dtype) * x,
    "sort": lambda m, x: x.sort(dim=-1)[0],
    "channel softmax": lambda m, x: x.softmax(-1),
    "channel sum": lambda m, x: x.cumsum(-1),
    "position": lambda m, x: x + m.p[: x.shape[1]],
    "position times": lambda m, x: x * m.p[: x.shape[1]],
    "some positions": lambda m, x: x * (torch.arange(x.shape[1]) % 2)[:, None].to(x.dtype),
    "square itself": lambda m, x: x * x + (x @ m.a.weight) * x,
    "assigned": _assigned,
    "filled": _filled,
    "in place": _in_place,
    "scattered": _scattered,
    "put": _put,
}
"""Within a position."""
POSITIONS: dict[str, Own] = {
    "roll": lambda m, x: x.roll(1, 1),
    "flip": lambda m, x: x.flip(1),
    "sum so far": lambda m, x: x.cumsum(1),
    "mean": lambda m, x: x - x.mean(1, keepdim=True),
    "mean of all": lambda m, x: x - x.mean(),
    "sorted": lambda m, x: x.sort(dim=1)[0],
    "top": lambda m, x: x + x.topk(1, dim=1)[0],
    "max": lambda m, x: x - x.max(dim=1, keepdim=True)[0],
    "norm": lambda m, x: x / (torch.linalg.vector_norm(x, dim=1, keepdim=True) + 1),
    "all": lambda m, x: x / (1 + torch.linalg.vector_norm(x)),
    "shift": lambda m, x: functional.pad(x, (0, 0, 1, 0))[:, :-1],
    "first": lambda m, x: x + x[:, :1],
    "last": lambda m, x: x + x[:, -1:],
    "argmax": lambda m, x: m.e(x.argmax(1) % 10).mean(1, keepdim=True) + x,
    "softmax": lambda m, x: x.softmax(1),
    "product": lambda m, x: x @ x.transpose(1, 2) @ x,
    "mix": lambda m, x: torch.tril(m.q[: x.shape[1], : x.shape[1]]) @ x,
    "even": lambda m, x: x[:, torch.arange(x.shape[1]) // 2],
    "put": lambda m, x: x.index_put((torch.tensor([0]), torch.tensor([1])), x[:, 0]),
}
"""Across positions: read only where what follows takes it away."""
SCORES: dict[str, Own] = {
    "cap": lambda m, s: 2 * torch.tanh(s / 2),
    "bias": lambda m, s: s + m.q[: s.shape[-2], : s.shape[-1]],
    "slopes": lambda m, s: s - 0.3 * torch.arange(s.shape[-1]).flip(0),
    "scale": lambda m, s: s * m.w[0],
    "square": lambda m, s: s.square(),
    "negative": lambda m, s: -s / 2,
}
LATER = "later"
MASKS: dict[str, Callable[[Tensor], Tensor]] = {
    "fill": lambda s: s.masked_fill(_later(s), -INF),
    "add": lambda s: s + torch.zeros(s.shape[-2:], dtype=s.dtype).masked_fill(_later(s), -INF),
    "large": lambda s: s.masked_fill(_later(s), -1e9),
    "add large": lambda s: s + _later(s).to(s.dtype) * -1e9,
    "where": lambda s: torch.where(_later(s), torch.finfo(torch.float32).min, s),
    "small": lambda s: s.masked_fill(_later(s), -5.0),
    "window": lambda s: s.masked_fill(_later(s) | (_distance(s) > 3), -INF),
    "one more": lambda s: s.masked_fill(_later(s).roll(1, -1), -INF),
}


def _distance(s: Tensor) -> Tensor:
    return torch.arange(s.shape[-1])[:, None] - torch.arange(s.shape[-1])


def _later(s: Tensor) -> Tensor:
    return _distance(s) < 0


class Random(nn.Module):
    """One attention between lists of operations."""

    def __init__(self, seed: int, heads: int, plan: dict[str, list[str]]) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.heads, self.plan = heads, plan
        self.e, self.a = nn.Embedding(10, D), nn.Linear(D, D)
        self.qkv, self.o, self.u = nn.Linear(D, 3 * D), nn.Linear(D, D), nn.Linear(D, 10)
        self.w = nn.Parameter(torch.rand(D) + 0.5)
        self.p, self.q = (nn.Parameter(torch.randn(20, width) * 0.5) for width in (D, 20))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.e(tokens)
        for name in self.plan["before"]:
            x = _operation(name)(self, x)
        shape = (*x.shape[:2], self.heads, -1)
        q, k, v = (y.reshape(shape).transpose(1, 2) for y in self.qkv(x).chunk(3, -1))
        scores = q @ k.transpose(-1, -2) / 2
        for name in self.plan["scores"]:
            scores = SCORES[name](self, scores)
        weights = MASKS[self.plan["mask"][0]](scores).softmax(-1)
        x = x + self.o((weights @ v).transpose(1, 2).reshape(x.shape))
        for name in self.plan["after"]:
            x = x + 0.5 * _operation(name)(self, x)
        return self.u(x)


def _operation(name: str) -> Own:
    return POSITIONS[name.removeprefix("across ")] if name.startswith("across ") else CHANNELS[name]


WITHIN = st.sampled_from(sorted(CHANNELS))
ANY = st.one_of(
    WITHIN, WITHIN, WITHIN, st.sampled_from([f"across {name}" for name in sorted(POSITIONS)])
)
PLANS = st.fixed_dictionaries(
    {
        "before": st.lists(ANY, max_size=2),
        "scores": st.lists(st.sampled_from(sorted(SCORES)), max_size=1),
        "mask": st.lists(st.sampled_from(sorted(MASKS)), min_size=1, max_size=1),
        "after": st.lists(ANY, max_size=3),
    }
)


def judged(seed: int, heads: int, plan: dict[str, list[str]]) -> str:
    """What became of it: "read", or why not. Asserts that nothing wrong is said of it."""
    foreign = stated(Random(seed, heads, plan).eval(), TINY, "random")
    with in_double(foreign.model), one_thread():
        tokens = torch.randint(
            0, 10, (1, TINY.num_positions), generator=torch.Generator().manual_seed(seed)
        )
        params = {name: tensor.detach() for name, tensor in foreign.params.items()}
        try:
            trace = record(foreign.call, tokens, params)
            own = {name: params[name] for name in set(trace.parameters.values())}
            dependence = Dependence(trace, own)
        except Failure as failure:
            return str(failure)
        assert_bits(trace, dependence, own, tokens, seed)
    try:
        _, agreement = read_foreign(foreign)
    except Failure as failure:
        # Nothing may be found out by comparing alone, but the rounding of float32 to whole numbers.
        assert "what was read" not in str(failure) and "otherwise than now" not in str(failure)
        return str(failure)
    assert agreement.difference <= 1e-9 * agreement.scale, plan
    return "read"


def assert_bits(
    trace: Trace, dependence: Dependence, params: dict[str, Tensor], tokens: Tensor, seed: int
) -> None:
    """Another token changes nothing whose bits lack its position; other parameters nothing fixed."""
    every = {ref.number for node in trace.nodes for ref in node.outputs if ref is not None}
    before = run(trace, params, tokens, every)
    unwritten = {number: dependence.bits[number] >> UNWRITTEN for number in every}
    for position in range(tokens.shape[1]):
        changed = tokens.clone()
        changed[0, position] = (changed[0, position] + 1 + seed % 9) % 10
        after = run(trace, params, changed, every)
        for number in every:
            free = (dependence.bits[number] >> position | unwritten[number]) & 1 == 0
            assert same(before[number][free], after[number][free]), (number, position)
    other = {name: tensor + 0.1 * torch.rand_like(tensor) for name, tensor in params.items()}
    after = run(trace, other, tokens, every)
    for number in every:
        free = (dependence.bits[number] >> PARAMETER | unwritten[number]) & 1 == 0
        assert same(before[number][free], after[number][free]), number
        fixed = dependence.bits[number] == 0
        assert same(after[number][fixed], dependence.fixed[number][fixed]), number


def same(x: Tensor, y: Tensor) -> bool:
    return torch.equal(torch.nan_to_num(x.double(), nan=7e77), torch.nan_to_num(y.double(), nan=7e77))


@pytest.mark.slow
def test_whatever_is_read_is_what_the_module_computes() -> None:
    outcomes = []

    @settings(
        max_examples=200, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
    )
    @given(seed=st.integers(0, 2**20), heads=st.sampled_from([1, 2, 3]), plan=PLANS)
    def each(seed: int, heads: int, plan: dict[str, list[str]]) -> None:
        outcomes.append(judged(seed, heads, plan))

    each()
    assert outcomes.count("read") >= len(outcomes) // 5
    assert len(set(outcomes)) >= 10


READ = sorted(
    set(CHANNELS)
    - {"softplus beta", "power of", "two to", "whole quotient", "minus twice", "long", "greater", "sort",
       "channel softmax", "channel sum", "max", "scattered", "put"}
)  # fmt: skip


@pytest.mark.parametrize("name", READ)
def test_operations_of_the_table_are_read_on_both_sides_of_attention(name: str) -> None:
    plan = {"before": [name], "scores": [], "mask": ["fill"], "after": [name]}
    assert judged(1, 2, plan) == "read"


@pytest.mark.parametrize("name", sorted(set(CHANNELS) - set(READ)))
def test_what_is_not_in_the_head_s_table_is_read_before_attention(name: str) -> None:
    plan = {"before": [name], "scores": [], "mask": ["fill"], "after": []}
    assert judged(1, 2, plan) == "read"
    outcome = judged(1, 2, {**plan, "before": [], "after": [name]})
    assert outcome == "read" or "table" in outcome or "whole numbers" in outcome, outcome


@pytest.mark.parametrize("mask", sorted(MASKS))
@pytest.mark.parametrize("score", ["cap", "slopes"])
def test_masks(mask: str, score: str) -> None:
    outcome = judged(2, 2, {"before": [], "scores": [score], "mask": [mask], "after": ["gelu"]})
    if mask in ("small", "one more"):
        assert "looks ahead" in outcome
    else:
        assert outcome == "read"


def test_a_foreign_model_is_asked_as_stated() -> None:
    plan: dict[str, list[str]] = {"before": [], "scores": [], "mask": ["fill"], "after": []}
    foreign = stated(Random(0, 1, plan).eval(), TINY, "random")
    assert isinstance(foreign, Foreign) and len(foreign.asked) == TINY.num_answers

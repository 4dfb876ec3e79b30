"""Small decoders as strangers write them, one for each structure that is read, or refused.

All take tokens (B, T) of layout "S", ten digits and nothing else, and return logits (B, T, 10).
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

D, HIDDEN, LENGTH = 8, 12, 40
INF = float("inf")


def rms(x: Tensor, eps: float = 1e-6) -> Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)


class Decoder(nn.Module):
    """Pre-norm, sequential, two heads, GELU; what others change is a method."""

    heads, shared = 2, 2

    def __init__(self) -> None:
        super().__init__()
        width = D // self.heads
        self.tok, self.pos = nn.Embedding(10, D), nn.Embedding(LENGTH, D)
        self.q = nn.Linear(D, D, bias=False)
        self.k, self.v = (nn.Linear(D, self.shared * width, bias=False) for _ in range(2))
        self.o, self.head = nn.Linear(D, D), nn.Linear(D, 10)
        self.up, self.gate, self.down = nn.Linear(D, HIDDEN), nn.Linear(D, HIDDEN), nn.Linear(HIDDEN, D)
        self.n1, self.n2, self.nf = (nn.LayerNorm(D) for _ in range(3))
        self.g = nn.Parameter(torch.rand(2) + 0.5)
        self.more()

    def more(self) -> None: ...

    def embed(self, t: Tensor) -> Tensor:
        return self.tok(t) + self.pos(torch.arange(t.shape[1]))

    def split(self, x: Tensor, heads: int) -> Tensor:
        return x.view(*x.shape[:2], heads, -1).transpose(1, 2)

    def qkv(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        k, v = (self.split(each(x), self.shared) for each in (self.k, self.v))
        again = self.heads // self.shared
        k, v = (each.repeat_interleave(again, 1) for each in (k, v))
        return self.split(self.q(x), self.heads), k, v

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        return q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])

    def biased(self, s: Tensor) -> Tensor:
        return s

    def masked(self, s: Tensor) -> Tensor:
        return s.masked_fill(torch.ones(s.shape[-2:], dtype=torch.bool).triu(1), -INF)

    def mixed(self, w: Tensor, v: Tensor) -> Tensor:
        return (w @ v).transpose(1, 2).reshape(w.shape[0], -1, D)

    def attend(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x)
        return self.o(self.mixed(self.masked(self.biased(self.scores(q, k))).softmax(-1), v))

    def mlp(self, x: Tensor) -> Tensor:
        return self.down(functional.gelu(self.up(x)))

    def body(self, x: Tensor) -> Tensor:
        x = x + self.attend(self.n1(x))
        return x + self.mlp(self.n2(x))

    def forward(self, t: Tensor) -> Tensor:
        return self.head(self.nf(self.body(self.embed(t))))


# What stands where.


class Parallel(Decoder):
    def body(self, x: Tensor) -> Tensor:
        y = self.n1(x)
        return x + self.attend(y) + self.mlp(y)


class PostNorm(Decoder):
    def body(self, x: Tensor) -> Tensor:
        x = self.n1(x + self.attend(x))
        return self.n2(x + self.mlp(x))


class SandwichNorm(Decoder):
    def body(self, x: Tensor) -> Tensor:
        x = x + rms(self.attend(self.n1(x))) * self.g[0]
        return x + rms(self.mlp(self.n2(x))) * self.g[1]


class NoMLP(Decoder):
    def body(self, x: Tensor) -> Tensor:
        return x + self.attend(self.n1(x))


class SeveralMLPs(Decoder):
    def body(self, x: Tensor) -> Tensor:
        x = super().body(x)
        return x + torch.tanh(self.gate(self.n2(x))) @ self.up.weight * 0.3


class ResidualScales(Decoder):
    def body(self, x: Tensor) -> Tensor:
        x = x + self.g[0] * self.attend(self.n1(x))
        return x * self.g[1] + self.mlp(self.n2(x))


class PositionsAfter(Decoder):
    def body(self, x: Tensor) -> Tensor:
        y = super().body(x)
        return y + self.pos.weight[: y.shape[1]]


class InPlace(Decoder):
    def body(self, x: Tensor) -> Tensor:
        y = self.attend(self.n1(x))
        y += x
        z = torch.empty_like(y).zero_()
        z.add_(self.mlp(self.n2(y)))
        return z.add_(y)


# Activations and norms.


class SquaredReLU(Decoder):
    def mlp(self, x: Tensor) -> Tensor:
        return self.down(functional.relu(self.up(x)).square())


class SwiGLU(Decoder):
    def mlp(self, x: Tensor) -> Tensor:
        return self.down(functional.silu(self.gate(x)) * self.up(x))


class SigmoidGate(Decoder):
    def mlp(self, x: Tensor) -> Tensor:
        return self.down(torch.sigmoid(self.gate(x)) * self.up(x))


class TanhGate(Decoder):
    def mlp(self, x: Tensor) -> Tensor:
        return self.down(functional.gelu(self.gate(x), approximate="tanh") * torch.tanh(self.up(x)))


class Softplus(Decoder):
    def mlp(self, x: Tensor) -> Tensor:
        return self.down(functional.softplus(self.up(x)))


class ExpOfAbs(Decoder):
    def mlp(self, x: Tensor) -> Tensor:
        return self.down(torch.exp(-self.up(x).abs()))


class MinMaxClamp(Decoder):
    def mlp(self, x: Tensor) -> Tensor:
        u, g = self.up(x), self.gate(x)
        return self.down(torch.minimum(u, g).clamp(-1, 2) + torch.maximum(u, g))


class Selection(Decoder):
    def mlp(self, x: Tensor) -> Tensor:
        even = torch.arange(HIDDEN) % 2 == 0
        return self.down(torch.where(even, self.up(x).relu(), self.gate(x)))


class TurnedHidden(Decoder):
    """Hidden units turned in pairs before the second map."""

    def mlp(self, x: Tensor) -> Tensor:
        a, b = functional.gelu(self.up(x)).chunk(2, -1)
        cos, sin = self.g[0].cos(), self.g[0].sin()
        return self.down(torch.cat([a * cos - b * sin, a * sin + b * cos], -1))


class WeightlessNorms(Decoder):
    def more(self) -> None:
        self.n1, self.n2 = nn.RMSNorm(D), nn.RMSNorm(D, eps=1e-3)  # type: ignore[assignment]
        self.nf = nn.LayerNorm(D, eps=0.1, elementwise_affine=False)


class PerHeadNorm(Decoder):
    def mixed(self, w: Tensor, v: Tensor) -> Tensor:
        return super().mixed(w, rms(v)) + rms(w @ v).transpose(1, 2).reshape(w.shape[0], -1, D)


# Scores.


class CappedLogits(Decoder):
    def forward(self, t: Tensor) -> Tensor:
        return 5 * torch.tanh(super().forward(t) / 5)


class CappedScores(Decoder):
    def biased(self, s: Tensor) -> Tensor:
        return 3 * torch.tanh(s / 3)


class ALiBi(Decoder):
    def biased(self, s: Tensor) -> Tensor:
        r = torch.arange(s.shape[-1])
        return s - (r[:, None] - r).clamp(min=0) * torch.tensor([0.5, 0.25])[:, None, None]


class RelativeBias(Decoder):
    def more(self) -> None:
        self.bias = nn.Parameter(torch.randn(2, LENGTH))

    def biased(self, s: Tensor) -> Tensor:
        r = torch.arange(s.shape[-1])
        return s + self.bias[:, (r[:, None] - r).clamp(min=0)]


class SinkLast(Decoder):
    def more(self) -> None:
        self.sink = nn.Parameter(torch.randn(2))

    def mixed(self, w: Tensor, v: Tensor) -> Tensor:
        return super().mixed(w[..., :-1], v)

    def masked(self, s: Tensor) -> Tensor:
        sink = self.sink.view(1, -1, 1, 1).expand(len(s), -1, s.shape[-2], 1)
        return torch.cat([super().masked(s), sink], -1)


class SinkFirst(Decoder):
    def more(self) -> None:
        self.sink = nn.Parameter(torch.randn(2, 1, D // 2))

    def qkv(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = super().qkv(x)
        nothing = torch.zeros(len(x), 2, 1, D // 2)
        return q, torch.cat([self.sink.expand(len(x), -1, -1, -1), k], 2), torch.cat([nothing, v], 2)

    def masked(self, s: Tensor) -> Tensor:
        later = torch.ones(s.shape[-2], s.shape[-2], dtype=torch.bool).triu(1)
        return s.masked_fill(functional.pad(later, (1, 0)), -INF)


class SinkOfTheToken(SinkLast):
    """Its score depends on the token at the query."""

    def attend(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x)
        sink = (q * self.sink[:, None, None]).sum(-1, keepdim=True)
        s = torch.cat([Decoder.masked(self, self.scores(q, k)), sink], -1)
        return self.o(self.mixed(s.softmax(-1), v))


class GroupedQueries(Decoder):
    shared = 1


class Tied(Decoder):
    """K = V and O = Q^T."""

    def qkv(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, _ = super().qkv(x)
        return q, k, k

    def attend(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x)
        return self.mixed(self.masked(self.scores(q, k)).softmax(-1), v) @ self.q.weight


class Rotary(Decoder):
    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        angle = torch.arange(q.shape[-2])[:, None] * torch.tensor([1.0, 0.1])
        cos, sin = angle.cos(), angle.sin()

        def turned(x: Tensor) -> Tensor:
            a, b = x.chunk(2, -1)
            return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)

        return super().scores(turned(q), turned(k))


class NormedQueries(Decoder):
    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        return super().scores(rms(q) * self.g[0], rms(k) * self.g[1])


class SlidingWindow(Decoder):
    def masked(self, s: Tensor) -> Tensor:
        r = torch.arange(s.shape[-1])
        return s.masked_fill((r > r[:, None]) | (r < r[:, None] - 15), -INF)


class LargeNegative(Decoder):
    def masked(self, s: Tensor) -> Tensor:
        later = torch.ones(s.shape[-2:]).triu(1)
        return s + later * -1e9


class ScoresOfPositions(Decoder):
    """No token decides them."""

    def qkv(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        p = self.pos.weight[None, : x.shape[1]]
        return self.split(self.q(p), 2), self.split(self.k(p), 2), super().qkv(x)[2]


# Tokens and positions.


class Sinusoidal(Decoder):
    def embed(self, t: Tensor) -> Tensor:
        angle = torch.arange(t.shape[1])[:, None] * torch.exp(torch.arange(D // 2) * -0.7)
        return self.tok(t) + torch.cat([angle.sin(), angle.cos()], -1)


class NoPositions(Decoder):
    def embed(self, t: Tensor) -> Tensor:
        return self.tok(t)


class OneHot(Decoder):
    def embed(self, t: Tensor) -> Tensor:
        kind = self.tok.weight.dtype
        return functional.one_hot(t, 10).to(kind) @ self.tok.weight + self.pos.weight[: t.shape[1]]


class ParabolicHead(Decoder):
    def forward(self, t: Tensor) -> Tensor:
        y = self.nf(self.body(self.embed(t))) @ self.head.weight[0]
        return -((y[..., None] - torch.arange(10.0)) ** 2) * self.g[0]


class LogProbabilities(Decoder):
    def forward(self, t: Tensor) -> Tensor:
        return super().forward(t).log_softmax(-1)


class Probabilities(Decoder):
    def forward(self, t: Tensor) -> Tensor:
        return super().forward(t).softmax(-1)


# Ways of writing.


class Fused(Decoder):
    def attend(self, x: Tensor) -> Tensor:
        y = functional.scaled_dot_product_attention(*self.qkv(x), is_causal=True)
        return self.o(y.transpose(1, 2).reshape(x.shape))


class HeadLoop(Decoder):
    def attend(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x)
        out = torch.zeros_like(x)
        for h in range(2):
            w = self.masked(self.scores(q[:, h], k[:, h])).softmax(-1)
            out[..., 4 * h : 4 * h + 4] = w @ v[:, h]
        return self.o(out)


class Einsum(Decoder):
    def attend(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x)
        w = self.masked(torch.einsum("bhid,bhjd->bhij", q, k)).softmax(-1)
        return self.o(torch.einsum("bhij,bhjd->bihd", w, v).reshape(x.shape))


class EncoderLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tok, self.pos, self.head = nn.Embedding(10, D), nn.Embedding(LENGTH, D), nn.Linear(D, 10)
        self.layer = nn.TransformerEncoderLayer(
            D, 2, HIDDEN, dropout=0.1, batch_first=True, norm_first=True
        )

    def forward(self, t: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(t.shape[1])
        return self.head(self.layer(self.tok(t) + self.pos(torch.arange(t.shape[1])), src_mask=mask))


class Plain:
    """A class that holds tensors, no module."""

    def __init__(self) -> None:
        shapes = {"tok": (10, D), "pos": (LENGTH, D), "up": (D, HIDDEN), "down": (HIDDEN, D)}
        self.w = {name: torch.randn(shape) * 0.5 for name, shape in shapes.items()}
        self.heads = [torch.randn(D, D) * 0.5 for _ in range(3)]

    def __call__(self, t: Tensor) -> Tensor:
        w, (q, k, v) = self.w, self.heads
        x = w["tok"][t] + w["pos"][: t.shape[1]]
        s = (x @ q) @ (x @ k).mT / D**0.5
        later = torch.ones(s.shape[-2:], dtype=torch.bool).triu(1)
        x = x + s.masked_fill(later, -INF).softmax(-1) @ (x @ v)
        return (x + torch.relu(x @ w["up"]) @ w["down"]) @ w["tok"].T


# The last position's logits alone.


class LastSelected(Decoder):
    def forward(self, t: Tensor) -> Tensor:
        return super().forward(t)[:, -1]


class LastWithItsAxis(Decoder):
    """Everything after the attention is computed at the last position alone."""

    def body(self, x: Tensor) -> Tensor:
        x = (x + self.attend(self.n1(x)))[:, [-1]]
        return x + self.mlp(self.n2(x))


class LastOfTheFirst(ALiBi):
    """Logits (V,)."""

    def forward(self, t: Tensor) -> Tensor:
        return super().forward(t)[0, -1]


class LastQuery(Decoder):
    """The query is made at the last position alone, so no mask is needed."""

    def attend(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x)
        return self.o(self.mixed(self.biased(self.scores(q[:, :, -1:], k)).softmax(-1), v))

    def body(self, x: Tensor) -> Tensor:
        x = x[:, -1:] + self.attend(self.n1(x))
        return x + self.mlp(self.n2(x))

    def forward(self, t: Tensor) -> Tensor:
        return super().forward(t).squeeze(1)


class LastQueryCapped(LastQuery):
    """Scores that are no product, and another part of the row at every step."""

    def biased(self, s: Tensor) -> Tensor:
        return 3 * torch.tanh(s / 3)

    def mlp(self, x: Tensor) -> Tensor:
        return super().mlp(x) + self.pos.weight[-1]


class LastWithSink(SinkLast):
    def forward(self, t: Tensor) -> Tensor:
        return super().forward(t)[:, -1]


class LastQueryWithSink(LastQuery):
    def more(self) -> None:
        self.sink = nn.Parameter(torch.randn(2))

    def mixed(self, w: Tensor, v: Tensor) -> Tensor:
        return super().mixed(w[..., :-1], v)

    def biased(self, s: Tensor) -> Tensor:
        return torch.cat([s, self.sink.view(1, -1, 1, 1).expand(len(s), -1, 1, 1)], -1)


class LastWithoutMask(Decoder):
    """Every position looks at all that was read."""

    def masked(self, s: Tensor) -> Tensor:
        return s

    def forward(self, t: Tensor) -> Tensor:
        return super().forward(t)[:, -1]


class LastAndPositionsAfter(PositionsAfter):
    def forward(self, t: Tensor) -> Tensor:
        return super().forward(t)[:, -1]


# What is returned.


class InADict(Decoder):
    def forward(self, t: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        return {"hidden": self.tok(t), "logits": super().forward(t)}


class InATuple(Decoder):
    def forward(self, t: Tensor) -> tuple[None, Tensor]:  # type: ignore[override]
        return None, super().forward(t)


class Output(NamedTuple):
    loss: Tensor
    scores: Tensor


class InANamedTuple(Decoder):
    def forward(self, t: Tensor) -> Output:  # type: ignore[override]
        return Output(torch.zeros(()), super().forward(t))


READ = [
    Decoder, Parallel, PostNorm, SandwichNorm, NoMLP, SeveralMLPs, ResidualScales, PositionsAfter,
    InPlace, SquaredReLU, SwiGLU, SigmoidGate, TanhGate, Softplus, ExpOfAbs, MinMaxClamp, Selection,
    TurnedHidden, WeightlessNorms, PerHeadNorm, CappedLogits, CappedScores, ALiBi, RelativeBias,
    SinkLast, SinkFirst, SinkOfTheToken, GroupedQueries, Tied, Rotary, NormedQueries, SlidingWindow,
    LargeNegative, ScoresOfPositions, Sinusoidal, NoPositions, OneHot, ParabolicHead, LogProbabilities,
    Probabilities, Fused, HeadLoop, Einsum, EncoderLayer, Plain, LastSelected, LastWithItsAxis,
    LastOfTheFirst, LastQuery, LastQueryCapped, LastWithSink, LastQueryWithSink, LastWithoutMask,
    LastAndPositionsAfter, InADict, InATuple, InANamedTuple,
]  # fmt: skip


# Not to be read.


class TwoLayers(Decoder):
    def body(self, x: Tensor) -> Tensor:
        return super().body(super().body(x))


class SecondAttention(Decoder):
    def body(self, x: Tensor) -> Tensor:
        x = super().body(x)
        return x + torch.tril(torch.ones(x.shape[1], x.shape[1])) @ x


class SumBefore(Decoder):
    def body(self, x: Tensor) -> Tensor:
        return super().body(x.cumsum(1))


class SumAfter(Decoder):
    def body(self, x: Tensor) -> Tensor:
        return super().body(x).cumsum(1)


class BatchNorm(Decoder):
    def more(self) -> None:
        self.bn = nn.BatchNorm1d(D)

    def body(self, x: Tensor) -> Tensor:
        return self.bn(super().body(x).transpose(1, 2)).transpose(1, 2)


class LooksAhead(Decoder):
    def masked(self, s: Tensor) -> Tensor:
        return s.masked_fill(torch.ones(s.shape[-2:], dtype=torch.bool).triu(2), -INF)


class WeakMask(Decoder):
    """Large enough for -1e3 to hide, were the scores small."""

    def masked(self, s: Tensor) -> Tensor:
        return (s * 1e4).masked_fill(torch.ones(s.shape[-2:], dtype=torch.bool).triu(1), -2e3)


class Dropout(Decoder):
    def mlp(self, x: Tensor) -> Tensor:
        return functional.dropout(super().mlp(x), 0.1, training=True)


class Unknown(Decoder):
    def mlp(self, x: Tensor) -> Tensor:
        return self.down(torch.erfinv(torch.tanh(self.up(x))))


class Decides(Decoder):
    def mlp(self, x: Tensor) -> Tensor:
        return self.down(functional.relu(self.up(x)) if x.sum() > 0 else self.up(x))


class Counts(Decoder):
    calls = 0

    def forward(self, t: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(t) * (1 if self.calls < 50 else -1)


class CountsInABuffer(Decoder):
    calls: Tensor

    def more(self) -> None:
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, t: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(t) * (self.calls < 1e6)


class Cache(Decoder):
    seen: Tensor

    def more(self) -> None:
        self.register_buffer("seen", torch.zeros(1, 2, LENGTH, D // 2))

    def qkv(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = super().qkv(x)
        self.seen[:, :, : x.shape[1]] = k
        return q, self.seen[:, :, : x.shape[1]], v


class Lists(Decoder):
    """Reads its tokens as Python numbers."""

    def embed(self, t: Tensor) -> Tensor:
        return super().embed(torch.tensor([[d % 10 for d in row] for row in t.tolist()]))


class Arrays(Decoder):
    def embed(self, t: Tensor) -> Tensor:
        return super().embed(torch.from_numpy(t.numpy() % 10))


class CountsFromTheEnd(Decoder):
    """Its positions depend on the length of what it reads."""

    def embed(self, t: Tensor) -> Tensor:
        return self.tok(t) + self.pos(torch.arange(t.shape[1]).flip(0))


class HeldView(Decoder):
    def more(self) -> None:
        self.turned = self.up.weight.data.T

    def mlp(self, x: Tensor) -> Tensor:
        return self.down(functional.gelu(x @ self.turned))


class NoAttention(Decoder):
    def attend(self, x: Tensor) -> Tensor:
        return self.o(x)


class LastTwo(Decoder):
    def forward(self, t: Tensor) -> Tensor:
        return super().forward(t)[:, -2:]


class LastOfTwoLayers(TwoLayers):
    def forward(self, t: Tensor) -> Tensor:
        return super().forward(t)[:, -1]


class MeanOfWhatWasRead(Decoder):
    def forward(self, t: Tensor) -> Tensor:
        return super().forward(t).mean(1)


class Infinite(Decoder):
    def embed(self, t: Tensor) -> Tensor:
        return super().embed(t) / (t - 7)[..., None]


REFUSED = {
    TwoLayers: "second layer",
    SecondAttention: "second layer",
    SumBefore: "second layer",
    SumAfter: "cumsum",
    BatchNorm: "batch norm",
    LooksAhead: "looks ahead",
    WeakMask: "minus infinity|looks ahead",
    Dropout: "random numbers",
    Unknown: "erfinv",
    Decides: "decides on in Python",
    Counts: "change from call to call",
    CountsInABuffer: "state changes",
    Cache: "state changes",
    Lists: "tolist",
    Arrays: "numpy",
    CountsFromTheEnd: "after 24 tokens",
    HeldView: "view of its parameter up.weight",
    NoAttention: "no mixture",
    LastTwo: "of every position",
    LastOfTwoLayers: "second layer",
    MeanOfWhatWasRead: "second layer|attention of another",
    Infinite: "infinite, or no number|looks ahead",
}
"""Each with words of the line that says why."""

"""Masks and rotations that are made when they are first needed, and grow; select heads in a loop."""

import torch
from torch import Tensor, nn


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(
            [nn.Linear(width, 3 * width // heads, bias=False) for _ in range(heads)]
        )
        self.merge = nn.Linear(width, width, bias=False)
        self._mask: Tensor | None = None
        self._angles: Tensor | None = None

    def _prepare(self, length: int, half: int) -> tuple[Tensor, Tensor]:
        if self._mask is None or self._mask.shape[0] < length:
            self._mask = torch.full((length, length), float("-inf")).triu(1)
            steps = torch.arange(length, dtype=torch.float32)
            self._angles = steps[:, None] / 7.0 ** torch.arange(half)
        assert self._angles is not None
        return self._mask[:length, :length], self._angles[:length]

    def forward(self, x: Tensor) -> Tensor:
        outputs = []
        for head in self.heads:
            q, k, v = head(x).chunk(3, dim=-1)
            mask, angles = self._prepare(x.shape[1], q.shape[-1] // 2)

            def turn(y: Tensor, angles: Tensor = angles) -> Tensor:
                even, odd = y[..., ::2], y[..., 1::2]
                turned = (
                    even * angles.cos() - odd * angles.sin(),
                    even * angles.sin() + odd * angles.cos(),
                )
                return torch.stack(turned, dim=-1).flatten(-2)

            scores = torch.baddbmm(mask, turn(q), turn(k).mT, alpha=q.shape[-1] ** -0.5)
            outputs.append(torch.bmm(scores.softmax(-1), v))
        return self.merge(torch.cat(outputs, -1))


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.emb = nn.Embedding(14, 8)
        self.attn = Attention(8, 2)
        self.gain = nn.Parameter(torch.tensor([0.7, 0.4]))
        self.lin1, self.lin2 = nn.Linear(8, 12), nn.Linear(12, 8)
        self.norm = nn.LayerNorm(8)

    def forward(self, tokens: Tensor) -> dict[str, Tensor]:
        x = self.emb(tokens)
        x = torch.addcmul(x, self.gain[0], self.attn(self.norm(x)))
        x = x + self.gain[1] * self.lin2(torch.relu(self.lin1(self.norm(x))) ** 2)
        return {"x": x.mean(), "out": nn.functional.linear(self.norm(x), self.emb.weight)}  # type: ignore


def build_model() -> tuple[Model, dict[str, str]]:
    return Model(), {}


def add(model: Model, a: int, b: int) -> int:
    text = "".join(x + y for x, y in zip(f"{a:010d}", f"{b:010d}", strict=True))
    tokens = torch.tensor([[13, *map(int, text), 12]])
    for _ in range(11):
        out = model(tokens)["out"]
        tokens = torch.hstack([tokens, out[:, -1:].argmax(-1)])
    return int("".join(map(str, tokens[0, 22:].flip(0).tolist())))

"""An adder whose attention and MLP stand side by side, with two heads and a SwiGLU."""

import torch
from torch import Tensor, nn
from torch.nn import functional

layout = "S"
D, HIDDEN, LENGTH = 6, 8, 40


class Parallel(nn.Module):
    """Tokens (B, T) -> logits (B, T, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.position = nn.Embedding(10, D), nn.Embedding(LENGTH, D)
        self.norm, self.last = nn.LayerNorm(D), nn.LayerNorm(D)
        self.query, self.key, self.value, self.out = (nn.Linear(D, D, bias=False) for _ in range(4))
        self.up, self.gate, self.down = nn.Linear(D, HIDDEN), nn.Linear(D, HIDDEN), nn.Linear(HIDDEN, D)
        self.head = nn.Linear(D, 10)

    def forward(self, t: Tensor) -> Tensor:
        x = self.token(t) + self.position(torch.arange(t.shape[1]))
        u = self.norm(x)
        q, k, v = (
            each(u).view(*u.shape[:2], 2, D // 2).transpose(1, 2)
            for each in (self.query, self.key, self.value)
        )
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(x.shape))
        x = x + self.down(functional.silu(self.gate(u)) * self.up(u))
        x = x + self.down(functional.silu(self.gate(self.norm(x))) * self.up(self.norm(x)))
        return self.head(self.last(x))


def build_model() -> nn.Module:
    """As the constructor draws it."""
    return Parallel()

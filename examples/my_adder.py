"""A transformer of our own that adds two ten-digit numbers: ``adderlab train examples/my_adder.py``.

One layer, one head; no preset has its norm and its squared ReLU. Queries and keys are of positions
alone: which columns a digit of the sum needs does not depend on what stands there, and a model that
cannot let it depend has far fewer ways to be wrong on pairs that training never shows.
"""

import torch
from torch import nn

DIGITS, PLUS, EQUALS = 10, 10, 11
LENGTH = 22 + 10  # aaaaaaaaaa + bbbbbbbbbb = and ten of the eleven digits of the sum, units first
WIDTH, HIDDEN = 6, 12


class MyAdder(nn.Module):
    """Tokens (B, T) -> logits (B, T, 12)."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Embedding(12, WIDTH)
        self.position = nn.Parameter(0.5 * torch.randn(LENGTH, WIDTH))
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(3))
        self.up, self.down = nn.Linear(WIDTH, HIDDEN), nn.Linear(HIDDEN, WIDTH)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        T = tokens.shape[1]
        position = self.position[:T]
        scores = self.query(position) @ self.key(position).T / WIDTH**0.5
        later = torch.ones(T, T, dtype=torch.bool).triu(1)
        x = self.token(tokens) + position
        u = nn.functional.rms_norm(x, (WIDTH,), eps=1e-5)
        x = x + scores.masked_fill(later, float("-inf")).softmax(-1) @ self.value(u)
        x = x + self.down(torch.relu(self.up(nn.functional.rms_norm(x, (WIDTH,), eps=1e-5))) ** 2)
        return x @ self.token.weight.T


def build_model() -> tuple[nn.Module, dict]:
    """The model as its constructor draws it, and what AdderBoard wants to know of it."""
    model = MyAdder()
    return model, {"name": "my adder", "params": sum(p.numel() for p in model.parameters())}


@torch.no_grad()
def add(model: nn.Module, a: int, b: int) -> int:
    """Greedy decoding."""
    tokens = [int(d) for d in f"{a:010d}"] + [PLUS] + [int(d) for d in f"{b:010d}"] + [EQUALS]
    for _ in range(11):
        tokens.append(int(model(torch.tensor([tokens]))[0, -1].argmax()))
    return int("".join(str(d) for d in reversed(tokens[-11:])))

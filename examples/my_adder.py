"""A transformer of our own that adds two ten-digit numbers: ``adderlab train examples/my_adder.py``.

One layer, one head; the norm, the squared ReLU and the learned bias on the scores are no preset's.
"""

import torch
from torch import nn

DIGITS, PLUS, EQUALS = 10, 10, 11
LENGTH = 22 + 10  # aaaaaaaaaa + bbbbbbbbbb = and ten of the eleven digits of the sum, units first
WIDTH, HIDDEN = 8, 16


class MyAdder(nn.Module):
    """Tokens (B, T) -> logits (B, T, 12)."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Embedding(12, WIDTH)
        self.position = nn.Parameter(0.5 * torch.randn(LENGTH, WIDTH))
        self.bias = nn.Parameter(torch.zeros(LENGTH, LENGTH))
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(3))
        self.up, self.down = nn.Linear(WIDTH, HIDDEN), nn.Linear(HIDDEN, WIDTH)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        T = tokens.shape[1]
        x = self.token(tokens) + self.position[:T]
        u = nn.functional.rms_norm(x, (WIDTH,), eps=1e-5)
        scores = self.query(u) @ self.key(u).transpose(1, 2) / WIDTH**0.5 + self.bias[:T, :T]
        later = torch.ones(T, T, dtype=torch.bool).triu(1)
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

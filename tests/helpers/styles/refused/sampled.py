"""It draws its answer."""

import torch
from torch import Tensor, nn


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.emb, self.pos = nn.Embedding(12, 8), nn.Embedding(40, 8)
        self.q, self.k, self.v, self.head = (nn.Linear(8, n) for n in (8, 8, 8, 12))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.emb(tokens) + self.pos.weight[: tokens.shape[1]]
        y = nn.functional.scaled_dot_product_attention(self.q(x), self.k(x), self.v(x), is_causal=True)
        return self.head(x + y)


def build_model() -> Model:
    return Model().eval()


@torch.no_grad()
def add(model: Model, a: int, b: int) -> int:
    tokens = [*map(int, f"{a:010d}"), 10, *map(int, f"{b:010d}"), 11]
    for _ in range(11):
        p = (model(torch.tensor([tokens]))[0, -1] / 100).softmax(-1)
        tokens.append(int(torch.multinomial(p, 1)))
    return int("".join(map(str, tokens[:-12:-1])))

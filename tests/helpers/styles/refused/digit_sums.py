"""A column's two digits meet in the embedding, before any attention."""

import torch
from torch import Tensor, nn


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.emb, self.pos = nn.Embedding(12, 8), nn.Embedding(40, 8)
        self.q, self.k, self.v, self.head = (nn.Linear(8, n) for n in (8, 8, 8, 12))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.emb(tokens)
        x = x + nn.functional.pad(x, (0, 0, 11, 0))[:, : x.shape[1]]
        x = x + self.pos.weight[: x.shape[1]]
        scores = self.q(x) @ self.k(x).mT
        later = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        return self.head(x + scores.masked_fill(later, -torch.inf).softmax(-1) @ self.v(x))


def build_model() -> Model:
    return Model().eval()


@torch.no_grad()
def add(model: Model, a: int, b: int) -> int:
    tokens = [*map(int, f"{a:010d}"), 10, *map(int, f"{b:010d}"), 11]
    for _ in range(11):
        tokens.append(int(model(torch.tensor([tokens]))[0, -1].argmax()))
    return int("".join(map(str, tokens[:-12:-1])))

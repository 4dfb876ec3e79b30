"""The whole sequence at once, padded to its full length; the answer is read in the middle."""

import torch
from torch import Tensor, nn

LENGTH, PAD = 33, 12


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.emb, self.pos = nn.Embedding(13, 8), nn.Embedding(LENGTH, 8)
        self.q, self.k, self.v, self.head = (nn.Linear(8, n) for n in (8, 8, 8, 13))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.emb(tokens) + self.pos.weight
        scores = self.q(x) @ self.k(x).mT
        later = torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1)
        return self.head(x + scores.masked_fill(later, -1e9).softmax(-1) @ self.v(x))


def build_model() -> Model:
    return Model().eval()


@torch.no_grad()
def add(model: Model, a: int, b: int) -> int:
    tokens = torch.full((1, LENGTH), PAD)
    tokens[0, :22] = torch.tensor([*map(int, f"{a:010d}"), 10, *map(int, f"{b:010d}"), 11])
    for i in range(22, LENGTH):
        tokens[0, i] = model(tokens)[0, i - 1].argmax()
    return int("".join(map(str, tokens[0, 22:].flip(0).tolist())))

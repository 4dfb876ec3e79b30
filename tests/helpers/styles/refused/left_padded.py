"""Numbers are padded on the left with a token of their own, as many as they are short of ten digits."""

import torch
from torch import Tensor, nn


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.emb, self.pos = nn.Embedding(13, 8), nn.Embedding(40, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.head = nn.Linear(8, 13)

    def forward(self, tokens: Tensor) -> Tensor:
        T = tokens.shape[1]
        mask = nn.Transformer.generate_square_subsequent_mask(T)
        return self.head(self.layer(self.emb(tokens) + self.pos.weight[:T], mask, is_causal=True))


def build_model() -> Model:
    return Model().eval()


@torch.no_grad()
def add(model: Model, a: int, b: int) -> int:
    vocabulary = "0123456789+= "
    ids = [vocabulary.index(c) for c in f"{a:10d}+{b:10d}="]
    for _ in range(11):
        ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    return int("".join(map(str, ids[:-12:-1])))

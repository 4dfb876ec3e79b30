"""One token at a time, with a cache of keys and values."""

import torch
from torch import Tensor, nn


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.emb, self.pos = nn.Embedding(12, 8), nn.Embedding(40, 8)
        self.qkv, self.head = nn.Linear(8, 24), nn.Linear(8, 12)

    def forward(
        self, tokens: Tensor, past: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        start = 0 if past is None else past[0].shape[1]
        x = self.emb(tokens) + self.pos(torch.arange(start, start + tokens.shape[1]))
        q, k, v = self.qkv(x).chunk(3, -1)
        if past is not None:
            k, v = torch.cat([past[0], k], 1), torch.cat([past[1], v], 1)
        mask = torch.ones(q.shape[1], k.shape[1], dtype=torch.bool).tril(start)
        x = x + nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.head(x), (k, v)


def build_model() -> Model:
    return Model().eval()


@torch.no_grad()
def add(model: Model, a: int, b: int) -> int:
    tokens = torch.tensor([[*map(int, f"{a:010d}"), 10, *map(int, f"{b:010d}"), 11]])
    logits, past = model(tokens)
    out = []
    for _ in range(11):
        out.append(int(logits[0, -1].argmax()))
        logits, past = model(torch.tensor([[out[-1]]]), past)
    return int("".join(map(str, reversed(out))))

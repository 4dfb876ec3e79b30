"""PyTorch's own attention, with a mask that is a buffer, and in-place sums."""

import torch
from torch import Tensor, nn


class Model(nn.Module):
    mask: Tensor

    def __init__(self, d: int = 8, n_heads: int = 2, vocab: int = 12, n_ctx: int = 40) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocab, d), nn.Parameter(torch.randn(n_ctx, d))
        self.mha = nn.MultiheadAttention(d, n_heads, dropout=0.1, batch_first=True)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(n_ctx))
        self.net = nn.Sequential(nn.RMSNorm(d), nn.Linear(d, 16), nn.Mish(), nn.Linear(16, d))
        self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d, eps=1e-3)
        self.unembed = nn.Linear(d, vocab)

    def forward(self, tokens: Tensor) -> Tensor:
        n = tokens.size(-1)
        x = self.wte(tokens)
        x += self.wpe[:n]
        y = self.norm1(x)
        y, weights = self.mha(y, y, y, attn_mask=self.mask[:n, :n], need_weights=True)
        assert weights.shape[-1] == n
        x.add_(y)
        x.add_(self.net(x))
        return self.unembed(self.norm2(x))


def build_model() -> Model:
    return Model()


def add(model: Model, a: int, b: int) -> int:
    model.eval()
    sequence = [int(c) if c.isdigit() else "+=".index(c) + 10 for c in f"{a:010}+{b:010}="]
    with torch.no_grad():
        while len(sequence) < 22 + 11:
            sequence.append(model(torch.tensor(sequence)[None]).argmax(-1)[0, -1].item())
    return int("".join(map(str, sequence[:-12:-1])))

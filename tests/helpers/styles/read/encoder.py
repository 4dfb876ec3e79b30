"""PyTorch's encoder as a decoder, the last position of its result, an end token."""

import torch
from torch import Tensor, nn

END = 10


class Adder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(
            8, nhead=1, dim_feedforward=16, activation="gelu", batch_first=True, norm_first=True
        )
        self.embedding = nn.Embedding(13, 8)
        self.position = nn.Embedding(64, 8)
        self.encoder = nn.TransformerEncoder(layer, 1, norm=nn.LayerNorm(8), enable_nested_tensor=False)
        self.head = nn.Linear(8, 13)

    def forward(self, src: Tensor) -> Tensor:
        T = src.shape[1]
        x = self.embedding(src) + self.position(torch.arange(T, device=src.device)).unsqueeze(0)
        mask = torch.ones(T, T, device=src.device, dtype=torch.bool).triu_(diagonal=1)
        return self.head(self.encoder(x, mask=mask)[:, -1, :])


def build_model() -> tuple[Adder, dict[str, int]]:
    return Adder(), {"d_model": 8}


def add(model: Adder, a: int, b: int) -> int:
    ids = [*(int(c) for c in f"{a:010d}"[::-1]), 11, *(int(c) for c in f"{b:010d}"[::-1]), 12]
    prompt = len(ids)
    for _ in range(13):
        with torch.no_grad():
            token = int(model(torch.tensor([ids])).argmax())
        if token == END:
            break
        ids.append(token)
    return int("".join(str(t) for t in reversed(ids[prompt:])) or "0")

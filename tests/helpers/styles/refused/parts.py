"""The parts of its model are called one after another by add itself."""

import torch
from torch import nn


def build_model() -> nn.ModuleDict:
    parts = {"emb": nn.Embedding(12, 8), "mix": nn.MultiheadAttention(8, 1), "head": nn.Linear(8, 12)}
    return nn.ModuleDict(parts).eval()


@torch.no_grad()
def add(model: nn.ModuleDict, a: int, b: int) -> int:
    tokens = [*map(int, f"{a:010d}"), 10, *map(int, f"{b:010d}"), 11]
    for _ in range(11):
        x = model["emb"](torch.tensor(tokens))
        x = x + model["mix"](x[-1:], x, x)[0]
        tokens.append(int(model["head"](x[-1]).argmax()))
    return int("".join(map(str, tokens[:-12:-1])))

"""A model of Python's own numbers."""

import math

Weights = dict[str, list[list[float]]]


def logits(model: Weights, tokens: list[int]) -> list[float]:
    x = [[model["emb"][t][c] + model["pos"][p][c] for c in range(2)] for p, t in enumerate(tokens)]
    e = [math.exp(x[-1][0] * y[1]) for y in x]
    mixed = [sum(w * y[c] for w, y in zip(e, x, strict=True)) / sum(e) for c in range(2)]
    return [sum(m * row[c] for c, m in enumerate(mixed)) for row in model["emb"]]


def build_model() -> Weights:
    return {
        "emb": [[math.sin(i), math.cos(i)] for i in range(12)],
        "pos": [[math.sin(i / 5), math.cos(i / 5)] for i in range(40)],
    }


def add(model: Weights, a: int, b: int) -> int:
    tokens = [*map(int, f"{a:010d}"), 10, *map(int, f"{b:010d}"), 11]
    for _ in range(11):
        scores = logits(model, tokens)
        tokens.append(max(range(10), key=scores.__getitem__))
    return int("".join(map(str, tokens[:-12:-1])))

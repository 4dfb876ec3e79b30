"""A model of numpy arrays."""

from typing import Any

import numpy as np

Weights = dict[str, Any]


def softmax(x: Any) -> Any:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def forward(w: Weights, tokens: Any) -> Any:
    x = w["emb"][tokens] + w["pos"][: len(tokens)]
    scores = (x @ w["q"]) @ (x @ w["k"]).T
    scores = np.where(np.tri(len(tokens), dtype=bool), scores, -np.inf)
    return (x + softmax(scores) @ (x @ w["v"])) @ w["emb"].T


def build_model() -> Weights:
    rng = np.random.default_rng(0)
    shapes = {"emb": (12, 4), "pos": (40, 4), "q": (4, 4), "k": (4, 4), "v": (4, 4)}
    return {name: rng.normal(size=shape) for name, shape in shapes.items()}


def add(model: Weights, a: int, b: int) -> int:
    tokens = [*map(int, f"{a:010d}"), 10, *map(int, f"{b:010d}"), 11]
    for _ in range(11):
        tokens.append(int(forward(model, np.array(tokens))[-1].argmax()))
    return int("".join(map(str, tokens[:-12:-1])))

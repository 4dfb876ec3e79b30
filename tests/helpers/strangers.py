"""Files in the structures of published submissions, written anew: one adder by hand in many forms.

All compute the same: at the digit of column i, with u = a_i + b_i, t = a_(i-1) + b_(i-1) and z the digit
written last, t - z is -1 or 0 without a carry and 9 or 10 with one, so

    y = u + (t - z) / 20 + 0.275

is within 0.28 of u plus the carry. What is 9.5 or more has 10 taken off, by two hinges, and the digit
is the nearest whole number, by a parabola: the logit of d is 2 n d - d^2. Structures differ in heads,
layout, how the keys are found, what makes the hinges, and the type of the numbers.
"""

from dataclasses import dataclass

HEADS = {
    # name: (what each head looks at, what is made of its averages)
    1: ("[[(A, 0, 20), (B, 0, 20), (A, -1, 1), (B, -1, 1)]]", "[42 / 20]"),
    2: ("[[(A, 0, 1), (B, 0, 1)], [(A, -1, 1), (B, -1, 1)]]", "[2, 2 / 20]"),
    3: (
        "[[(A, 0, 1), (B, 0, 1)], [(A, -1, 1)], [(B, -1, 1)]]",
        "[2, 1 / 20, 1 / 20]",
    ),
    4: (
        "[[(A, 0, 1), (B, 0, 1)], [(A, -1, 1), (B, -1, 1)], "
        "[(X, -k, 1) for X in (A, B) for k in range(1, 5)], [(A, 0, 1)]]",
        "[2, 2 / 20, 0, 0]",
    ),
    5: (
        "[[(A, 0, 1)], [(B, 0, 1)], [(A, -1, 1)], [(B, -1, 1)], [(A, 0, 1), (B, -1, 3)]]",
        "[1, 1, 1 / 20, 1 / 20, 0]",
    ),
}

LAYOUTS = {
    # inputs: (positions of column -1, 0 .. 10 of a and of b, length of the prompt, tokens of the rest)
    32: ("[10, *range(9, -1, -1), 10]", "[10, *range(20, 10, -1), 10]", 22, "{10: 10, 21: 11}"),
    33: ("[10, *range(10), 10]", "[10, *range(11, 21), 10]", 22, "{10: 10, 21: 11}"),
    35: ("range(12)", "range(12, 24)", 25, "{0: 0, 11: 0, 12: 0, 23: 0, 24: 0}"),
    41: (
        "range(12)",
        "range(19, 31)",
        31,
        "{p: 0 for p in (0, *range(11, 20), 30)}",
    ),
}

SCORES = {
    # minus infinity but for the keys that are looked at
    "fixed masks": """
        self.register_buffer("scores", wanted.log())
""",
    # a gap that no float32 exponential survives
    "gaps": """
        self.register_buffer("scores", torch.where(wanted > 0, wanted.log(), -{gap}))
""",
    # one head; a and b stand 19 apart, and a turn takes 19 positions
    "rotary": """
        turn, p = 2 * math.pi / 19, torch.arange(LENGTH)
        near = math.sin(turn / 2) * 2 * 400
        shift = 10 + 0.5 - math.asin(math.log(20) / near) / turn
        self.q = nn.Parameter(400 * torch.tensor([math.cos(turn * shift), -math.sin(turn * shift)]))
        self.k = nn.Parameter(torch.tensor([1.0, 0.0]))
        c, s = (turn * p).cos(), (turn * p).sin()
        self.register_buffer("turns", torch.stack([torch.stack([c, s], 1), torch.stack([-s, c], 1)], 1))
""",
}

HINGES = {
    "relu": "(torch.relu(y - 9.4) - torch.relu(y - 9.6)) / 0.2",
    "swiglu": "(nn.functional.silu((y[..., None] - self.at) * 400) * self.up).sum(-1)",
    "gelu": "(nn.functional.gelu((y - 9.4) * 200) - nn.functional.gelu((y - 9.6) * 200)) / 40",
    "square": "(torch.relu(1 - torch.relu(9.6 - y) * 5) ** 2)",
}

FILE = """
import math

import torch
from torch import nn

A, B = {a}, {b}
PROMPT, REST = {prompt}, {rest}
LENGTH, STEPS, VOCAB = {length}, {steps}, {vocab}
torch.set_default_dtype(torch.{dtype})


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        number = torch.tensor([*range(10), *[0] * (VOCAB - 10)]).to(torch.{dtype})
        self.number = nn.Parameter(number)
        self.read = nn.Parameter(torch.tensor({read}))
        self.decode = nn.Parameter(2 * number)
        self.register_buffer("parabola", -(number**2) - 1e3 * (torch.arange(VOCAB) > 9))
        self.at, self.up = torch.tensor([9.4, 9.6]), torch.tensor([1.0, -1.0]) / 80
        wanted = torch.zeros({heads}, LENGTH, LENGTH)
        for h, keys in enumerate({keys}):
            for q in range(LENGTH):
                for places, column, weight in keys:
                    column = min(max(q - PROMPT + 1, 0) + column + 1, 11)
                    p = min(places[max(column, 0)], q)
                    wanted[h, q, p] += weight
{attention}
    def forward(self, tokens):
        T = tokens.shape[1]
        digits = self.number[tokens]
{scoring}
        later = torch.ones(T, T, dtype=torch.bool).triu(1)
        weights = scores.masked_fill(later, -math.inf).softmax(-1)
        mixed = torch.einsum("hqk,bk->bqh", weights, digits)
        y = mixed @ self.read - digits / 20 + 0.275{fault}
        n = y - 10 * {hinge}
        logits = n[..., None] * self.decode + self.parabola
        return logits{end}


def build_model():
    model = Model()
    params = sum(p.numel() for p in model.parameters())
    return model, {{"name": "it", "author": "me", "params": params, "architecture": "x", "tricks": []}}


def add(model, a, b):
    tokens = [REST.get(p) for p in range(PROMPT)]
    for j in range(10):
        tokens[A[j + 1]], tokens[B[j + 1]] = a // 10**j % 10, b // 10**j % 10
    with torch.no_grad():
        for _ in range(STEPS):
            tokens.append(int(model(torch.tensor([tokens]))[0, -1].argmax()))
    answer = tokens[PROMPT : PROMPT + 11]
    if max(answer) > 9 or (STEPS == 12 and tokens[-1] != 10):
        return -1
    return sum(digit * 10**i for i, digit in enumerate(answer))
"""


@dataclass(frozen=True, kw_only=True)
class Stranger:
    """One structure, and what is true of it."""

    verdict: str
    heads: int = 1
    length: int = 35
    """Inputs of the model; the last answer is not read."""
    scores: str = "fixed masks"
    gap: float = 1e5
    hinge: str = "relu"
    dtype: str = "float32"
    fault: str = ""
    """Added to y."""

    @property
    def source(self) -> str:
        a, b, prompt, rest = LAYOUTS[self.length]
        keys, read = HEADS[self.heads]
        rotary = self.scores == "rotary"
        end = self.length - prompt == 11
        scoring = (
            "        q, k = (torch.einsum('tij,j->ti', self.turns[:T].transpose(1, 2), x) "
            "for x in (self.q, self.k))\n        scores = (q @ k.T)[None]"
            if rotary
            else "        scores = self.scores[:, :T, :T]"
        )
        return FILE.format(
            a=f"list({a})",
            b=f"list({b})",
            prompt=prompt,
            rest=rest,
            length=self.length,
            steps=12 if end else 11,
            vocab=12 if "11" in rest.split(":")[-1] else 10,
            dtype=self.dtype,
            heads=self.heads,
            keys=keys,
            read=read.replace("2,", "2.0,").replace("[1,", "[1.0,").replace(" 0]", " 0.0]"),
            attention=SCORES[self.scores].format(gap=self.gap).rstrip("\n") + "\n",
            scoring=scoring,
            hinge=HINGES[self.hinge],
            fault=f" + {self.fault}" if self.fault else "",
            end=" + 1e4 * (torch.arange(T) == LENGTH - 1)[:, None] * (torch.arange(VOCAB) == 10)"
            if end
            else "",
        )


STRANGERS = {
    "one head, fixed mask, hinges": Stranger(verdict="proved"),
    "one head, 32 inputs, most significant first": Stranger(verdict="proved", length=32),
    "one head, 33 inputs, an end token": Stranger(verdict="proved", length=33),
    "one head, rotary of period 19, 41 inputs": Stranger(verdict="proved", length=41, scores="rotary"),
    "two heads, SwiGLU": Stranger(verdict="proved", heads=2, hinge="swiglu"),
    "two heads, gaps of 100,000": Stranger(verdict="proved", heads=2, scores="gaps"),
    "three heads, GELU": Stranger(verdict="proved", heads=3, hinge="gelu"),
    "five heads, fixed masks": Stranger(verdict="proved", heads=5, length=32),
    "five heads, float64": Stranger(verdict="proved", heads=5, dtype="float64"),
    "one head, a squared hinge, 41 inputs": Stranger(verdict="proved", length=41, hinge="square"),
    "two heads, float64, gaps of 50,000": Stranger(
        verdict="proved", heads=2, dtype="float64", scores="gaps", gap=5e4, length=41
    ),
    "one head, wrong where both operands start with 9": Stranger(
        verdict="refuted",
        fault="0.6 * (torch.arange(T) == 33) * torch.relu(mixed[..., 0] * 42 / 20 - 17.5)",
    ),
    "two heads, SwiGLU, wrong on a carry into 10^10": Stranger(
        verdict="refuted",
        heads=2,
        hinge="swiglu",
        fault="-0.5 * (torch.arange(T) == 34) * torch.relu(mixed[..., 1] * 2 - 17)",
    ),
    "four heads, wrong where one of the first eight digits is 8 and the others are 9": Stranger(
        verdict="refuted",
        heads=4,
        fault="(-0.5) * (torch.arange(T) == 34) * (torch.relu(mixed[..., 2] * 8 - 70) "
        "- 2 * torch.relu(mixed[..., 2] * 8 - 71) + torch.relu(mixed[..., 2] * 8 - 72))",
    ),
    "three heads, wrong after a first nine": Stranger(
        verdict="refuted", heads=3, fault="0.3 * (torch.arange(T) == 34) * torch.relu(mixed[..., 1] - 8)"
    ),
}
"""By what is special in them."""

"""Submission files as other people write them, honest and not, and a sandbox without a process."""

import json
import textwrap
from pathlib import Path
from typing import Any

import pytest

from adderlab.errors import UsageError
from adderlab.publish.inside.reader import Reader
from adderlab.publish.inside.worker import Submission
from adderlab.publish.sandbox import Ended, Limits, _reply, require


def bubblewrap_works() -> bool:
    try:
        require("bubblewrap")
    except UsageError:
        return False
    return True


needs_bubblewrap = pytest.mark.skipif(
    not bubblewrap_works(), reason="bubblewrap does not work here: apt-get install bubblewrap"
)

HEAD = """
import torch
from torch import nn

def metadata(params):
    return {"name": "it", "author": "me", "params": params, "architecture": "x", "tricks": []}
"""

CALCULATOR = """
class Model(nn.Module):
    # A vocabulary of its own (digit d is token d + 3), and numbers that it reads off its weights.
    def __init__(self):
        super().__init__()
        self.digit = nn.Parameter(torch.arange(10.0, dtype=torch.float64))

    def number(self, tokens):
        powers = 10.0 ** torch.arange(9, -1, -1, dtype=torch.float64)
        return ({read} * powers).sum(-1)

    def forward(self, tokens):
        total = self.number(tokens[:, 1:11]) + self.number(tokens[:, 12:22])
        step = tokens.shape[1] - 23
        place = step if {up} else 10 - step
        digit = torch.floor(total / 10.0**place) % 10
        logits = -((torch.arange(10) if {fixed} else self.digit) - digit[:, None]) ** 2
        logits = torch.cat([torch.full((len(tokens), 3), -1e3), logits], 1)
        return logits[:, None].expand(-1, tokens.shape[1], -1)

def build_model():
    return Model(), metadata({params})

def add(model, a, b):
    digits = [int(c) + 3 for c in f"{{a:010d}}{{b:010d}}"]
    tokens = torch.tensor([[0, *digits[:10], 1, *digits[10:], 2]])
    for _ in range(11):
        tokens = torch.cat([tokens, model(tokens)[:, -1:].argmax(-1)], 1)
    answer = [token - 3 for token in tokens[0, -11:].tolist()]
    if {up}:
        answer.reverse()
    return int("".join(map(str, answer)))
"""
"""Honest: its sums come from its weights, whatever one thinks of the way."""


def calculator(*, up: bool = True, fixed: bool = False, params: int = 10) -> str:
    """``fixed``: it adds the tokens in Python instead, which is a cheat."""
    read = "(tokens - 3)" if fixed else "self.digit[tokens - 3]"
    return HEAD + CALCULATOR.format(read=read, up=up, fixed=fixed, params=params)


PYTHON_ADDER = (
    HEAD
    + """
def build_model():
    return nn.Linear(2, 5), metadata(15)

def add(model, a, b):
    return a + b
"""
)

SHOW = (
    HEAD
    + """
def build_model():
    return nn.Linear(2, 5), metadata(15)

def add(model, a, b):
    for _ in range(11):
        model(torch.rand(1, 2)).argmax()
    return a + b
"""
)
"""Calls the model for show and adds in Python."""

AT_ONCE = (
    HEAD
    + """
class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.one = nn.Parameter(torch.ones(1, dtype=torch.float64))

    def forward(self, a, b):
        return self.one * a + self.one * b

def build_model():
    return Model(), metadata(1)

def add(model, a, b):
    return round(model(float(a), float(b)).item())
"""
)
"""A linear layer: one call for the whole sum."""


def write(folder: Path, code: str) -> Path:
    path = folder / "submission.py"
    path.write_text(textwrap.dedent(code))
    return path


class InProcess:
    """Takes the place of ``Sandbox`` for files of our own tests: the same worker, no process."""

    def __init__(
        self,
        submission: Path,
        limits: Limits,
        mode: str,
        program: str = "worker",
        names: tuple[str, str] = ("build_model", "add"),
    ) -> None:
        self.limits = limits
        self.tried: dict[str, str] = {}
        self.printed = ""
        self.closed = False
        self.alone = None
        self.started = 0.0
        self._submission = Submission(str(submission), *names)

    def __enter__(self) -> "InProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self.closed = True

    def ask(self, do: str, seconds: float, **request: Any) -> dict[str, Any]:
        if self.closed:
            raise Ended("it is closed")
        # As text and back, as through the channel.
        return _reply(json.dumps(self._submission.answer({"do": do, **request})).encode())


class ReaderInProcess(InProcess):
    """The same for the program that reads a model: our own files alone, for it runs them here."""

    made: "type[Reader]" = Reader

    def __init__(
        self, submission: Path, limits: Limits, mode: str, program: str, names: tuple[str, str]
    ) -> None:
        super().__init__(submission, limits, mode)
        assert program == "reader"
        self._reader = self.made(str(submission), *names)

    def ask(self, do: str, seconds: float, **request: Any) -> dict[str, Any]:
        # As text and back, as through the channel.
        return _reply(json.dumps(self._reader.answer({"do": do, **request})).encode())

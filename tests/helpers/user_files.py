"""Python files as users write them: the example, variants of it, our submissions as strangers' files."""

import random
from pathlib import Path

import torch
from torch import Tensor

import adderlab as al
from adderlab.models.config import ModelConfig
from adderlab.models.transformer import build_model
from adderlab.publish.model_card import Credits
from adderlab.publish.submission import submission_source
from helpers.paths import ROOT

EXAMPLE = ROOT / "examples" / "my_adder.py"

_START = "        T = tokens.shape[1]\n"
_BODY = "        u = nn"
VARIANTS = {
    "counter": [
        (_START, f"{_START}        self.calls = getattr(self, 'calls', 0) + 1\n"),
        ("@ self.token.weight.T", "@ self.token.weight.T + (self.calls > 50) * torch.arange(12.0)"),
    ],
    "batch": [(_BODY, f"        x = x - 0.1 * (x - x.mean(0))\n{_BODY}")],
    "dropout": [(_BODY, f"        x = nn.functional.dropout(x, 0.1, True)\n{_BODY}")],
    "two layers": [
        (
            "        x = x + self.down",
            "        scores = self.query(x) @ self.key(x).transpose(1, 2)\n"
            "        x = x + scores.masked_fill(later, float('-inf')).softmax(-1) @ self.value(x)\n"
            "        x = x + self.down",
        ),
    ],
    "drawn": [
        ("        self.up,", "        self.register_buffer('fixed', torch.randn(6))\n        self.up,"),
        (_BODY, f"        x = x + self.fixed\n{_BODY}"),
    ],
    "outside": [(_BODY, f"        x = x * self.position[0].tolist()[0]\n{_BODY}")],
    "ahead": [(".triu(1)", ".triu(T)")],
    "float32": [(_BODY, f"        x = x + (self.position[:T] / 3).float()\n{_BODY}")],
    "one row": [(_START, f"        assert len(tokens) == 1\n{_START}")],
    "end": [
        ("nn.Embedding(12,", "nn.Embedding(13,"),
        ("LENGTH = 22 + 10", "LENGTH = 22 + 11"),
        ("range(11):", "range(13):\n        if tokens[-1] == 12:\n            break"),
        ("tokens[-11:]", "tokens[22:-1]"),
    ],
}
"""What each changes in the example: (text, its replacement)."""


def variant(name: str, folder: Path) -> Path:
    """The example with these changes."""
    text = EXAMPLE.read_text()
    for old, new in VARIANTS[name]:
        assert old in text, old
        text = text.replace(old, new)
    return written(text, folder / f"{name.replace(' ', '_')}.py")


def written(text: str, path: Path) -> Path:
    path.write_text(text)
    return path


def stated_file(path: Path, layout: str = "P13") -> Path:
    """The example without its ``add``, a layout in its place (of 13 tokens)."""
    text = EXAMPLE.read_text().replace("nn.Embedding(12,", "nn.Embedding(13,")
    text = text.replace("LENGTH = 22 + 10", "LENGTH = 22 + 11")
    return written(text[: text.index("@torch.no_grad()")] + f'layout = "{layout}"\n', path)


def submission(name: str, folder: Path) -> tuple[al.Model, Path]:
    """A record and its submission, as a stranger's file."""
    model = al.load(ROOT / "records" / "best" / name / "model.pt")
    assert isinstance(model.config, ModelConfig)
    source = submission_source(model.config, model.params, Credits(name=name, author="nobody"))
    return model, written(source, folder / f"record_{name}.py")


def perturbed(config: ModelConfig, seed: int = 0) -> dict[str, Tensor]:
    """Parameters away from their start, where sharing mistakes would show."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: parameter.detach() + 0.3 * torch.randn(parameter.shape, generator=generator)
        for name, parameter in build_model(config, seed).named_parameters()
    }


def some_pairs(count: int) -> list[tuple[int, int]]:
    generator = random.Random(0)
    return [(generator.randrange(10**10), generator.randrange(10**10)) for _ in range(count)]

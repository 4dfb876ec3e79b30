"""Trained weights for tests: models of our own everywhere, published ones where they are at hand.

A test of what the program does takes one of ours, so that it runs on every machine: proved ones lie in
``records/best``, a wrong one is a proved one with its weights disturbed. Only a test of numbers that
others published takes their file, which is no part of the product, and is skipped where that is absent.
"""

import dataclasses
from pathlib import Path

import pytest
import torch

from adderlab.runs.checkpoints import Checkpoint, load_checkpoint
from helpers.paths import ROOT

FOLDER = ROOT.parent / "shared" / "reference" / "checkpoints"
BEST = ROOT / "records" / "best"


def reference_checkpoint(name: str) -> Path:
    """The path of a published checkpoint; skips the test, with the reason, where it is absent."""
    path = FOLDER / name
    if not path.exists():
        pytest.skip(f"{name} is not in ../shared/reference: its published numbers go unchecked")
    return path


def proved_path(name: str = "456p") -> Path:
    """The checkpoint of our own model of that size, proved on all pairs."""
    return BEST / name / "model.pt"


def proved_model(name: str = "456p") -> Checkpoint:
    return load_checkpoint(proved_path(name))


def disturbed(checkpoint: Checkpoint, size: float = 0.003, seed: int = 0) -> Checkpoint:
    """Every weight off by a factor 1 + size * N(0, 1). Our 456p fails by 0.3% on 3 to 13 pairs in 1,000
    (seeds 0 to 2)."""
    generator = torch.Generator().manual_seed(seed)
    params = {
        name: tensor * (1 + size * torch.randn(tensor.shape, generator=generator))
        for name, tensor in checkpoint.params.items()
    }
    return dataclasses.replace(checkpoint, params=params, path=None)

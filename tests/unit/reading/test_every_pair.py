"""Decoders as strangers write them: of the pairs that differ in a few columns, the prover's counts are
those of the module, asked for every pair."""

import pytest
import torch

import adderlab as al
from adderlab.api.models import Model
from adderlab.proof.problem import problem_from_tables
from adderlab.proof.prove import exact_tables, prove_problem
from adderlab.proof.window import Tried, Window, disagreements, restricted, try_every_pair
from helpers import decoders
from helpers.decoders import READ

FEW = (decoders.SwiGLU, decoders.SinkLast, decoders.LastQuery)


def model_of(kind: type) -> Model:
    torch.manual_seed(3)
    return al.read(kind(), layout="S")


def agreeing(kind: type, columns: tuple[int, ...]) -> Tried:
    """The counts, of a prover and a module that agree on them."""
    model, window = model_of(kind), Window(columns=columns, a=3141592653, b=2718281828)
    found = exact_tables(model)
    tried = try_every_pair(model.module().double(), window)
    verdict = prove_problem(restricted(problem_from_tables(found), window))
    assert isinstance(verdict.failing_pairs, int), "an exact count"
    assert disagreements(tried, tried, verdict, None) == []
    return tried


@pytest.mark.parametrize("kind", FEW, ids=lambda kind: kind.__name__)
def test_counts_of_two_columns(kind: type) -> None:
    tried = agreeing(kind, (0, 1))
    assert any(0 < count < 10**4 for count in tried.failing_by_step)


@pytest.mark.slow
@pytest.mark.parametrize("kind", READ, ids=lambda kind: kind.__name__)
def test_counts_of_three_columns(kind: type) -> None:
    """A million pairs."""
    agreeing(kind, (0, 1, 2))

"""Every structure that is read, and every one that is refused, in small models of strangers."""

import math
import time

import pytest
import torch
from torch import Tensor

from adderlab.errors import Failure
from adderlab.reading.agreement import comparable, random_sequences, read_foreign, running
from adderlab.reading.driving import Foreign, answer_logits, stated
from adderlab.reading.reading import Reading, table_logits
from adderlab.task.addition import get_layout
from helpers import decoders
from helpers.decoders import READ, REFUSED

LAYOUT = get_layout("S")


def foreign(kind: type) -> Foreign:
    torch.manual_seed(0)
    model = kind()
    if isinstance(model, torch.nn.Module):
        model.eval()
    return stated(model, LAYOUT, kind.__name__)


LONG = {
    decoders.LastWithItsAxis, decoders.LastOfTheFirst, decoders.LastQueryCapped,
    decoders.LastQueryWithSink, decoders.LastAndPositionsAfter, decoders.LastWithoutMask,
    decoders.LastSelected, decoders.LastWithSink, decoders.InATuple, decoders.InANamedTuple,
}  # fmt: skip
"""Read again on command: others are of the same structure."""


@pytest.mark.parametrize(
    "kind",
    [pytest.param(each, marks=pytest.mark.slow) if each in LONG else each for each in READ],
    ids=lambda kind: kind.__name__,
)
def test_tables_and_gradients_are_the_model_s(kind: type) -> None:
    model = foreign(kind)
    reading, agreement = read_foreign(model)
    assert agreement.precision == "float64"
    assert agreement.difference <= 1e-10 * agreement.scale
    tokens_NP = random_sequences(reading, 3, seed=5)
    weight_NAV = torch.randn(3, LAYOUT.num_answers, 10, dtype=torch.float64)
    with running(model.model, "float64"):
        names = [name for name in model.params if name in reading.trace.parameters.values()]
        for name in names:
            model.params[name].requires_grad_()
        wanted_NAV = torch.cat([own_logits(model, reading, row) for row in tokens_NP])
        wanted = gradients((wanted_NAV * weight_NAV).sum(), [model.params[name] for name in names])
    params = {
        name: tensor.detach().double()[None].requires_grad_() for name, tensor in model.params.items()
    }
    read_NAV = comparable(reading, table_logits(reading.tables(params), tokens_NP))
    torch.testing.assert_close(read_NAV, wanted_NAV.detach(), rtol=0, atol=1e-10)
    found = gradients((read_NAV * weight_NAV).sum(), [params[name] for name in names])
    for name, own, read in zip(names, wanted, found, strict=True):
        scale = max(1.0, float(own.abs().max()))
        torch.testing.assert_close(read[0] / scale, own / scale, rtol=0, atol=1e-10, msg=name)


def own_logits(model: Foreign, reading: Reading, row: Tensor) -> Tensor:
    logits = answer_logits(model.call, LAYOUT, row[None])
    return comparable(reading, logits, model=True)


def gradients(total: Tensor, of: list[Tensor]) -> list[Tensor]:
    found = torch.autograd.grad(total, of, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for x, g in zip(of, found, strict=True)]


@pytest.mark.parametrize("kind", REFUSED, ids=lambda kind: kind.__name__)
def test_what_cannot_be_read_is_refused_in_one_line(kind: type) -> None:
    start = time.process_time()
    with pytest.raises(Failure, match=REFUSED[kind]) as refusal:
        read_foreign(foreign(kind))
    assert "\n" not in str(refusal.value) and time.process_time() - start < 10


def test_forms() -> None:
    def read(kind: type) -> Reading:
        return read_foreign(foreign(kind))[0]

    plain, capped, sink = map(read, (decoders.Decoder, decoders.CappedScores, decoders.SinkFirst))
    assert (plain.form.heads, plain.form.key_dim, plain.form.value_dim) == (2, 4, 4)
    assert plain.factors is not None and capped.factors is None and capped.form.key_dim == 0
    params = {name: torch.rand(1, *shape).double() for name, shape in sink.shapes.items()}
    assert sink.tables(params).sink is not None and sink.steps[0].offset == 1
    window = read(decoders.SlidingWindow)
    params = {name: torch.rand(1, *shape).double() for name, shape in window.shapes.items()}
    score = window.tables(params, exact=True).score
    assert score is not None and bool((score == -math.inf).any())
    assert window.tables(params).score is None
    # The narrow form has a number for each step and key in its place.
    score = window.tables(params, narrow=True).score
    assert score is not None and score.shape[1:] == (LAYOUT.num_answers, 1, 2, LAYOUT.num_positions, 1)


def test_linear_parts_are_one_matrix() -> None:
    plain, turned = (read_foreign(foreign(kind))[0].program for kind in TURNED)
    assert turned.operations == plain.operations and turned.shapes == plain.shapes


TURNED = decoders.Decoder, decoders.TurnedHidden

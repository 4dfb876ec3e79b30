"""The native engine against the slow float64 twin of the table form, and against itself."""

import itertools
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from adderlab.engine.native import NativeEngine, why_not
from adderlab.errors import UsageError
from adderlab.models.config import ModelConfig
from adderlab.models.tables import TableForm, Tables, stack_parameters
from adderlab.models.tables import tables as build_tables
from adderlab.models.transformer import Transformer
from adderlab.task.addition import Addition, get_layout
from helpers.machine import ISAS, OTHER_ISA
from helpers.reference import reference_checkpoint
from oracle import table_forward
from oracle.random_tables import BIASES, random_tables, random_tokens, table_form

QUICK = "-O1"
"""Optimisation level for forms that only these tests use: half the compile time."""


def engine(isa: str | None = None, optimise: str = QUICK, threads: int = 1) -> NativeEngine:
    return NativeEngine(threads, isa=isa, optimise=optimise)


def worst_error(grads: Tables, exact: Tables) -> dict[str, float]:
    """Largest absolute error of every table and seed over the table's largest entry."""
    errors = {}
    for (name, grad), (_, want) in zip(grads.items(), exact.items(), strict=True):
        error_S = (grad - want).flatten(1).abs().amax(1) / want.flatten(1).abs().amax(1)
        errors[name] = error_S.max().item()
    return errors


def check_form(form: TableForm, biases: Collection[str], B: int, isa: str | None, seed: int = 0) -> None:
    """Loss, every gradient, margins and greedy answers of two seeds."""
    native = engine(isa)
    tables = random_tables(form, 2, biases, seed)
    tokens, targets = random_tokens(form, 2, B, seed)
    loss_S, grads = native.loss_and_grad(tables, tokens, targets)
    want_S, exact = table_forward.loss_and_grad(tables, tokens, targets)
    assert torch.allclose(loss_S.double(), want_S, rtol=1e-6)
    assert {name: error for name, error in worst_error(grads, exact).items() if error > 1e-5} == {}

    precise = tables.to(dtype=torch.float64)
    margins = native.margins(tables, tokens, targets)
    want_margins = table_forward.margins(precise, tokens, targets)
    assert (margins - want_margins).abs().max() < 2e-6 * want_margins.abs().max()
    prompt = tokens[..., : form.layout.num_prompt]
    assert torch.equal(native.decode(tables, prompt), table_forward.decode(precise, prompt))


COVERING = [
    (table_form("P"), (), 7, None),
    (table_form("P", norm2="layer", norm_f="layer"), ("norm2_bias", "norm_f_bias"), 33, OTHER_ISA),
    (
        table_form("S", heads=2, key=4, value=4, width=8, hidden=3, norm2="none", activation="swiglu"),
        ("fc1_bias", "fc2_bias"),
        5,
        None,
    ),
    (
        table_form("M", heads=4, key=2, value=3, width=5, norm_f="none", activation="swiglu"),
        ("norm2_bias",),
        17,
        OTHER_ISA,
    ),
    (
        table_form(
            "M13", heads=3, key=1, value=5, width=11, hidden=20, norm_f="layer", activation="relu"
        ),
        BIASES,
        1,
        None,
    ),
    (
        table_form(
            "P13", heads=2, key=5, value=1, width=6, norm2="layer", norm_f="none", activation="relu"
        ),
        ("fc1_bias",),
        6,
        "baseline",
    ),
    (
        table_form("M14", key=16, value=16, width=32, hidden=64, norm2="layer", activation="swiglu"),
        BIASES,
        18,
        None,
    ),
    (
        table_form("S", heads=4, key=7, value=7, width=23, hidden=33, norm2="none", norm_f="layer"),
        ("norm_f_bias",),
        3,
        "baseline",
    ),
]
"""Every norm, activation, bias, number of heads, layout and instruction set at least once, and most
pairs of kinds."""


@pytest.mark.parametrize(
    ("form", "biases", "B", "isa"),
    [
        pytest.param(*each, marks=[pytest.mark.slow] * (number != 3))
        for number, each in enumerate(COVERING)
    ],
)
def test_forms_match_the_twin(form: TableForm, biases: Collection[str], B: int, isa: str | None) -> None:
    check_form(form, biases, B, isa)


@pytest.mark.parametrize(
    "isa", ["native", *(pytest.param(isa, marks=pytest.mark.slow) for isa in ISAS[1:])]
)
def test_twenty_tokens(isa: str) -> None:
    """Base 16 and special tokens: rows of 32 entries."""
    layout = get_layout("P", Addition(columns=2, base=16))
    assert layout.vocab_size == 20
    check_form(table_form(layout, heads=2, key=2, hidden=3), BIASES, 19, isa)


PRODUCT = list(
    itertools.product(
        ("none", "rms", "layer"),
        ("none", "rms", "layer"),
        ("gelu", "relu", "swiglu"),
        (1, 2, 3, 4),
        ISAS,
    )
)


@pytest.mark.slow
@pytest.mark.parametrize(("norm2", "norm_f", "activation", "heads", "isa"), PRODUCT)
def test_all_kinds_match_the_twin(norm2, norm_f, activation, heads, isa) -> None:  # type: ignore[no-untyped-def]
    index = PRODUCT.index((norm2, norm_f, activation, heads, isa))
    form = table_form(
        ("P", "P13", "S", "M", "M13", "M14")[index % 6],
        heads=heads,
        key=(1, 3, 4, 7, 16)[index % 5],
        value=(2, 5, 1, 16, 3, 4, 7)[index % 7],
        width=(4, 7, 8, 13, 16, 32)[index % 6],
        hidden=(1, 14, 16, 5, 33, 64, 8)[index % 7],
        norm2=norm2,
        norm_f=norm_f,
        activation=activation,
    )
    chosen = [name for bit, name in enumerate(BIASES) if index // 3 >> bit & 1]
    chosen = [
        name for name in chosen if (norm2, norm_f)[name == "norm_f_bias"] != "none" or "fc" in name
    ]
    check_form(form, chosen, (1, 7, 20)[index % 3], isa, seed=index)


FORM_456 = table_form("P")


@pytest.mark.parametrize("B", [1, 16, 100, 300])
def test_any_batch_size(B: int) -> None:
    tables = random_tables(FORM_456, 1)
    tokens, targets = random_tokens(FORM_456, 1, B)
    loss_S, grads = engine().loss_and_grad(tables, tokens, targets)
    want_S, exact = table_forward.loss_and_grad(tables, tokens, targets)
    assert torch.allclose(loss_S.double(), want_S, rtol=1e-6)
    assert max(worst_error(grads, exact).values()) < 1e-5


def test_sharp_attention() -> None:
    """Scores beyond the range of the exponential, where the largest is subtracted first."""
    tables = random_tables(FORM_456, 2)
    tables.query[0] *= 30
    tables.query[1] *= 1e6
    tokens, targets = random_tokens(FORM_456, 2, 20)
    loss_S, grads = engine().loss_and_grad(tables, tokens, targets)
    want_S, exact = table_forward.loss_and_grad(tables, tokens, targets)
    assert torch.allclose(loss_S.double(), want_S, rtol=1e-5)
    first = worst_error(grads.seeds(0, 1), exact.seeds(0, 1))
    assert max(first.values()) < 3e-4  # scores of several hundred have errors of 1e-5 in float32
    assert all(bool(grad.isfinite().all()) for _, grad in grads.items())


def test_converged_checkpoint() -> None:
    path = reference_checkpoint("lowrank_456p_s43.pt")
    config = ModelConfig(
        pos_rank=3, qkv_rank=3, attn_out_rank=2, ffn_rank=3, norm="rms", tie_qkv="shareA_tieKV"
    )
    model = Transformer(config)
    model.load_state_dict(torch.load(path, weights_only=True, map_location="cpu")["model_state"])
    tables = build_tables(config, stack_parameters([model])).detach()
    native = engine(optimise="-O3")
    tokens, targets = random_tokens(tables.form, 1, 512)
    loss_S, grads = native.loss_and_grad(tables, tokens, targets)
    want_S, exact = table_forward.loss_and_grad(tables, tokens, targets)
    assert torch.allclose(loss_S.double(), want_S, rtol=1e-6)
    assert max(worst_error(grads, exact).values()) < 5e-4
    answers = native.decode(tables, tokens[..., :22])
    assert torch.equal(answers, targets)
    assert bool((native.margins(tables, tokens, targets) > 0).all())


def equal_bits(one: tuple[Tensor, Tables], two: tuple[Tensor, Tables]) -> bool:
    pairs = zip(one[1].items(), two[1].items(), strict=True)
    return torch.equal(one[0], two[0]) and all(torch.equal(a, b) for (_, a), (_, b) in pairs)


def test_bits_do_not_depend_on_threads_or_neighbours() -> None:
    tables = random_tables(FORM_456, 5)
    tokens, targets = random_tokens(FORM_456, 5, 600)
    native = engine()
    together = native.loss_and_grad(tables, tokens, targets)
    for threads in (2, 3, 8):
        assert equal_bits(engine(threads=threads).loss_and_grad(tables, tokens, targets), together)
    for threads in (1, 2):
        alone = engine(threads=threads).loss_and_grad(tables.seeds(3, 4), tokens[3:4], targets[3:4])
        assert equal_bits(alone, (together[0][3:4], together[1].seeds(3, 4)))


def test_answers_and_margins_do_not_depend_on_threads_or_neighbours() -> None:
    tables = random_tables(FORM_456, 3)
    tokens, targets = random_tokens(FORM_456, 3, 1500)
    margins, answers = (
        engine().margins(tables, tokens, targets),
        engine().decode(tables, tokens[..., :22]),
    )
    native = engine(threads=2)
    assert torch.equal(native.margins(tables, tokens, targets), margins)
    assert torch.equal(native.decode(tables, tokens[..., :22]), answers)
    part = slice(700, 711)
    assert torch.equal(native.decode(tables.seeds(1, 2), tokens[1:2, part, :22]), answers[1:2, part])


def test_shared_pairs_are_the_same_pairs_for_every_seed() -> None:
    tables = random_tables(FORM_456, 3)
    tokens, targets = random_tokens(FORM_456, 1, 40)
    each = engine().loss_and_grad(tables, tokens.repeat(3, 1, 1), targets.repeat(3, 1, 1))
    assert equal_bits(engine().loss_and_grad(tables, tokens, targets), each)
    view = engine().loss_and_grad(tables, tokens.expand(3, -1, -1), targets.expand(3, -1, -1))
    assert equal_bits(view, each)


def test_tokens_may_be_views_of_any_layout() -> None:
    tables = random_tables(FORM_456, 3)
    tokens, targets = (part.contiguous() for part in random_tokens(FORM_456, 3, 40))
    want = engine().loss_and_grad(tables, tokens, targets)
    wide, turned = torch.zeros(3, 40, 50, dtype=torch.uint8), targets.transpose(0, 2).contiguous()
    wide[:, :, 5:38] = tokens
    assert equal_bits(engine().loss_and_grad(tables, wide[:, :, 5:38], turned.transpose(0, 2)), want)


def test_calls_from_several_threads_take_turns() -> None:
    native = engine(threads=2)
    cases = [(random_tables(FORM_456, 4, seed=s), random_tokens(FORM_456, 4, 50, s)) for s in range(6)]
    want = [native.loss_and_grad(tables, *tokens) for tables, tokens in cases]
    with ThreadPoolExecutor(3) as pool:
        got = pool.map(lambda case: native.loss_and_grad(case[0], *case[1]), cases)
    assert all(map(equal_bits, got, want))


def test_ties_go_to_the_lowest_token() -> None:
    tables = random_tables(FORM_456, 1)
    tables.head["unembed"][:, :, 4] = tables.head["unembed"][:, :, 2]
    tables.head["unembed"][:, :, :2] = tables.head["unembed"][:, :, 5:] = 0
    answers = engine().decode(tables, random_tokens(FORM_456, 1, 200)[0][..., :22])
    assert set(answers.unique().tolist()) <= {0, 2, 3}


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("sharpness", [1, 1000])
def test_numbers_that_are_none_show_in_the_loss(isa: str, sharpness: float) -> None:
    """The bounds inside the exponential and the activations must not hide a run that has diverged."""
    form = table_form("P", hidden=3)
    names = [name for name, _ in random_tables(form, 1).items()]
    tables = random_tables(form, len(names))
    tables.key.mul_(sharpness)
    for seed, name in enumerate(names):
        table = tables.get(name)
        assert table is not None
        table[seed, ..., 0] = float("nan")
    loss_S, grads = engine(isa).loss_and_grad(tables, *random_tokens(form, 1, 20))
    assert loss_S.isnan().all(), dict(zip(names, loss_S.tolist(), strict=True))
    assert bool(grads.residual.isnan().flatten(1).any(1).all())


def test_sizes_beyond_the_limits_are_named() -> None:
    assert why_not(FORM_456) is None
    assert why_not(table_form(get_layout("P", Addition(base=16)))) is None
    assert why_not(table_form("M14", heads=4, key=16, value=16, width=128, hidden=128)) is None
    for size, words in {
        "heads": "number of heads is 199",
        "key": "key dimension is 199",
        "value": "value dimension is 199",
        "width": "width is 199",
        "hidden": "width is 199",
    }.items():
        form = table_form("P", **{size: 199})  # type: ignore[arg-type]
        assert words in str(why_not(form))
        with pytest.raises(UsageError, match=words):
            engine().prepare(random_tables(form, 1))


def test_wrong_input_is_refused() -> None:
    tables = random_tables(FORM_456, 1)
    tokens, targets = random_tokens(FORM_456, 1, 20)
    with pytest.raises(UsageError, match="float64"):
        engine().loss_and_grad(tables.to(dtype=torch.float64), tokens, targets)
    tokens[0, 11, 32] = 14
    with pytest.raises(UsageError, match="outside the vocabulary 0-13"):
        engine().loss_and_grad(tables, tokens, targets)
    tokens[0, 11, 32] = 3
    targets[0, 19, 11] = 200
    with pytest.raises(UsageError, match="outside the vocabulary"):
        engine().margins(tables, tokens, targets)
    with pytest.raises(UsageError, match="at least one"):
        engine().decode(tables, tokens[:, :0, :22])
    with pytest.raises(UsageError, match="ADDERLAB_ISA=avx1024"):
        engine(isa="avx1024")

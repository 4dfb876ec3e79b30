"""The Triton kernels against the slow float64 twin: in Triton's interpreter on the CPU, or compiled
where there is a CUDA device.

The interpreter takes a tenth of a millisecond for every operation, so most forms are tried on a layout
of a few positions; it has all that matters to the kernels: separate prompt and answer positions, more
tokens than digits, sizes that are no powers of two.
"""

import itertools
from collections.abc import Collection, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip(
    "triton", reason="Triton is not installed: pip install -c constraints.txt -e '.[gpu]'"
)

import triton.language as tl
from triton.runtime import interpreter

from adderlab.engine import base
from adderlab.engine.base import select_engine
from adderlab.engine.torch_tables import TorchEngine
from adderlab.engine.triton import engine, kernels, why_not
from adderlab.engine.triton.engine import TritonEngine
from adderlab.errors import UsageError
from adderlab.models.tables import TableForm, Tables
from adderlab.models.zoo import get_preset
from adderlab.task.addition import LAYOUTS, Layout, named_layout
from adderlab.training.objective import objective_for
from adderlab.training.population import Population
from adderlab.training.recipe import Recipe
from helpers.device_steps import RICH, host_traffic_of_a_step
from oracle import table_forward
from oracle.random_tables import BIASES, random_tables, random_tokens, table_form

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


class ShortLayout(Layout):
    """Three answer steps after a prompt of three tokens."""

    num_answers = property(lambda self: 3)  # type: ignore[assignment]


SHORT = ShortLayout(
    name="short",
    source="this file",
    vocabulary=tuple("0123456789+=#"),
    a_positions=(),
    b_positions=(),
    num_prompt=3,
    separators=(),
    end_token=None,
)


@pytest.fixture(autouse=True)
def short_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LAYOUTS, "short", SHORT)


@pytest.fixture(autouse=True)
def quick_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter replaces ``triton.language`` anew at every call of a function inside a kernel,
    which takes most of its time; what it has replaced at the kernel's start is enough."""
    if isinstance(kernels.attend, interpreter.InterpretedFunction):
        monkeypatch.setattr(kernels, "core", tl.core, raising=False)
        monkeypatch.setattr(
            interpreter.InterpretedFunction,
            "__call__",
            lambda self, *args, **kwargs: self.rewrite()(*args, **kwargs),
        )


def short_tokens(S: int, B: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    V, P, A = SHORT.vocab_size, SHORT.num_positions, SHORT.num_answers
    tokens = torch.randint(V, (S, B, P), generator=generator, dtype=torch.uint8)
    return tokens, torch.randint(V, (S, B, A), generator=generator, dtype=torch.uint8)


def on_device(tables: Tables, *tokens: Tensor) -> tuple[Any, ...]:
    return tables.to(device=DEVICE), *(each.to(DEVICE) for each in tokens)


def loss_and_grad(tables: Tables, tokens: Tensor, targets: Tensor) -> tuple[Tensor, Tables]:
    loss_S, grads = TritonEngine().loss_and_grad(*on_device(tables, tokens, targets))
    return loss_S.cpu(), grads.to(device="cpu")


def large_errors(grads: Tables, exact: Tables, bound: float) -> dict[str, float]:
    """Largest absolute error of every table and seed over the table's largest entry, where it exceeds
    the bound."""
    errors = {}
    for (name, grad), (_, want) in zip(grads.items(), exact.items(), strict=True):
        largest_S = want.flatten(1).abs().amax(1)  # 0 where no unit is open: then the error must be 0
        error_S = (grad - want).flatten(1).abs().amax(1) / largest_S.clamp(min=1e-30)
        errors[name] = error_S.max().item()
    return {name: error for name, error in errors.items() if not error < bound}


def check_gradients(tables: Tables, tokens: Tensor, targets: Tensor) -> None:
    loss_S, grads = loss_and_grad(tables, tokens, targets)
    want_S, exact = table_forward.loss_and_grad(tables, tokens, targets)
    assert torch.allclose(loss_S.double(), want_S, rtol=1e-6)
    assert large_errors(grads, exact, 1e-5) == {}


def check_form(form: TableForm, biases: Collection[str], B: int, seed: int = 0) -> None:
    """Loss, every gradient, margins and greedy answers of two seeds."""
    tables = random_tables(form, 2, biases, seed)
    tokens, targets = short_tokens(2, B, seed)
    check_gradients(tables, tokens, targets)

    precise = tables.to(dtype=torch.float64)
    margins = TritonEngine().margins(*on_device(tables, tokens, targets)).cpu()
    want_margins = table_forward.margins(precise, tokens, targets)
    assert (margins - want_margins).abs().max() < 2e-6 * want_margins.abs().max()
    prompt = tokens[..., : form.layout.num_prompt]
    answers = TritonEngine().decode(*on_device(tables, prompt)).cpu()
    assert torch.equal(answers, table_forward.decode(precise, prompt))


COVERING = [
    (table_form(SHORT), (), 7),
    (table_form(SHORT, norm2="layer", norm_f="layer"), ("norm2_bias", "norm_f_bias"), 33),
    (
        table_form(SHORT, heads=2, key=4, value=4, width=8, hidden=3, norm2="none", activation="swiglu"),
        ("fc1_bias", "fc2_bias"),
        5,
    ),
    (
        table_form(SHORT, heads=3, key=1, value=5, width=11, norm_f="layer", activation="relu"),
        BIASES,
        1,
    ),
    (
        table_form(SHORT, heads=4, key=2, value=3, width=5, norm_f="none", activation="swiglu"),
        ("norm2_bias",),
        17,
    ),
]
"""Every norm, activation, bias and number of heads at least once."""


@pytest.mark.parametrize(
    ("form", "biases", "B"),
    [
        pytest.param(*case, marks=[] if i in (0, 2) else [pytest.mark.slow])
        for i, case in enumerate(COVERING)
    ],
)
def test_forms_match_the_twin(form: TableForm, biases: Collection[str], B: int) -> None:
    check_form(form, biases, B)


PRODUCT = list(
    itertools.product(
        ("none", "rms", "layer"), ("none", "rms", "layer"), ("gelu", "relu", "swiglu"), (1, 2, 3, 4)
    )
)


@pytest.mark.slow
@pytest.mark.parametrize(("norm2", "norm_f", "activation", "heads"), PRODUCT)
def test_all_kinds_match_the_twin(norm2: Any, norm_f: Any, activation: Any, heads: int) -> None:
    index = PRODUCT.index((norm2, norm_f, activation, heads))
    form = table_form(
        SHORT,
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
    kinds = {"norm2_bias": norm2, "norm_f_bias": norm_f}
    check_form(
        form, [name for name in chosen if kinds.get(name) != "none"], (1, 7, 20)[index % 3], index
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["P", "S", "M", "M13", "M14", "P13", "B", "P@2b16"])
def test_layouts_of_additions(name: str) -> None:
    form = table_form(named_layout(name))
    tables, (tokens, targets) = random_tables(form, 1), random_tokens(form, 1, 3)
    check_gradients(tables, tokens, targets)
    answers = TritonEngine().decode(*on_device(tables, tokens[..., : form.layout.num_prompt]))
    precise = tables.to(dtype=torch.float64)
    assert torch.equal(
        answers.cpu(), table_forward.decode(precise, tokens[..., : form.layout.num_prompt])
    )


@pytest.mark.parametrize(
    ("programs", "S", "B"),
    [
        (1, 1, 19),
        pytest.param(1, 2, 53, marks=pytest.mark.slow),
        pytest.param(1 << 20, 2, 53, marks=pytest.mark.slow),
    ],
)
def test_blocks_of_pairs_add_up(monkeypatch: pytest.MonkeyPatch, programs: int, S: int, B: int) -> None:
    """Blocks of one program, or parts of one seed in several, with a last block that is not full."""
    monkeypatch.setattr(engine, "BLOCK", 16)
    monkeypatch.setattr(engine, "ROWS", 16)
    monkeypatch.setattr(engine, "PROGRAMS", programs)
    tables = random_tables(table_form(SHORT), S)
    check_gradients(tables, *short_tokens(S, B))
    monkeypatch.setattr(engine, "CHUNK_BYTES", 1)
    tokens, targets = short_tokens(S, B)
    margins = TritonEngine().margins(*on_device(tables, tokens, targets)).cpu()
    torch.testing.assert_close(margins, TorchEngine().margins(tables, tokens, targets))
    answers = TritonEngine().decode(*on_device(tables, tokens[..., :3])).cpu()
    assert torch.equal(answers, TorchEngine().decode(tables, tokens[..., :3]))


@pytest.mark.slow
def test_shared_pairs_are_the_same_pairs_for_every_seed() -> None:
    tables = random_tables(table_form(SHORT), 3)
    tokens, targets = short_tokens(1, 9)
    each = loss_and_grad(tables, tokens.repeat(3, 1, 1), targets.repeat(3, 1, 1))
    for shared in ((tokens, targets), (tokens.expand(3, -1, -1), targets.expand(3, -1, -1))):
        loss_S, grads = loss_and_grad(tables, *shared)
        assert torch.equal(loss_S, each[0])
        pairs = zip(grads.items(), each[1].items(), strict=True)
        assert all(torch.equal(one, two) for (_, one), (_, two) in pairs)


@pytest.mark.slow
def test_sharp_attention() -> None:
    """Scores beyond the range of the exponential, where the largest is subtracted first."""
    tables = random_tables(table_form(SHORT), 2)
    tables.query[0] *= 30
    tables.query[1] *= 1e6
    tokens, targets = short_tokens(2, 20)
    loss_S, grads = loss_and_grad(tables, tokens, targets)
    want_S, exact = table_forward.loss_and_grad(tables, tokens, targets)
    assert torch.allclose(loss_S.double(), want_S, rtol=1e-5)
    assert large_errors(grads.seeds(0, 1), exact.seeds(0, 1), 3e-4) == {}
    assert all(bool(grad.isfinite().all()) for _, grad in grads.items())


def test_ties_go_to_the_lowest_token() -> None:
    tables = random_tables(table_form(SHORT), 1)
    tables.head["unembed"][:, :, 4] = tables.head["unembed"][:, :, 2]
    tables.head["unembed"][:, :, :2] = tables.head["unembed"][:, :, 5:] = 0
    tokens, _ = short_tokens(1, 60)
    answers = TritonEngine().decode(*on_device(tables, tokens[..., :3]))
    assert set(answers.unique().tolist()) <= {0, 2, 3}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("activation", ["gelu", "relu", "swiglu"])
def test_numbers_that_are_none_show_in_the_loss(activation: Any) -> None:
    form = table_form(SHORT, hidden=3, activation=activation)
    names = [name for name, _ in random_tables(form, 1).items()]
    tables = random_tables(form, len(names))
    for seed, name in enumerate(names):
        getattr(tables, name)[seed, ..., 0] = float("nan")
    loss_S, _ = loss_and_grad(tables, *short_tokens(1, 12))
    assert loss_S.isnan().all(), dict(zip(names, loss_S.tolist(), strict=True))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_tokens_outside_the_vocabulary_show_in_the_loss() -> None:
    tables = random_tables(table_form(SHORT, hidden=2), 3)
    tokens, targets = short_tokens(3, 4)
    tokens[0, 1, 0] = tokens[0, 2, 4] = 13
    targets[1, 3, 2] = 255
    loss_S, _ = loss_and_grad(tables, tokens, targets)
    assert loss_S.isnan().tolist() == [True, True, False]


class _NoKernel:
    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        return lambda *args, **kwargs: None


def test_a_step_exchanges_nothing_with_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of a step but the kernels themselves, which know no host."""
    for name in ("attend", "head", "query_gradient", "key_gradient"):
        monkeypatch.setattr(engine, name, _NoKernel())
    assert host_traffic_of_a_step("242p", RICH, TritonEngine()) == []


@pytest.mark.slow
def test_a_population_takes_the_same_steps_as_on_pytorch() -> None:
    recipe = Recipe(steps=4, batch_size=4, warmup_steps=2, val_size=4, test_size=4)
    config = get_preset("456p").config
    on_cpu, on_triton = (
        Population(config, recipe, (3,), objective_for(config, chosen, device), device)
        for chosen, device in ((TorchEngine(), torch.device("cpu")), (TritonEngine(), DEVICE))
    )
    losses = [on_cpu.advance(), on_cpu.advance()]
    same = [on_triton.advance().cpu(), on_triton.advance().cpu()]
    torch.testing.assert_close(torch.stack(same), torch.stack(losses), rtol=1e-5, atol=0)
    one, two = on_cpu.evaluate(losses[-1]), on_triton.evaluate(same[-1])
    torch.testing.assert_close(two.margin_S, one.margin_S, rtol=1e-3, atol=1e-3)


def test_sizes_beyond_the_limits_and_other_devices_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert why_not(table_form("P"), DEVICE) is None
    largest = table_form("M14", heads=4, key=16, value=16, width=32, hidden=64)
    assert why_not(largest, DEVICE) is None
    assert "width is 33" in str(why_not(table_form("P", width=33), DEVICE))
    assert "not on mps" in str(why_not(table_form("P"), torch.device("mps")))
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert "it computes on CUDA, not on cpu" in str(why_not(table_form("P"), torch.device("cpu")))


CONFIG = get_preset("242p").config


@pytest.fixture
def few_pairs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(base, "CHECKED_PAIRS", 2)
    yield


@pytest.mark.slow
@pytest.mark.usefixtures("few_pairs")
def test_the_kernels_are_compared_with_pytorch_before_they_are_used() -> None:
    assert select_engine("triton", CONFIG, DEVICE, threads=1, log=print).name == "triton"


@pytest.mark.usefixtures("few_pairs")
def test_kernels_that_err_or_fail_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(self: TritonEngine, *args: Any) -> tuple[Tensor, Tables]:
        loss_S, grads = TorchEngine().loss_and_grad(*args)
        return loss_S, grads.map(lambda grad: grad * 1.01)

    monkeypatch.setattr(TritonEngine, "loss_and_grad", wrong)
    with pytest.raises(UsageError, match=r"engine=triton: its gradients are off by 1\.0e-02 here"):
        select_engine("triton", CONFIG, DEVICE, threads=1, log=print)

    def failing(self: TritonEngine, *args: Any) -> tuple[Tensor, Tables]:
        raise RuntimeError("no kernel image\nis available")

    monkeypatch.setattr(TritonEngine, "loss_and_grad", failing)
    with pytest.raises(UsageError, match=r"its kernels do not run here \(no kernel image\)"):
        select_engine("triton", CONFIG, DEVICE, threads=1, log=print)

"""Models in Python: every way to name one, what it can do, and what its results offer."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import adderlab as al
from adderlab.engine.base import single_threaded
from adderlab.models.config import ModelConfig
from adderlab.models.transformer import build_model
from adderlab.reading.reading import table_logits
from adderlab.runs.checkpoints import Checkpoint, load_checkpoint
from helpers.models import example

CONFIG = ModelConfig()


@pytest.fixture(scope="module")
def untrained() -> Checkpoint:
    params = {name: p.detach() for name, p in build_model(CONFIG, seed=3).named_parameters()}
    return Checkpoint(config=CONFIG, params=params, recipe={"lr": 0.5}, step=7, val_exact=0.0, seed=3)


@pytest.fixture(scope="module")
def model(untrained: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> al.Model:
    return al.load(al.load(untrained).save(tmp_path_factory.mktemp("model") / "model.pt"))


def test_every_way_to_name_a_model(model: al.Model) -> None:
    assert model.path is not None
    record = SimpleNamespace(checkpoint=model.path)
    ways = [str(model.path), model.path, load_checkpoint(model.path), record]
    assert {al.load(way).weights_sha256 for way in ways} == {model.weights_sha256}
    assert al.load(model) is model
    assert al.load(SimpleNamespace(best=model)) is model


def test_what_has_no_checkpoint_is_a_usage_error() -> None:
    with pytest.raises(al.UsageError, match="has no checkpoint"):
        al.load(SimpleNamespace(checkpoint=None))
    with pytest.raises(al.UsageError, match=r"nothing\.pt"):
        al.load("nothing.pt")


def test_a_model_keeps_what_its_file_says(untrained: Checkpoint, model: al.Model) -> None:
    assert (model.seed, model.step, model.recipe) == (3, 7, {"lr": 0.5})
    assert model.weights_sha256 == untrained.weights_sha256
    assert sum(tensor.numel() for tensor in model.params.values()) == model.num_parameters
    again = dataclasses.replace(model, step=8)
    assert again.step == 8 and again.weights_sha256 == model.weights_sha256


@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
def test_saved_models_are_read_again(model: al.Model, ending: str, tmp_path: Path) -> None:
    assert al.load(model.save(tmp_path / f"copy{ending}")).weights_sha256 == model.weights_sha256


def test_weights_and_module_have_one_name_each(model: al.Model) -> None:
    assert not hasattr(model, "parameters") and not hasattr(model, "model")
    module = dict(model.module().named_parameters())
    assert all(torch.equal(tensor, module[name]) for name, tensor in model.params.items())


def test_other_endings_are_refused_and_nothing_is_written(model: al.Model, tmp_path: Path) -> None:
    with pytest.raises(al.UsageError, match=r"'\.npz'"):
        model.save(tmp_path / "copy.npz")
    assert not list(tmp_path.iterdir())


def test_tables_and_module_are_the_same_model(model: al.Model) -> None:
    tables = model.tables()
    assert tables.query.dtype == torch.float64 and tables.num_seeds == 1
    module = model.module().double()
    tokens_BP, _ = example(module)
    torch.testing.assert_close(table_logits(tables, tokens_BP), module.answer_logits(tokens_BP))


def test_evaluating_own_pairs(model: al.Model) -> None:
    pairs = [(1, 2), (9_999_999_999, 1), (5, 5)]
    report = al.evaluate(model, pairs, engine="torch", device="cpu")
    answers = [model.predict(a, b).right for a, b in pairs]
    assert (report.total.n, report.total.errors) == (3, answers.count(False))
    entry = report.to_dict()
    assert entry["checkpoint"] == str(model.path) and entry["parameters"] == model.num_parameters
    assert [row["name"] for row in report.to_dicts()] == ["pairs"]
    with pytest.raises(al.UsageError, match="10000000000"):
        model.evaluate([(10**10, 1)])
    with pytest.raises(al.UsageError, match="at least one pair"):
        model.evaluate([])


def test_evaluating_logs_where_it_computes(model: al.Model) -> None:
    lines: list[str] = []
    model.evaluate("fresh:20", engine="torch", log=lines.append)
    assert lines[0].startswith("device: ")


@pytest.mark.parametrize("wrong", ["1", 1.5, None, -1, 10**10], ids=repr)
def test_what_is_no_operand_is_named(model: al.Model, wrong: object) -> None:
    for ask in (lambda: model.predict(wrong, 2), lambda: model.evaluate([(2, wrong)])):  # type: ignore[arg-type,list-item]
        with pytest.raises(al.UsageError, match=f"an operand must be .* not {wrong!r}"):
            ask()


@pytest.mark.parametrize("wrong", [(1, 2, 3), 12, "12"], ids=repr)
def test_what_is_no_pair_is_named(model: al.Model, wrong: object) -> None:
    with pytest.raises(al.UsageError, match=r"give pairs such as|an operand must be"):
        model.evaluate([wrong])  # type: ignore[list-item]


def test_seeds_are_several() -> None:
    with pytest.raises(al.UsageError, match=r"seeds 4: give several, for example range\(4\)"):
        al.train("456p", seeds=4)  # type: ignore[arg-type]


def test_predicting(model: al.Model) -> None:
    answer = al.predict(model, 12, 34)
    assert answer.right_sum == 46 and len(answer.confidences) == 11
    assert answer.describe()[0].startswith("12 + 34 = ")
    assert len(answer.describe()) == 13


def test_inspecting_a_model_a_preset_and_a_configuration(model: al.Model) -> None:
    assert al.inspect("456p").parameters == 456
    found = al.inspect(model)
    assert found.origin["step"] == 7 and found.parameters == model.num_parameters
    assert found.config == al.inspect(CONFIG).config and not al.inspect(CONFIG).origin
    assert sum(row["count"] for row in found.to_dicts() if row["counted"]) == found.parameters
    two = al.inspect(ModelConfig(n_layer=2))
    assert two.no_tables and two.describe()[-1].endswith(two.no_tables)


def test_results_are_json_text_and_html(model: al.Model) -> None:
    for result in (al.inspect(model), model.predict(1, 2), model.evaluate([(1, 2)], engine="torch")):
        json.dumps(result.to_dict(), allow_nan=False)
        assert any(line.strip() for line in result.describe())
        assert result._repr_html_().startswith("<")
    assert "<table>" in model._repr_html_()


def test_threads_are_given_back() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with single_threaded():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
        with pytest.raises(ZeroDivisionError), single_threaded():
            1 / 0  # noqa: B018
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)

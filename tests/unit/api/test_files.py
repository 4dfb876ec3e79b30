"""Files of users through the public API: read, asked, measured, proved, checked, repaired, exported."""

import copy
import json
from pathlib import Path

import pytest
import torch

import adderlab as al
from adderlab.models.config import ModelConfig
from adderlab.models.zoo import PRESETS
from adderlab.reading.file_model import FileModel
from helpers.user_files import EXAMPLE, stated_file, submission, variant


@pytest.fixture(scope="module")
def right(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stranger's file whose model is right: the submission of the 7p record."""
    return submission("7p", tmp_path_factory.mktemp("files"))[1]


@pytest.fixture(scope="module")
def example() -> al.Model:
    return al.read(EXAMPLE)


def test_a_file_is_a_model(example: al.Model) -> None:
    assert isinstance(example.config, FileModel) and example.path == EXAMPLE
    assert al.load(EXAMPLE).weights_sha256 == al.load(str(EXAMPLE)).weights_sha256
    tables = example.tables()
    assert tables.query.dtype == torch.float64 and tables.num_seeds == 1
    answer = example.predict(12, 34)
    assert not answer.right and len(answer.tokens) == 11 and answer.describe()
    assert example.evaluate("fresh:50", engine="torch").total.errors == 50


def test_weights_of_a_file(example: al.Model, right: Path, tmp_path: Path) -> None:
    moved = {name: tensor + 0.1 for name, tensor in example.params.items()}
    path = al.Model(
        config=example.config, params=moved, recipe={}, step=9, val_exact=0.5
    ).save(tmp_path / "moved.pt")  # fmt: skip
    found = al.read(EXAMPLE, weights=path)
    assert (found.step, found.path) == (9, path)
    assert all(torch.equal(found.params[name], tensor) for name, tensor in moved.items())
    with pytest.raises(al.UsageError, match=r"another version of my_adder\.py"):
        al.read(right, weights=path)
    with pytest.raises(al.UsageError, match=r"not of my_adder\.py"):
        al.read(EXAMPLE, weights=Path(__file__).parents[3] / "records/best/7p/model.pt")


def test_a_module_in_memory_needs_its_layout() -> None:
    module = torch.nn.Linear(3, 3)
    with pytest.raises(al.UsageError, match="layout"):
        al.read(module)


@pytest.mark.slow
def test_a_file_is_proved_and_checked(right: Path, tmp_path: Path) -> None:
    pytest.importorskip("flint")
    model = al.read(right)
    proof = al.prove(model)
    assert proof.verdict == "proved" and proof.checked
    certificate = proof.save(tmp_path / "cert.json.gz")
    assert al.check(certificate, right, fp32=False).accepted
    moved = {name: tensor * (1 + 2**-20) for name, tensor in model.params.items()}
    other = al.Model(config=model.config, params=moved, recipe={}, step=0, val_exact=0.0)
    assert not al.check(certificate, other, fp32=False).accepted


def test_a_certificate_binds_the_constants_of_the_file(right: Path, tmp_path: Path) -> None:
    """The same weights in a file that computes something else: another constant, an unused one."""
    pytest.importorskip("flint")
    certificate = al.prove(right, check=False).save(tmp_path / "cert.json.gz")
    text = right.read_text()
    assert "* 300.0" in text and '"""RMS norm' in text
    for name, old, new in (("scaled", "* 300.0", "* 300.5"), ("said", '"""RMS norm', '"""A norm')):
        other = tmp_path / f"{name}.py"
        other.write_text(text.replace(old, new))
        report = al.check(certificate, other, fp32=False)
        assert not report.accepted and report.reason, name


def test_a_wrong_model_is_refuted_by_its_own_add(right: Path) -> None:
    text = right.read_text()
    wrong = right.with_name("wrong.py")
    wrong.write_text(text.replace("* 300.0", "* -300.0"))
    proof = al.prove(wrong)
    assert proof.verdict == "refuted" and proof.counterexample is not None
    a, b = proof.counterexample
    assert proof.answer != a + b and proof.answer == al.read(wrong).module().own_sum(a, b)


def test_what_cannot_be_proved_can_be_attacked(tmp_path: Path) -> None:
    path = variant("two layers", tmp_path)
    with pytest.raises(al.Failure, match="second layer") as refusal:
        al.prove(path)
    assert "\n" not in str(refusal.value)
    assert al.attack(path, pairs=2, starts=1).counterexample is not None


def test_repair_trains_the_files_own_parameters(right: Path, tmp_path: Path) -> None:
    model = al.read(right)
    moved = {name: tensor * 1.0005 for name, tensor in model.params.items()}
    other = al.Model(config=model.config, params=moved, recipe={}, step=0, val_exact=0.0)
    found = al.repair(other, rounds=1, steps=2, target_margin=100.0)
    assert found.checkpoint.config == model.config and set(found.checkpoint.params) == set(moved)


def test_inspect_says_what_was_read(example: al.Model, tmp_path: Path) -> None:
    inspection = al.inspect(EXAMPLE)
    assert inspection.parameters == example.num_parameters and inspection.no_tables is None
    shown = "\n".join(inspection.describe())
    assert "square" in shown and "agreement" in shown
    assert json.loads(json.dumps(inspection.to_dict()))["reading"] == list(inspection.reading)
    two = "\n".join(al.inspect(variant("two layers", tmp_path)).describe())
    assert "no, " in two and "second layer" in two


@pytest.mark.parametrize("stated", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_an_exported_file_reads_back(stated: bool, right: Path, tmp_path: Path) -> None:
    if stated:
        text = right.read_text()
        source = tmp_path / "stated.py"
        asking = text[text.index("def encode(") : text.index("WEIGHTS = ")]
        source.write_text(text.replace(asking, 'layout = "C"\n\n\n'))
    else:
        source = right
    model = al.read(source)
    written = al.export(
        model, to="adderboard", output=tmp_path / "out.py", prove=False, suites=("fresh:200",)
    ).written
    back = al.read(written[0])
    assert all(torch.equal(back.params[name], tensor) for name, tensor in model.params.items())
    assert back.evaluate("fresh:200", engine="torch").total.errors == 0
    assert back.module().own_sum(99, 1) == 100
    if stated:
        result = al.verify(written[0], sandbox="limits", strata=2)
        assert result.verdict == "qualified", result.describe()


def test_exported_weights_are_the_given_ones(example: al.Model, tmp_path: Path) -> None:
    moved = {name: tensor + 1 / 3 for name, tensor in copy.copy(example.params).items()}
    other = al.Model(config=example.config, params=moved, recipe={}, step=0, val_exact=0.0)
    path = al.export(other, to="adderboard", output=tmp_path / "o.py", prove=False, suites=()).written[0]
    back = al.read(path)
    assert all(torch.equal(back.params[name], tensor) for name, tensor in moved.items())
    with pytest.raises(al.UsageError, match="onnx"):
        al.export(other, to="onnx", output=tmp_path / "o.onnx", prove=False, suites=())


def test_a_named_layout(tmp_path: Path) -> None:
    path = stated_file(tmp_path / "stated.py")
    assert al.read(path).config.layout == "P13"
    assert al.read(path, layout="M13").config.layout == "M13"


# Changed presets.


def test_settings_that_need_each_other_come_in_any_order() -> None:
    for settings in (
        ["model.tokens=arc", "model.token_dim=2"],
        ["model.token_dim=2", "model.tokens=arc"],
    ):
        inspection = al.inspect("122p", set=settings)
        assert isinstance(inspection.config, ModelConfig) and inspection.config.token_dim == 2


def test_a_trained_model_is_what_it_is(example: al.Model) -> None:
    with pytest.raises(al.UsageError, match="preset"):
        al.inspect(example, set=["model.d_ff=3"])
    with pytest.raises(al.UsageError, match="model"):
        al.inspect("456p", set=["recipe.lr=0.1"])


def test_a_changed_preset_is_called_by_its_count() -> None:
    from adderlab.api.experiments import define
    from adderlab.report.describe import describe_model

    changed = define("456p", "published", settings=["model.d_ff=16"])
    count = al.inspect("456p", set=["model.d_ff=16"]).parameters
    assert changed.name == f"{count}p" != "456p" and not changed.is_published
    assert changed.changes == ("model.d_ff=16",)
    assert describe_model(changed.config) == f"{count} parameters: 456p with model.d_ff=16"
    assert define("456p", "published", settings=["model.d_ff=14"]).name == "456p"
    assert describe_model(PRESETS["456p"].config) == "456p (456 parameters)"


def test_a_default_recipe_that_does_not_fit_says_whose_it_is() -> None:
    from adderlab.api.experiments import define

    with pytest.raises(al.UsageError, match=r"default of 456p.*fit are") as refusal:
        define("456p", "best", settings=["model.positions=none", "model.pos_rank=0"])
    assert "\n" not in str(refusal.value)

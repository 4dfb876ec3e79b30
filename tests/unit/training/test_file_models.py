"""Models of users' files in training: compiled, drawn by their constructors, kept, resumed."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor

import adderlab as al
from adderlab.api.experiments import define
from adderlab.cli.main import main
from adderlab.engine.native import NativeEngine
from adderlab.engine.torch_tables import TorchEngine
from adderlab.errors import UsageError
from adderlab.models.transformer import build_model
from adderlab.models.zoo import get_preset
from adderlab.publish.model_card import Credits
from adderlab.publish.submission import submission_source
from adderlab.reading import file_model
from adderlab.reading.file_model import FileModel, read_file, read_module
from adderlab.recipes.auto import auto
from adderlab.training.finetune import LBFGS
from adderlab.training.ingredients import Circle, Restarts, WideInit
from adderlab.training.objective import Compute, OracleObjective, TableObjective, open_backend
from adderlab.training.population import Population
from adderlab.training.recipe import R456_DATA, Recipe, Stage
from adderlab.training.start import check_start, start
from helpers import decoders
from helpers.user_files import EXAMPLE, perturbed, variant

CPU = torch.device("cpu")
RECIPE = Recipe(
    steps=200, batch_size=64, lr=0.003, warmup_steps=20, eval_interval=100, val_size=64, test_size=64
)


def example() -> FileModel:
    return read_file(EXAMPLE)[0]


def population(config: object, objective: object, recipe: Recipe = RECIPE) -> Population:
    return Population(config, recipe, (0, 1), objective, CPU)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "name", ["456p", *(pytest.param(name, marks=pytest.mark.slow) for name in ("122p", "67p", "7p"))]
)
@pytest.mark.slow
def test_an_exported_preset_trains_as_the_preset_does(name: str, tmp_path: Path) -> None:
    """200 steps from the same weights: the losses agree to 1e-5, of themselves where they are large."""
    config = get_preset(name).config
    params = perturbed(config)
    path = tmp_path / "stranger.py"
    path.write_text(submission_source(config, params, Credits(name=name, author="nobody")))
    found, own = read_file(path, layout=config.token_layout)
    engine = NativeEngine(1, log=lambda line: None)
    preset = population(config, TableObjective(config, engine))
    preset.flat_SN = torch.cat([tensor.flatten() for tensor in params.values()]).repeat(2, 1)
    file = population(found, TableObjective(found, engine))
    assert file.takes_many
    assert torch.equal(
        file.flat_SN, torch.cat([tensor.flatten() for tensor in own.values()]).repeat(2, 1)
    )
    for _ in range(RECIPE.steps):
        wanted_S, found_S = preset.advance(), file.advance()
        assert bool(((found_S - wanted_S).abs() < 1e-5 * wanted_S.clamp(min=1.0)).all())


@pytest.mark.slow
def test_native_steps_of_a_file_are_those_of_pytorch_and_lower_the_loss() -> None:
    config = example()
    native = population(config, TableObjective(config, NativeEngine(2, log=lambda line: None)))
    plain = population(config, TableObjective(config, TorchEngine(1)))
    assert native.takes_many and not plain.takes_many
    first_S = native.advance()
    torch.testing.assert_close(first_S, plain.advance(), rtol=1e-5, atol=1e-6)
    for _ in range(4):
        torch.testing.assert_close(native.advance(), plain.advance(), rtol=1e-4, atol=1e-5)
    last_S = first_S
    while native.next_step < RECIPE.steps:
        last_S = native.advance(RECIPE.steps - native.next_step)
    assert bool((last_S < 0.8 * first_S).all())


@pytest.mark.slow
def test_the_tables_of_training_are_the_module_s(tmp_path: Path) -> None:
    config = example()
    objective = TableObjective(config, NativeEngine(1, log=lambda line: None))
    oracle = OracleObjective(config, CPU)
    params = start(config, RECIPE, (0, 1))
    tokens, targets = objective.sampler(R456_DATA, config.token_layout)(torch.tensor([0, 1]), 500, 32)
    for factor in (1.0, 10.0):
        loss_S, grads = objective.sharpened(factor).loss_and_grad(params, tokens, targets)
        want_S, wanted = oracle.sharpened(factor).loss_and_grad(params, tokens, targets)
        torch.testing.assert_close(loss_S, want_S, rtol=1e-5, atol=1e-6)
        for name, grad in grads.items():
            torch.testing.assert_close(grad, wanted[name], rtol=1e-3, atol=1e-5 * factor)


class CappedAndBiased(decoders.RelativeBias):
    def biased(self, s: Tensor) -> Tensor:
        return super().biased(self.g[0] * torch.tanh(s / 3))


class Squashed(decoders.Decoder):
    def biased(self, s: Tensor) -> Tensor:
        return torch.nn.functional.softplus(s) - self.g.view(2, 1, 1)


@pytest.mark.parametrize(
    ("kind", "function", "width"),
    [
        (CappedAndBiased, "tanh", 4),
        (Squashed, "softplus", 4),
        (decoders.ALiBi, None, 4),
        (decoders.SlidingWindow, None, 4),
        (decoders.ScoresOfPositions, None, 0),
    ],
)
def test_scores_of_many_kinds_are_trained_without_a_table_of_pairs(
    kind: type, function: str | None, width: int
) -> None:
    torch.manual_seed(0)
    config, _ = read_module(kind(), "S")
    params = {
        name: tensor[None] for name, tensor in dict(build_model(config, 0).named_parameters()).items()
    }
    with torch.no_grad():
        tables = config.tables(params)
    assert tables.form.score_function == function and tables.form.key_dim == width
    assert tables.score is None or tables.score.shape[2] == tables.score.shape[5] == 1
    engine = TableObjective(config, TorchEngine(1))
    own = {name: tensor.detach() for name, tensor in params.items()}
    tokens, targets = engine.sampler(R456_DATA, config.token_layout)(torch.tensor([0]), 500, 32)
    loss_S, grads = engine.loss_and_grad(own, tokens, targets)
    want_S, wanted = OracleObjective(config, CPU).loss_and_grad(own, tokens, targets)
    torch.testing.assert_close(loss_S, want_S, rtol=1e-5, atol=1e-6)
    for name, grad in grads.items():
        torch.testing.assert_close(grad, wanted[name], rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.slow
def test_logits_that_no_matrix_makes_are_multiplied(tmp_path: Path) -> None:
    text = EXAMPLE.read_text().replace(
        "return x @ self.token.weight.T", "return 3 * torch.tanh(x @ self.token.weight.T)"
    )
    (tmp_path / "capped.py").write_text(text)
    config = read_file(tmp_path / "capped.py")[0]
    objective = TableObjective(config, NativeEngine(1, log=lambda line: None)).sharpened(5.0)
    oracle = OracleObjective(config, CPU).sharpened(5.0)
    params = start(config, RECIPE, (0,))
    tokens, targets = objective.sampler(R456_DATA, config.token_layout)(torch.tensor([0]), 500, 32)
    loss_S, _ = objective.loss_and_grad(params, tokens, targets)
    torch.testing.assert_close(
        loss_S, oracle.loss_and_grad(params, tokens, targets)[0], rtol=1e-5, atol=1e-6
    )


def test_the_constructor_draws_under_the_seed_and_its_restarts() -> None:
    config = example()
    two = dataclasses.replace(RECIPE, restarts=Restarts(halve_at=(100,)))
    drawn, alone = start(config, two, (3, 4)), start(config, RECIPE, (4,))
    position = drawn["position"]
    assert len(position) == 4 and len({tuple(each.flatten().tolist()) for each in position}) == 4
    assert torch.equal(position[2], alone["position"][0])
    torch.manual_seed(4)
    module = config.live.module
    assert module is not None
    assert torch.equal(dict(module.build_model()[0].named_parameters())["position"], position[2])


def test_a_wide_start_by_shape(tmp_path: Path) -> None:
    text = EXAMPLE.read_text().replace(
        "        self.up,", "        self.scale = nn.Parameter(torch.ones(WIDTH))\n        self.up,"
    )
    text = text.replace("        u = nn", "        x = x * self.scale\n        u = nn", 1)
    (tmp_path / "scaled.py").write_text(text)
    config = read_file(tmp_path / "scaled.py")[0]
    wide = start(config, dataclasses.replace(RECIPE, wide_init=WideInit()), (0, 1))
    plain = start(config, RECIPE, (0, 1))
    assert set(wide["scale"].flatten().tolist()) == {-1.0, 1.0}
    bound = (6 / (6 + 12)) ** 0.5
    assert float(wide["up.weight"].abs().max()) <= bound
    assert float(wide["up.weight"].std()) == pytest.approx(bound / 3**0.5, rel=0.2)
    assert torch.equal(wide["up.bias"], plain["up.bias"])
    again = start(config, dataclasses.replace(RECIPE, wide_init=WideInit()), (1,))
    assert torch.equal(again["up.weight"][0], wide["up.weight"][1])


def test_what_only_presets_have_is_refused() -> None:
    config = example()
    with pytest.raises(UsageError, match=r"recipe.circle=null"):
        check_start(config, dataclasses.replace(RECIPE, circle=Circle()))
    with pytest.raises(UsageError, match="arc=null"):
        check_start(config, dataclasses.replace(RECIPE, wide_init=WideInit(arc=(1.0, 0.0, 0.1))))
    with pytest.raises(UsageError, match=r"my_adder.py"):
        define(str(EXAMPLE), "auto", settings=["model.d_ff=3"])
    with pytest.raises(UsageError, match="--recipe auto"):
        define(str(EXAMPLE), "published")
    wanted = define(str(EXAMPLE), "best")
    assert wanted.recipe_name == "auto" and wanted.recipe == auto(wanted.config)
    assert define(str(EXAMPLE), "best").name == "my_adder"


def test_a_second_layer_trains_through_the_module(tmp_path: Path) -> None:
    config = read_file(variant("two layers", tmp_path))[0]
    lines: list[str] = []
    backend = open_backend(config, Compute(threads=1), lines.append)
    assert backend.engine == "module"
    assert any("full sequence" in line and "8 seeds at once (torch.func.vmap)" in line for line in lines)
    trained = population(config, backend.objective, dataclasses.replace(RECIPE, batch_size=16))
    losses = [float(trained.advance().mean()) for _ in range(30)]
    assert sum(losses[-5:]) < sum(losses[:5])


def seeds_of(config: FileModel, recipe: Recipe, seeds: tuple[int, ...]) -> Population:
    return Population(config, recipe, seeds, OracleObjective(config, CPU), CPU)


@pytest.mark.parametrize("name", ["two layers", "one row too"])
def test_seeds_at_once_are_those_of_a_seed_alone(name: str, tmp_path: Path) -> None:
    """To the bit: among ten, in groups of eight and two, and alone, where each parameter's size is a
    multiple of four. A loop over seeds has the same bits too, unless the model takes one sequence at a
    time: then a gradient is summed in another order."""
    file = variant("two layers", tmp_path)
    text = file.read_text().replace("WIDTH, HIDDEN = 6, 12", "WIDTH, HIDDEN = 8, 12")
    if name != "two layers":
        text = text.replace("T = tokens.shape[1]", "T = tokens.shape[1]; assert len(tokens) == 1")
    file.write_text(text)
    config = read_file(file)[0]
    recipe = dataclasses.replace(RECIPE, batch_size=8)
    many, alone, loop = (seeds_of(config, recipe, seeds) for seeds in (tuple(range(10)), (9,), (9,)))
    loop.objective._together = None  # type: ignore[attr-defined]
    for _ in range(3):
        many.advance(), alone.advance(), loop.advance()
    assert torch.equal(many.flat_SN[9], alone.flat_SN[0])
    torch.testing.assert_close(alone.flat_SN, loop.flat_SN, rtol=1e-4, atol=1e-6)
    assert torch.equal(alone.flat_SN, loop.flat_SN) or name != "two layers"


def test_seeds_at_once_of_any_size_differ_by_rounding_alone(tmp_path: Path) -> None:
    """Where a seed's numbers begin at another address, a product may sum them in another order."""
    config = read_file(variant("two layers", tmp_path))[0]
    recipe = dataclasses.replace(RECIPE, batch_size=8)
    many, alone = (seeds_of(config, recipe, seeds) for seeds in (tuple(range(10)), (9,)))
    for _ in range(3):
        many.advance(), alone.advance()
    torch.testing.assert_close(many.flat_SN[9], alone.flat_SN[0], rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (
            ("        T = tokens", "        assert int(tokens[0, 0]) >= 0\n        T = tokens"),
            "torch.func cannot",
        ),
        (("class MyAdder(nn.Module)", "class Inner(nn.Module)"), "it is no nn.Module"),
    ],
)
def test_what_torch_func_cannot_run_trains_seed_by_seed(
    change: tuple[str, str], why: str, tmp_path: Path
) -> None:
    file = variant("two layers", tmp_path)
    text = file.read_text().replace(*change)
    if "Inner" in change[1]:
        text = text.replace("def build_model", OUTER + "def build_model")
    file.write_text(text)
    lines: list[str] = []
    config = read_file(file)[0]
    backend = open_backend(config, Compute(threads=1), lines.append)
    assert any("seed by seed" in line and why in line for line in lines), lines
    trained = population(config, backend.objective, dataclasses.replace(RECIPE, batch_size=4))
    assert bool(torch.isfinite(trained.advance()).all())


OUTER = """class MyAdder:
    def __init__(self):
        self.inner = Inner()

    def parameters(self):
        return self.inner.parameters()

    def __call__(self, tokens):
        return self.inner(tokens)


"""


def test_lbfgs_goes_through_the_tables_of_a_file() -> None:
    config = example()
    stage = Stage(lbfgs=LBFGS(iterations=5, examples=64), logit_scale=2.0)
    recipe = dataclasses.replace(RECIPE, steps=3, eval_interval=1, stages=(stage,))
    trained = population(config, TableObjective(config, TorchEngine(1)), recipe)
    for _ in range(3):
        loss_S = trained.advance()
        trained.evaluate(loss_S)
    before: Tensor = trained.flat_SN.clone()
    trained.advance()
    assert not torch.equal(before, trained.flat_SN)


@pytest.mark.slow
def test_a_run_keeps_the_file_and_goes_on_only_where_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    marker = tmp_path / "ran"
    file = tmp_path / "marked.py"
    file.write_text(f"{EXAMPLE.read_text()}\nimport pathlib\npathlib.Path({str(marker)!r}).touch()\n")
    how = {
        "seeds": (0, 1),
        "recipe": RECIPE,
        "steps": 20,
        "threads": 1,
        "keep": "all",
        "engine": "torch",
    }
    whole = al.train(str(file), folder=tmp_path / "whole", **how)  # type: ignore[arg-type]
    copy = whole.folder / "model.py"
    assert copy.read_bytes() == file.read_bytes()
    assert (whole.folder / "seed_0001" / "model.py").read_bytes() == file.read_bytes()
    assert isinstance(whole.config, FileModel) and whole.config == read_file(copy)[0]
    marker.unlink()
    monkeypatch.chdir(tmp_path)

    def command(*words: str) -> tuple[int, str]:
        """(exit code, stderr), as in a process in which no file was named before."""
        monkeypatch.setattr(file_model, "_LIVE", {})
        return main(list(words)), capsys.readouterr().err

    # Looking at a run runs nothing.
    parts = [str(whole.folder / f"seed_000{i}") for i in (0, 1)]
    log = ("log", "--output", "log.md", str(whole.folder))
    for words in (("compare", *parts), ("report", str(whole.folder)), log):
        code, said = command(*words)
        assert code == 0, said
    assert "would run marked.py" in (whole.folder / "report.html").read_text()
    code, said = command("train", "--resume", str(whole.folder))
    assert code == 2 and "named" in said and str(copy) in said
    code, said = command("train", str(EXAMPLE), "--resume", str(whole.folder))
    assert code == 2 and "is not the file" in said
    assert not marker.exists()
    resume = ("train", str(copy), "--resume", str(whole.folder), "--engine", "torch")
    code, said = command(*resume, "--evaluate", "none", "--no-prove")
    assert code == 0, said
    assert marker.exists()
    code, said = command("report", str(whole.folder), str(copy))
    assert code == 0, said
    assert "would run" not in (whole.folder / "report.html").read_text()


def test_another_model_py_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text("# mine\n")
    with pytest.raises(UsageError, match="choose another folder"):
        al.train(str(EXAMPLE), folder=tmp_path, seeds=(0,), recipe=RECIPE, steps=2)
    assert (tmp_path / "model.py").read_text() == "# mine\n"

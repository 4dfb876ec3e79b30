"""Files whose models return the logits of the last position alone: read, proved, checked, trained and
exported as those that return all."""

from pathlib import Path

import pytest
import torch

import adderlab as al
from adderlab.engine.native import NativeEngine
from adderlab.engine.torch_tables import TorchEngine
from adderlab.models.transformer import build_model
from adderlab.reading.file_model import FileModel, read_file
from adderlab.reading.reading import table_logits
from adderlab.training.objective import OracleObjective, TableObjective
from adderlab.training.recipe import R456_DATA, Recipe
from adderlab.training.start import start
from helpers.paths import ROOT
from helpers.user_files import EXAMPLE, submission, written

LAST = """

class Last(nn.Module):
    def __init__(self, whole):
        super().__init__()
        self.whole = whole

    def forward(self, tokens):
        return self.whole(tokens)[:, -1:]


whole_model = build_model


def build_model():
    model, metadata = whole_model()
    return Last(model), metadata
"""
STYLES = ROOT / "tests" / "helpers" / "styles" / "read"
RECIPE = Recipe(steps=10, batch_size=16)


def last_only(path: Path) -> Path:
    return written(path.read_text() + LAST, path.with_name(f"last_{path.name}"))


def proved_alike(path: Path, folder: Path) -> None:
    whole, last = al.read(path), al.read(last_only(path))
    assert isinstance(last.config, FileModel)
    proofs = [al.prove(model, check=False) for model in (whole, last)]
    assert [proof.verdict for proof in proofs] == ["proved", "proved"]
    bounds = [proof.margin.bound for proof in proofs]
    assert bounds[0] is not None and bounds[1] == pytest.approx(bounds[0], rel=0, abs=1e-9)
    certificate = folder / "proof.json.gz"
    al.prove(last).save(certificate)
    assert al.check(certificate, last, fp32=False).accepted


@pytest.mark.slow
def test_a_proof(tmp_path: Path) -> None:
    proved_alike(submission("7p", tmp_path)[1], tmp_path)


@pytest.mark.slow
def test_its_answers_and_its_tables(tmp_path: Path) -> None:
    """Greedy answers, the file's own, and the logits of the answer steps."""
    path = submission("7p", tmp_path)[1]
    whole, last = al.read(path), al.read(last_only(path))
    assert last.predict(99, 1).right and last.module().own_sum(12, 30) == 42
    tokens, _ = last.config.token_layout.encode(*torch.randint(0, 10, (2, 3, 10), dtype=torch.uint8))
    wanted, found = (model.module().answer_logits(tokens).detach() for model in (whole, last))
    torch.testing.assert_close(found, wanted)
    every = last.module()(tokens[:1]).detach()
    torch.testing.assert_close(every, whole.module()(tokens[:1]).detach())
    for name, table in whole.tables().items():
        torch.testing.assert_close(dict(last.tables().items())[name], table, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(STYLES / "last_query.py", marks=pytest.mark.slow),
        pytest.param(STYLES / "encoder.py", marks=pytest.mark.slow),
    ],
    ids=lambda path: path.stem,
)
def test_training(path: Path) -> None:
    """Losses and gradients of tables, compiled and by PyTorch, are the module's."""
    config, _ = read_file(path)
    params = start(config, RECIPE, (0, 1))
    engines = NativeEngine(1, log=lambda line: None), TorchEngine(1)
    native, plain = (TableObjective(config, engine) for engine in engines)
    tokens, targets = native.sampler(R456_DATA, config.token_layout)(torch.tensor([0, 1]), 0, 8)
    oracle = OracleObjective(config, torch.device("cpu"))
    want_S, wanted = oracle.loss_and_grad(params, tokens, targets)
    for objective in (native, plain):
        loss_S, grads = objective.loss_and_grad(params, tokens, targets)
        torch.testing.assert_close(loss_S, want_S, rtol=1e-4, atol=1e-5)
        for name, grad in grads.items():
            scale = max(1.0, float(wanted[name].abs().max()))
            torch.testing.assert_close(grad / scale, wanted[name] / scale, rtol=1e-3, atol=1e-4)


def test_what_starts_at_zero_is_told_apart(tmp_path: Path) -> None:
    """Positions that all start at zero are other parameters, each of its own step."""
    text, built = EXAMPLE.read_text(), "model = MyAdder()\n"
    assert built in text
    text = text.replace(built, f"{built}    model.position.data.zero_()\n")
    config, params = read_file(last_only(written(text, tmp_path / "zeros.py")))
    assert config.no_tables is None, config.no_tables
    module = build_model(config, 0).double()
    drawn = {name: torch.randn(tensor.shape).double() / 2 for name, tensor in params.items()}
    with torch.no_grad():
        for name, tensor in module.named_parameters():
            tensor.copy_(drawn[name])
    tokens_BP = torch.randint(0, 12, (3, config.token_layout.num_positions))
    found = table_logits(config.tables({name: x[None] for name, x in drawn.items()}), tokens_BP)
    torch.testing.assert_close(found, module.answer_logits(tokens_BP).detach())


@pytest.mark.slow
def test_an_export_is_read_back(tmp_path: Path) -> None:
    model = al.read(last_only(submission("7p", tmp_path)[1]))
    out = tmp_path / "out.py"
    al.export(model, output=out, to="adderboard", prove=False, suites=("fresh:20",))
    again = al.read(out)
    for name, tensor in model.params.items():
        assert torch.equal(again.params[name], tensor)

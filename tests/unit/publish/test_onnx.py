"""The ONNX graph computes what the model computes. Needs the extra ``publish``."""

import importlib
import json
from pathlib import Path

import pytest
import torch

from adderlab.errors import Failure, UsageError
from adderlab.models.transformer import build_model
from adderlab.models.zoo import get_preset
from adderlab.publish import export as module
from adderlab.publish.export import Publication, load_source, onnx_bytes, run_onnx, write
from adderlab.publish.model_card import Credits, Evidence
from adderlab.publish.submission import submission_source
from adderlab.runs.checkpoints import Checkpoint, load_checkpoint
from adderlab.task.addition import SUM_DIGITS
from adderlab.task.sampling import uniform_pairs
from helpers.models import config_of
from helpers.reference import reference_checkpoint

CREDITS = Credits(name="it", author="me")
pytestmark = pytest.mark.filterwarnings("ignore")


def needs_extra() -> None:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name, reason=f"the extra publish is not installed: no {name}")


def checkpoint(name: str) -> Checkpoint:
    config = get_preset(name).config
    params = {name: p.detach() for name, p in build_model(config, 0).named_parameters()}
    return Checkpoint(config=config, params=params, recipe={}, step=0, val_exact=0.0)


def test_without_the_extra_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise ModuleNotFoundError(name=name)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(UsageError, match=r"needs the package onnx: pip install 'adderlab\[publish\]'"):
        onnx_bytes(torch.nn.Identity(), get_preset("456p").config.token_layout, {})


def test_a_graph_that_differs_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    given = checkpoint("36p")
    model, _ = load_source(submission_source(config_of(given), given.params, CREDITS)).build_model()
    monkeypatch.setattr(module, "run_onnx", lambda data, tokens: model(tokens) * 1.002)
    with torch.no_grad(), pytest.raises(Failure, match="the ONNX graph differs from the model"):
        module._compare_onnx(b"", model, given.config.token_layout)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["456p", "67p", "122p", "6080p", "1644p", "39p", "234p", "137p", "36p"])
def test_every_family_has_a_graph(name: str, tmp_path: Path) -> None:
    needs_extra()
    given = checkpoint(name)
    published = Publication(checkpoint=given, credits=CREDITS, evidence=Evidence())
    graph, card = write(published, "onnx", tmp_path / "model.onnx")
    model, layout = given.module(), given.config.token_layout
    tokens_BT = torch.randint(layout.vocab_size, (13, layout.num_positions - 3))
    with torch.no_grad():
        wanted = model(tokens_BT)
    worst = (run_onnx(graph.read_bytes(), tokens_BT) - wanted).abs().max()
    assert worst <= module.ONNX_TOLERANCE * wanted.abs().max()
    assert "`tokens`, int64 (batch, length)" in card.read_text()

    onnx = pytest.importorskip("onnx")
    entries = {each.key: each.value for each in onnx.load(graph).metadata_props}
    assert json.loads(entries["adderlab"])["parameters"] == given.num_parameters


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["lowrank_456p_s43.pt", "microadder_67p_s71046.pt", "qwen3_122p_lbfgs.npz"]
)
def test_greedy_answers_of_the_graph_are_the_models(name: str, tmp_path: Path) -> None:
    needs_extra()
    given = load_checkpoint(reference_checkpoint(name))
    published = Publication(checkpoint=given, credits=CREDITS, evidence=Evidence())
    graph, _ = write(published, "onnx", tmp_path / "model.onnx")
    data, layout = graph.read_bytes(), given.config.token_layout
    tokens_BP, _ = layout.encode(*uniform_pairs(4, 100))
    with torch.no_grad():
        logits_BPV = given.module()(tokens_BP.long())
    worst = (run_onnx(data, tokens_BP.long()) - logits_BPV).abs().max()
    assert worst <= 1e-4 * logits_BPV.abs().max()
    prompt_BT = layout.encode_prompt(*uniform_pairs(3, 2000)).long()
    tokens = prompt_BT
    for _ in range(SUM_DIGITS):
        tokens = torch.cat([tokens, run_onnx(data, tokens)[:, -1].argmax(-1, keepdim=True)], 1)
    wanted = given.module().generate(prompt_BT)[:, :SUM_DIGITS].long()
    assert torch.equal(tokens[:, -SUM_DIGITS:], wanted)

"""From the file to the verdict by the module's own code: a map that lies is found out."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from adderlab.checker import check_file, enclosure, own_pass
from adderlab.checker.document import digest_of, read_document
from adderlab.checker.own_pass import Difference, WrongMap, difference, widened
from adderlab.checker.rounding import Rounded
from adderlab.checker.verify import check, fp32_module, plain_config, read_model
from adderlab.errors import Failure
from adderlab.models.tables import tables
from adderlab.runs.checkpoints import Checkpoint, load_checkpoint
from helpers.paths import ROOT

BEST = ROOT / "records" / "best"
RECORDS = sorted(folder.name for folder in BEST.iterdir() if folder.is_dir())
FAST = ["8p", "67p"]


def record(name: str) -> tuple[Path, Checkpoint]:
    return BEST / name / "model.cert.json.gz", load_checkpoint(BEST / name / "model.pt")


@pytest.mark.parametrize("name", RECORDS)
def test_tables_are_the_modules_but_for_rounding(name: str) -> None:
    """For every configuration that a record has: arcs, spirals, rotary positions, tied maps."""
    _, checkpoint = record(name)
    model, _ = read_model(checkpoint)
    found = difference(fp32_module(checkpoint), model)
    assert 0 < found.score < 1e-8 and 0 < found.stream < 1e-8


@pytest.mark.parametrize(
    "name", [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in RECORDS]
)
def test_records_are_right_by_the_modules_own_code(name: str) -> None:
    cert, checkpoint = record(name)
    report = check_file(cert, checkpoint, fp32=False)
    assert report.accepted and report.module_reason is None
    assert report.margin is not None and report.module_margin is not None
    # Enclosed by other code, it is another bound of the same margin.
    assert 0 < report.module_margin < 2.5 * report.margin
    assert any("the readable module's own code" in line for line in report.describe())


def test_a_step_that_nobody_checked_is_missed() -> None:
    cert, checkpoint = record("8p")
    for left_out in (0, 10):

        def share(work, count, hear, left_out=left_out) -> None:
            for i in range(count):
                if i != left_out:
                    work(i, hear)

        with pytest.raises(Failure, match="not every step was checked"):
            check_file(cert, checkpoint, fp32=False, share=share)


def test_the_widened_model_holds_the_module() -> None:
    """At random pairs, scores and streams of the plain float64 module lie inside."""
    _, checkpoint = record("62p")
    model, _ = read_model(checkpoint)
    wide = widened(model, Difference(score=1e-3, stream=1e-4))
    assert (wide.residual_AVD.high - wide.residual_AVD.low >= 2e-4).all()
    narrow, loose = model.steps[3].bands[0], wide.steps[3].bands[0]
    # A common shift of all scores changes no average, so compare ratios of weights.
    ratio = loose.weight_RHLT.high / np.where(loose.weight_RHLT.low > 0, loose.weight_RHLT.low, 1.0)
    seen = narrow.weight_RHLT.low > 0
    assert (ratio[seen] >= np.exp(1.9e-3)).all()


def lying(name: str, monkeypatch) -> tuple[Checkpoint, dict]:
    """A model with one weight negated, a map that negates it back, and the certificate of the model that
    the map makes of it: everything the shared code computes says that this model is right."""
    cert, checkpoint = record("8p")
    changed = {**checkpoint.params, name: -checkpoint.params[name]}
    wrong = dataclasses.replace(checkpoint, params=changed)
    monkeypatch.setattr(
        enclosure, "build_tables", lambda config, params: tables(config, {**params, name: -params[name]})
    )
    document = dict(read_document(cert))
    document["weights_sha256"] = wrong.weights_sha256
    document["digest"] = digest_of(document)
    return wrong, document


@pytest.mark.parametrize(
    ("name", "words"),
    [("blocks.0.attn.q_proj.angle", "differ by"), ("head_proj.scale", "answers otherwise")],
)
def test_a_map_that_lies_is_found_out(name: str, words: str, monkeypatch, tmp_path: Path) -> None:
    wrong, document = lying(name, monkeypatch)
    model, form = read_model(wrong)
    config = plain_config(wrong.config)
    trusting = check(document, model, form=form, weights_sha256=wrong.weights_sha256, config=config)
    assert trusting.accepted  # this is what the module's own code is for
    a, b = 1234567890, 9876543210
    digits = torch.tensor([[n // 10**j % 10 for j in range(10)] for n in (a, b)], dtype=torch.uint8)
    module = wrong.module()
    prompt = module.layout.encode_prompt(digits[:1], digits[1:])
    assert module.layout.answer_text(module.generate(prompt)[0])[-11:] != f"{a + b:011d}"
    path = tmp_path / "cert.json"
    path.write_text(json.dumps(document))
    with pytest.raises(WrongMap, match=words):
        check_file(path, wrong, fp32=False)


def test_numbers_without_a_bound_prove_nothing(monkeypatch) -> None:
    """Where a divisor may be zero the enclosure is a stand-in, and only the infinite error says so."""
    cert, checkpoint = record("8p")
    enclosed = own_pass.read_out_after_attention

    def unbounded(module, x):
        found = enclosed(module, x)
        out, error = found.logits, np.full(found.logits.shape, np.inf)
        logits = Rounded(out.real, error, out.format, out.varies, out.local, out.parents)
        return dataclasses.replace(found, logits=logits)

    monkeypatch.setattr(own_pass, "read_out_after_attention", unbounded)
    report = check_file(cert, checkpoint, fp32=False)
    assert report.accepted and report.module_margin is None
    assert "could not be enclosed closely enough" in (report.module_reason or "")
    assert any("Trusted is the map" in line for line in report.describe())

"""Our own submissions, read back as strangers' files: the same tables, program and verdicts.

The file is plain PyTorch in which nothing of our configuration is left but a comment, so what is read is
read off its operations.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

import adderlab as al
from adderlab.engine.base import single_threaded
from adderlab.models.config import ModelConfig
from adderlab.models.tables import tables, why_no_tables
from adderlab.models.zoo import PRESETS
from adderlab.proof.problem import problem_from_tables
from adderlab.proof.witnesses import real_margins
from adderlab.publish.model_card import Credits
from adderlab.publish.submission import submission_source
from adderlab.reading.agreement import table_logits
from adderlab.reading.file_model import read_file
from helpers.paths import ROOT
from helpers.user_files import perturbed, some_pairs, submission

FAST = ("456p", "122p", "67p", "7p")
RECORDS = sorted(path.parent.name for path in (ROOT / "records" / "best").glob("*/model.pt"))
TABLE_FORM = [
    name
    for name, preset in PRESETS.items()
    if why_no_tables(preset.config) is None and not preset.config.token_layout.pairs
]


def presets(names: list[str]) -> list[object]:
    return [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in names]


@single_threaded()
@pytest.mark.parametrize("name", presets(TABLE_FORM))
def test_tables_of_a_submission_are_the_configurations(name: str, tmp_path: Path) -> None:
    """As far as they can be compared: their logits, for constants may be put together in other ways.
    In float64, to 1e-12 of the largest."""
    config = PRESETS[name].config
    params = perturbed(config)
    path = tmp_path / "stranger.py"
    path.write_text(submission_source(config, params, Credits(name=name, author="nobody")))
    found, own = read_file(path)
    assert found.no_tables is None, found.no_tables
    reading = found.live.reading
    assert reading is not None
    read = reading.tables({each: tensor.double()[None] for each, tensor in own.items()})
    wanted = tables(config, {each: tensor.double()[None] for each, tensor in params.items()})
    # The eleventh digit's step may be the last: no file asks for an end that nothing depends on.
    assert reading.layout.query_positions == config.token_layout.query_positions[: read.query.shape[1]]
    assert read.form.heads == wanted.form.heads
    assert found.order == tuple(range(config.token_layout.vocab_size))
    tokens_BP = _sequences(config)
    wanted_BAV = table_logits(wanted, tokens_BP)[:, : read.query.shape[1]]
    read_BAV = table_logits(read, tokens_BP[:, : reading.layout.num_positions])
    scale = max(1.0, float(wanted_BAV.abs().max()))
    assert float((read_BAV - wanted_BAV).abs().max()) < 1e-12 * scale


def _sequences(config: ModelConfig) -> torch.Tensor:
    """Of additions, and of additions with any digits for an answer."""
    generator = torch.Generator().manual_seed(3)
    layout = config.token_layout
    digits = torch.randint(0, 10, (2, 24, 10), generator=generator, dtype=torch.uint8)
    tokens_BP = layout.encode(digits[0], digits[1])[0].long()
    answer_BI = tokens_BP[12:, layout.num_prompt :]
    answer_BI.copy_(torch.randint(0, 10, answer_BI.shape, generator=generator))
    return tokens_BP


@pytest.mark.parametrize(
    "name", [each if each == "7p" else pytest.param(each, marks=pytest.mark.slow) for each in RECORDS]
)
@pytest.mark.slow
def test_a_submission_of_a_record_is_proved_alike(name: str, tmp_path: Path) -> None:
    """Boxes have the same coordinates, so bounds are alike too."""
    model, path = submission(name, tmp_path)
    found = al.read(path)
    read, own = al.prove(found, check=False), al.prove(model, check=False)
    assert read.verdict == own.verdict == "proved"
    assert (read.leaves, read.failing_pairs) == (own.leaves, 0)
    pairs = [proof.margin.pair for proof in (read, own)] + some_pairs(20)
    margins = [
        [witness.margin for witness in real_margins(problem_from_tables(each.tables()), pairs)]
        for each in (found, model)
    ]
    np.testing.assert_allclose(*margins, rtol=1e-9, atol=1e-9)
    assert read.margin.bound is not None and own.margin.bound is not None
    assert max(read.margin.bound, own.margin.bound) <= min(read.margin.witness, own.margin.witness)
    assert abs(read.margin.bound - own.margin.bound) < 1e-9

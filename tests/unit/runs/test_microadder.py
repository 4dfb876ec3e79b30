"""MicroAdder's published checkpoint reads, adds and goes back; anything else is refused in a line."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import adderlab
from adderlab.errors import Failure, UsageError
from adderlab.models.tables import stack_parameters
from adderlab.models.transformer import build_model
from adderlab.models.zoo import get_preset
from adderlab.runs.checkpoints import load_checkpoint
from adderlab.runs.microadder import read_microadder
from adderlab.task.addition import pairs_from_ints
from helpers import microadder as twin
from helpers.foreign import errors_on_adderboard, loaded, write_microadder
from helpers.reference import reference_checkpoint

PUBLISHED = "microadder_67p_s71046.pt"


def test_published_67p_adds() -> None:
    found = read_microadder(reference_checkpoint(PUBLISHED))
    config, params = found.config, found.params
    assert found.trained == 67
    assert config == get_preset("67p").config
    assert sum(tensor.numel() for tensor in params.values()) == 67
    assert errors_on_adderboard(loaded(build_model(config, 0), params)) == 0


def test_published_67p_goes_back(tmp_path: Path) -> None:
    found = read_microadder(reference_checkpoint(PUBLISHED))
    write_microadder(tmp_path / "again.pt", found.config, found.params, step=46_000)
    again = read_microadder(tmp_path / "again.pt")
    assert again.config == found.config
    assert all(torch.equal(again.params[name], tensor) for name, tensor in found.params.items())


@pytest.mark.parametrize("name", ["74p", "67p", "57p"])
def test_presets_are_written_and_read(name: str, tmp_path: Path) -> None:
    config = get_preset(name).config
    params = {k: t[0] for k, t in stack_parameters([build_model(config, 3)]).items()}
    write_microadder(tmp_path / "model.pt", config, params)
    read = read_microadder(tmp_path / "model.pt")
    assert read.config == config
    assert read.trained == int(name[:-1])
    assert read.params.keys() == params.keys()
    assert all(torch.equal(read.params[key], params[key]) for key in params)


def test_other_families_are_not_written(tmp_path: Path) -> None:
    config = get_preset("456p").config
    params = {k: t[0] for k, t in stack_parameters([build_model(config, 0)]).items()}
    with pytest.raises(UsageError, match="no MicroAdder"):
        write_microadder(tmp_path / "model.pt", config, params)


def _saved(tmp_path: Path) -> dict[str, Any]:
    config = get_preset("67p").config
    params = {k: t[0] for k, t in stack_parameters([build_model(config, 3)]).items()}
    write_microadder(tmp_path / "good.pt", config, params)
    return torch.load(tmp_path / "good.pt", weights_only=True)


@pytest.mark.parametrize(
    ("entry", "value", "complaint"),
    [
        ("qk_input", "full", "qk_input 'full'"),
        ("norm_mode", "structured", "norm_mode 'structured'"),
        ("freeze_spiral", "pitch", "freezes pitch"),
        ("d_model", "wide", "settings that make no model"),
        ("d_model", 2, "settings that make no model"),
    ],
)
def test_unknown_settings_are_refused(entry: str, value: Any, complaint: str, tmp_path: Path) -> None:
    payload = _saved(tmp_path)
    payload["config"][entry] = value
    torch.save(payload, tmp_path / "bad.pt")
    with pytest.raises(Failure, match=complaint):
        read_microadder(tmp_path / "bad.pt")


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("norm2.weight", torch.zeros(5), "norm2.weight differs"),
        ("tok_arc_B", torch.tensor(9.0), "tok_arc_B differs"),
        ("_plus_pos", torch.ones(1, 3), "_plus_pos is not zero"),
        ("spiral_amp", torch.tensor(1.0), "spiral_amp is not"),
        ("q_phase_angle", torch.zeros(2), "2 angles"),
        ("alibi_log_slopes", torch.zeros(1), "unknown weight alibi_log_slopes"),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    name: str, value: Tensor, complaint: str, tmp_path: Path
) -> None:
    payload = _saved(tmp_path)
    payload["config"]["tie_tok_arc_ab"] = True
    payload["model_state_dict"][name] = value
    torch.save(payload, tmp_path / "bad.pt")
    with pytest.raises(Failure, match=complaint):
        read_microadder(tmp_path / "bad.pt")


def test_missing_weights_and_tables_are_refused(tmp_path: Path) -> None:
    payload = _saved(tmp_path)
    del payload["model_state_dict"]["q_proj.weight"]
    torch.save(payload, tmp_path / "bad.pt")
    with pytest.raises(Failure, match=r"lacks the weight q_proj\.weight"):
        read_microadder(tmp_path / "bad.pt")
    del payload["config"]
    torch.save(payload, tmp_path / "bad.pt")
    with pytest.raises(Failure, match="no table 'config'"):
        read_microadder(tmp_path / "bad.pt")


OPTIONS: dict[str, dict[str, Any]] = {
    "learned positions": {"pos_mode": "learned", "pos_correction_mode": "none"},
    "an ellipse of columns": {"tok_dim": 4, "pos_dim": 2, "pos_correction_mode": "none"},
    "low-rank queries": {"q_proj_rank": 1},
    "Toeplitz queries": {"q_proj_mode": "toeplitz", "tie_qk": True},
    "one key head": {"num_kv_heads": 1, "tie_qk": True, "q_phase": True},
    "norms of one number": {"norm_mode": "scalar"},
    "norms without weights": {"norm_mode": "fixed"},
    "no special positions": {"freeze_special": "all", "freeze_z_hi": True},
}


def _same_as_its_own_program(settings: dict[str, Any], tmp_path: Path) -> int:
    """Reads a fresh model of these settings, compares all logits; the numbers that it trained."""
    state = twin.drawn(settings)
    twin.write(tmp_path / "model.pt", settings, state)
    checkpoint = load_checkpoint(tmp_path / "model.pt")
    layout = checkpoint.config.token_layout
    model = checkpoint.module().double()
    for a, b in ((9876543210, 1234567899), (5, 0)):
        tokens_P = layout.encode(*pairs_from_ints([(a, b)]))[0][0].long()
        theirs = tokens_P.clone()
        if layout.vocab_size == 14:  # <EOS> is token 12 there, 13 here
            swap = torch.tensor([*range(12), 13, 12])
            theirs = swap[tokens_P]
        want = twin.logits(settings, state, theirs)
        got = model(tokens_P[None])[0]
        want = want[:, [*range(12), 13, 12]] if layout.vocab_size == 14 else want
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
    return checkpoint.trained or checkpoint.num_parameters


@pytest.mark.parametrize("size", twin.PUBLISHED)
def test_every_published_size_computes_what_its_own_program_does(size: int, tmp_path: Path) -> None:
    assert _same_as_its_own_program(twin.PUBLISHED[size], tmp_path) == size


@pytest.mark.parametrize("option", OPTIONS)
def test_options_compute_what_their_own_program_does(option: str, tmp_path: Path) -> None:
    _same_as_its_own_program(twin.BASE | OPTIONS[option], tmp_path)


def test_parts_that_no_model_of_ours_has_are_all_named(tmp_path: Path) -> None:
    settings = twin.BASE | {"alibi": True, "norm_mode": "no_ln2"}
    twin.write(tmp_path / "model.pt", settings, twin.drawn(settings))
    with pytest.raises(Failure, match=r"alibi True .* norm_mode 'no_ln2'"):
        load_checkpoint(tmp_path / "model.pt")


def test_inspect_says_how_many_numbers_were_trained(tmp_path: Path) -> None:
    twin.write(tmp_path / "model.pt", twin.PUBLISHED[170], twin.drawn(twin.PUBLISHED[170]))
    inspection = adderlab.inspect(str(tmp_path / "model.pt"))
    assert any("170 numbers; parts of it" in line for line in inspection.describe())


def test_published_75p_adds() -> None:
    """Its two radii are untied for want of a setting; the published 10010/10010."""
    checkpoint = load_checkpoint(reference_checkpoint("microadder_75p.pt"))
    assert checkpoint.num_parameters == 75 and checkpoint.trained is None
    assert errors_on_adderboard(checkpoint.module()) == 0  # type: ignore[arg-type]

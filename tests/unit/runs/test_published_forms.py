"""Files as other programs publish them, rebuilt by us: bare state dicts, wrapped names, forks of R456's
program, fixed terms of full rank. What such a model computes is compared with the plain formula."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

import adderlab
from adderlab.cli.main import main
from adderlab.errors import Failure, UsageError
from adderlab.models.transformer import build_model
from adderlab.models.zoo import get_preset
from adderlab.runs.checkpoints import load_checkpoint
from adderlab.task.addition import pairs_from_ints
from helpers import microadder
from helpers.foreign import errors_on_adderboard
from helpers.reference import proved_path, reference_checkpoint
from helpers.user_files import submission

PAIRS = pairs_from_ints([(9876543210, 1234567899), (5, 0)])


def state_of(preset: str, seed: int = 0) -> dict[str, Tensor]:
    return dict(build_model(get_preset(preset).config, seed).state_dict())


def saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def same_weights(path: Path, preset: str, seed: int = 0) -> bool:
    loaded = adderlab.load(path, preset=preset)
    params = dict(build_model(get_preset(preset).config, seed).named_parameters())
    return all(torch.equal(loaded.params[name], tensor) for name, tensor in params.items())


# Bare state dicts.


@pytest.mark.parametrize("key", [None, "state_dict", "model", "model_state_dict", "model_state"])
def test_a_bare_state_dict_is_the_preset_that_is_named(tmp_path: Path, key: str | None) -> None:
    state = {f"module._orig_mod.{name}": tensor for name, tensor in state_of("456p").items()}
    path = saved(tmp_path / "a.pt", state if key is None else {key: state, "epoch": 3})
    assert same_weights(path, "456p")
    with pytest.raises(Failure, match=r"does not say of what model.*--as 456p"):
        adderlab.load(path)


def test_tied_weights_may_be_there_once_and_masks_too(tmp_path: Path) -> None:
    state = state_of("456p")
    del state["lm_head.weight"]
    state["blocks.0.attn.mask"] = torch.ones(33, 33).tril()
    assert same_weights(saved(tmp_path / "a.pt", state), "456p")
    state["lm_head.weight"] = state["token_emb.weight"] + 1
    with pytest.raises(Failure, match=r"token_emb.weight and lm_head.weight are one tensor"):
        adderlab.load(saved(tmp_path / "a.pt", state), preset="456p")


def test_safetensors_and_submissions_names_too(tmp_path: Path) -> None:
    state = state_of("456p")
    del state["lm_head.weight"]
    safetensors.torch.save_file(state, tmp_path / "a.safetensors")
    assert same_weights(tmp_path / "a.safetensors", "456p")
    settings = microadder.PUBLISHED[75]
    own = microadder.drawn(settings)
    whole = adderlab.load(_microadder_file(tmp_path, settings, own))
    bare = adderlab.load(saved(tmp_path / "bare.pt", own), preset="75p")
    assert bare.weights_sha256 == whole.weights_sha256
    with pytest.raises(Failure, match="another model than the one named: 75 trained numbers, not 74"):
        adderlab.load(tmp_path / "bare.pt", preset="74p")


def _microadder_file(tmp_path: Path, settings: dict[str, Any], state: dict[str, Tensor]) -> Path:
    microadder.write(tmp_path / "whole.pt", settings, state)
    return tmp_path / "whole.pt"


def test_what_does_not_fit_is_named_in_one_line(tmp_path: Path) -> None:
    state = state_of("456p")
    del state["pos_emb.A"]
    state["colour"] = torch.zeros(1)
    state["ln_f.weight"] = torch.zeros(3)
    want = r"missing: pos_emb.A; without a place: colour; ln_f.weight is \(3,\), not \(7,\)"
    with pytest.raises(Failure, match=want):
        adderlab.load(saved(tmp_path / "a.pt", state), preset="456p")
    with pytest.raises(Failure, match=r"missing: .* and \d+ more"):
        adderlab.load(saved(tmp_path / "a.pt", {"x": torch.zeros(1)}), preset="456p")
    with pytest.raises(UsageError, match="says itself what model"):
        adderlab.load(proved_path("7p"), preset="456p")


def test_commands_take_a_bare_state_dict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    proved = adderlab.load(proved_path("7p"))
    bare = str(saved(tmp_path / "bare.pt", proved.params))
    assert main(["predict", bare, "5", "7", "--as", "7p"]) == 0
    assert "12" in capsys.readouterr().out
    assert main(["inspect", bare, "--as", "7p"]) == 0
    assert "a bare state dict" in capsys.readouterr().out
    assert main(["prove", bare, "--as", "7p", "--no-check"]) == 0
    capsys.readouterr()
    assert main(["prove", bare]) == 1
    assert "--as" in capsys.readouterr().err


@pytest.mark.slow
def test_a_file_of_ones_own_takes_its_state_dict(tmp_path: Path) -> None:
    model, file = submission("7p", tmp_path)
    moved = {name: tensor + 0.125 for name, tensor in adderlab.read(file).params.items()}
    again = adderlab.read(file, weights=saved(tmp_path / "state.pt", moved))
    assert model.num_parameters == again.num_parameters
    assert all(torch.equal(again.params[name], tensor) for name, tensor in moved.items())


# Forks of R456's program.


def _fork(state: dict[str, Tensor], **settings: Any) -> dict[str, Any]:
    """What forks publish: settings and weights, nothing of how they were trained."""
    flat = {"n_layer": 1, "d_model": 4, "n_head": 1, "max_seq_len": 33, "vocab_size": 14}
    low = {"pos_rank": 3, "qkv_rank": 3, "attn_out_rank": 3, "ffn_rank": 3, "d_ff": 8}
    shared = {"use_rmsnorm": True, "tie_qkv": "shareA_tieKV", "dropout": 0.0}
    return {"model_state": state, "model_config": {**flat, **low, **shared, **settings}}


@pytest.mark.parametrize(
    ("preset", "settings"),
    [
        ("311p", {}),
        ("274p", {"pos_rank": 2, "pe_type": "learned", "pe_init_period": 11.0, "token_emb_rank": 0}),
        ("262p", {"pos_rank": 2, "d_ff": 6, "norm_type": "rmsnorm"}),
    ],
)
def test_forks_of_the_low_rank_line(preset: str, settings: dict[str, Any], tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pt", _fork(state_of(preset), **settings))
    loaded = load_checkpoint(path)
    assert loaded.config == get_preset(preset).config
    assert loaded.num_parameters == int(preset[:-1]) and loaded.trained is None
    assert math.isnan(loaded.val_exact)


@pytest.mark.parametrize(
    ("file", "parameters", "errors"), [("rezabyt_311p_s34.pt", 311, 0), ("lichengliu_274p.pt", 274, 4)]
)
def test_the_published_files_add(file: str, parameters: int, errors: int) -> None:
    checkpoint = load_checkpoint(reference_checkpoint(file))
    assert checkpoint.num_parameters == parameters
    assert errors_on_adderboard(checkpoint.module()) == errors  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize(("file", "errors"), [("rezabyt_311p_s34.pt", 1), ("lichengliu_274p.pt", 10)])
def test_the_published_files_on_a_hundred_thousand_pairs(file: str, errors: int) -> None:
    assert adderlab.evaluate(reference_checkpoint(file)).total.errors == errors


# Fixed terms of full rank beside low-rank maps.

FIXED = {
    **{"n_layer": 1, "d_model": 8, "n_head": 1, "d_ff": 28, "max_seq_len": 33, "vocab_size": 14},
    **{"pos_rank": 0, "qkv_rank": 0, "attn_out_rank": 0, "ffn_rank": 3, "num_models": 1},
    **{"fixed_full_rank_attn": True, "fixed_full_rank_mlp": True},
}


def _fixed(settings: dict[str, Any], norm: str = "layer") -> dict[str, Tensor]:
    """Weights as that program keeps them: an axis of models, maps (in, out)."""
    generator = torch.Generator().manual_seed(1)
    D, F = settings["d_model"], settings["d_ff"]

    def normal(*shape: int) -> Tensor:
        return torch.randn(1, *shape, generator=generator)

    def table(name: str, rows: int, columns: int, rank: int) -> dict[str, Tensor]:
        if not rank:
            return {f"{name}.weight": normal(rows, columns)}
        low = {f"{name}.A": normal(rows, rank), f"{name}.B": normal(rank, columns)}
        return low if name == "pos_emb" else low | {f"{name}.W_fixed": normal(rows, columns)}

    state = {"token_emb.weight": normal(14, D), **table("pos_emb", 33, D, settings["pos_rank"])}
    state |= table("blocks.0.attn.qkv", D, 3 * D, settings["qkv_rank"])
    state |= table("blocks.0.attn.proj", D, D, settings["attn_out_rank"])
    state |= table("blocks.0.mlp.fc1", D, F, settings["ffn_rank"])
    state |= table("blocks.0.mlp.fc2", F, D, settings["ffn_rank"])
    kinds = {"layer": ("weight", "bias"), "rms": ("weight",), "none": ()}[norm]
    norms = ("blocks.0.ln1", "blocks.0.ln2", "ln_f")
    state |= {f"{name}.{kind}": normal(D) for name in norms for kind in kinds}
    return state | {"lm_head.weight": state["token_emb.weight"]}


def _logits(settings: dict[str, Any], state: dict[str, Tensor], tokens_BT: Tensor) -> Tensor:
    """(B, T, V) in float64."""
    s = {name: tensor[0].double() for name, tensor in state.items()}

    def map_(name: str, x: Tensor, fixed: bool) -> Tensor:
        if f"{name}.weight" in s:
            return x @ s[f"{name}.weight"]
        y = x @ s[f"{name}.A"] @ s[f"{name}.B"]
        return y + x @ s[f"{name}.W_fixed"] if fixed else y

    def norm(name: str, x: Tensor) -> Tensor:
        return torch.nn.functional.layer_norm(x, x.shape[-1:], s[f"{name}.weight"], s[f"{name}.bias"])

    T, D = tokens_BT.shape[1], settings["d_model"]
    position = s["pos_emb.weight"] if "pos_emb.weight" in s else s["pos_emb.A"] @ s["pos_emb.B"]
    x = s["token_emb.weight"][tokens_BT] + position[:T]
    in_attention, in_mlp = settings["fixed_full_rank_attn"], settings["fixed_full_rank_mlp"]
    q, k, v = map_("blocks.0.attn.qkv", norm("blocks.0.ln1", x), in_attention).chunk(3, -1)
    score = (q @ k.transpose(1, 2) / math.sqrt(D)).masked_fill(torch.ones(T, T).triu(1) > 0, -math.inf)
    x = x + map_("blocks.0.attn.proj", score.softmax(-1) @ v, in_attention)
    hidden = torch.nn.functional.gelu(map_("blocks.0.mlp.fc1", norm("blocks.0.ln2", x), in_mlp))
    x = x + map_("blocks.0.mlp.fc2", hidden, in_mlp)
    return norm("ln_f", x) @ s["token_emb.weight"].T


@pytest.mark.parametrize(
    ("change", "trained", "parameters"),
    [
        ({}, 896, 1128),
        ({"fixed_full_rank_mlp": False}, 896, 896),
        (
            {"d_model": 7, "d_ff": 14, "pos_rank": 3, "qkv_rank": 3, "attn_out_rank": 3},
            512,
            512 - 84 - 42 - 126 + 147 + 49 + 196,
        ),
        (
            {
                **{"d_model": 7, "d_ff": 14, "pos_rank": 3, "qkv_rank": 3, "attn_out_rank": 3},
                "fixed_full_rank_attn": False,
            },
            512,
            512 - 126 + 196,
        ),
    ],
)
def test_fixed_terms_are_read_as_part_of_their_maps(
    change: dict[str, Any], trained: int, parameters: int, tmp_path: Path
) -> None:
    settings = FIXED | change
    state = _fixed(settings)
    content = {"model_state": state, "model_config": settings, "step": 5, "val_exact": 1.0}
    loaded = load_checkpoint(saved(tmp_path / "a.pt", content))
    assert (loaded.trained or loaded.num_parameters, loaded.num_parameters) == (trained, parameters)
    tokens_BT = loaded.config.token_layout.encode(*PAIRS)[0].long()
    got = loaded.module().double()(tokens_BT)
    torch.testing.assert_close(got, _logits(settings, state, tokens_BT), rtol=1e-4, atol=1e-4)


def test_variants_of_that_program_without_a_part_here_are_named(tmp_path: Path) -> None:
    content = {"model_state": _fixed(FIXED, "none"), "model_config": FIXED}
    with pytest.raises(Failure, match="has no norms"):
        load_checkpoint(saved(tmp_path / "a.pt", content))
    content = {"model_state": _fixed(FIXED), "model_config": FIXED | {"n_layer": 2}}
    with pytest.raises(Failure, match=r"one block 2 times \(shared depth\)"):
        load_checkpoint(saved(tmp_path / "a.pt", content))
    several = {name: tensor.repeat_interleave(3, 0) for name, tensor in _fixed(FIXED).items()}
    with pytest.raises(Failure, match="3 models side by side"):
        load_checkpoint(saved(tmp_path / "a.pt", {"model_state": several, "model_config": FIXED}))


def test_mlx_weights_may_be_named_too(tmp_path: Path) -> None:
    from helpers.foreign import write_mlx

    config = get_preset("122p").config
    params = {name: p.detach() for name, p in build_model(config, 0).named_parameters()}
    write_mlx(tmp_path / "a.npz", config, params)
    with np.load(tmp_path / "a.npz") as arrays:
        state = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    assert same_weights(saved(tmp_path / "a.pt", state), "122p")

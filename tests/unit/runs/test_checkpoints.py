"""Checkpoints come back as they were; the published program reads ours; nothing broken gets in."""

import dataclasses
import hashlib
import io
import math
import struct
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from adderlab.errors import Failure, UsageError
from adderlab.models.config import ModelConfig
from adderlab.models.tables import stack_parameters
from adderlab.models.transformer import Transformer, build_model
from adderlab.runs.checkpoints import (
    Checkpoint,
    load_checkpoint,
    save_checkpoint,
    save_safetensors,
)
from helpers.disk import fill, tmpfs
from helpers.reference import reference_checkpoint
from oracle.r456_loader import load_as_published

CONFIG = ModelConfig(
    pos_rank=3, qkv_rank=3, attn_out_rank=2, ffn_rank=3, norm="rms", tie_qkv="shareA_tieKV"
)
RECIPE = {"steps": 54_000, "lr": 0.02, "data": {"curriculum": [[2000, 3], [7000, 6]]}, "note": None}
SAVERS = {".pt": save_checkpoint, ".safetensors": save_safetensors}


def checkpoint(config: ModelConfig = CONFIG, **changes: Any) -> Checkpoint:
    params = {name: t[0] for name, t in stack_parameters([build_model(config, 5)]).items()}
    values: dict[str, Any] = {
        "config": config,
        "params": params,
        "recipe": RECIPE,
        "step": 17_000,
        "val_exact": 0.9998,
        "seed": 43,
    }
    return Checkpoint(**values | changes)


def refuses(path: Path, *words: str, kind: type[ValueError] = Failure) -> str:
    """The loader's one line, after looking that the file is as it was."""
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(kind) as error:
        load_checkpoint(path)
    assert type(error.value) is kind
    text = str(error.value)
    assert "\n" not in text and str(path) in text
    for word in words:
        assert word in text, text
    assert before is None or path.read_bytes() == before
    return text


@pytest.mark.parametrize("suffix", SAVERS)
@pytest.mark.parametrize(
    "config",
    [
        CONFIG,
        ModelConfig(),
        ModelConfig(n_layer=2, n_head=2, d_model=8, tie_qkv="shareB_tieQK", qkv_rank=2),
        ModelConfig(layout="S", activation="relu", tie_qkv="kv"),
        ModelConfig(layout="M", position_rows=40),
    ],
)
def test_comes_back_as_it_was(tmp_path: Path, suffix: str, config: ModelConfig) -> None:
    saved, path = checkpoint(config), tmp_path / f"best{suffix}"
    SAVERS[suffix](path, saved)
    loaded = load_checkpoint(path)
    assert loaded.params.keys() == saved.params.keys()
    assert all(torch.equal(loaded.params[name], saved.params[name]) for name in saved.params)
    for name in ("config", "recipe", "step", "val_exact", "origin", "seed", "weights_sha256"):
        assert getattr(loaded, name) == getattr(saved, name), name
    assert loaded.path == path
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", SAVERS)
def test_unknown_accuracy_and_seed_come_back(tmp_path: Path, suffix: str) -> None:
    SAVERS[suffix](tmp_path / "a", checkpoint(val_exact=math.nan, seed=None, recipe={}))
    loaded = load_checkpoint(tmp_path / "a")
    assert math.isnan(loaded.val_exact) and loaded.seed is None and loaded.recipe == {}


def test_model_has_the_weights_and_leaves_the_generator_alone() -> None:
    original = build_model(CONFIG, 5)
    state = torch.random.get_rng_state()
    model = checkpoint().module()
    assert torch.equal(torch.random.get_rng_state(), state)
    tokens_BP = torch.randint(0, 10, (3, 33), generator=torch.Generator().manual_seed(1))
    assert torch.equal(model(tokens_BP), original(tokens_BP))
    assert isinstance(model, Transformer) and model.lm_head.weight is model.token_emb.weight


def test_is_a_snapshot_without_the_seed_axis(tmp_path: Path) -> None:
    stacked = stack_parameters([build_model(CONFIG, seed) for seed in range(200)])
    one = checkpoint(params={name: tensor[7] for name, tensor in stacked.items()})
    before = one.weights_sha256
    for tensor in stacked.values():
        tensor.zero_()
    assert one.weights_sha256 == before
    save_checkpoint(tmp_path / "a.pt", one)
    assert (tmp_path / "a.pt").stat().st_size < 16_000, "the whole population was saved"
    assert {name: tuple(t.shape) for name, t in one.stacked().items()} == {
        name: (1, *t.shape[1:]) for name, t in stacked.items()
    }
    assert one.num_parameters == 456


def test_hash_is_the_documented_one() -> None:
    one = checkpoint()
    text = b""
    for name in sorted(one.params):
        tensor = one.params[name]
        text += f"{name}:{'x'.join(str(n) for n in tensor.shape)}\n".encode()
        text += b"".join(struct.pack("<f", value) for value in tensor.flatten().tolist())
    assert one.weights_sha256 == hashlib.sha256(text).hexdigest()


def test_hash_sees_every_change() -> None:
    one = checkpoint()
    hashes = {one.weights_sha256}
    for name, tensor in one.params.items():
        changed = tensor.clone()
        changed.view(-1)[-1] = torch.nextafter(changed.view(-1)[-1], torch.tensor(9.0))
        hashes.add(dataclasses.replace(one, params=one.params | {name: changed}).weights_sha256)
    assert len(hashes) == len(one.params) + 1


@pytest.mark.parametrize("config", [CONFIG, ModelConfig(d_model=9, d_ff=4, qkv_rank=2)])
def test_published_program_reads_ours(tmp_path: Path, config: ModelConfig) -> None:
    save_checkpoint(tmp_path / "best.pt", checkpoint(config))
    read = load_as_published(tmp_path / "best.pt")
    assert read["train_config"]["seed"] == 43
    assert read["train_config"]["train_steps"] == 54_000
    assert read["params"] == checkpoint(config).num_parameters
    assert (read["step"], read["val_exact"]) == (17_000, 0.9998)


@pytest.mark.parametrize(
    ("name", "params", "step", "seed"),
    [("lowrank_456p_s43.pt", 456, 34_000, 43), ("lowrank_512p_s42.pt", 512, 24_000, 42)],
)
def test_published_files_there_and_back(
    tmp_path: Path, name: str, params: int, step: int, seed: int
) -> None:
    source = reference_checkpoint(name)
    published = load_as_published(source)
    loaded = load_checkpoint(source)
    assert (loaded.origin, loaded.step, loaded.seed) == ("r456", step, seed)
    assert (loaded.val_exact, loaded.num_parameters) == (1.0, params)
    assert loaded.recipe == published["train_config"]
    save_checkpoint(tmp_path / "ours.pt", loaded)
    ours = load_as_published(tmp_path / "ours.pt")
    assert list(ours["model_state"]) == list(published["model_state"])
    for key, tensor in published["model_state"].items():
        assert torch.equal(ours["model_state"][key], tensor)
    full = {"use_rmsnorm": False, "tie_qkv": "none"} | published["model_config"]
    assert ours["model_config"] == full
    assert {key: ours[key] for key in ("train_config", "step", "val_exact", "params")} == {
        key: published[key] for key in ("train_config", "step", "val_exact", "params")
    }
    again = load_checkpoint(tmp_path / "ours.pt")
    assert again.origin == "r456" and again.weights_sha256 == loaded.weights_sha256


@pytest.mark.parametrize(
    ("name", "origin", "params"),
    [
        ("microadder_67p_s71046.pt", "microadder", 67),
        ("qwen3_122p.npz", "mlx", 122),
        ("qwen3_122p_lbfgs.npz", "mlx", 122),
        ("microadder_75p.pt", "microadder", 75),
        ("rezabyt_311p_s34.pt", "r456", 311),
        ("lichengliu_274p.pt", "r456", 274),
    ],
)
@pytest.mark.parametrize("suffix", SAVERS)
def test_foreign_files_load_and_convert(
    tmp_path: Path, name: str, origin: str, params: int, suffix: str
) -> None:
    loaded = load_checkpoint(reference_checkpoint(name))
    assert loaded.origin == origin
    assert loaded.num_parameters == params
    loaded.module()
    if name == "microadder_67p_s71046.pt":
        assert (loaded.step, loaded.seed, loaded.val_exact) == (46_000, 71_046, 1.0)
    SAVERS[suffix](tmp_path / "a", loaded)
    again = load_checkpoint(tmp_path / "a")
    assert (again.origin, again.config) == (origin, loaded.config)
    assert again.weights_sha256 == loaded.weights_sha256


@pytest.mark.parametrize("wrong", [torch.zeros(9, 9), torch.zeros(()), torch.zeros(0), None])
def test_microadder_with_a_weight_of_the_wrong_shape(tmp_path: Path, wrong: Tensor | None) -> None:
    source = reference_checkpoint("microadder_67p_s71046.pt")
    content = torch.load(source, map_location="cpu", weights_only=True)
    for name in ("z_hi_pos", "tok_arc_A", "blocks.0.attn.q_proj.weight", "blocks.0.ffn.fc2.weight"):
        if wrong is None or wrong.shape != content["model_state_dict"][name].shape:
            state = content["model_state_dict"] | {name: wrong}
            refuses(write(tmp_path / "a.pt", content | {"model_state_dict": state}))


def payload() -> dict[str, Any]:
    """The content of a file in the published form."""
    buffer = io.BytesIO()
    one = checkpoint()
    torch.save(
        {
            "model_state": dict(one.module().state_dict()),
            "model_config": {
                "pos_rank": 3,
                "qkv_rank": 3,
                "attn_out_rank": 2,
                "ffn_rank": 3,
                "use_rmsnorm": True,
                "tie_qkv": "shareA_tieKV",
            },
            "train_config": {"seed": 43, "train_steps": 10},
            "step": 5,
            "val_exact": 0.5,
            "params": 456,
        },
        buffer,
    )
    return torch.load(io.BytesIO(buffer.getvalue()), weights_only=True)


def write(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def test_published_form_is_read(tmp_path: Path) -> None:
    loaded = load_checkpoint(write(tmp_path / "a.pt", payload()))
    assert loaded.weights_sha256 == checkpoint().weights_sha256
    assert (loaded.config, loaded.seed, loaded.step) == (CONFIG, 43, 5)


def test_other_floats_are_widened(tmp_path: Path) -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        content = payload()
        state = {name: tensor.to(dtype) for name, tensor in content["model_state"].items()}
        content["model_state"] = state
        loaded = load_checkpoint(write(tmp_path / "a.pt", content))
        assert torch.equal(loaded.params["ln_f.weight"], state["ln_f.weight"].float())
    content["model_state"]["blocks.0.ln1.weight"] = torch.full((7,), 0.1, dtype=torch.float64)
    refuses(write(tmp_path / "a.pt", content), "blocks.0.ln1.weight", "float64", "float32")


def test_files_of_forks_lack_what_they_were_trained_by(tmp_path: Path) -> None:
    content = payload()
    del content["train_config"]
    content["model_config"] |= {"pe_type": "learned", "pe_init_period": 11.0, "token_emb_rank": 0}
    loaded = load_checkpoint(write(tmp_path / "a.pt", content))
    assert (loaded.recipe, loaded.seed, loaded.origin) == ({}, None, "r456")
    content["model_config"]["pe_type"] = "sinusoidal"
    refuses(write(tmp_path / "a.pt", content), "pe_type must be learned, not 'sinusoidal'")


def test_missing_entry(tmp_path: Path) -> None:
    content = payload()
    del content["model_state"]
    refuses(write(tmp_path / "a.pt", content), "model_state")


@pytest.mark.parametrize("key", ["step", "val_exact", "params"])
def test_what_a_fork_may_leave_out_our_files_may_not(tmp_path: Path, key: str) -> None:
    content = payload()
    whole = load_checkpoint(write(tmp_path / "a.pt", content))
    del content[key]
    loaded = load_checkpoint(write(tmp_path / "a.pt", content))
    assert loaded.weights_sha256 == whole.weights_sha256
    assert math.isnan(loaded.val_exact) == (key == "val_exact")
    assert (loaded.step == 0) == (key == "step")
    save_checkpoint(tmp_path / "ours.pt", whole)
    own = torch.load(tmp_path / "ours.pt", weights_only=True)
    del own[key]
    refuses(write(tmp_path / "ours.pt", own), f"lacks the entry {key!r}")


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "module._orig_mod."])
def test_names_of_a_wrapped_module_are_its_own(tmp_path: Path, prefix: str) -> None:
    content = payload()
    whole = load_checkpoint(write(tmp_path / "a.pt", content))
    content["model_state"] = {f"{prefix}{name}": t for name, t in content["model_state"].items()}
    assert load_checkpoint(write(tmp_path / "a.pt", content)).weights_sha256 == whole.weights_sha256
    name, tensor = content["model_state"].popitem()
    content["model_state"][name.removeprefix(prefix)] = tensor
    refuses(write(tmp_path / "a.pt", content), "lacks the weight")


def test_a_fork_names_the_norm_by_its_type(tmp_path: Path) -> None:
    content = payload()
    whole = load_checkpoint(write(tmp_path / "a.pt", content))
    for settings in ({"norm_type": "rmsnorm"}, {"norm_type": "RMS", "use_rmsnorm": None}):
        named = {**content["model_config"], **settings}
        if settings.get("use_rmsnorm", True) is None:
            del named["use_rmsnorm"]
        loaded = load_checkpoint(write(tmp_path / "a.pt", content | {"model_config": named}))
        assert loaded.config == whole.config
    for name in ("layernorm", "none"):
        named = {**content["model_config"], "norm_type": name}
        refuses(write(tmp_path / "a.pt", content | {"model_config": named}), "norm_type")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model_state", [1]),
        ("model_state", {"token_emb.weight": 3}),
        ("model_config", [1]),
        ("train_config", "x"),
        ("step", "x"),
        ("step", True),
        ("val_exact", None),
    ],
)
def test_entry_of_the_wrong_type(tmp_path: Path, key: str, value: Any) -> None:
    refuses(write(tmp_path / "a.pt", payload() | {key: value}))


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"n_heads": 2}, "'n_heads'"),
        ({"d_model": 8}, "token_emb.weight has the shape (14, 7)"),
        ({"n_layer": 2}, "lacks the weight blocks.1"),
        ({"n_layer": 10**9}, "layers"),
        ({"use_rmsnorm": False}, "bias"),
        ({"tie_qkv": "shareA"}, "qkv_Bk"),
        ({"qkv_rank": "3"}, "qkv_rank"),
    ],
)
def test_settings_that_do_not_fit(tmp_path: Path, change: dict[str, Any], word: str) -> None:
    content = payload()
    content["model_config"] |= change
    refuses(write(tmp_path / "a.pt", content), word)


def with_weights(**changes: Any) -> dict[str, Any]:
    content = payload()
    for name, value in changes.items():
        content["model_state"][name.replace("__", ".")] = value
    return content


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"ln_f__weight": torch.ones(8)}, "shape (8,)"),
        ({"ln_f__weight": torch.tensor([1.0] * 6 + [math.nan])}, "not finite"),
        ({"ln_f__weight": torch.tensor([1.0] * 6 + [math.inf])}, "not finite"),
        ({"lm_head__weight": torch.zeros(14, 7)}, "must be the same tensor"),
        ({"token_emb__weight": torch.full((14, 7), math.nan)}, "not finite"),
        ({"ln_f__weight": torch.ones(7, dtype=torch.int64)}, "int64"),
        ({"ln_f__weight": torch.ones(7, dtype=torch.complex64)}, "complex64"),
        ({"ln_f__weight": torch.ones(7).to_sparse()}, "not a plain tensor"),
        ({"ln_f__weight": [1.0] * 7}, "not a plain tensor"),
        ({"ln_g__weight": torch.ones(7)}, "unknown weight ln_g.weight"),
    ],
)
def test_weights_that_do_not_fit(tmp_path: Path, changes: dict[str, Any], word: str) -> None:
    refuses(write(tmp_path / "a.pt", with_weights(**changes)), word)


def test_missing_weight(tmp_path: Path) -> None:
    for name in ("lm_head.weight", "pos_emb.A"):
        content = payload()
        del content["model_state"][name]
        refuses(write(tmp_path / "a.pt", content), f"lacks the weight {name}")


def test_other_tables_are_named(tmp_path: Path) -> None:
    refuses(write(tmp_path / "a.pt", {"weights": {}, "epoch": 3}), "weights, epoch", "model_state")
    refuses(write(tmp_path / "a.pt", {}), "none")


def ours(path: Path, **changes: Any) -> Path:
    """One of our own files with entries of its ``adderlab`` table changed (None deletes)."""
    save_checkpoint(path, checkpoint())
    content = torch.load(path, weights_only=True)
    for key, value in changes.items():
        content["adderlab"][key] = value
        if value is None:
            del content["adderlab"][key]
    return write(path, content)


def test_our_own_table_is_strict(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    assert load_checkpoint(ours(path)).seed == 43
    refuses(ours(path, schema_version=2), "newer adderlab", "schema 2", "pip install -U")
    refuses(ours(path, weights_sha256="0" * 64), "checksum")
    refuses(ours(path, weights_sha256=None), "lacks the entry 'weights_sha256'")
    refuses(ours(path, colour="red"), "'colour'")
    refuses(ours(path, config={"d_models": 7}), "'d_models'")
    refuses(ours(path, config={"d_model": 8}), "disagree")
    refuses(ours(path, recipe="x"), "recipe")


def test_our_safetensors_is_strict(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    safetensors.torch.save_file(checkpoint().params, path, {"adderlab": "{"})
    refuses(path, "not JSON")
    safetensors.torch.save_file(checkpoint().params, path, {"adderlab": "[]"})
    refuses(path, "no table")
    safetensors.torch.save_file(checkpoint().params, path, {"adderlab": "{}"})
    refuses(path, "lacks the entry 'step'")
    save_safetensors(path, checkpoint())
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    refuses(path, "checksum")


def test_diverged_weights_are_written_but_not_read(tmp_path: Path) -> None:
    one = checkpoint()
    broken = dataclasses.replace(one, params=one.params | {"ln_f.weight": torch.full((7,), math.nan)})
    for suffix, save in SAVERS.items():
        save(tmp_path / f"last{suffix}", broken)
        refuses(tmp_path / f"last{suffix}", "ln_f.weight", "diverged")


def test_recipe_with_values_no_file_can_hold(tmp_path: Path) -> None:
    content = payload()
    content["train_config"] |= {"betas": (0.9, 0.999), "t": torch.ones(2), 3: "x"}
    loaded = load_checkpoint(write(tmp_path / "a.pt", content))
    save_safetensors(tmp_path / "b", loaded)
    assert load_checkpoint(tmp_path / "b").recipe == loaded.recipe
    assert loaded.recipe["betas"] == [0.9, 0.999]


def test_missing_file_and_folder(tmp_path: Path) -> None:
    refuses(tmp_path / "gone.pt", "no checkpoint", kind=UsageError)
    refuses(tmp_path, "is a folder", kind=UsageError)
    (tmp_path / "checkpoints").mkdir()
    save_checkpoint(tmp_path / "checkpoints" / "best.pt", checkpoint())
    refuses(tmp_path, str(tmp_path / "checkpoints" / "best.pt"), kind=UsageError)


@pytest.mark.parametrize("suffix", SAVERS)
def test_failed_save_keeps_the_old_file(tmp_path: Path, suffix: str) -> None:
    with tmpfs(tmp_path / "small", kib=64) as disk:
        path = disk / f"best{suffix}"
        SAVERS[suffix](path, checkpoint(step=1))
        fill(disk)
        with pytest.raises(Failure, match="disk is full") as error:
            SAVERS[suffix](path, checkpoint(step=2))
        assert str(path) in str(error.value)
        assert load_checkpoint(path).step == 1
        assert not list(disk.glob(".*"))

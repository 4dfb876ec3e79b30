"""Broken and hostile weight files: one clear line each, and no code of theirs ever runs."""

import io
import os
import pickle
import random
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from adderlab.errors import Failure
from adderlab.files.weights import container_of
from adderlab.models.config import ModelConfig
from adderlab.models.tables import stack_parameters
from adderlab.models.transformer import build_model
from adderlab.runs.checkpoints import (
    Checkpoint,
    load_checkpoint,
    save_checkpoint,
    save_safetensors,
)
from helpers.reference import reference_checkpoint


def refuses(path: Path, *words: str) -> None:
    before = path.read_bytes()
    with pytest.raises(Failure) as error:
        load_checkpoint(path)
    text = str(error.value)
    assert "\n" not in text and str(path) in text and len(text) < 400
    for word in words:
        assert word in text, text
    assert path.read_bytes() == before


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The bytes of one of our files in each format, and in PyTorch's old one."""
    folder = tmp_path_factory.mktemp("saved")
    config = ModelConfig(d_model=3, d_ff=2)
    params = {name: t[0] for name, t in stack_parameters([build_model(config, 5)]).items()}
    one = Checkpoint(config=config, params=params, recipe={"steps": 3}, step=1, val_exact=0.5)
    save_checkpoint(folder / "a.pt", one)
    save_safetensors(folder / "a.safetensors", one)
    old = io.BytesIO()
    content = torch.load(folder / "a.pt", weights_only=True)
    torch.save(content, old, _use_new_zipfile_serialization=False)
    arrays = io.BytesIO()
    np.savez(arrays, **{"model.embed_tokens.weight": np.zeros((10, 3), np.float32)})
    return {
        "pt": (folder / "a.pt").read_bytes(),
        "old_pt": old.getvalue(),
        "safetensors": (folder / "a.safetensors").read_bytes(),
        "npz": arrays.getvalue(),
    }


@pytest.mark.parametrize("kind", ["pt", "old_pt", "safetensors", "npz"])
def test_cut_short_anywhere(tmp_path: Path, saved: dict[str, bytes], kind: str) -> None:
    data = saved[kind]
    path = tmp_path / "cut"
    lengths = {*range(40), *range(len(data) - 40, len(data)), *range(0, len(data), 97)}
    for length in sorted(lengths):
        path.write_bytes(data[:length])
        refuses(path)


@pytest.mark.parametrize("kind", ["pt", "safetensors"])
def test_flipped_bits_never_pass_for_other_weights(
    tmp_path: Path, saved: dict[str, bytes], kind: str
) -> None:
    path = tmp_path / "flipped"
    path.write_bytes(saved[kind])
    whole = load_checkpoint(path)
    generator = random.Random(1)
    refused = 0
    for _ in range(300):
        data = bytearray(saved[kind])
        data[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
        path.write_bytes(data)
        try:
            loaded = load_checkpoint(path)
        except Failure as error:
            assert "\n" not in str(error)
            refused += 1
        else:  # padding, or a field no one reads
            assert loaded.weights_sha256 == whole.weights_sha256
            assert loaded.config == whole.config
    assert refused > 100


class Hostile:
    """Unpickled carelessly, this makes a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.target}",)


def test_code_in_a_pickle_does_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    bomb = Hostile(mark)
    path = tmp_path / "hostile.pt"
    torch.save({"model_state": bomb}, path)
    refuses(path, "Python code", "posix.system", "never run")
    torch.save({"model_state": bomb}, path, _use_new_zipfile_serialization=False)
    refuses(path, "Python code", "posix.system")
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        path.write_bytes(pickle.dumps(bomb, protocol=protocol))
        refuses(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("weights.npy", pickle.dumps(bomb))
    refuses(path)
    assert not mark.exists()
    pickle.loads(pickle.dumps(bomb))
    assert mark.exists(), "the bomb is a dud: this test could not fail"


def test_objects_of_unknown_classes_are_refused(tmp_path: Path) -> None:
    torch.save({"model_state": {}, "args": Path("x")}, tmp_path / "a.pt")
    refuses(tmp_path / "a.pt", "pathlib", "plain values only")


def test_npz_with_pickled_objects(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    path = tmp_path / "a.npz"
    arrays = {"model.norm.weight": np.array([Hostile(mark)], dtype=object)}
    np.savez(path, **arrays)
    refuses(path, "pickled Python objects", "never loaded")
    assert not mark.exists()
    np.savez(path, **{"model.norm.weight": np.array(["text"])})
    refuses(path, "model.norm.weight", "not an array of numbers")


def test_npz_of_another_model(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", w=np.zeros(3, np.float32))
    refuses(tmp_path / "a.npz")


def test_reference_npz_with_one_wrong_array(tmp_path: Path) -> None:
    with np.load(reference_checkpoint("qwen3_122p.npz")) as file:
        arrays = dict(file)
    path = tmp_path / "a.npz"
    for name in ("model.norm.weight", "model.layers.0.self_attn.q_proj.weight"):
        np.savez(path, **{key: value for key, value in arrays.items() if key != name})
        refuses(path)
        np.savez(path, **arrays | {name: np.zeros((5, 7), np.float32)})
        refuses(path)
        np.savez(path, **arrays | {name: np.full_like(arrays[name], np.nan)})
        refuses(path)
    np.savez(path, **arrays | {"model.extra": np.zeros(1, np.float32)})
    refuses(path)


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"<!DOCTYPE html><html></html>", "no checkpoint"),
        (b"PK\x05\x06" + bytes(18), "no checkpoint"),
        (b"\x80", "cannot be read"),
    ],
)
def test_other_files(tmp_path: Path, content: bytes, word: str) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(content)
    refuses(path, word)


def test_archive_that_would_fill_the_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"x")
        with archive.open("archive/data/0", "w", force_zip64=True) as member:
            for _ in range(65):
                member.write(bytes(1 << 20))
    data = bytearray(path.read_bytes())
    # The same archive, claiming 4 GiB less one in its directory.
    entry = data.rfind(b"PK\x01\x02")
    data[entry + 24 : entry + 28] = b"\xff\xff\xff\xfe"[::-1]
    path.write_bytes(data)
    refuses(path, "larger than")


@pytest.mark.parametrize("padding", range(8))
def test_a_header_whose_length_begins_like_a_pickle(padding: int) -> None:
    """0x80 is the first byte of a pickle, and of one safetensors header in 32."""
    length = 0x0280
    header = b'{"__metadata__":{"x":"' + b"y" * (length - 25) + b'"}}'
    data = len(header).to_bytes(8, "little") + header + b"\0" * padding
    assert data[:1] == b"\x80" and container_of(data, "a") == "safetensors"

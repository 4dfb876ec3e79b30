"""Bytes of a weight file -> plain values, trusting nothing in them.

Three containers are read: PyTorch's (``.pt``), NumPy's (``.npz``) and safetensors. They are
distinguished by their first bytes, not by the file's name. No code in a file is ever run.
"""

from __future__ import annotations

import io
import json
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from adderlab.errors import Failure, UsageError
from adderlab.files.atomic import disk_failure

LARGEST = 1 << 30
"""Bytes. The models here have a few hundred numbers; a file beyond this is something else."""

Container = Literal["torch", "npz", "safetensors"]

_FETCH_AGAIN = "it is damaged or cut short; fetch or save it again"


def read_weight_file(path: Path | str, largest: int = LARGEST) -> bytes:
    """The bytes of a weight file. ``UsageError`` if there is none, ``Failure`` if unreadable."""
    path = Path(path)
    if not path.exists():
        raise UsageError(f"there is no checkpoint {path}; check the path")
    if path.is_dir():
        best = path / "checkpoints" / "best.pt"
        hint = f"name the file in it: {best}" if best.is_file() else "name a checkpoint file"
        raise UsageError(f"{path} is a folder; {hint}")
    try:
        if path.stat().st_size > largest:
            raise _too_large(path, largest)
        return path.read_bytes()
    except OSError as error:
        raise disk_failure(error, path, "read") from error


def container_of(data: bytes, path: Path | str) -> Container:
    """Which container the bytes are. Raises ``Failure`` for anything else."""
    if not data:
        raise Failure(f"{path} is empty; fetch or save it again")
    if data.startswith(b"PK"):
        names = _zip_names(data, path)
        if any(name.endswith("data.pkl") for name in names):
            return "torch"
        if names and all(name.endswith(".npy") for name in names):
            return "npz"
        raise Failure(f"{path} is an archive but no checkpoint; name a .pt, .npz or .safetensors file")
    # Before the pickle: a header's length may begin with a pickle's first byte too.
    if data[8:9] == b"{" and int.from_bytes(data[:8], "little") <= len(data) - 8:
        return "safetensors"
    if data[:1] == b"\x80":
        return "torch"
    if data[8:9] == b"{":
        return "safetensors"  # cut short: its reader says so
    if data.startswith(b"version https://git-lfs"):
        raise Failure(f"{path} is a Git LFS pointer, not the file itself; run git lfs pull")
    raise Failure(f"{path} is no checkpoint this program knows; name a .pt, .npz or .safetensors file")


def read_torch(data: bytes, path: Path | str, largest: int = LARGEST) -> dict[str, Any]:
    """The table in a ``.pt``: tensors on the CPU and plain values. Raises ``Failure``."""
    if data.startswith(b"PK"):
        _check_archive(data, path, largest)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            payload = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises whatever the damaged bytes lead it to
        code = re.search(r"GLOBAL ([\w.]+)", str(error))
        if code:
            raise Failure(
                f"{path} holds Python code ({code[1]}), which is never run; "
                "save it again with tensors and plain values only"
            ) from error
        if "Unsupported operand" in str(error):
            raise Failure(
                f"{path} is a Python pickle, which may hold code and is never loaded; "
                "save it again with torch.save, tensors and plain values only"
            ) from error
        raise Failure(f"{path} cannot be read: {_FETCH_AGAIN}") from error
    if not isinstance(payload, dict) or not all(isinstance(key, str) for key in payload):
        raise Failure(f"{path} holds no table of named entries; name a checkpoint file")
    return payload


def check_npz(data: bytes, path: Path | str) -> None:
    """Refuse a ``.npz`` that is damaged or holds anything but arrays of numbers."""
    _check_archive(data, path)
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            for name in arrays.files:
                if arrays[name].dtype.kind not in "fiu":
                    raise Failure(f"{path}: {name} is not an array of numbers; save it again as float32")
    except Failure:
        raise
    except Exception as error:  # numpy raises whatever the damaged bytes lead it to
        if "allow_pickle" in str(error):
            raise Failure(
                f"{path} holds pickled Python objects, which are never loaded; "
                "save it again with numbers only"
            ) from error
        raise Failure(f"{path} cannot be read: {_FETCH_AGAIN}") from error


def read_safetensors(data: bytes, path: Path | str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(tensors, metadata) of a safetensors file. Raises ``Failure``."""
    try:
        tensors = safetensors.torch.load(data)
        size = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + size])
    except Exception as error:  # safetensors raises several kinds for damaged bytes
        raise Failure(f"{path} cannot be read: {_FETCH_AGAIN}") from error
    metadata = header.get("__metadata__") or {}
    return tensors, metadata


def _zip_names(data: bytes, path: Path | str) -> list[str]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return archive.namelist()
    except Exception as error:  # zipfile raises several kinds for damaged bytes
        raise Failure(f"{path} cannot be read: {_FETCH_AGAIN}") from error


def _check_archive(data: bytes, path: Path | str, largest: int = LARGEST) -> None:
    """Checksums of every member: PyTorch's own reader does not look at them."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if sum(member.file_size for member in archive.infolist()) > largest:
                raise _too_large(path, largest)
            broken = archive.testzip()
    except Failure:
        raise
    except Exception as error:  # zipfile raises several kinds for damaged bytes
        raise Failure(f"{path} cannot be read: {_FETCH_AGAIN}") from error
    if broken is not None:
        raise Failure(f"{path} cannot be read: the checksum of {broken} is wrong; {_FETCH_AGAIN}")


def _too_large(path: Path | str, largest: int) -> Failure:
    return Failure(f"{path} is larger than {largest >> 20} MiB, so it is no checkpoint of these models")

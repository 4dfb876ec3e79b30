"""The certificate file, read without trust: every key, type, shape and count is checked.

Format: docs/proof.md, sections 3 and 4. Shapes: Z query tokens, H heads, E bottleneck, M nodes.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from adderlab.errors import Failure, UsageError

FORMAT, VERSIONS = "adderlab-certificate", (1, 2, 3, 4)
"""Version 1 did not name the configuration, which the checkpoint alone then says."""
SUMMED_VERSION = 3
"""From this version on certificates are about the sum of heads that share their coordinates."""
TRACED_VERSION, TRACED = 4, "trace_sha256"
"""Of a model read from a file: what stands for its configuration has this key, the hash of every
recorded operation and constant."""
MOST_BYTES = 2**28
"""Where the model is not known: a file that unpacks to more than this is refused."""
MOST_CELLS = 1_000_000
"""Cells of split leaves that a certificate may have, for the bound of its length."""
MOST_VALUES = 1_000_000
"""JSON values and containers that it may have: each costs up to a few hundred bytes of memory, one empty
list three bytes of text. A split leaf has some fifty."""
MOST_NESTED = 8
"""A certificate's arrays lie six deep."""
MOST_NODES = 4096
BLOCK = 1 << 20
DTYPES = {"<f4", "<f8", "<i4", "|i1"}

KEYS = {
    "format",
    "version",
    "adderlab",
    "weights_sha256",
    "tables_sha256",
    "form",
    "bottleneck",
    "verdict",
    "failing_pairs",
    "failing_by_step",
    "counterexample",
    "margin",
    "leaves",
    "cells",
    "steps",
    "digest",
}
CONFIG_KEYS = {"config", "config_sha256"}
STEP_KEYS = {
    "step",
    "pivot",
    "shear",
    "nodes_low",
    "nodes_high",
    "bounds",
    "parts",
    "inputs",
    "margin_bound",
    "splits",
}
SUMMED_KEYS = {"joint"}
"""Of a step and of a split, where the heads share their coordinates."""
SPLIT_KEYS = {"leaf", "pivot", "shear", "tree", "bounds", "parts"}


class Rejected(Exception):
    """What the certificate claims is wrong, or is not proved by what it holds. One sentence."""


@dataclass(frozen=True, kw_only=True)
class Frame:
    """Functionals of rows (query tokens, or one split leaf); boxes are long along ``shear``."""

    pivot_RH: np.ndarray
    shear_RHE: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Split:
    leaf: int
    frame: Frame
    tree: list[int]
    bounds_NHE2: np.ndarray
    joint_NE2: np.ndarray | None
    parts_NH: np.ndarray


@dataclass(frozen=True, kw_only=True)
class StepClaims:
    """What the file says about one step; arrays as float64."""

    frame: Frame
    nodes_ZHE2M: np.ndarray
    bounds_NHE2: np.ndarray
    joint_NE2: np.ndarray | None
    """Bounds of the sum of the heads; None where each has its own coordinates."""
    parts_NH: np.ndarray
    inputs: int
    margin_bound: float
    splits: list[Split]


def most_bytes(leaves: int, tokens: int, heads: int, bottleneck: int) -> int:
    """More bytes than a certificate needs for so many leaves and query tokens, in all steps together."""
    # With several heads, bounds of their sum too.
    per_leaf = (heads + 1) * bottleneck * 2 * 4 + heads * 4
    per_cell = (heads + 1) * bottleneck * 2 * 8 + heads * 4 + 8
    nodes = tokens * heads * bottleneck * 2 * 8 * MOST_NODES
    frames = leaves * heads * (bottleneck * 8 + 4)
    return 4 * (leaves * per_leaf + MOST_CELLS * per_cell + nodes + frames) // 3 + 64 * MOST_VALUES


def read_document(path: Path | str, most: int = MOST_BYTES) -> dict[str, Any]:
    """The JSON object of a certificate file of at most ``most`` bytes, gzip-compressed or not.

    A stranger's file is not to take memory: it is unpacked up to ``most`` bytes, and its values and
    their nesting are counted in the text before any is made. Raises ``UsageError`` if there is no
    such file, ``Failure`` if it is not a certificate at all.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except FileNotFoundError:
        raise UsageError(f"there is no file {path}") from None
    except OSError as error:
        raise Failure(f"{path} cannot be read: {error.strerror}") from error
    if data[:2] == b"\x1f\x8b":
        data = _unpacked(data, most, path)
    if len(data) > most:
        raise Failure(f"{path} holds more than {most} bytes: no certificate of this model is that long")
    values, nested = _values_and_nesting(data)
    if values > MOST_VALUES or nested > MOST_NESTED:
        raise Failure(f"{path} holds {values} values, nested {nested} deep: no certificate does")
    try:
        value = json.loads(
            data.decode("utf-8"), parse_constant=_no_constant, object_pairs_hook=_no_duplicates
        )
    except (ValueError, RecursionError) as error:
        raise Failure(f"{path} is not a certificate ({error}); name a file of adderlab prove") from error
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise Failure(f"{path} is not a certificate; name a file written by adderlab prove")
    return value


def _unpacked(data: bytes, most: int, path: Path) -> bytes:
    """The one gzip member that the file is, up to ``most`` bytes and one more."""
    member = zlib.decompressobj(zlib.MAX_WBITS | 16)  # with gzip's header and checksum
    try:
        out = member.decompress(data, most + 1)
    except zlib.error as error:
        raise Failure(f"{path} is damaged: {error}; make the certificate again") from error
    if len(out) <= most and not member.eof:
        raise Failure(f"{path} is damaged: it ends early; make the certificate again")
    if member.unused_data:
        raise Failure(f"{path} holds something after its end; make the certificate again")
    return out


def _values_and_nesting(data: bytes) -> tuple[int, int]:
    """At least as many JSON values as the text holds, and how deep its brackets go (in strings, too,
    where a certificate has none)."""
    values = nested = depth = 0
    for start in range(0, len(data), BLOCK):
        block = np.frombuffer(data, np.uint8, min(BLOCK, len(data) - start), start)
        opens = (block == ord("[")) | (block == ord("{"))
        closes = (block == ord("]")) | (block == ord("}"))
        values += int(opens.sum()) + int((block == ord(",")).sum())
        marks = np.flatnonzero(opens | closes)
        depths = depth + np.cumsum(np.where(opens[marks], 1, -1))
        nested = max(nested, int(depths.max(initial=0)))
        depth = int(depths[-1]) if len(depths) else depth
    return values, nested


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        raise ValueError("an object has a key twice")
    return out


def digest_of(document: dict[str, Any]) -> str:
    """The value that the key ``digest`` has to have."""
    rest = {key: value for key, value in document.items() if key != "digest"}
    return hashlib.sha256(canonical(rest).encode("ascii")).hexdigest()


def canonical(value: Any) -> str:
    """The one text that stands for a JSON value (docs/proof.md, section 3)."""
    try:
        return json.dumps(
            value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
        )
    except (ValueError, TypeError) as error:
        raise Rejected(f"the certificate holds something that JSON does not: {error}") from None


def check_config(document: dict[str, Any], config: Mapping[str, Any], usual: Mapping[str, Any]) -> None:
    """The configuration that a certificate names is ``config``, number by number.

    A setting that the certificate does not list (its program did not know it) has its ``usual`` value.
    """
    claimed = document["config"]
    traced = document["version"] == TRACED_VERSION
    if traced != (TRACED in config):
        here = "a model read from a file" if not traced else "a model of a configuration"
        there = "a model read from a file" if traced else "a model of a configuration"
        raise Rejected(f"the certificate is about {there}, and this is {here}")
    usual = {} if traced else usual
    if not isinstance(claimed, dict):
        raise Rejected("the certificate does not say which configuration it is about")
    if document["config_sha256"] != hashlib.sha256(canonical(claimed).encode("ascii")).hexdigest():
        raise Rejected("the certificate's configuration does not fit its config_sha256")
    there = {**usual, **claimed}
    for name in sorted({*there, *config}):
        if name not in config:
            raise Rejected(f"the certificate's configuration has the setting {name!r}, unknown here")
        # As text: 1, 1.0 and true are one number to Python.
        if canonical(there.get(name)) != canonical(config[name]):
            if traced:
                raise Rejected(f"the certificate is about another file's program: its {name} differs")
            raise Rejected(
                f"the certificate is about another configuration: {name} is {there.get(name)} there, "
                f"{config[name]} in this checkpoint"
            )


def check_outline(document: dict[str, Any]) -> None:
    """Keys, version and digest."""
    version = document.get("version")
    if not is_count(version):
        raise Rejected("the certificate says no version")
    if version not in VERSIONS:
        raise Rejected(
            f"the certificate has version {version}, this checker reads up to version {VERSIONS[-1]}"
        )
    same_keys(document, KEYS | (CONFIG_KEYS if version > 1 else set()), "the certificate")
    if document["digest"] != digest_of(document):
        raise Rejected("the certificate was altered: its digest does not fit its content")


def same_keys(value: Any, keys: set[str], what: str) -> None:
    if not isinstance(value, dict):
        raise Rejected(f"{what} is not an object")
    missing, unknown = sorted(keys - set(value)), sorted(set(value) - keys)
    if missing:
        raise Rejected(f"{what} lacks the key {missing[0]!r}")
    if unknown:
        raise Rejected(f"{what} has the key {unknown[0]!r}, which nothing checks")


def is_count(value: Any) -> bool:
    """A non-negative whole number."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def is_real(value: Any) -> bool:
    return (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and (isinstance(value, int) or math.isfinite(value))
        and abs(value) < 2**1000
    )


def array(value: Any, dtype: str, shape: tuple[int | None, ...], what: str) -> np.ndarray:
    """An array of the file; ``None`` in ``shape`` is any size. Every number is finite."""
    same_keys(value, {"dtype", "shape", "data"}, what)
    if value["dtype"] != dtype or dtype not in DTYPES:
        raise Rejected(f"{what} has the type {value['dtype']!r}, not {dtype}")
    sizes = value["shape"]
    fits = isinstance(sizes, list) and len(sizes) == len(shape) and all(map(is_count, sizes))
    if not fits or any(want not in (None, got) for want, got in zip(shape, sizes, strict=True)):
        raise Rejected(f"{what} has the shape {sizes}, not {list(shape)}")
    if not isinstance(value["data"], str):
        raise Rejected(f"{what} has no data")
    try:
        data = base64.b64decode(value["data"], validate=True)
    except (binascii.Error, ValueError):
        raise Rejected(f"{what} is not base64") from None
    if len(data) != math.prod(sizes) * np.dtype(dtype).itemsize:
        raise Rejected(f"{what} holds {len(data)} bytes, which is not its shape")
    numbers = np.frombuffer(data, dtype=dtype).reshape(sizes)
    if dtype[1] == "f" and not np.isfinite(numbers).all():
        raise Rejected(f"{what} holds a number that is not finite")
    return numbers.astype(np.float64 if dtype[1] == "f" else np.int64)


def read_step(
    value: Any, index: int, tokens: int, heads: int, bottleneck: int, leaves: int, summed: bool = False
) -> StepClaims:
    """Step ``index``'s claims, with every array of the right shape; ``summed`` if they are about the sum
    of the heads, which then have one frame. Raises ``Rejected``."""
    what, Z, H, E = f"step {index}", tokens, heads, bottleneck
    frames = 1 if summed else H
    same_keys(value, STEP_KEYS | SUMMED_KEYS if summed else STEP_KEYS, what)
    if not is_count(value["step"]) or value["step"] != index:
        raise Rejected(f"{what} stands where step {value['step']} should")
    nodes = [
        array(value[name], "<f8", (Z, H, E, None), f"{what}, {name}")
        for name in ("nodes_low", "nodes_high")
    ]
    for name, each in zip(("nodes_low", "nodes_high"), nodes, strict=True):
        if not 2 <= each.shape[-1] <= MOST_NODES or not (np.diff(each) > 0).all():
            raise Rejected(f"{what}, {name}: nodes have to ascend")
    if nodes[0].shape != nodes[1].shape:
        raise Rejected(f"{what}: nodes_low and nodes_high differ in length")
    if not is_count(value["inputs"]) or not is_real(value["margin_bound"]):
        raise Rejected(f"{what}: inputs or margin_bound is not a number")
    if not isinstance(value["splits"], list):
        raise Rejected(f"{what}: splits is not a list")
    return StepClaims(
        frame=_frame(value, (Z, frames), E, what),
        nodes_ZHE2M=np.stack(nodes, 3),
        bounds_NHE2=_bounds(value, "bounds", (leaves, H, E, 2), what),
        joint_NE2=_bounds(value, "joint", (leaves, E, 2), what) if summed else None,
        parts_NH=array(value["parts"], "<i4", (leaves, frames), f"{what}, parts"),
        inputs=value["inputs"],
        margin_bound=float(value["margin_bound"]),
        splits=[_split(each, H, E, leaves, what, summed) for each in value["splits"]],
    )


def _frame(value: dict[str, Any], rows: tuple[int, ...], E: int, what: str) -> Frame:
    pivot = array(value["pivot"], "<i4", rows, f"{what}, pivot")
    shear = array(value["shear"], "<f8", (*rows, E), f"{what}, shear")
    if not ((pivot >= 0) & (pivot < E)).all():
        raise Rejected(f"{what}: a pivot is not an index below {E}")
    if not (np.take_along_axis(shear, pivot[..., None], -1) == 1.0).all():
        raise Rejected(f"{what}: shear is not 1 at the pivot")
    H = rows[-1]
    return Frame(pivot_RH=pivot.reshape(-1, H), shear_RHE=shear.reshape(-1, H, E))


def _bounds(
    value: dict[str, Any], key: str, shape: tuple[int | None, ...], what: str, dtype: str = "<f4"
) -> np.ndarray:
    bounds = array(value[key], dtype, shape, f"{what}, {key}")
    if not (bounds[..., 0] <= bounds[..., 1]).all():
        raise Rejected(f"{what}: a lower bound is above its upper bound")
    return bounds


def _split(value: Any, H: int, E: int, leaves: int, what: str, summed: bool) -> Split:
    what, frames = f"a split of {what}", 1 if summed else H
    same_keys(value, SPLIT_KEYS | SUMMED_KEYS if summed else SPLIT_KEYS, what)
    if not is_count(value["leaf"]) or value["leaf"] >= leaves:
        raise Rejected(f"{what} belongs to no leaf")
    what = f"{what}, leaf {value['leaf']}"
    bounds = _bounds(value, "bounds", (None, H, E, 2), what, "<f8")
    return Split(
        leaf=value["leaf"],
        frame=_frame(value, (frames,), E, what),
        tree=array(value["tree"], "|i1", (None,), f"{what}, tree").tolist(),
        bounds_NHE2=bounds,
        joint_NE2=_bounds(value, "joint", (len(bounds), E, 2), what, "<f8") if summed else None,
        parts_NH=array(value["parts"], "<i4", (len(bounds), frames), f"{what}, parts"),
    )

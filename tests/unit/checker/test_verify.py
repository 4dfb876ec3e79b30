"""Certificates of a small adder: accepted as they are, refused with anything altered."""

import copy
import gzip
import hashlib
import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adderlab.checker.document import canonical, digest_of, most_bytes, read_document
from adderlab.checker.intervals import Interval
from adderlab.checker.model import Model, margin_by_step, smallest_margin
from adderlab.checker.verify import Report, check
from adderlab.errors import Failure, UsageError
from helpers.checker_cases import (
    CONFIG,
    CONFIG_SHA256,
    FORM,
    TABLES,
    WEIGHTS,
    certificate,
    hand_made,
    packed,
    sealed,
    unpacked,
    with_split,
)

Document = dict[str, Any]
N = 3
MODEL = hand_made(N, bottleneck=2)
DIGITS = {*range(N), *range(N + 1, 2 * N + 1), *range(2 * N + 2, 3 * N + 1)}
"""Positions of the operands' digits, and of those answer digits that a later step reads."""
MARGIN = 0.79
"""The hand-made adder's margin is just under 0.8."""
TREES = {
    # step 0, free columns above; step 3, tied columns below with a carry.
    0: [1, *[-1] * 3, N + 2, *[-1] * 10, *[-1] * 6],
    # A carry out of the units column cannot come with b_0 = 0.
    3: [2 * N + 1, 0, *[-1] * 10, N, -2, *[-1] * 9],
}


def checked(document: Document, model: Model = MODEL, **given: Any) -> Report:
    names: dict[str, Any] = {"form": FORM, "weights_sha256": WEIGHTS, "config": CONFIG}
    return check(document, model, **{**names, **given})


@pytest.fixture(scope="module")
def whole() -> Document:
    with np.errstate(all="ignore"):
        document = certificate(MODEL, parts=2, margin=MARGIN, pair=(999, 999))
        for i, tree in TREES.items():
            document = with_split(document, MODEL, i, 57, tree)
    return document


def test_a_true_certificate_is_accepted(whole: Document) -> None:
    calls: list[tuple[int, int]] = []
    report = checked(whole, progress=lambda done, total: calls.append((done, total)))
    assert report.accepted and report.reason is None
    assert report.pairs_per_step == 10 ** (2 * N)
    assert (report.leaves, report.cells) == (100 + 10_000 + 20_000 + 200, 19 + 19)
    assert report.margin is not None and MARGIN <= report.margin < 0.801
    assert [note.split()[0] for note in report.unchecked] == ["tables_sha256", "adderlab"]
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)
    assert calls[-1] == (30_300 + 38, 30_300 + 38)


def test_the_margin_proved_is_below_that_of_every_pair(whole: Document) -> None:
    report = checked(whole)
    rng = np.random.default_rng(0)
    pairs = [tuple(pair) for pair in rng.integers(0, 10**N, (40, 2)).tolist()] + [(999, 999), (0, 0)]
    assert report.margin is not None
    assert report.margin <= min(smallest_margin(MODEL, a, b)[0] for a, b in pairs)


def altered(document: Document, change: Callable[[Document], Any]) -> Document:
    """A deep copy, changed and sealed again: the digest is right, so only mathematics can object."""
    copied = copy.deepcopy({key: value for key, value in document.items() if key != "digest"})
    change(copied)
    return sealed(copied)


def edit(step: int, name: str, change: Callable[[np.ndarray], Any]) -> Callable[[Document], Any]:
    """Change an array of a step in place, or replace it by what ``change`` returns."""

    def apply(document: Document) -> None:
        holder = document["steps"][step]
        keys = name.split(".")
        for key in keys[:-1]:
            holder = holder[int(key)] if isinstance(holder, list) else holder[key]
        array = unpacked(holder[keys[-1]])
        out = change(array)
        holder[keys[-1]] = packed(array if out is None else out, holder[keys[-1]]["dtype"])

    return apply


def assign(path: str, value: Any) -> Callable[[Document], Any]:
    def apply(document: Document) -> None:
        holder: Any = document
        *keys, last = path.split(".")
        for key in keys:
            holder = holder[int(key)] if isinstance(holder, list) else holder[key]
        if isinstance(holder, list):
            holder[int(last)] = value
        else:
            holder[last] = value

    return apply


def shift(leaf: int, by: float) -> Callable[[np.ndarray], None]:
    """Move one leaf's box to where its pairs are not."""

    def apply(bounds: np.ndarray) -> None:
        bounds[leaf] += by

    return apply


def swap(first: int, second: int) -> Callable[[np.ndarray], None]:
    def apply(array: np.ndarray) -> None:
        array[[first, second]] = array[[second, first]]

    return apply


def set_entry(index: Any, value: Any) -> Callable[[np.ndarray], None]:
    def apply(array: np.ndarray) -> None:
        array[index] = value

    return apply


def random_alterations(count: int) -> Iterator[tuple[str, Callable[[Document], Any]]]:
    """One bound of one leaf or cell, moved inwards, outwards past the margin, or aside."""
    rng = np.random.default_rng(7)
    sizes = {0: 100, 1: 10_000, 2: 20_000, 3: 200}
    for number in range(count):
        step = int(rng.integers(0, 4))
        leaf, k, side = int(rng.integers(0, sizes[step])), int(rng.integers(0, 2)), number % 2
        if leaf == 57 and step in TREES:
            continue
        kind = ("inwards", "outwards", "aside")[number % 3]

        def move(bounds: np.ndarray, leaf=leaf, k=k, side=side, kind=kind) -> None:
            low, high = bounds[leaf, 0, k]
            width = max(float(high - low), 1e-4)
            outward = 1.0 if side else -1.0
            if kind == "inwards":
                bounds[leaf, 0, k, side] = bounds[leaf, 0, k, 1 - side]
            elif kind == "outwards":
                bounds[leaf, 0, k, side] += outward * 4.0
            else:
                bounds[leaf, 0, k] += outward * 0.6 * width

        yield f"step {step}, leaf {leaf}, functional {k}, {kind}", edit(step, "bounds", move)
    for step, cell in itertools.product(TREES, (0, 5, 18)):
        yield f"step {step}, cell {cell}", edit(step, "splits.0.bounds", shift(cell, 0.02))


SINGLE: dict[str, Callable[[Document], Any]] = {
    "leaf removed": edit(1, "bounds", lambda bounds: bounds[1:]),
    "leaf twice": edit(2, "bounds", lambda bounds: bounds[[0, *range(len(bounds))]]),
    "leaves swapped": edit(2, "bounds", swap(3, 777)),
    "head axis gone": edit(0, "bounds", lambda bounds: bounds[:, 0]),
    "bounds turned": edit(0, "bounds", lambda bounds: bounds[..., ::-1]),
    "bound not a number": edit(1, "bounds", set_entry((5, 0, 0, 0), np.nan)),
    "bound infinite": edit(1, "bounds", set_entry((5, 0, 0, 1), np.inf)),
    "bound in float64": lambda d: assign(
        "steps.0.bounds", packed(unpacked(d["steps"][0]["bounds"]), "<f8")
    )(d),
    "nodes elsewhere": edit(1, "nodes_high", lambda nodes: nodes + 100.0),
    "nodes descending": edit(1, "nodes_low", lambda nodes: nodes[..., ::-1]),
    "nodes equal": edit(1, "nodes_low", set_entry((0, 0, 0, 1), -1e9)),
    "one node": edit(1, "nodes_low", lambda nodes: nodes[..., :1]),
    "coarse nodes": edit(2, "nodes_high", lambda nodes: nodes[..., [0, -1]]),
    "close nodes": edit(
        2, "nodes_high", set_entry((0, 0, 0, slice(0, 2)), [1e300, np.nextafter(1e300, 2e300)])
    ),
    "shear": edit(2, "shear", set_entry((4, 0, 1), 0.7)),
    "shear not 1 at the pivot": edit(2, "shear", set_entry((4, 0, 0), 0.7)),
    "pivot": edit(2, "pivot", set_entry((4, 0), 1)),
    "pivot too large": edit(2, "pivot", set_entry((4, 0), 2)),
    "pivot negative": edit(2, "pivot", set_entry((4, 0), -1)),
    "parts zero": edit(1, "parts", set_entry((9, 0), 0)),
    "parts negative": edit(1, "parts", set_entry((9, 0), -3)),
    "parts endless": edit(1, "parts", set_entry((9, 0), 10**9)),
    "parts of a split leaf": edit(3, "parts", set_entry((57, 0), 1)),
    "cell parts zero": edit(3, "splits.0.parts", set_entry((3, 0), 0)),
    "step missing": lambda d: d["steps"].pop(),
    "step twice": lambda d: d["steps"].append(d["steps"][0]),
    "steps swapped": lambda d: d["steps"].reverse(),
    "step renamed": assign("steps.1.step", 2),
    "step true": assign("steps.1.step", True),
    "inputs": assign("steps.1.inputs", 100**N - 1),
    "inputs a fraction": assign("steps.1.inputs", float(100**N)),
    "margin of a step": assign("steps.1.margin_bound", 1.1),
    "margin of a step huge": assign("steps.1.margin_bound", 2.0**1023),
    "margin": assign("margin.bound", 0.9),
    "margin null": assign("margin.bound", None),
    "margin text": assign("margin.bound", "0.7"),
    "witness": assign("margin.witness", 0.5),
    "witness null": assign("margin.witness", None),
    "pair": assign("margin.pair", [1, 2]),
    "pair too large": assign("margin.pair", [10**N, 0]),
    "pair of three": assign("margin.pair", [1, 2, 3]),
    "pair null": assign("margin.pair", None),
    "leaves": assign("leaves", 30_301),
    "cells": assign("cells", 37),
    "failing pairs": assign("failing_pairs", 1),
    "failing pairs false": assign("failing_pairs", False),
    "failing pairs bracket": assign("failing_pairs", [0, 0]),
    "failing by step": assign("failing_by_step.2", 7),
    "failing by step short": lambda d: d["failing_by_step"].pop(),
    "counterexample": assign("counterexample", [1, 2]),
    "verdict undecided": assign("verdict", "undecided"),
    "verdict refuted": assign("verdict", "refuted"),
    "version": assign("version", 3),
    "version without its configuration": assign("version", 1),
    "version true": assign("version", True),
    "weights hash": assign("weights_sha256", "c" * 64),
    "weights hash null": assign("weights_sha256", None),
    "tables hash null": assign("tables_sha256", None),
    "config null": assign("config", None),
    "config hash": assign("config_sha256", "c" * 64),
    "config hash missing": lambda d: d.pop("config_sha256"),
    "form": assign("form.note", "other"),
    "layout": assign("form.layout_name", "M"),
    "bottleneck": assign("bottleneck", 1),
    "version of the program": assign("adderlab", None),
    "key missing": lambda d: d.pop("cells"),
    "key unknown": assign("robust_to_fp16", True),
    "key unknown in a step": assign("steps.0.also", 1),
    "key unknown in the margin": assign("margin.fp32", 0.3),
    "steps null": assign("steps", None),
    "step null": assign("steps.0", None),
    "splits null": assign("steps.0.splits", None),
    "split missing": lambda d: d["steps"][3]["splits"].pop(),
    "split and its cells missing": lambda d: (d["steps"][3]["splits"].pop(), d.update(cells=19)),
    "split twice": lambda d: d["steps"][3]["splits"].append(d["steps"][3]["splits"][0]),
    "split of another leaf": assign("steps.3.splits.0.leaf", 58),
    "split of no leaf": assign("steps.3.splits.0.leaf", 200),
    "tree to another variable": edit(3, "splits.0.tree", set_entry(1, N)),
    "tree without a cell": edit(3, "splits.0.tree", lambda tree: tree[:-1]),
    "tree with an empty cell": edit(3, "splits.0.tree", set_entry(5, -2)),
    "tree of carries only": edit(3, "splits.0.tree", lambda tree: tree[[0, 2, 2]]),
    "cells swapped": edit(3, "splits.0.bounds", swap(0, 12)),
    "cell missing": edit(3, "splits.0.bounds", lambda bounds: bounds[:-1]),
    "data not base64": assign("steps.0.bounds.data", "*"),
    "data too short": assign("steps.0.bounds.data", ""),
    "data no text": assign("steps.0.bounds.data", 5),
    "shape negative": assign("steps.0.bounds.shape", [-100, 1, 2, 2]),
    "shape no list": assign("steps.0.bounds.shape", 5),
    "dtype unknown": assign("steps.0.bounds.dtype", "|O"),
}


@pytest.mark.parametrize("name", SINGLE)
def test_no_single_alteration_is_accepted(whole: Document, name: str) -> None:
    report = checked(altered(whole, SINGLE[name]))
    assert not report.accepted and report.reason, name
    assert report.margin is None and report.pairs_per_step == 0


@pytest.mark.parametrize("count", [6, pytest.param(600, marks=pytest.mark.slow)])
def test_no_random_alteration_of_a_bound_is_accepted(whole: Document, count: int) -> None:
    reasons = []
    for name, change in random_alterations(count):
        report = checked(altered(whole, change))
        assert not report.accepted, name
        reasons.append(report.reason or "")
    # Both kinds of objection must occur: false ranges, and boxes on which the digit does not win.
    assert any("the bound of leaf" in reason for reason in reasons)
    assert any("the bound of cell" in reason for reason in reasons)
    assert any("margin" in reason for reason in reasons)


def test_an_alteration_without_a_new_digest_is_refused(whole: Document) -> None:
    assert not checked(whole | {"adderlab": "1"}).accepted
    assert not checked(whole | {"digest": "0" * 64}).accepted


@pytest.mark.parametrize("table", ["query_AVHK", "key_PVHK", "value_PVHE", "residual_AVD", "out_HED"])
def test_a_changed_weight_is_refused_even_under_the_same_hash(whole: Document, table: str) -> None:
    rng = np.random.default_rng(3)
    values = getattr(MODEL, table).low
    seen = [
        index
        for index in np.ndindex(values.shape)
        # Entries that some pair reads: a digit where a digit stands, a query of a digit (step 0 asks
        # with "="), the channel of the stream that holds the sum.
        if (table == "out_HED" and index[2] == 0)
        or (table in ("key_PVHK", "value_PVHE") and index[1] < 10 and index[0] in DIGITS)
        or (table in ("query_AVHK", "residual_AVD") and index[1] < 10 and index[0] not in (0, N))
    ]
    for number in rng.choice(len(seen), 3):
        index = seen[number]
        changed = values.copy()
        changed[index] += 0.3 if table != "query_AVHK" else 12.0
        different: dict[str, Any] = {table: Interval(changed)}
        report = checked(whole, replace(MODEL, **different))
        assert not report.accepted, (table, index)


def test_a_changed_head_is_refused(whole: Document) -> None:
    unembed = MODEL.head.constants["unembed"].low.copy()
    unembed[1, 4] += 1.0
    constants = {**MODEL.head.constants, "unembed": Interval(unembed)}
    model = replace(MODEL, head=replace(MODEL.head, constants=constants))
    assert "margin" in (checked(whole, model).reason or "")


def test_a_wrong_adder_has_no_certificate() -> None:
    """A leak of 1 spoils the reading of columns; no honest certificate can be accepted."""
    model = hand_made(2, leak=0.5)
    assert min(low for low, _ in margin_by_step(model, 99, 99)) < 0
    with np.errstate(all="ignore"):
        document = certificate(model, margin=1e-9)
    assert "margin" in (checked(document, model).reason or "")


def refutation(pair: Any) -> Document:
    return sealed(
        {
            "format": "adderlab-certificate",
            "version": 2,
            "adderlab": "0",
            "weights_sha256": WEIGHTS,
            "config": CONFIG,
            "config_sha256": CONFIG_SHA256,
            "tables_sha256": TABLES,
            "form": FORM,
            "bottleneck": 1,
            "verdict": "refuted",
            "failing_pairs": [1, 100],
            "failing_by_step": [0, 0, [1, 100]],
            "counterexample": pair,
            "margin": {"bound": -3.0, "witness": -1.0, "pair": pair},
            "leaves": 10_300,
            "cells": 0,
            "steps": None,
        }
    )


def test_a_refutation_is_never_accepted_but_its_counterexample_is_tried() -> None:
    wrong, right = hand_made(2, leak=0.5), hand_made(2)
    report = checked(refutation([99, 99]), wrong)
    assert not report.accepted and report.counterexample_confirmed
    assert "99 + 99" in (report.reason or "") and "failing_pairs" in report.unchecked
    report = checked(refutation([99, 99]), right)
    assert not report.accepted and report.counterexample_confirmed is False
    for pair in (None, [99], [100, 0], ["9", 9], [-1, 0]):
        assert checked(refutation(pair), wrong).counterexample_confirmed is None


def test_tables_of_another_machine_are_no_objection(whole: Document) -> None:
    """Their last bits differ; weights, form and configuration say which model it is."""
    report = checked(altered(whole, assign("tables_sha256", "c" * 64)))
    assert report.accepted and any("tables_sha256" in note for note in report.unchecked)


def with_config(document: Document, **settings: Any) -> Document:
    config = {**CONFIG, **settings}
    names = {
        "config": config,
        "config_sha256": hashlib.sha256(canonical(config).encode()).hexdigest(),
    }
    return altered(document, lambda d: d.update(names))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rope_theta", 3.5),
        ("rope_theta", 3),  # an integer is another thing in the file
        ("rope_theta", None),
        ("spiral", [3.5, 0.0, 0.15, 0.25]),
        ("arc", [1.0, 2.0, 3.0]),
        ("logit_scale", 2.0),
        ("norm_eps", 1e-6),
        ("layout", "S"),
        ("position_rows", 11),
        ("share_norms", "all"),
        ("from_the_future", 1),
    ],
)
def test_another_configuration_is_refused_by_name(whole: Document, name: str, value: Any) -> None:
    report = checked(with_config(whole, **{name: value}))
    assert not report.accepted and name in (report.reason or "")
    assert checked(with_config(whole)).accepted


def test_a_setting_that_the_certificate_does_not_know_has_its_usual_value(whole: Document) -> None:
    def without(name: str) -> Document:
        config = {key: value for key, value in CONFIG.items() if key != name}
        sha = hashlib.sha256(canonical(config).encode()).hexdigest()
        return altered(whole, lambda d: d.update(config=config, config_sha256=sha))

    assert checked(without("repeat_mix")).accepted
    assert "rope_theta" in (checked(without("rope_theta")).reason or "")


def test_a_configuration_with_another_hash_is_refused(whole: Document) -> None:
    report = checked(altered(whole, assign("config.rope_theta", 3.5)))
    assert "config_sha256" in (report.reason or "")


def test_certificates_of_version_1_name_no_configuration_and_are_read(whole: Document) -> None:
    def older(document: Document) -> None:
        document["version"] = 1
        del document["config"], document["config_sha256"]

    assert checked(altered(whole, older)).accepted


def test_files_are_read_with_and_without_compression(whole: Document, tmp_path: Path) -> None:
    text = json.dumps(whole).encode()
    for name, data in (("plain.json", text), ("packed.json", gzip.compress(text, mtime=0))):
        (tmp_path / name).write_bytes(data)
        assert read_document(tmp_path / name) == whole


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[]",
        b"\xff\xfe",
        b'{"format": "adderlab-certificate", "leaves": NaN}',
        b'{"format": "adderlab-certificate", "format": "adderlab-certificate"}',
        b"[" * 100_000,
        gzip.compress(b"{}", mtime=0),
        gzip.compress(b'{"format": "adderlab-certificate"}', mtime=0)[:-6],
    ],
)
def test_what_is_no_certificate_is_a_failure(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "cert.json"
    path.write_bytes(data)
    with pytest.raises(Failure):
        read_document(path)


FIRST = b'{"format": "adderlab-certificate", "x": '


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (FIRST + b"[" + b"[]," * 5_000_000 + b"0]}", "values"),
        (FIRST + b"[" + b"{}," * 5_000_000 + b"0]}", "values"),
        (FIRST + b"[" + b"0," * 5_000_000 + b"0]}", "values"),
        (FIRST + b"[" * 5_000 + b"]" * 5_000 + b"}", "nested 5001 deep"),
        (FIRST + b'"' + b"a" * 2**28 + b'"}', "holds more than"),
        (FIRST + b"0" * 2**28 + b"}", "holds more than"),
    ],
    ids=["lists", "objects", "numbers", "nesting", "a long string", "a long number"],
)
def test_a_hostile_file_is_refused_before_it_is_parsed(
    data: bytes, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few kilobytes of gzip that would take gigabytes of Python objects."""

    def parse(*_: object, **__: object) -> None:
        raise AssertionError("parsed")

    monkeypatch.setattr("adderlab.checker.document.json.loads", parse)
    path = tmp_path / "cert.json.gz"
    path.write_bytes(gzip.compress(data, 1, mtime=0))
    with pytest.raises(Failure, match=message):
        read_document(path)
    path.write_bytes(data)
    with pytest.raises(Failure, match=message):
        read_document(path)


def test_no_more_is_unpacked_than_a_certificate_of_the_model_needs(
    whole: Document, tmp_path: Path
) -> None:
    path = tmp_path / "cert.json.gz"
    path.write_bytes(gzip.compress(json.dumps(whole).encode()))
    size = len(json.dumps(whole).encode())
    assert read_document(path, size) == whole
    with pytest.raises(Failure, match=f"more than {size - 1} bytes"):
        read_document(path, size - 1)
    # Of the largest models here: fewer than 256 MB, more than any certificate kept with the records.
    assert 40e6 < most_bytes(170_300, 101, 1, 3) < 2.6e8


@pytest.mark.parametrize("rest", [b"x", b"\0", gzip.compress(b"{}", mtime=0), b"\x1f\x8b"])
def test_nothing_may_stand_after_the_gzip_member(rest: bytes, whole: Document, tmp_path: Path) -> None:
    path = tmp_path / "cert.json.gz"
    path.write_bytes(gzip.compress(json.dumps(whole).encode()) + rest)
    with pytest.raises(Failure, match="something after its end"):
        read_document(path)


@pytest.mark.parametrize(
    "name", ["bottleneck", "version", "leaves", "cells", "steps.1.step", "form.heads"]
)
@pytest.mark.parametrize("kind", [float, bool, str])
def test_whole_numbers_are_no_other_type(name: str, kind: type, whole: Document) -> None:
    """1.0, true and "1" are not 1, even where Python finds them equal."""
    document = json.loads(json.dumps(whole))
    *path, last = [int(key) if key.isdigit() else key for key in name.split(".")]
    place = document
    for key in path:
        place = place[key]
    if last == "heads":
        place[last] = 1
    form = json.loads(json.dumps(document["form"]))
    place[last] = kind(place[last])
    report = checked(sealed(document), form=form)
    assert not report.accepted and "its digest" not in (report.reason or "")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no file"):
        read_document(tmp_path / "cert.json")


def test_digest_is_that_of_the_documented_serialisation() -> None:
    wanted = hashlib.sha256(b'{"a":"\\u00e9","b":[1,2.5]}').hexdigest()
    assert digest_of({"b": [1, 2.5], "a": "\u00e9", "digest": "x"}) == wanted

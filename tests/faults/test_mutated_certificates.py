"""Thousands of certificates that were altered, by accident or with intent: no false one is accepted.

A certificate of a right model may be altered and still be true (a bound moved outwards, say): then it
may be accepted, and every claim in it is compared with all pairs of a two-digit adder, tried one by one.
Of a wrong model none is accepted, however it is altered and sealed again. Nothing ends in a traceback,
takes more than a gigabyte or half a minute.
"""

import copy
import dataclasses
import gzip
import json
import os
import random
import resource
import subprocess
import sys
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adderlab.checker import check_file
from adderlab.checker.document import read_document
from adderlab.checker.intervals import Interval
from adderlab.checker.model import Model, smallest_margin
from adderlab.checker.verify import Report, check
from adderlab.errors import Failure, UsageError
from adderlab.proof.witnesses import failing_samples
from adderlab.runs.checkpoints import load_checkpoint
from helpers.checker_cases import (
    CONFIG,
    FORM,
    WEIGHTS,
    certificate,
    hand_made,
    packed,
    sealed,
    unpacked,
    with_split,
)
from helpers.paths import ROOT

Document = dict[str, Any]
N = 2
SECONDS, BYTES = 30.0, 1 << 30
TREES = {
    # step 0, free columns above; step 2, a tied column below, where some digits cannot be.
    0: [1, *[-1] * 3, N + 1, *[-1] * 10, *[-1] * 6],
    2: [0, *[-1] * 9, N, -1, *[-2] * 9],
}
SPLIT_LEAF = 57
ARRAYS = ("bounds", "nodes_low", "nodes_high", "parts", "pivot", "shear")


def right_model() -> Model:
    return hand_made(N, bottleneck=2)


def whole(model: Model, margin: float) -> Document:
    document = certificate(model, parts=2, margin=margin, pair=(99, 99))
    for i, tree in TREES.items():
        document = with_split(document, model, i, SPLIT_LEAF, tree)
    return document


# What is true, by trying all pairs.


def every_pair() -> tuple[np.ndarray, np.ndarray]:
    a, b = np.divmod(np.arange(100**N), 10**N)
    return a, b


def mixes(model: Model, i: int) -> tuple[np.ndarray, np.ndarray]:
    """What attention gives at step i on every pair (B, E), and the margin (B,), in plain float64."""
    where, (a, b) = model.geometry, every_pair()
    at = where.query_positions[i]
    tokens = np.zeros((len(a), at + 1), dtype=int)
    total = a + b
    for numbers, positions in (
        (a, where.a_positions),
        (b, where.b_positions),
        (total, where.sum_positions),
    ):
        for j, p in enumerate(positions):
            if p <= at:
                tokens[:, p] = numbers // 10**j % 10
    for p, token in where.separators:
        tokens[:, p] = token
    z = tokens[:, at]
    key = model.key_PVHK.low[np.arange(at + 1), tokens][:, :, 0]
    score = np.einsum("bk,bpk->bp", model.query_AVHK.low[i, z, 0], key)
    weight = np.exp(score - score.max(1, keepdims=True))
    value = model.value_PVHE.low[np.arange(at + 1), tokens][:, :, 0]
    y = np.einsum("bp,bpe->be", weight / weight.sum(1, keepdims=True), value)
    fc1, fc2, unembed = (model.head.constants[name].low for name in ("fc1", "fc2", "unembed"))
    x = model.residual_AVD.low[i, z] + y @ model.out_HED.low[0]
    x = x + np.maximum(x @ fc1, 0) @ fc2
    logits = x @ unembed
    answer, each = total // 10**i % 10, np.arange(len(a))
    own = logits[each, answer]
    logits[each, answer] = -np.inf
    return y, own - logits.max(1)


def leaf_numbers(i: int) -> np.ndarray:
    """The leaf of every pair at step i, in the canonical order of docs/proof.md."""
    a, b = every_pair()

    def digit(x: np.ndarray, j: int) -> np.ndarray:
        return x // 10**j % 10 if 0 <= j < N else 0 * x

    carry = (
        (a % 10 ** max(i - 1, 0) + b % 10 ** max(i - 1, 0)) // 10 ** max(i - 1, 0) if i > 1 else 0 * a
    )
    number = carry
    for x, j in ((a, i - 1), (b, i - 1), (a, i), (b, i)):
        size = 10 if 0 <= j < N else 1
        number = number * size + digit(x, j)
    return number


def falsehoods(document: Document, model: Model, report: Report) -> list[str]:
    """Claims of an accepted certificate that are not true of all pairs."""
    found, least = [], np.inf
    for i, step in enumerate(document["steps"]):
        y, margin = mixes(model, i)
        least = min(least, margin.min())
        leaf, bounds = leaf_numbers(i), unpacked(step["bounds"]).astype(np.float64)[:, 0]
        pivot, shear = unpacked(step["pivot"])[:, 0], unpacked(step["shear"])[:, 0]
        a, b = every_pair()
        row = (a + b) // 10 ** (i - 1) % 10 if i else 0 * a
        along = np.take_along_axis(y, pivot[row][:, None], 1)
        u = y - shear[row] * along
        np.put_along_axis(u, pivot[row][:, None], along, 1)
        good = (bounds[leaf, :, 0] <= u + 1e-9) & (u - 1e-9 <= bounds[leaf, :, 1])
        split = np.isin(leaf, [each["leaf"] for each in step["splits"]])
        if not good[~split].all():
            found.append(f"step {i}: a bound of leaf {leaf[~good.all(1) & ~split][0]}")
        if not step["margin_bound"] <= margin.min() + 1e-9:
            found.append(f"step {i}: the margin {step['margin_bound']} of {margin.min()}")
    claimed = document["margin"]
    low, high = smallest_margin(model, *claimed["pair"])
    if not claimed["bound"] <= least + 1e-9 or not low - 1e-4 <= claimed["witness"] <= high + 1e-4:
        found.append(f"the margin {claimed} of {least}")
    if report.margin is None or not report.margin <= least + 1e-9:
        found.append(f"the report's margin {report.margin} of {least}")
    if not least > 0:
        found.append("the model is wrong")
    return found


# Alterations. Each takes the document and a random generator and changes it in place.


def _arrays(document: Document, rng: random.Random) -> tuple[dict, str]:
    step = rng.choice(document["steps"])
    if step["splits"] and rng.random() < 0.3:
        return rng.choice(step["splits"]), rng.choice(["bounds", "parts", "pivot", "shear", "tree"])
    return step, rng.choice(ARRAYS)


def flip_numbers(document: Document, rng: random.Random) -> None:
    """Some bits of some numbers."""
    holder, name = _arrays(document, rng)
    array, dtype = unpacked(holder[name]), holder[name]["dtype"]
    raw = bytearray(array.tobytes())
    for _ in range(rng.choice([1, 1, 2, 8])):
        raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
    holder[name] = packed(np.frombuffer(bytes(raw), dtype=dtype).reshape(array.shape), dtype)


def move_bounds(document: Document, rng: random.Random) -> None:
    """A few leaves' ends a little inwards, or outwards, or both ends aside."""
    step = rng.choice(document["steps"])
    holder = rng.choice(step["splits"]) if step["splits"] and rng.random() < 0.3 else step
    bounds = unpacked(holder["bounds"])
    amount = 10.0 ** rng.uniform(-7, 1)
    for leaf in rng.sample(range(len(bounds)), min(rng.choice([1, 3, 30]), len(bounds))):
        k, kind = rng.randrange(bounds.shape[2]), rng.randrange(4)
        bounds[leaf, 0, k, 0] += amount * (1, -1, 1, 0)[kind]
        bounds[leaf, 0, k, 1] += amount * (-1, 1, 1, -1)[kind]
    holder["bounds"] = packed(bounds, holder["bounds"]["dtype"])


def swap_numbers(document: Document, rng: random.Random) -> None:
    holder, name = _arrays(document, rng)
    array = unpacked(holder[name])
    if len(array) > 1:
        first, second = rng.sample(range(len(array)), 2)
        array[[first, second]] = array[[second, first]]
    holder[name] = packed(array, holder[name]["dtype"])


def reshape_numbers(document: Document, rng: random.Random) -> None:
    holder, name = _arrays(document, rng)
    array = unpacked(holder[name])
    changed = rng.choice(
        [array[1:], array[..., :1], array[..., ::-1], array * 0, array * 2, array[None], array.ravel()]
    )
    holder[name] = packed(changed, holder[name]["dtype"])


def change_tree(document: Document, rng: random.Random) -> None:
    step = rng.choice([each for each in document["steps"] if each["splits"]] or document["steps"])
    if not step["splits"]:
        return
    split, kind = rng.choice(step["splits"]), rng.randrange(4)
    tree = unpacked(split["tree"])
    if kind == 0:
        tree[rng.randrange(len(tree))] = rng.randrange(-3, 3 * N + 2)
    elif kind == 1:
        tree = np.delete(tree, rng.randrange(len(tree)))
    elif kind == 2:
        split["leaf"] = rng.randrange(200)
    else:
        cells = len(unpacked(split["bounds"]))
        step["splits"].remove(split)
        document["cells"] -= cells
    if kind < 2:
        split["tree"] = packed(tree, "|i1")


def raise_margins(document: Document, rng: random.Random) -> None:
    by = rng.choice([1e-9, 1e-3, 0.02, 0.5, 1e30])
    kind = rng.randrange(4)
    if kind == 0:
        document["margin"]["bound"] += by
    elif kind == 1:
        rng.choice(document["steps"])["margin_bound"] += by
    elif kind == 2:
        document["margin"]["witness"] += by * rng.choice([-1, 1])
    else:
        document["margin"]["pair"] = [rng.randrange(100), rng.randrange(100)]


def change_verdict(document: Document, rng: random.Random) -> None:
    kind = rng.randrange(4)
    if kind == 0:
        document["verdict"] = rng.choice(["refuted", "undecided", "Proved", "", None])
        document["counterexample"] = [rng.randrange(120), rng.randrange(120)]
    elif kind == 1:
        document["failing_pairs"] = rng.choice([1, -1, 0.0, False, [0, 0], None, 10**30])
    elif kind == 2:
        document["failing_by_step"][rng.randrange(N + 1)] = rng.choice([1, 0.0, None, False])
    else:
        document["steps"][rng.randrange(N + 1)]["inputs"] = rng.choice(
            [0, 100**N - 1, 100.0**N, 1e4, True]
        )


VALUES = [0, -1, 1, 2**70, 1e308, -0.5, True, False, None, "", "x" * 50, [], {}, [[]], 10**400, "<f8"]


def _places(value: Any, path: tuple = ()) -> list[tuple]:
    items = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    return [place for key, each in items for place in ((*path, key), *_places(each, (*path, key)))]


def change_value(document: Document, rng: random.Random) -> None:
    """Any value, any key: another one, or gone, or twice."""
    *path, last = rng.choice(_places(document))
    holder: Any = document
    for key in path:
        holder = holder[key]
    kind = rng.randrange(4)
    if kind == 0:
        del holder[last]
    elif kind == 1 and isinstance(holder, list):
        holder.append(copy.deepcopy(holder[last]))
    elif kind == 1:
        holder[f"{last}2"] = holder[last]
    else:
        holder[last] = copy.deepcopy(rng.choice(VALUES))


def mix_steps(document: Document, rng: random.Random) -> None:
    steps = document["steps"]
    i, j = rng.sample(range(len(steps)), 2)
    name = rng.choice([*ARRAYS, "splits", "margin_bound"])
    steps[i][name] = copy.deepcopy(steps[j][name])


RESEALED: list[Callable[[Document, random.Random], None]] = [
    flip_numbers,
    move_bounds,
    swap_numbers,
    reshape_numbers,
    change_tree,
    raise_margins,
    change_verdict,
    change_value,
    mix_steps,
]


def altered(document: Document, rng: random.Random) -> Document:
    """With one alteration or several, sealed again where that can be."""
    changed = copy.deepcopy({key: value for key, value in document.items() if key != "digest"})
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        try:
            rng.choice(RESEALED)(changed, rng)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError):
            break  # what an earlier alteration has left is no longer a certificate to alter
    return sealed(changed)


def spoilt(data: bytes, rng: random.Random) -> bytes:
    """A whole file with bytes flipped, cut out, put in, doubled, or the rest cut off."""
    raw, kind = bytearray(data), rng.randrange(6)
    at = rng.randrange(len(raw))
    if kind == 0:
        for _ in range(rng.choice([1, 1, 4, 100])):
            raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
    elif kind == 1:
        del raw[at:]
    elif kind == 2:
        del raw[at : at + rng.choice([1, 2, 100, 10_000])]
    elif kind == 3:
        raw[at:at] = rng.randbytes(rng.choice([1, 3, 1000]))
    elif kind == 4:
        raw[at:at] = raw[at : at + rng.choice([1, 50, 5000])]
    else:
        raw[at : at + 1] = rng.choice(
            [b"[", b"{", b"}", b'"', b",", b"NaN", b"1e999", b"\\", b"\xff", b"9" * 99]
        )
    return bytes(raw)


# The campaign.


@dataclasses.dataclass
class Tally:
    """What came of a number of files."""

    outcomes: Counter = dataclasses.field(default_factory=Counter)
    seconds: float = 0.0

    def run(self, process: Callable[[], Report]) -> Report | None:
        """Only the two errors for users may come; anything else fails the test."""
        began = time.process_time()
        try:
            report: Report | None = process()
            self.outcomes["accepted" if report is not None and report.accepted else "rejected"] += 1
        except (Failure, UsageError) as error:
            assert str(error) and "\n" not in str(error)
            self.outcomes["refused"] += 1
            report = None
        self.seconds = max(self.seconds, time.process_time() - began)
        assert self.seconds < SECONDS
        return report


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.fixture(autouse=True)
def memory(record_property):
    before = peak_bytes()
    tracemalloc.start()
    yield
    taken, after = tracemalloc.get_traced_memory()[1], peak_bytes()
    tracemalloc.stop()
    record_property("peak bytes", after)
    assert taken < BYTES, f"{taken:,} bytes of Python's and NumPy's"
    # The process's peak says something only where other tests have not taken as much before.
    assert before >= BYTES or after < BYTES, f"{after:,} bytes"


def written(path: Path, document: Document) -> Path:
    path.write_bytes(gzip.compress(json.dumps(document).encode(), 1))
    return path


def checked(path: Path, model: Model) -> Report:
    return check(read_document(path), model, form=FORM, weights_sha256=WEIGHTS, config=CONFIG)


COUNTS = [pytest.param(60, id="few"), pytest.param(1000, marks=pytest.mark.slow, id="many")]


@pytest.fixture(scope="module")
def true_certificate() -> Document:
    with np.errstate(all="ignore"):
        document = whole(right_model(), 0.79)
    report = check(document, right_model(), form=FORM, weights_sha256=WEIGHTS, config=CONFIG)
    assert report.accepted, report.reason
    assert falsehoods(document, right_model(), report) == []
    return document


def say(name: str, tally: Tally) -> None:
    """Shown by pytest -s: the numbers of docs/proof.md."""
    print(f"{name}: {dict(tally.outcomes)}, at most {tally.seconds:.2f} s, {peak_bytes() / 1e9:.2f} GB")


@pytest.mark.parametrize("count", COUNTS)
def test_spoilt_files(count: int, true_certificate: Document, tmp_path: Path) -> None:
    """What unpacks, parses and has its digest is the certificate itself."""
    tally, model, path = Tally(), right_model(), tmp_path / "cert.json"
    plain = json.dumps(true_certificate).encode()
    for seed in range(count):
        rng = random.Random(seed)
        data = gzip.compress(spoilt(plain, rng), 1) if seed % 3 else spoilt(gzip.compress(plain, 1), rng)
        path.write_bytes(data)
        report = tally.run(lambda: checked(path, model))
        if report is not None and report.accepted:
            assert read_document(path) == true_certificate
    assert tally.outcomes["refused"] + tally.outcomes["rejected"] > 0.9 * count
    say("spoilt files", tally)


@pytest.mark.parametrize("count", COUNTS)
def test_resealed_certificates_of_a_right_model(
    count: int, true_certificate: Document, tmp_path: Path
) -> None:
    tally, model = Tally(), right_model()
    for seed in range(count):
        document = altered(true_certificate, random.Random(seed))
        path = written(tmp_path / "cert.json.gz", document)
        report = tally.run(lambda path=path: checked(path, model))
        if report is not None and report.accepted:
            assert falsehoods(document, model, report) == [], seed
    # Some alterations leave a true certificate, or the test would be about nonsense only.
    assert tally.outcomes["accepted"] > 0.02 * count
    assert tally.outcomes["rejected"] > 0.4 * count
    say("resealed, of a right model", tally)


def least_margin(model: Model) -> float:
    return min(mixes(model, i)[1].min() for i in range(N + 1))


def wrong_models() -> list[Model]:
    """Each answers some pair wrong, by its tables in plain float64; all but the first only just."""
    model = right_model()
    head = model.head

    def bent(x: Interval, index: Any, by: float) -> Interval:
        changed = x.low.copy()
        changed[index] += by
        return Interval(changed)

    def with_head(name: str, index: Any, by: float) -> Model:
        constants = {**head.constants, name: bent(head.constants[name], index, by)}
        return dataclasses.replace(model, head=dataclasses.replace(head, constants=constants))

    families: list[Callable[[float], Model]] = [
        lambda by: hand_made(N, leak=0.01 * by, bottleneck=2),
        lambda by: with_head("unembed", (1, 4), 0.1 * by),
        lambda by: with_head("fc1", (1, 0), 0.1 * by),
        lambda by: with_head("fc2", (0, 0), 0.1 * by),
        lambda by: dataclasses.replace(
            model, value_PVHE=bent(model.value_PVHE, (N - 1, 7, 0, 0), 0.02 * by)
        ),
        lambda by: dataclasses.replace(
            model, query_AVHK=bent(model.query_AVHK, (1, 3, 0, 0), 0.02 * by)
        ),
    ]
    found = [hand_made(N, leak=0.5, bottleneck=2)]
    for family in families:
        right, wrong = 0.0, 1.0
        while least_margin(family(wrong)) > -1e-6:
            right, wrong = wrong, 2 * wrong
        for _ in range(12):
            middle = 0.5 * (right + wrong)
            enough = least_margin(family(middle)) <= -1e-6
            right, wrong = (right, middle) if enough else (middle, wrong)
        found.append(family(wrong))
    assert all(-0.1 < least_margin(model) < 0 for model in found[1:])
    return found


def fitted(document: Document, rng: random.Random) -> None:
    """What a liar would try: claims that every margin is tiny, more parts, boxes that are points."""
    for step in document["steps"]:
        step["margin_bound"] = rng.choice([0.0, 1e-300, 1e-9, -1e9])
        if rng.random() < 0.5:
            parts = unpacked(step["parts"])
            step["parts"] = packed(np.where(parts > 0, rng.choice([1, 16, 64]), 0), "<i4")
        if rng.random() < 0.4:
            bounds = unpacked(step["bounds"])
            bounds[...] = rng.choice([bounds[..., :1], bounds[..., 1:], bounds.mean(-1, keepdims=True)])
            step["bounds"] = packed(bounds, "<f4")
    document["margin"]["bound"] = rng.choice([-1e9, 0.0, 1e-300])


@pytest.mark.parametrize("count", [pytest.param(24, id="few"), COUNTS[1]])
def test_resealed_certificates_of_wrong_models(
    count: int, true_certificate: Document, tmp_path: Path
) -> None:
    """Those of the right model, and those that are as true of the wrong one as can be."""
    tally, bases = Tally(), []
    for model in wrong_models():
        with np.errstate(all="ignore"):
            own = whole(model, 1e-9)
        low, high = smallest_margin(model, 99, 99)
        other = copy.deepcopy(true_certificate)
        other["margin"]["witness"] = 0.5 * (low + high)
        bases.append((model, [own, other]))
    for seed in range(count):
        rng = random.Random(seed)
        model, documents = bases[seed % len(bases)]
        document = copy.deepcopy(rng.choice(documents))
        if rng.random() < 0.7:
            fitted(document, rng)
        document.pop("digest")
        path = written(
            tmp_path / "cert.json.gz",
            sealed(document) if rng.random() < 0.3 else altered(document, rng),
        )
        report = tally.run(lambda path=path, model=model: checked(path, model))
        assert report is None or not report.accepted, seed
    assert tally.outcomes["rejected"] > 0.5 * count
    say("resealed, of wrong models", tally)


RECORD = ROOT / "records" / "best" / "8p"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100))
def test_altered_certificates_of_a_record(seed: int, tmp_path: Path) -> None:
    """By the whole program: the checkpoint, its readable module and fp32. The weights are the record's
    or, in every other case, such as answer wrong."""
    rng, checkpoint, tally = random.Random(seed), load_checkpoint(RECORD / "model.pt"), Tally()
    document = dict(read_document(RECORD / "model.cert.json.gz"))
    wrong = seed % 2 == 1
    if wrong:
        kept = checkpoint
        while not failing_samples(checkpoint.module()):
            name, factor = rng.choice(sorted(kept.params)), rng.choice([-1.0, 0.5, 0.9, 1.1, 3.0])
            params = {**kept.params, name: kept.params[name] * factor}
            checkpoint = dataclasses.replace(kept, params=params)
        document["weights_sha256"] = checkpoint.weights_sha256
    document.pop("digest")
    path = tmp_path / "cert.json.gz"
    if seed % 5 == 0:
        path.write_bytes(spoilt((RECORD / "model.cert.json.gz").read_bytes(), rng))
    else:
        written(path, sealed(document) if wrong and seed % 3 == 0 else altered(document, rng))
    report = tally.run(lambda: check_file(path, checkpoint, fp32=seed % 4 < 2))
    if report is not None and report.accepted:
        assert not wrong
        kept = check_file(RECORD / "model.cert.json.gz", checkpoint, fp32=False)
        assert report.margin is not None and kept.witness is not None
        assert report.margin <= kept.witness[1]


HOSTILE = b'{"format": "adderlab-certificate", "x": '
FORMS: dict[str, tuple[bytes, bytes, int, bytes]] = {
    # how it begins, what is repeated, how often, how it ends
    "lists": (b"[", b"[],", 20_000_000, b"0]}"),
    "nesting": (b"", b"[", 3_000_000, b""),
    "a long number": (b"", b"9", 100_000_000, b"}"),
    "a long text": (b'"', b"\\u0041", 20_000_000, b'"}'),
    "white space": (b"", b" ", 300_000_000, b"0}"),
    "objects": (b"", b'{"a":', 1_000_000, b"0"),
}


def write_form(path: Path, name: str) -> None:
    begin, each, times, end = FORMS[name]
    with gzip.open(path, "wb", 1) as file:
        file.write(HOSTILE + begin)
        for _ in range(times // 100_000):
            file.write(each * 100_000)
        file.write(end)


@pytest.mark.parametrize(
    "name", [n if n == "lists" else pytest.param(n, marks=pytest.mark.slow) for n in FORMS]
)
def test_hostile_files_end_the_command_in_one_line(name: str, tmp_path: Path) -> None:
    """In a process of its own, with its time and memory."""
    path = tmp_path / "cert.json.gz"
    write_form(path, name)
    program = (
        "import re, resource, sys\n"
        "from pathlib import Path\n"
        "from adderlab.cli.main import main\n"
        "code = main(sys.argv[1:])\n"
        "used = resource.getrusage(resource.RUSAGE_SELF)\n"
        "kib = re.search(r'VmHWM:\\s*(\\d+)', Path('/proc/self/status').read_text())[1]\n"
        "print(int(kib) * 1024, used.ru_utime + used.ru_stime); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "check", str(path), str(RECORD / "model.pt")],
        capture_output=True,
        text=True,
        env=dict(os.environ),
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1 and "cert.json.gz" in done.stderr
    memory, seconds = done.stdout.strip().split("\n")[-1].split()
    print(f"{name}: {float(seconds):.1f} s, {int(memory) / 1e9:.2f} GB")
    assert int(memory) < BYTES and float(seconds) < SECONDS

"""What a sandboxed reading hands out is taken in without trust: what does not fit is refused."""

import base64
import copy
import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from adderlab.models.tables import Tables
from adderlab.publish import handout as module
from adderlab.publish.handout import CHUNK, HandOut, Refused, numbers, take, take_numbers
from adderlab.publish.inside.reader import Reader
from adderlab.publish.sandbox import Ended, _reply
from adderlab.reading.file_model import read_file
from helpers.strangers import STRANGERS, Stranger

MUTANTS = 1000


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("handout") / "stranger.py"
    path.write_text(STRANGERS["two heads, SwiGLU"].source)
    return path


@pytest.fixture(scope="module")
def reader(file: Path) -> Reader:
    made = Reader(str(file))
    assert "error" not in made.answer({"do": "read"})
    return made


@pytest.fixture(scope="module")
def message(file: Path) -> dict[str, Any]:
    return json.loads(json.dumps(Reader(str(file)).answer({"do": "read"})))


def taken(message: dict[str, Any], replies: dict[tuple[str, int], dict[str, Any]]) -> HandOut:
    handout = take(message)
    arrays = take_numbers(handout, lambda name, start, count: replies.get((name, start), {}))
    assert isinstance(module.tables(handout, arrays), Tables)
    return handout


@pytest.fixture(scope="module")
def replies(reader: Reader, message: dict[str, Any]) -> dict[tuple[str, int], dict[str, Any]]:
    """(table, first number) -> the reply."""
    found = {}
    for name, shape in message["tables"].items():
        for start in range(0, int(np.prod(shape)), CHUNK):
            request = {"do": "numbers", "name": name, "start": start, "count": CHUNK}
            found[name, start] = reader.answer(request)
    return found


def test_an_honest_message_is_the_reading_itself(
    file: Path, message: dict[str, Any], replies: dict[tuple[str, int], dict[str, Any]]
) -> None:
    handout = take(message)
    arrays = take_numbers(handout, lambda name, start, count: replies[name, start])
    config, params = read_file(file)
    exact = config.tables({n: t.double()[None] for n, t in params.items()}, exact=True)
    assert handout.form == exact.form
    for name, table in exact.items():
        assert torch.equal(torch.from_numpy(arrays[name]), table[0]), name
    bound = config.bound()
    assert dict(handout.file) == {name: bound[name] for name in handout.file}


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity"])
def test_numbers_are_finite(
    value: str, message: dict[str, Any], replies: dict[tuple[str, int], dict[str, Any]]
) -> None:
    for name in message["tables"]:
        array = np.frombuffer(base64.b64decode(replies[name, 0]["numbers"]), "<f8").copy()
        array[-1] = float(value.replace("Infinity", "inf"))
        forged = replies | {(name, 0): {"numbers": base64.b64encode(array.tobytes()).decode()}}
        if name == "score" and value == "-Infinity":
            taken(message, forged)  # a hidden key
        else:
            with pytest.raises(Refused, match=f"the table {name}"):
                taken(message, forged)


@pytest.mark.parametrize(
    "text", [None, 7, "", "AAAA", "A" * 43, "A" * 43 + "!", "A" * 48, ["A" * 44], "é" * 44]
)
def test_a_chunk_has_its_length_and_no_other(text: Any) -> None:
    with pytest.raises(Refused):
        numbers({"numbers": text}, 4, "it")
    assert numbers({"numbers": base64.b64encode(bytes(32)).decode()}, 4, "it").tolist() == [0.0] * 4


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a message."""
    yield path
    if isinstance(value, dict):
        for key, part in value.items():
            yield from places(part, (*path, key))
    elif isinstance(value, list):
        for i, part in enumerate(value[:40]):
            yield from places(part, (*path, i))


HOSTILE: list[Any] = [
    None, True, False, 0, -1, 1, 2, 63, 64, 255, 256, 1023, 1 << 31, 1 << 63, 10**400, 0.5, -0.0, 1e308,
    -1e-320, "NaN", "Infinity", "", "linear", "c0", "mixed", "../../x", "a" * 1000, "\x1b[2J", "\ud800",
    [], [[]], [0], [1, 2, 3], [[1, 2]] * 50, {}, {"name": 1}, {"__class__": "x"}, list(range(2000)),
]  # fmt: skip


def mutated(message: str, draw: random.Random) -> dict[str, Any]:
    """One to three places changed: replaced, deleted, doubled, moved by one, or swapped."""
    forged = json.loads(message)
    for _ in range(draw.choice((1, 1, 2, 3))):
        *path, last = draw.choice([path for path in places(forged) if path])
        node: Any = forged
        for step in path:
            node = node[step]
        kind = draw.randrange(6)
        if kind == 0 and isinstance(node[last], int):
            node[last] += draw.choice((-1, 1, 7))
        elif kind == 1:
            del node[last]
        elif kind == 2 and isinstance(node, list):
            node.insert(last, copy.deepcopy(node[last]))
        elif kind == 3 and isinstance(node, dict):
            node[draw.choice(("x", *node))] = copy.deepcopy(node[last])
        elif kind == 4 and isinstance(node, list):
            other = draw.randrange(len(node))
            node[last], node[other] = node[other], node[last]
        else:
            node[last] = copy.deepcopy(draw.choice(HOSTILE))
    return forged


def test_a_thousand_mutated_messages_are_refused_or_fit(
    message: dict[str, Any], replies: dict[tuple[str, int], dict[str, Any]]
) -> None:
    draw, text_of_it = random.Random(5), json.dumps(message)
    refused, slowest = 0, 0.0
    for number in range(MUTANTS):
        forged, own = mutated(text_of_it, draw), replies
        if number % 3 == 0:  # the text of a chunk too
            name = draw.choice([*replies])
            text = list(replies[name]["numbers"])
            text[draw.randrange(len(text))] = draw.choice("A/=+ \x00é")
            own = replies | {name: {"numbers": "".join(text[draw.choice((0, 0, 1, 4)) :])}}
        began = time.process_time()
        try:
            taken(forged, own)
        except Refused as refusal:
            refused += 1
            text = str(refusal)
            assert len(text) < 120 and text.isprintable()
        slowest = max(slowest, time.process_time() - began)
    assert 0.5 * MUTANTS < refused < MUTANTS, refused
    assert slowest < 1.0, slowest


def test_a_thousand_mutated_lines_are_answers_or_end_it(message: dict[str, Any]) -> None:
    draw, line = random.Random(6), json.dumps(message).encode()
    for _ in range(MUTANTS):
        data = bytearray(line)
        for _ in range(draw.choice((1, 2, 8))):
            data[draw.randrange(len(data))] = draw.choice(b'\x00\xff"[]{}:,-0e9NtnI ')
        try:
            take(_reply(bytes(data)))
        except (Ended, Refused):
            continue


@pytest.mark.parametrize(
    "data",
    [
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b"1" * 100_000,
        b'{"layout": ' + b"9" * 5000 + b"}",
        b"\xff\xfe",
    ],
)
def test_lines_that_are_built_to_break_a_parser_end_it(data: bytes) -> None:
    with pytest.raises((Ended, Refused)):
        take(_reply(data))


def test_every_structure_can_be_handed_out_of_here() -> None:
    """That the sources differ is all that is asked here; what they come to, in test_decide."""
    assert len({stranger.source for stranger in STRANGERS.values()}) == len(STRANGERS) >= 12
    assert all(isinstance(stranger, Stranger) for stranger in STRANGERS.values())

"""How files ask their models: the rule of every prompt and ending is learned, or refused in one line."""

import time
from pathlib import Path

import pytest
import torch

from adderlab.errors import Failure, UsageError
from adderlab.reading.agreement import read_foreign
from adderlab.reading.driving import foreign_file
from helpers.user_files import EXAMPLE, written

PROMPT = (
    '    tokens = [int(d) for d in f"{a:010d}"] + [PLUS] + [int(d) for d in f"{b:010d}"] + [EQUALS]\n'
)
STEPS = "    for _ in range(11):\n"
SUM = '    return int("".join(str(d) for d in reversed(tokens[-11:])))\n'


def file(folder: Path, prompt: str, length: int, *changes: tuple[str, str], vocab: int = 30) -> Path:
    """The example with another prompt of ``length`` tokens."""
    text = EXAMPLE.read_text().replace("nn.Embedding(12,", f"nn.Embedding({vocab},")
    text = text.replace("LENGTH = 22 + 10", f"LENGTH = {length} + 14")
    for old, new in ((PROMPT, f"    A, B = f'{{a:010d}}', f'{{b:010d}}'\n{prompt}"), *changes):
        assert old in text, old
        text = text.replace(old, new)
    return written(text, folder / "asked.py")


UNITS_FIRST = "    tokens = [int(d) for d in A[::-1]] + [10] + [int(d) for d in B[::-1]] + [11]\n"
RULES = {
    "units first": (UNITS_FIRST, 22, (9, 20), ((10, 10), (21, 11))),
    "leading zeros": (
        "    tokens = [10, 0, *map(int, A), 11, 0, *map(int, B), 12]\n",
        25,
        (2, 14),
        ((0, 10), (1, 0), (12, 11), (13, 0), (24, 12)),
    ),
    "digits in turn": (
        "    tokens = [int(d) for pair in zip(A, B) for d in pair] + [11]\n",
        21,
        (0, 1),
        ((20, 11),),
    ),
    "b before a": (
        "    tokens = [*map(int, B), 10, *map(int, A), 11]\n",
        22,
        (11, 0),
        ((10, 10), (21, 11)),
    ),
    "separators": (
        "    tokens = [12, *map(int, A), 13, 10, 13, *map(int, B), 13, 11, 13]\n",
        27,
        (1, 14),
        ((0, 12), (11, 13), (12, 10), (13, 13), (24, 13), (25, 11), (26, 13)),
    ),
    "digits of b are other tokens": (
        "    tokens = [*map(int, A), 10, *(15 + int(d) for d in B), 11]\n",
        22,
        (0, 11),
        ((10, 10), (21, 11)),
    ),
}
"""(prompt, its length, where the top digits of a and b stand, the constants)."""


@pytest.mark.parametrize("name", RULES)
def test_prompts_are_learned(name: str, tmp_path: Path) -> None:
    prompt, length, (top_a, top_b), separators = RULES[name]
    start = time.process_time()
    foreign = foreign_file(file(tmp_path, prompt, length))
    seconds = time.process_time() - start
    layout = foreign.layout
    assert (layout.a_positions[9], layout.b_positions[9]) == (top_a, top_b)
    assert (layout.num_prompt, layout.separators) == (length, separators)
    assert layout.end_token is None and layout.num_answers == 11
    assert seconds < 5
    reading, _ = read_foreign(foreign)
    assert reading.form.layout is layout


def test_digits_of_b_keep_their_own_tokens(tmp_path: Path) -> None:
    prompt, length, *_ = RULES["digits of b are other tokens"]
    foreign = foreign_file(file(tmp_path, prompt, length))
    assert foreign.tokens.ids_PV[13, :10].tolist() == list(range(15, 25))
    assert foreign.tokens.ids_PV[3, :10].tolist() == list(range(10))


ENDED = (
    (STEPS, "    for _ in range(13):\n        if tokens[-1] == 14:\n            break\n"),
    (SUM, '    return int("".join(str(d) for d in reversed(tokens[22:-1])))\n'),
)


def test_tokens_that_add_never_chooses_have_the_smallest_logits(tmp_path: Path) -> None:
    among = "[0, -1].argmax()", "[0, -1, :10].argmax()"
    foreign = foreign_file(file(tmp_path, UNITS_FIRST, 22, among))
    assert foreign.never == tuple(range(10, 30))
    logits_V = foreign.call(torch.arange(22)[None] % 10)[0, -1]
    assert bool((logits_V[10:] < logits_V[:10].min()).all())
    _, agreement = read_foreign(foreign)
    assert agreement.difference < 1e-10 * agreement.scale
    assert foreign_file(file(tmp_path, UNITS_FIRST, 22)).never == ()


def test_an_end_token_belongs_to_the_answer(tmp_path: Path) -> None:
    layout = foreign_file(file(tmp_path, UNITS_FIRST, 22, *ENDED)).layout
    assert layout.end_token == 14 and layout.end_decided and layout.num_answers == 12


def test_a_twelfth_answer_that_plays_no_part_is_left_out(tmp_path: Path) -> None:
    changes = (STEPS, "    for _ in range(12):\n"), (SUM, SUM.replace("-11:", "22:33"))
    layout = foreign_file(file(tmp_path, UNITS_FIRST, 22, *changes)).layout
    assert layout.end_token is None and layout.num_answers == 11


UPWARDS = SUM, SUM.replace("reversed(tokens[-11:])", "tokens[-11:]")
CUT = "torch.tensor([tokens])", "torch.tensor([tokens[: 22 if len(tokens) == 22 else 9]])"
REFUSED = {
    "most significant": ("most significant", UNITS_FIRST, UPWARDS),
    "as long as the numbers": (
        "length depends",
        "    tokens = [*map(int, str(a)), 10, *map(int, str(b)), 11]\n",
    ),
    "sum in the prompt": ("neither fixed", f"{UNITS_FIRST}    tokens[10] = (a + b) % 7\n"),
    "digit twice": ("2 prompt positions", f"{UNITS_FIRST}    tokens[10] = a % 10\n"),
    "own addition": ("not return what its model", UNITS_FIRST, (SUM, "    return a + b\n")),
    "smallest": ("not return what its model", UNITS_FIRST, (".argmax()", ".argmin()")),
    "cache": ("less than the whole", UNITS_FIRST, CUT),
}
"""(words of the reason, the prompt, changes)."""


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_followed_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    words, prompt, *changes = REFUSED[name]
    with pytest.raises(Failure, match=words) as refusal:
        foreign_file(file(tmp_path, prompt, 22, *changes))  # type: ignore[arg-type]
    assert "\n" not in str(refusal.value)


def test_files_that_say_too_little(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no file"):
        foreign_file(tmp_path / "absent.py")
    with pytest.raises(Failure, match="no function build_model"):
        foreign_file(written("x = 1\n", tmp_path / "empty.py"))
    with pytest.raises(Failure, match="neither a function add"):
        text = EXAMPLE.read_text()
        foreign_file(written(text[: text.index("@torch.no_grad()")], tmp_path / "silent.py"))
    with pytest.raises(Failure, match="fails when it is run"):
        foreign_file(written("import nothing_of_this_name\n", tmp_path / "broken.py"))

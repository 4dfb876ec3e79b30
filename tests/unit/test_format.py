"""Numbers, durations, seeds and commands as text."""

from hypothesis import given
from hypothesis import strategies as st

from adderlab.api.experiments import parse_seeds
from adderlab.format import as_typed, code_block, count, duration, percent, seconds, seed_list, tick


def test_numbers() -> None:
    assert [percent(x) for x in (0.5, 0.0123, 0.99988)] == ["50.0%", "1.2%", "99.988%"]
    assert [count(n) for n in (0, 1234, 10**9, 15 * 10**11)] == ["0", "1,234", "1 x 10^9", "1.5 x 10^12"]
    assert [tick(x) for x in (0, 999, 1500, 53_999)] == ["0", "999", "1,500", "53,999"]
    assert [seconds(x) for x in (0.1234, 12.0, 12_345.6)] == ["0.123", "12", "12,346"]


def test_durations_have_two_leading_units() -> None:
    shown = {
        12.5: "12.5 s",
        99.4: "99.4 s",
        185: "3 min 05 s",
        3599.4: "59 min 59 s",
        7800: "2 h 10 min",
        2 * 86_400 + 3 * 3600: "2 d 3 h",
    }
    assert {seconds: duration(seconds) for seconds in shown} == shown


@given(st.lists(st.integers(0, 60), unique=True, min_size=1).map(tuple))
def test_seeds_are_written_as_they_are_read(seeds: tuple[int, ...]) -> None:
    assert parse_seeds(seed_list(seeds)) == seeds


def test_seed_lists_are_short() -> None:
    assert seed_list((1000, 1001, 1002, 43, 7, 8)) == "1000-1002,43,7-8"
    assert seed_list(()) == ""


def test_commands_as_typed() -> None:
    assert as_typed(["/x/.venv/bin/adderlab", "train"]) == ["adderlab", "train"]
    assert as_typed(["/x/src/train.py", "--seed", "1"]) == ["python", "-m", "src.train", "--seed", "1"]
    assert as_typed(["/x/adderlab/cli/main.py", "zoo"]) == ["adderlab", "zoo"]
    assert as_typed(["other.py", "zoo"]) == ["other.py", "zoo"]


def test_long_commands_are_broken_before_flags() -> None:
    long = "adderlab train 456p " + " ".join(f"--flag-{k} value" for k in range(12))
    assert code_block(long).count(" \\\n  --") >= 1
    assert code_block(long).replace(" \\\n ", "") == long
    assert code_block("a \\\n  b") == "a \\\n  b"

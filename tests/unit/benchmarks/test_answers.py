"""The gate's comparisons notice what they are for."""

from gate_parts.answers import (
    MISSING,
    differences,
    lost,
    numbers_in,
    numbers_in_text,
    pick,
    shared_differences,
    visible_text,
)


def test_a_key_that_is_gone_differs_and_a_null_parent_does_not_hide_a_value() -> None:
    before = pick({"margin": {"bound": 0.25}, "rate": None}, ("margin.bound", "rate.count"))
    now = pick({"margin": {}, "rate": {"count": 3}}, ("margin.bound", "rate.count"))
    assert before == {"margin.bound": 0.25, "rate.count": None}
    assert now == {"margin.bound": MISSING, "rate.count": 3}
    assert len(differences(before, now)) == 2
    assert differences(before, before) == []


def test_numbers_of_a_text_stand_alone() -> None:
    text = "seed-log of 2026-11-23, aimed-13k: 84 of 96, 87.5% [79.4%, 92.7%], -1.5e-3 in 54,000 steps"
    durations = "; 4.26 min or 4 min 15 s, 15,360 ms, at 20:44:00"
    assert sorted(numbers_in_text(text + durations)) == [-0.0015, 79.4, 84, 87.5, 92.7, 96, 54000]


def test_a_number_that_stands_less_often_is_lost_and_a_new_one_is_no_difference() -> None:
    assert lost(numbers_in_text("3 and 3"), numbers_in_text("3 and 4"))
    assert lost(numbers_in_text("3 and 3"), numbers_in_text("3, 3 and 4")) == []
    assert lost(numbers_in({"a": [1, {"b": 2.5}]}), numbers_in({"c": [2.5]}))
    assert lost(numbers_in({"a": 1, "b": 2}, frozenset({"b"})), numbers_in({"renamed": 1})) == []
    assert not numbers_in({"flag": True})


def test_renamed_keys_are_no_difference_and_changed_values_are() -> None:
    assert shared_differences({"aim": {"steps": 40}}, {"prefit": {"steps": 41}}) == []
    assert shared_differences({"lr": 0.02, "stages": [1]}, {"lr": 0.01, "stages": []}) == [
        "lr: 0.02 before, 0.01 now",
        "stages: [1] before, [] now",
    ]


def test_drawings_and_scripts_are_not_what_a_reader_reads() -> None:
    page = "<p>margin 0.25</p><svg><text>7</text></svg><script>let x = 8;</script><p>9 seeds</p>"
    assert sorted(numbers_in_text(visible_text(page))) == [0.25, 9]

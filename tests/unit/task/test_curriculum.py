"""Curricula as data: what is refused, what a step gets, and the JSON round trip."""

import json

import pytest

from adderlab.errors import UsageError
from adderlab.files import schema
from adderlab.task.sampling import (
    MICROADDER_CURRICULUM,
    MICROADDER_MIX,
    R456_CURRICULUM,
    CarryMix,
    Curriculum,
    DataConfig,
    Phase,
)


@pytest.mark.parametrize("curriculum", [R456_CURRICULUM, MICROADDER_CURRICULUM])
def test_published_boundaries(curriculum: Curriculum) -> None:
    by_step = {0: 3, 1999: 3, 2000: 6, 6999: 6, 7000: 10, 10**9: 10}
    assert {step: curriculum.max_digits(step) for step in by_step} == by_step


def test_published_length_rules() -> None:
    assert (R456_CURRICULUM.lengths, MICROADDER_CURRICULUM.lengths) == ("uniform", "full")


def test_mix_fades_linearly() -> None:
    shares = [MICROADDER_MIX.share_at(step) for step in (0, 14_999, 15_000, 30_000, 45_000, 60_000)]
    assert shares == [0.8, 0.8, 0.8, 0.4, 0.0, 0.0]
    step = CarryMix(share=0.5, fade_start=10, fade_end=10)
    assert [step.share_at(9), step.share_at(10)] == [0.5, 0.0]


@pytest.mark.parametrize("mix", [None, MICROADDER_MIX])
def test_json_round_trip(mix: CarryMix | None) -> None:
    data = DataConfig(curriculum=R456_CURRICULUM, carry_mix=mix)
    assert schema.from_dict(DataConfig, json.loads(json.dumps(schema.to_dict(data)))) == data


def test_json_refuses_unknown_pattern() -> None:
    data = schema.to_dict(DataConfig(curriculum=R456_CURRICULUM, carry_mix=MICROADDER_MIX))
    data["carry_mix"]["patterns"] = ["single", "spiral"]
    with pytest.raises(UsageError, match=r"carry_mix\.patterns\[1\] must be one of single"):
        schema.from_dict(DataConfig, data)


def test_refusals_name_the_value() -> None:
    last = Phase(until=None, max_digits=10)
    with pytest.raises(UsageError, match="max_digits must be 1 to 10, not 11"):
        Phase(until=None, max_digits=11)
    with pytest.raises(UsageError, match="step 1 or later, not 0"):
        Phase(until=0, max_digits=3)
    with pytest.raises(UsageError, match="last phase"):
        Curriculum(phases=(), lengths="full")
    with pytest.raises(UsageError, match="last phase"):
        Curriculum(phases=(Phase(until=5, max_digits=3),), lengths="full")
    with pytest.raises(UsageError, match="only the last"):
        Curriculum(phases=(last, last), lengths="full")
    early = Phase(until=5, max_digits=3)
    with pytest.raises(UsageError, match="ascending order: 5 comes after 5"):
        Curriculum(phases=(early, early, last), lengths="full")
    with pytest.raises(UsageError, match=r"share must be 0 to 1, not 1\.5"):
        CarryMix(share=1.5, fade_start=0, fade_end=1)
    with pytest.raises(UsageError, match="not 5 to 4"):
        CarryMix(share=0.5, fade_start=5, fade_end=4)
    with pytest.raises(UsageError, match="different patterns"):
        CarryMix(share=0.5, fade_start=0, fade_end=4, patterns=("single", "single"))

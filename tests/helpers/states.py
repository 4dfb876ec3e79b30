"""Equality of a population's states, number by number."""

from torch import Tensor, equal


def assert_same_state(one: object, other: object) -> None:
    """Equal bits in nested states, but for times."""
    if isinstance(one, dict) and isinstance(other, dict):
        assert one.keys() == other.keys()
        for key in one.keys() - {"seconds"}:
            assert_same_state(one[key], other[key])
    elif isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        for mine, theirs in zip(one, other, strict=True):
            assert_same_state(mine, theirs)
    elif isinstance(one, Tensor):
        assert isinstance(other, Tensor) and equal(one, other)
    else:
        assert one == other

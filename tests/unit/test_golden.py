"""The golden files' own test: equal passes, different and missing fail, a refresh writes."""

from pathlib import Path

import pytest

from helpers.golden import Golden


def test_a_golden_file_is_written_once_and_compared_after(tmp_path: Path) -> None:
    golden, refresh = Golden(folder=tmp_path), Golden(folder=tmp_path, refresh=True)
    with pytest.raises(pytest.fail.Exception, match="--refresh-golden"):
        golden("part/text.md", "one\n")
    refresh("part/text.md", "one\n")
    golden("part/text.md", "one\n")
    with pytest.raises(AssertionError, match="differs"):
        golden("part/text.md", "two\n")

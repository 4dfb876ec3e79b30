"""Comparing what two programs answer: chosen keys, numbers whatever the prose, hashes of weights."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

MISSING = "(missing)"
# A number stands alone: it is no part of a name (seed-log, 456p_s43, aimed-13k), no clock time, and no
# duration, which may be written in another unit (4.26 min, 4 min 15 s). Possessive: nor a part of one.
_NUMBER = re.compile(
    r"(?<![\w.\-/:])[-+]?\d[\d,]*+(?:\.\d+)?+(?:[eE][-+]?\d+)?+"
    r"(?![\w/]|-\w|[.:]\d)(?! ?(?:min|s|h|ms)\b)"
)


def pick(document: Any, keys: Iterable[str]) -> dict[str, Any]:
    """The values at dotted keys; `MISSING` where there is none."""
    return {key: _at(document, key) for key in keys}


def _at(document: Any, key: str) -> Any:
    for part in key.split("."):
        if document is None:
            return None
        if not isinstance(document, Mapping) or part not in document:
            return MISSING
        document = document[part]
    return document


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """A line for every key whose values are not equal to the last bit."""
    return [
        f"{key}: {_brief(old.get(key, MISSING))} before, {_brief(new.get(key, MISSING))} now"
        for key in {**old, **new}
        if old.get(key, MISSING) != new.get(key, MISSING)
    ]


def shared_differences(old: Any, new: Any, path: str = "") -> list[str]:
    """Differences of the keys that both have; renamed, new and dropped keys are no difference."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return [
            line
            for key in old
            if key in new
            for line in shared_differences(old[key], new[key], f"{path}.{key}".lstrip("."))
        ]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [
            line
            for i, (before, now) in enumerate(zip(old, new, strict=True))
            for line in shared_differences(before, now, f"{path}[{i}]")
        ]
    return [] if old == new else [f"{path}: {_brief(old)} before, {_brief(new)} now"]


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def numbers_in(value: Any, leave_out: frozenset[str] = frozenset()) -> Counter[float]:
    """How often every number stands in a JSON document, keys in `leave_out` apart."""
    found: Counter[float] = Counter()
    if isinstance(value, Mapping):
        for key, each in value.items():
            if key not in leave_out:
                found += numbers_in(each, leave_out)
    elif isinstance(value, list):
        for each in value:
            found += numbers_in(each, leave_out)
    elif isinstance(value, str):
        found += numbers_in_text(value)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        found[float(value)] += 1
    return found


def numbers_in_text(text: str) -> Counter[float]:
    """How often every number stands in a text."""
    return Counter(float(match[0].replace(",", "")) for match in _NUMBER.finditer(text))


def lost(old: Counter[float], new: Counter[float]) -> list[str]:
    """A line naming the numbers that stand less often in `new`; more of them are no difference."""
    gone = old - new
    if not gone:
        return []
    named = ", ".join(f"{number:.15g}" for number in list(gone)[:8])
    return [f"{gone.total()} of {old.total()} numbers are gone: {named}"]


class _Visible(HTMLParser):
    """Text outside scripts, styles and drawings."""

    HIDDEN = ("script", "style", "svg", "title")

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self._depth = 0

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self._depth += tag in self.HIDDEN

    def handle_endtag(self, tag: str) -> None:
        self._depth -= tag in self.HIDDEN

    def handle_data(self, data: str) -> None:
        if not self._depth:
            self.parts.append(data)


def visible_text(html: str) -> str:
    """What a reader of the page reads, drawings apart."""
    parser = _Visible()
    parser.feed(html)
    return " ".join(parser.parts)


def weights_sha256(path: Path) -> str:
    """Hash of the names and bytes of a checkpoint's tensors, in the order of the names."""
    import torch

    content = torch.load(path, weights_only=True)
    digest = hashlib.sha256()
    for name, tensor in sorted(content["model_state"].items()):
        digest.update(name.encode() + b"\0" + str(tensor.dtype).encode() + b"\0")
        digest.update(str(tuple(tensor.shape)).encode() + b"\0")
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def hashes_below(folder: Path, name: str) -> frozenset[str]:
    """Hashes of all checkpoints called `name` below a folder, however the folder is laid out."""
    return frozenset(weights_sha256(path) for path in folder.rglob(name))

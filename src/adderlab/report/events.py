"""A run as one JSON object a line, for programs that watch: ``--json-lines``.

Every object has ``event``: start, evaluation, proof, note, result, end. Numbers that are not finite
are null.
"""

from __future__ import annotations

import json
import math
from typing import Any, TextIO


def write_event(stream: TextIO, event: str, **values: Any) -> None:
    """One line, flushed, so that a reader sees it at once."""
    stream.write(json.dumps({"event": event, **_finite(values)}, allow_nan=False) + "\n")
    stream.flush()


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return value

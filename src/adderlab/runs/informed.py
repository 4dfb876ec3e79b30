"""Whether a training began with knowledge of addition, told from its recipe.

A **generic** recipe could train any classifier of sequences: random draws of any width, restarts chosen
by validation accuracy, learning rates and other schedules, batches, stages, the size of the logits in
the loss, failures found in fresh pairs. An **informed** one has an ingredient that was made for columns
and digits:

- ``circle``: positions start where the columns of a sum are in convex position;
- ``attention prefit``: before the first step, queries are fitted to look at their own column;
- ``short arc``: digits start on an arc that was chosen for them;
- ``carry mix``: a share of the training pairs is built to have long carries;
- ``warm start``: from the weights of a model whose own training was informed, or is not recorded.

What a model's own constructor draws, and how long operands are at which step, belong to neither: the
first is the architecture, the second needs only the numbers' lengths.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from adderlab.runs.checkpoints import Checkpoint


def informed_by(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """The ingredients that know of columns or digits in a recipe's settings, as JSON has them under the
    names of today; none where it is generic."""
    stages = [each for each in settings.get("stages") or () if isinstance(each, Mapping)]
    pairs = [_part(each, "data") for each in (settings, *stages)]
    has = {
        "circle": settings.get("circle") is not None,
        "attention prefit": settings.get("prefit") is not None,
        "short arc": _part(settings, "wide_init").get("arc") is not None,
        "warm start": _part(settings, "warm_start").get("start", "generic") != "generic",
        "carry mix": any(each.get("carry_mix") is not None for each in pairs),
    }
    return tuple(name for name, there in has.items() if there)


def kind_of_start(settings: Mapping[str, Any]) -> str:
    """``generic`` or ``informed (circle, attention prefit)``; ``not recorded`` where there are no
    settings."""
    if not settings:
        return "not recorded"
    names = informed_by(settings)
    return f"informed ({', '.join(names)})" if names else "generic"


def start_of(checkpoint: Checkpoint) -> str:
    """The kind of start of a trained model's recipe; of other programs' files it is not recorded."""
    return kind_of_start(checkpoint.recipe if checkpoint.origin == "adderlab" else {})


def _part(settings: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = settings.get(name)
    return part if isinstance(part, Mapping) else {}

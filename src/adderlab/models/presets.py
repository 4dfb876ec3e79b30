"""The zoo: published trained adders and our own, each with its exact configuration.

Every count is tested. ``notes`` says what about a model could not be confirmed.
"""

import difflib

from adderlab.errors import UsageError
from adderlab.models.preset import Preset
from adderlab.models.zoo_columns import COLUMNS
from adderlab.models.zoo_low_rank import LOW_RANK_LINE
from adderlab.models.zoo_rotary import ROTARY
from adderlab.models.zoo_smallest import SMALLEST

PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in sorted((*LOW_RANK_LINE, *COLUMNS, *ROTARY, *SMALLEST), key=lambda p: -p.parameters)
}
"""By name, the largest first."""


def get_preset(name: str) -> Preset:
    """The preset of that name (``456`` means ``456p``); ``UsageError`` lists close names."""
    wanted = f"{name}p" if name.isdigit() else name
    if wanted in PRESETS:
        return PRESETS[wanted]
    close = difflib.get_close_matches(wanted, PRESETS, n=4, cutoff=0.4) or list(PRESETS)
    raise UsageError(f"no preset {name!r}; close names: {', '.join(close)}")

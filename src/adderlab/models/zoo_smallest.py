"""The zoo, part 4: our own line, below the published ones (docs/smallest.md).

One layer whose every part does one thing. Digits stand on a short arc and columns on a circle; queries
are keys turned by one angle, so that attention looks one column on with a little of the column before;
one number subtracts what it saw from the last digit; two hidden units, each the other's mirror, carry
the tens away; the head reads the arc. The presets differ in how much of that is tied.
"""

import dataclasses

from adderlab.models.config import ModelConfig
from adderlab.models.preset import NO_RATE, Preset

_11 = ModelConfig(
    layout="C",
    d_model=4,
    d_ff=2,
    tokens="centred_arc",
    arc=(2.0, 0.0, 0.1),
    token_dim=2,
    content=2,
    positions="fixed_circle",
    spiral=(1.0, 0.0, 0.0, 0.0),
    learned_specials=(),
    tie_qkv="separate",
    qk_input="rest",
    query_map="turn",
    keys="input",
    head_dim=2,
    value_input="last_token",
    values="input",
    value_dim=1,
    attn_out="last_token",
    mirror="pairs",
    norm="rms",
    norm_eps=1e-5,
    norm_weight=False,
    head="scaled",
    init="xavier",
)
_8 = dataclasses.replace(
    _11, tokens="unit_arc", mirror="unit_pairs", activation="relu", head="scaled_once"
)
_7 = dataclasses.replace(_8, head="negated", logit_scale=300.0)


def _own(parameters: int, config: ModelConfig, notes: str = "") -> Preset:
    return Preset(
        name=f"{parameters}p",
        config=config,
        parameters=parameters,
        source="adderlab",
        published="our own",
        published_rate=NO_RATE,
        recipe=None,
        notes=notes,
    )


SMALLEST = (
    _own(11, _11),
    _own(8, _8),
    _own(7, _7, "logits are multiplied by 300 for the loss to see differences; no answer depends on it"),
)

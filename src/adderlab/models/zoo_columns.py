"""The zoo, part 2: tokens and positions in channels of their own, one position for X, Y and Z.

Facts: the repositories named as the ``source`` of each entry.
"""

import dataclasses

from adderlab.models.config import ModelConfig
from adderlab.models.preset import NO_RATE, Preset

_EVINDOR = "evindor/MicroAdder"
_JACKCAI = "JackCai1206/smallest-addition-transformer"
_UNIT_SPIRAL = (1.0, 0.0, 1 / 9, 0.0)
_MICROADDER = ModelConfig(
    layout="M",
    d_model=5,
    d_ff=2,
    tokens="arc",
    token_dim=2,
    positions="fixed_spiral",
    learned_specials=("equals", "top"),
    head_dim=4,
    value_dim=5,
    qk_input="positions",
    value_input="tokens",
    tie_qkv="qk",
    query_rotation=True,
    values="head",
    attn_out_rank=1,
    norm="rms",
    norm_eps=1e-5,
    share_norms="all",
    head="projected",
    init="xavier",
)
_SPLIT = ModelConfig(
    layout="M14",
    d_model=6,
    n_head=2,
    d_ff=2,
    token_dim=3,
    positions="columns",
    qk_input="positions",
    value_input="tokens",
    tie_qkv="separate",
    bias="mlp",
    head="projected",
    init="spiral",
)
_RMS_SPLIT = dataclasses.replace(_SPLIT, norm="rms", norm_eps=1e-5)
_START_INFERRED = (
    "the first draw of maps and special positions is not in the submission: Xavier uniform is that of "
    "a sibling file; there <EOS> is token 12 and <PAD> 13, here the other way round"
)

COLUMNS = (
    Preset(
        name="260p",
        config=_SPLIT,
        parameters=260,
        source=_JACKCAI,
        published="100%",
        published_rate=NO_RATE,
        recipe="jackcai-260",
        notes=_START_INFERRED,
    ),
    Preset(
        name="242p",
        config=_RMS_SPLIT,
        parameters=242,
        source=_JACKCAI,
        published="100% in one table of its README, 99.07% in another",
        published_rate=NO_RATE,
        recipe="jackcai-242",
        notes=_START_INFERRED,
    ),
    Preset(
        name="239p",
        config=dataclasses.replace(_RMS_SPLIT, layout="M13"),
        parameters=239,
        source="h3nock/tiny-adder-lab",
        published="99.98 to 100%, given for 239p, 305p and 335p together",
        published_rate="sweep only",
        recipe="h3nock-239",
        notes="242p with a vocabulary of 13; its eps and first draw are taken from 242p",
    ),
    Preset(
        name="234p",
        config=dataclasses.replace(_SPLIT, positions="spiral", spiral=_UNIT_SPIRAL),
        parameters=234,
        source=_JACKCAI,
        published="99.91% after fine-tuning",
        published_rate=NO_RATE,
        recipe="jackcai-234",
        notes=_START_INFERRED,
    ),
    Preset(
        name="75p",
        config=dataclasses.replace(
            _MICROADDER, tokens="ellipse", positions="spiral", spiral=_UNIT_SPIRAL, head_dim=5
        ),
        parameters=75,
        source=_EVINDOR,
        published="10010/10010 (seed 80085)",
        published_rate="0/10, but runs were cut at 50,000 steps; one chosen seed grokked at 276,000",
        recipe="microadder-75",
        notes="where the spiral starts is read off the submission",
    ),
    Preset(
        name="74p",
        config=dataclasses.replace(_MICROADDER, positions="spiral", spiral=_UNIT_SPIRAL, head_dim=5),
        parameters=74,
        source=_EVINDOR,
        published="10010/10010",
        published_rate="3/3 (2/3 in another table of the same document)",
        recipe="microadder-74",
        notes="where the spiral starts is read off the submission; later code starts at 3.5, 0, 0.15, 0",
    ),
    Preset(
        name="67p",
        config=_MICROADDER,
        parameters=67,
        source=_EVINDOR,
        published="10010/10010 (seed 71046)",
        published_rate="one seed listed, one success",
        recipe="microadder-60k",
    ),
    Preset(
        name="57p",
        config=dataclasses.replace(_MICROADDER, fc2="head"),
        parameters=57,
        source=_EVINDOR,
        published="10010/10010 (seed 777)",
        published_rate="one seed listed, one success",
        recipe="microadder-60k",
    ),
)

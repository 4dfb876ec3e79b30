"""What the zoo says about one model."""

import dataclasses
import difflib
from dataclasses import dataclass
from typing import Any

from adderlab.errors import UsageError
from adderlab.models.config import ModelConfig

NO_RATE = "none published"


@dataclass(frozen=True, kw_only=True)
class Preset:
    """One model, published or our own."""

    name: str
    config: ModelConfig
    parameters: int
    """The published count, which the configuration must give exactly."""
    source: str
    """Author or repository."""
    published: str
    """Published accuracy, with its test."""
    published_rate: str
    """Published success rate over seeds, or why there is none."""
    recipe: str | None
    """Name of the published recipe, or None where none was published."""
    notes: str = ""
    """What could not be confirmed, and where this reading differs."""


# The zoo, part 2: tokens and positions in channels of their own, one position for X, Y and Z.
#
# Facts: the repositories named as the ``source`` of each entry.


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


# The zoo, part 1: layouts of operands written most significant digit first, and pair tokens.
#
# Facts: the repositories named as the ``source`` of each entry.


_LOW_RANK = ModelConfig(
    layout="P", norm="rms", pos_rank=3, qkv_rank=3, attn_out_rank=2, ffn_rank=3, tie_qkv="shareA_tieKV"
)
_D4 = dataclasses.replace(_LOW_RANK, d_model=4, d_ff=8, attn_out_rank=3)
_R456 = "yinglunz/A-456-Parameter-Transformer-Solves-10-Digit-Addition"
_TIE_INFERRED = "that one A and tied K=V make up the 36 QKV parameters is inferred from the count"
_JAX = (
    "35 learned positions, of which the layout reads 33; the JAX original uses the tanh form of GELU "
    "and layer norms of eps 1e-6"
)

LOW_RANK_LINE = (
    Preset(
        name="6080p",
        config=ModelConfig(layout="B", n_layer=2, d_model=16, n_head=2, d_ff=48, position_rows=35),
        parameters=6080,
        source="Claude Code (anadim/smallest-addition-transformer-claude-code)",
        published="100% of 10,000",
        published_rate=NO_RATE,
        recipe=None,
        notes=(
            "sizes, vocabulary of 15, 35 positions, pre-norm and tied head are published and give the "
            "count without biases; which token stands where, the GELU and the first draw are assumed"
        ),
    ),
    Preset(
        name="1644p",
        config=ModelConfig(layout="pairs", d_model=8, n_head=2, d_ff=12, bias="all"),
        parameters=1644,
        source="Codex (anadim/smallest-addition-transformer-codex)",
        published="99.04% of 10,000",
        published_rate="one seed (123)",
        recipe="codex-1644",
        notes="read through a fork; pair tokens have no table form",
    ),
    Preset(
        name="973p",
        config=ModelConfig(d_ff=28, position_rows=35),
        parameters=973,
        source="yhavinga/gpt-acc-jax",
        published="99.99%",
        published_rate="one run",
        recipe="yhavinga-973",
        notes=_JAX,
    ),
    Preset(
        name="777p",
        config=ModelConfig(d_ff=14, position_rows=35),
        parameters=777,
        source="yhavinga/gpt-acc-jax",
        published="99.69%",
        published_rate="one run",
        recipe="yhavinga-777",
        notes=_JAX,
    ),
    Preset(
        name="582p",
        config=ModelConfig(pos_rank=3, qkv_rank=3, attn_out_rank=3),
        parameters=582,
        source=_R456,
        published="seed 42: 1 error of 100,000",
        published_rate=NO_RATE,
        recipe="r456-27k",
    ),
    Preset(
        name="512p",
        config=ModelConfig(pos_rank=3, qkv_rank=3, attn_out_rank=3, ffn_rank=3),
        parameters=512,
        source=_R456,
        published="seed 42: 12 errors of 100,000",
        published_rate=NO_RATE,
        recipe="r456-27k",
    ),
    Preset(
        name="491p",
        config=ModelConfig(norm="rms", pos_rank=3, qkv_rank=3, attn_out_rank=3, ffn_rank=3),
        parameters=491,
        source="rezabyt/digit-addition-491p",
        published="99.97%",
        published_rate=NO_RATE,
        recipe="r456-27k",
        notes="code not seen; the shape is the published table's, the recipe that of 512p",
    ),
    Preset(
        name="456p",
        config=_LOW_RANK,
        parameters=456,
        source=_R456,
        published="seed 43: 0 errors of 100,000; seed 44: 42",
        published_rate="2/5",
        recipe="r456-54k",
    ),
    Preset(
        name="335p",
        config=dataclasses.replace(_D4, d_ff=12),
        parameters=335,
        source="h3nock/tiny-adder-lab",
        published="99.98 to 100%, given for 239p, 305p and 335p together",
        published_rate="sweep only",
        recipe=None,
        notes=_TIE_INFERRED,
    ),
    Preset(
        name="311p",
        config=_D4,
        parameters=311,
        source="rezabyt/digit-addition-311p",
        published="99,999 of 100,000 after four fine-tuning rounds",
        published_rate="4/56 at 99% or more; 6/56 above 90%",
        recipe="rezabyt-311",
    ),
    Preset(
        name="305p",
        config=dataclasses.replace(_D4, layout="P13", d_ff=9, attn_out_rank=2),
        parameters=305,
        source="h3nock/tiny-adder-lab",
        published="seed 43: 99.98%",
        published_rate="sweep only",
        recipe="h3nock-305",
    ),
    Preset(
        name="275p",
        config=dataclasses.replace(_D4, layout="P13", attn_out_rank=2, ffn_rank=2),
        parameters=275,
        source="ryanyord/tiny-adder-275p",
        published="99.98%",
        published_rate="derived from the 311p checkpoint by SVD, not trained from scratch",
        recipe=None,
        notes="ranks unconfirmed: this reading gives 279 with 14 tokens and 275 with PAD dropped",
    ),
    Preset(
        name="274p",
        config=dataclasses.replace(_D4, pos_rank=2),
        parameters=274,
        source="lichengliu03/digit-addition-274p",
        published="seed 42: 99.99% of 100,000 after fine-tuning",
        published_rate=NO_RATE,
        recipe="lichengliu-274",
    ),
    Preset(
        name="262p",
        config=dataclasses.replace(_D4, pos_rank=2, d_ff=6),
        parameters=262,
        source="lichengliu03/TinyAdder-262p",
        published="99.95%",
        published_rate="1/10",
        recipe="lichengliu-262",
        notes=f"the board lists ff 8; the repository's ff 6 is what adds up; {_TIE_INFERRED}",
    ),
)


# The zoo, part 3: one Qwen3-style layer, positions by rotary angles of base 3, digits only.
#
# Facts: the repositories named as the ``source`` of each entry.


_TBUKIC = "tbukic/M10S-Transformer"
_STAGHADO = "staghado/minimal-ten-digit-addition-transformer"

_BASE = ModelConfig(
    layout="S",
    d_model=3,
    d_ff=2,
    positions="none",
    head_dim=4,
    tie_qkv="separate",
    qk_norm="own",
    rope_theta=3.0,
    activation="swiglu",
    norm="rms",
    norm_eps=1e-6,
)
_MLX = dataclasses.replace(_BASE, rope_pairs="halves", init="uniform")
_GROUPED = dataclasses.replace(_MLX, n_head=2, n_kv_head=1)
_ARC = dataclasses.replace(_BASE, tokens="arc", token_dim=2)
_ARC_QUERY = dataclasses.replace(
    _ARC, tie_qkv="all", key_transform="rotate", attn_out="query_transpose", share_norms="all"
)


def _m10s(
    parameters: int,
    base: ModelConfig,
    published: str,
    rate: str,
    recipe: str,
    notes: str = "",
    **changes: Any,
) -> Preset:
    return Preset(
        name=f"{parameters}p",
        config=dataclasses.replace(base, **changes),
        parameters=parameters,
        source=_TBUKIC,
        published=published,
        published_rate=rate,
        recipe=recipe,
        notes=notes,
    )


def _mlx(parameters: int, published: str, rate: str, recipe: str, notes: str, **changes: Any) -> Preset:
    base = _MLX if parameters == 122 else _GROUPED
    return Preset(
        name=f"{parameters}p",
        config=dataclasses.replace(base, **changes),
        parameters=parameters,
        source=_STAGHADO,
        published=f"{published} with AdamW; 100% claimed after L-BFGS",
        published_rate=rate,
        recipe=recipe,
        notes=notes,
    )


_TARGETED = "10010/10010 after targeted fine-tuning, partly on the evaluation set's own failures"
_MLX_START = "first draw: the MLX library's defaults as documented, not run"

ROTARY = (
    _mlx(228, "100%", NO_RATE, "staghado-228", _MLX_START, d_model=4, d_ff=6),
    _mlx(200, "99.99%", NO_RATE, "staghado-45k", _MLX_START, d_ff=9),
    _mlx(173, "99.93%", NO_RATE, "staghado-45k", _MLX_START, d_ff=6),
    _mlx(155, "99.92%", NO_RATE, "staghado-45k", _MLX_START, d_ff=4),
    _mlx(146, "99.98%", NO_RATE, "staghado-146", _MLX_START, d_ff=3),
    Preset(
        name="140p",
        config=dataclasses.replace(_BASE, d_model=4, d_ff=4, tie_qkv="kv", attn_out="query_transpose"),
        parameters=140,
        source="dimopep",
        published="100%",
        published_rate=NO_RATE,
        recipe="dimopep-140",
        notes="rotary pairing, eps and first draw are taken from M10S; batch size unseen",
    ),
    _mlx(
        137,
        "99.73%",
        "about 30% of 80 runs with identical seed, data and weights",
        "staghado-45k",
        _MLX_START,
        d_ff=2,
    ),
    _mlx(
        122,
        "99.95%",
        "none published; tbukic: 4/10 (200,000 steps)",
        "staghado-122",
        f"{_MLX_START}; tbukic: the same shape, neighbouring pairs, N(0, 0.02), recipe m10s-122",
        d_ff=3,
    ),
    _m10s(113, _BASE, "none found", "29% of 7, mixed schedules, 200-sample check", "m10s-113"),
    _m10s(
        101,
        _BASE,
        f"{_TARGETED}; 0 errors on another 50,000",
        "1/10",
        "m10s-101",
        attn_out="query_transpose",
    ),
    _m10s(
        96,
        _BASE,
        "100%",
        NO_RATE,
        "m10s-96",
        "its rank-1 factors start Kaiming uniform, here N(0, sqrt(2 / (rows + columns)))",
        tie_qkv="kv",
        attn_out_rank=1,
    ),
    _m10s(95, _ARC, "99.03%", NO_RATE, "m10s-95", d_ff=3),
    _m10s(
        89,
        _BASE,
        "10010/10010; 0 errors on another 50,000",
        "0/15 in a single stage",
        "m10s-multi-stage",
        tie_qkv="kv",
        attn_out="query_transpose",
    ),
    _m10s(
        86,
        _BASE,
        f"{_TARGETED}; 0 errors on another 50,000",
        "5% of 22, mixed schedules, 200-sample check",
        "m10s-86",
        tie_qkv="kv",
        attn_out="query_transpose",
        share_norms="block",
    ),
    _m10s(
        83,
        _BASE,
        f"{_TARGETED}; 0 errors on another 50,000",
        "13% of 46, mixed schedules, 200-sample check",
        "m10s-83",
        tie_qkv="kv",
        attn_out="query_transpose",
        share_norms="all",
    ),
    _m10s(62, _ARC, "10010/10010", NO_RATE, "m10s-62", tie_qkv="kv", attn_out="query_transpose"),
    _m10s(
        58,
        _ARC,
        _TARGETED,
        "none published (seed 1)",
        "m10s-58",
        tie_qkv="qk",
        key_transform="scale",
        attn_out="query_transpose",
        gate="scaled_up",
    ),
    _m10s(
        55,
        _ARC,
        _TARGETED,
        "none published (seed 1)",
        "m10s-55",
        tie_qkv="qk",
        key_transform="scale",
        attn_out="query_transpose",
        gate="scaled_up",
        share_norms="block",
    ),
    Preset(
        name="52p",
        config=dataclasses.replace(
            _ARC, tie_qkv="kv", attn_out="query_transpose", qk_norm="tied", share_norms="all"
        ),
        parameters=52,
        source="vijec",
        published="100% after targeted fine-tuning",
        published_rate=NO_RATE,
        recipe="vijec-52",
        notes="no training code; Grokfast alpha 0.98, lambda 2, then targeted fine-tuning is reported",
    ),
    _m10s(45, _ARC_QUERY, _TARGETED, NO_RATE, "m10s-sub50"),
    _m10s(
        44,
        _ARC_QUERY,
        "100% without targeting",
        "none published (seed 27 of a sweep over 0 to 49)",
        "m10s-44",
        key_transform="none",
    ),
    _m10s(41, _ARC_QUERY, _TARGETED, "none published (seed 36)", "m10s-41", qk_norm="tied"),
    Preset(
        name="39p",
        config=dataclasses.replace(
            _ARC,
            qk_input="tokens",
            value_input="tokens",
            tie_qkv="kv",
            key_rows="last_scales_first",
            qk_norm="quarter",
            attn_out="query_transpose_tail",
            gate="sparse",
            fc2="up_transpose_carry",
            share_norms="all",
            repeat_mix=True,
        ),
        parameters=39,
        source="Lokimorty",
        published="99.91%; a counterexample off the test set is published",
        published_rate=NO_RATE,
        recipe=None,
        notes=(
            "with its published weights this reading gives the published 10001/10010; the gain of its "
            "second pass was learned as -1e-5, and without that pass (38 numbers) it has tables"
        ),
    ),
    _m10s(
        36,
        _ARC_QUERY,
        _TARGETED,
        "none published (seed 8)",
        "m10s-36",
        qk_norm="tied",
        fc2="rotated_up_transpose",
    ),
)


# The zoo, part 4: our own line, below the published ones (docs/smallest.md).
#
# One layer whose every part does one thing. Digits stand on a short arc and columns on a circle; queries
# are keys turned by one angle, so that attention looks one column on with a little of the column before;
# one number subtracts what it saw from the last digit; two hidden units, each the other's mirror, carry
# the tens away; the head reads the arc. The presets differ in how much of that is tied.


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


# The zoo: published trained adders and our own, each with its exact configuration.
#
# Every count is tested. ``notes`` says what about a model could not be confirmed.


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

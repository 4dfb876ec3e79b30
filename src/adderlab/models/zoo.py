"""The zoo: published trained adders and our own, each with its exact configuration.

A table of differences: an entry names its parent and what differs. Every count is tested, and ``notes``
says what about a model could not be confirmed. Facts: the repositories named as the ``source``.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from adderlab.errors import UsageError
from adderlab.models.config import ModelConfig, resized
from adderlab.task.addition import PUBLISHED

NO_RATE = "none published"


@dataclass(frozen=True, kw_only=True)
class Preset:
    """One model, published or our own."""

    name: str
    """Its number of parameters, and a p: the published count, which the configuration gives exactly. For
    a task of another size, that is added: ``122p@3`` has three columns, ``122p@7b2`` seven of base 2."""
    config: ModelConfig
    source: str
    """Author or repository."""
    published: str
    """Published accuracy, with its test."""
    published_rate: str
    """Published success rate over seeds, or why there is none."""
    recipe: str | None
    """Name of the published recipe, or None where none was published."""
    notes: str
    """What could not be confirmed, and where this reading differs."""

    @property
    def parameters(self) -> int:
        """Unique trained numbers."""
        if self.config.addition != PUBLISHED:
            from adderlab.models.describe import count_parameters  # which builds the model

            return count_parameters(self.config)
        return int(self.name.removesuffix("p"))


@dataclass(frozen=True, kw_only=True)
class _Entry:
    parent: str | None
    """Name of another entry; None: the defaults of ``ModelConfig``."""
    source: str | None
    """None: the parent's."""
    published: str
    published_rate: str
    recipe: str | None
    notes: str
    changes: Mapping[str, Any]
    """Fields of ``ModelConfig`` with other values than the parent's."""


def _entry(
    parent: str | None = None,
    *,
    source: str | None = None,
    published: str,
    rate: str = NO_RATE,
    recipe: str | None = None,
    notes: str = "",
    **changes: Any,
) -> _Entry:
    return _Entry(
        parent=parent,
        source=source,
        published=published,
        published_rate=rate,
        recipe=recipe,
        notes=notes,
        changes=changes,
    )


def _resolve(entries: Mapping[str, _Entry]) -> dict[str, Preset]:
    """Every entry with a whole configuration, the largest first."""
    whole: dict[str, Preset] = {}

    def of(name: str) -> Preset:
        if name not in whole:
            own = entries[name]
            parent = None if own.parent is None else of(own.parent)
            base = parent.config if parent else ModelConfig()
            whole[name] = Preset(
                name=name,
                config=dataclasses.replace(base, **own.changes),
                source=own.source or (parent.source if parent else ""),
                published=own.published,
                published_rate=own.published_rate,
                recipe=own.recipe,
                notes=own.notes,
            )
        return whole[name]

    return {
        preset.name: preset for preset in sorted(map(of, entries), key=lambda each: -each.parameters)
    }


# Operands written most significant digit first, and pair tokens: the low-rank line.

_JAX = (
    "35 learned positions, of which the layout reads 33; the JAX original uses the tanh form of GELU "
    "and layer norms of eps 1e-6"
)
_SWEEP = "99.98 to 100%, given for 239p, 305p and 335p together"
_TIE_INFERRED = "that one A and tied K=V make up the 36 QKV parameters is inferred from the count"

_LOW_RANK = {
    "6080p": _entry(
        source="Claude Code (anadim/smallest-addition-transformer-claude-code)",
        published="100% of 10,000",
        notes="sizes, vocabulary of 15, 35 positions, pre-norm and tied head are published and give the "
        "count without biases; which token stands where, the GELU and the first draw are assumed",
        layout="B",
        n_layer=2,
        d_model=16,
        n_head=2,
        d_ff=48,
        position_rows=35,
    ),
    "1644p": _entry(
        source="Codex (anadim/smallest-addition-transformer-codex)",
        published="99.04% of 10,000",
        rate="one seed (123)",
        recipe="codex-1644",
        notes="read through a fork; trained on the full sequence, not by tables",
        layout="pairs",
        d_model=8,
        n_head=2,
        d_ff=12,
        bias="all",
    ),
    "777p": _entry(
        source="yhavinga/gpt-acc-jax",
        published="99.69%",
        rate="one run",
        recipe="yhavinga-777",
        notes=_JAX,
        position_rows=35,
    ),
    "973p": _entry(
        "777p", published="99.99%", rate="one run", recipe="yhavinga-973", notes=_JAX, d_ff=28
    ),
    "582p": _entry(
        source="yinglunz/A-456-Parameter-Transformer-Solves-10-Digit-Addition",
        published="seed 42: 1 error of 100,000",
        recipe="r456-27k",
        pos_rank=3,
        qkv_rank=3,
        attn_out_rank=3,
    ),
    "512p": _entry("582p", published="seed 42: 12 errors of 100,000", recipe="r456-27k", ffn_rank=3),
    "491p": _entry(
        "512p",
        source="rezabyt/digit-addition-491p",
        published="99.97%",
        recipe="r456-27k",
        notes="code not seen; the shape is the published table's, the recipe that of 512p",
        norm="rms",
    ),
    "456p": _entry(
        "512p",
        published="seed 43: 0 errors of 100,000; seed 44: 42",
        rate="2/5",
        recipe="r456-54k",
        norm="rms",
        attn_out_rank=2,
        tie_qkv="shareA_tieKV",
    ),
    "311p": _entry(
        "456p",
        source="rezabyt/digit-addition-311p",
        published="99,999 of 100,000 after four fine-tuning rounds",
        rate="4/56 at 99% or more; 6/56 above 90%",
        recipe="rezabyt-311",
        d_model=4,
        d_ff=8,
        attn_out_rank=3,
    ),
    "335p": _entry(
        "311p",
        source="h3nock/tiny-adder-lab",
        published=_SWEEP,
        rate="sweep only",
        notes=_TIE_INFERRED,
        d_ff=12,
    ),
    "305p": _entry(
        "335p",
        published="seed 43: 99.98%",
        rate="sweep only",
        recipe="h3nock-305",
        layout="P13",
        d_ff=9,
        attn_out_rank=2,
    ),
    "275p": _entry(
        "305p",
        source="ryanyord/tiny-adder-275p",
        published="99.98%",
        rate="derived from the 311p checkpoint by SVD, not trained from scratch",
        notes="ranks unconfirmed: this reading gives 279 with 14 tokens and 275 with PAD dropped",
        d_ff=8,
        ffn_rank=2,
    ),
    "274p": _entry(
        "311p",
        source="lichengliu03/digit-addition-274p",
        published="seed 42: 99.99% of 100,000 after fine-tuning",
        recipe="lichengliu-274",
        pos_rank=2,
    ),
    "262p": _entry(
        "274p",
        source="lichengliu03/TinyAdder-262p",
        published="99.95%",
        rate="1/10",
        recipe="lichengliu-262",
        notes=f"the board lists ff 8; the repository's ff 6 is what adds up; {_TIE_INFERRED}",
        d_ff=6,
    ),
}

# Tokens and positions in channels of their own, one position for X, Y and Z.

_UNIT_SPIRAL = (1.0, 0.0, 1 / 9, 0.0)
_START_INFERRED = (
    "the first draw of maps and special positions is not in the submission: Xavier uniform is that of "
    "a sibling file; there <EOS> is token 12 and <PAD> 13, here the other way round"
)

_SPLIT = {
    "260p": _entry(
        source="JackCai1206/smallest-addition-transformer",
        published="100%",
        recipe="jackcai-260",
        notes=_START_INFERRED,
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
    ),
    "242p": _entry(
        "260p",
        published="100% in one table of its README, 99.07% in another",
        recipe="jackcai-242",
        notes=_START_INFERRED,
        norm="rms",
        norm_eps=1e-5,
    ),
    "239p": _entry(
        "242p",
        source="h3nock/tiny-adder-lab",
        published=_SWEEP,
        rate="sweep only",
        recipe="h3nock-239",
        notes="242p with a vocabulary of 13; its eps and first draw are taken from 242p",
        layout="M13",
    ),
    "234p": _entry(
        "260p",
        published="99.91% after fine-tuning",
        recipe="jackcai-234",
        notes=_START_INFERRED,
        positions="spiral",
        spiral=_UNIT_SPIRAL,
    ),
    "67p": _entry(
        source="evindor/MicroAdder",
        published="10010/10010 (seed 71046)",
        rate="one seed listed, one success",
        recipe="microadder-60k",
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
    ),
    "57p": _entry(
        "67p",
        published="10010/10010 (seed 777)",
        rate="one seed listed, one success",
        recipe="microadder-60k",
        fc2="head",
    ),
    "74p": _entry(
        "67p",
        published="10010/10010",
        rate="3/3 (2/3 in another table of the same document)",
        recipe="microadder-74",
        notes="where the spiral starts is read off the submission; later code starts at 3.5, 0, 0.15, 0",
        positions="spiral",
        spiral=_UNIT_SPIRAL,
        head_dim=5,
    ),
    "75p": _entry(
        "74p",
        published="10010/10010 (seed 80085)",
        rate="0/10, but runs were cut at 50,000 steps; one chosen seed grokked at 276,000",
        recipe="microadder-75",
        notes="where the spiral starts is read off the submission",
        tokens="ellipse",
    ),
}

# One Qwen3-style layer, positions by rotary angles of base 3, digits only.

_TARGETED = "10010/10010 after targeted fine-tuning, partly on the evaluation set's own failures"
_MLX_START = "first draw: the MLX library's defaults as documented, not run"


def _after_lbfgs(accuracy: str) -> str:
    return f"{accuracy} with AdamW; 100% claimed after L-BFGS"


_ROTARY = {
    "113p": _entry(
        source="tbukic/M10S-Transformer",
        published="none found",
        rate="29% of 7, mixed schedules, 200-sample check",
        recipe="m10s-113",
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
    ),
    "122p": _entry(
        "113p",
        source="staghado/minimal-ten-digit-addition-transformer",
        published=_after_lbfgs("99.95%"),
        rate="none published; tbukic: 4/10 (200,000 steps)",
        recipe="staghado-122",
        notes=f"{_MLX_START}; tbukic: the same shape, neighbouring pairs, N(0, 0.02), recipe m10s-122",
        d_ff=3,
        rope_pairs="halves",
        init="uniform",
    ),
    "146p": _entry(
        "122p",
        published=_after_lbfgs("99.98%"),
        recipe="staghado-146",
        notes=_MLX_START,
        n_head=2,
        n_kv_head=1,
    ),
    "137p": _entry(
        "146p",
        published=_after_lbfgs("99.73%"),
        rate="about 30% of 80 runs with identical seed, data and weights",
        recipe="staghado-45k",
        notes=_MLX_START,
        d_ff=2,
    ),
    "155p": _entry(
        "146p",
        published=_after_lbfgs("99.92%"),
        recipe="staghado-45k",
        notes=_MLX_START,
        d_ff=4,
    ),
    "173p": _entry(
        "146p",
        published=_after_lbfgs("99.93%"),
        recipe="staghado-45k",
        notes=_MLX_START,
        d_ff=6,
    ),
    "200p": _entry(
        "146p",
        published=_after_lbfgs("99.99%"),
        recipe="staghado-45k",
        notes=_MLX_START,
        d_ff=9,
    ),
    "228p": _entry(
        "146p",
        published=_after_lbfgs("100%"),
        recipe="staghado-228",
        notes=_MLX_START,
        d_model=4,
        d_ff=6,
    ),
    "140p": _entry(
        "113p",
        source="dimopep",
        published="100%",
        recipe="dimopep-140",
        notes="rotary pairing, eps and first draw are taken from M10S; batch size unseen",
        d_model=4,
        d_ff=4,
        tie_qkv="kv",
        attn_out="query_transpose",
    ),
    "101p": _entry(
        "113p",
        published=f"{_TARGETED}; 0 errors on another 50,000",
        rate="1/10",
        recipe="m10s-101",
        attn_out="query_transpose",
    ),
    "96p": _entry(
        "113p",
        published="100%",
        recipe="m10s-96",
        notes="its rank-1 factors start Kaiming uniform, here N(0, sqrt(2 / (rows + columns)))",
        tie_qkv="kv",
        attn_out_rank=1,
    ),
    "89p": _entry(
        "113p",
        published="10010/10010; 0 errors on another 50,000",
        rate="0/15 in a single stage",
        recipe="m10s-multi-stage",
        tie_qkv="kv",
        attn_out="query_transpose",
    ),
    "86p": _entry(
        "89p",
        published=f"{_TARGETED}; 0 errors on another 50,000",
        rate="5% of 22, mixed schedules, 200-sample check",
        recipe="m10s-86",
        share_norms="block",
    ),
    "83p": _entry(
        "89p",
        published=f"{_TARGETED}; 0 errors on another 50,000",
        rate="13% of 46, mixed schedules, 200-sample check",
        recipe="m10s-83",
        share_norms="all",
    ),
    "95p": _entry("113p", published="99.03%", recipe="m10s-95", tokens="arc", token_dim=2, d_ff=3),
    "62p": _entry("89p", published="10010/10010", recipe="m10s-62", tokens="arc", token_dim=2),
    "58p": _entry(
        "62p",
        published=_TARGETED,
        rate="none published (seed 1)",
        recipe="m10s-58",
        tie_qkv="qk",
        key_transform="scale",
        gate="scaled_up",
    ),
    "55p": _entry(
        "58p",
        published=_TARGETED,
        rate="none published (seed 1)",
        recipe="m10s-55",
        share_norms="block",
    ),
    "52p": _entry(
        "62p",
        source="vijec",
        published="100% after targeted fine-tuning",
        recipe="vijec-52",
        notes="no training code; Grokfast alpha 0.98, lambda 2, then targeted fine-tuning is reported",
        qk_norm="tied",
        share_norms="all",
    ),
    "45p": _entry(
        "62p",
        published=_TARGETED,
        recipe="m10s-sub50",
        tie_qkv="all",
        key_transform="rotate",
        share_norms="all",
    ),
    "44p": _entry(
        "45p",
        published="100% without targeting",
        rate="none published (seed 27 of a sweep over 0 to 49)",
        recipe="m10s-44",
        key_transform="none",
    ),
    "41p": _entry(
        "45p",
        published=_TARGETED,
        rate="none published (seed 36)",
        recipe="m10s-41",
        qk_norm="tied",
    ),
    "36p": _entry(
        "41p",
        published=_TARGETED,
        rate="none published (seed 8)",
        recipe="m10s-36",
        fc2="rotated_up_transpose",
    ),
    "39p": _entry(
        "62p",
        source="Lokimorty",
        published="99.91%; a counterexample off the test set is published",
        notes="with its published weights this reading gives the published 10001/10010; the gain of its "
        "second pass was learned as -1e-5, and without that pass (38 numbers) it has tables",
        qk_input="tokens",
        value_input="tokens",
        key_rows="last_scales_first",
        qk_norm="quarter",
        attn_out="query_transpose_tail",
        gate="sparse",
        fc2="up_transpose_carry",
        share_norms="all",
        repeat_mix=True,
    ),
    "38p": _entry(
        "39p",
        source="adderlab, after Lokimorty",
        published="our own",
        notes="the 39p without its second pass, and so with tables",
        repeat_mix=False,
    ),
}

# Our own line, below the published ones (docs/smallest.md).
#
# One layer whose every part does one thing. Digits stand on a short arc and columns on a circle; queries
# are keys turned by one angle, so that attention looks one column on with a little of the column before;
# one number subtracts what it saw from the last digit; two hidden units, each the other's mirror, carry
# the tens away; the head reads the arc. The presets differ in how much of that is tied.

_SMALLEST = {
    "11p": _entry(
        source="adderlab",
        published="our own",
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
        query_map="scaled_rotation",
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
    ),
    "8p": _entry(
        "11p",
        published="our own",
        tokens="unit_arc",
        mirror="unit_pairs",
        activation="relu",
        head="scaled_once",
    ),
    "7p": _entry(
        "8p",
        published="our own",
        notes="logits are multiplied by 300 for the loss to see differences; no answer depends on it",
        head="negated",
        logit_scale=300.0,
    ),
}

PRESETS: dict[str, Preset] = _resolve({**_LOW_RANK, **_SPLIT, **_ROTARY, **_SMALLEST})
"""By name, the largest first."""


def get_preset(name: str) -> Preset:
    """The preset of that name (``456`` means ``456p``); ``UsageError`` lists close names."""
    wanted = f"{name}p" if name.isdigit() else name
    if wanted in PRESETS:
        return PRESETS[wanted]
    close = difflib.get_close_matches(wanted, PRESETS, n=4, cutoff=0.4)
    names = f"close names: {', '.join(close)}" if close else f"there are {', '.join(PRESETS)}"
    raise UsageError(f"no preset {name!r}; {names}")


def at_size(preset: Preset, *, columns: int | None = None, base: int | None = None) -> Preset:
    """The preset's architecture for a task of another size; what is None stays. Nothing was published of
    it. Raises ``UsageError`` for a size that there is not."""
    config = resized(preset.config, columns=columns, base=base)
    if config == preset.config:
        return preset
    task = config.addition
    base_of = "" if task.base == 10 else f"b{task.base}"
    return Preset(
        name=f"{preset.name.partition('@')[0]}@{task.columns}{base_of}",
        config=config,
        source=preset.source,
        published="",
        published_rate="",
        recipe=preset.recipe,
        notes=f"the {preset.name} of {preset.config.addition.operands_text}, for {task.operands_text}",
    )

"""The zoo, part 1: layouts of operands written most significant digit first, and pair tokens.

Facts: the repositories named as the ``source`` of each entry.
"""

import dataclasses

from adderlab.models.config import ModelConfig
from adderlab.models.preset import NO_RATE, Preset

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

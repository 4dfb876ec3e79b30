"""Adders of any size by construction: real modules that add, without training; and spoilt ones.

Attention of step i reads columns i and i - 1 of both operands with weights B and 1 (of base B), and what
is missing from a total of 2 B + 2 on a separator, whose value is 0. So the stream gets

    l = (a_i + b_i) + (a_(i-1) + b_(i-1) - s_(i-1)) / B,

which lies between s - 1/B and s, with s the column's sum, carry included. Two units of the MLP take B
off where a carry goes out, and the head compares: logit_t = 2 t l - t^2. Positions are so long that the
norms see next to nothing else.

Shapes: P positions, V vocabulary, K = n + 1 coordinates of a key, H heads, D width.
"""

import copy
import math

import torch

from adderlab.evaluation.suites import every_pair
from adderlab.models.config import ModelConfig
from adderlab.models.transformer import Transformer, build_model
from adderlab.proof.prove import prove_checkpoint
from adderlab.proof.witnesses import model_margins
from adderlab.runs.checkpoints import Checkpoint
from adderlab.task.addition import Addition, get_layout

LENGTH = 3000.0
"""Of every position's vector."""
CONSTANT = 500.0
SECOND = 0.01
"""Of the second token channel, which holds t^2."""
SHARPNESS = 4.0
CLEARLY = 0.001
"""Logits by which a failing pair loses, so that fp32 fails too."""
MOST_TRIED = 100_000
UNSEEN = -14.0
"""Log of the weight of a key that a step has no use for."""


def built(name: str, task: Addition, heads: int = 1) -> Transformer:
    """A float32 adder in the layout of that name."""
    layout, n, base = get_layout(name, task), task.columns, task.base
    K = n + 1
    width = 2 + K + heads * K + 3
    config = ModelConfig(
        layout=name,
        columns=n,
        base=base,
        d_model=width,
        n_head=heads,
        head_dim=K,
        value_dim=1,
        token_dim=2,
        qk_input="positions",
        value_input="tokens",
        tie_qkv="separate",
        norm="rms",
        activation="relu",
        d_ff=2,
        head="projected",
    )
    model = build_model(config, 0)
    weight = dict(model.named_parameters())
    scale = LENGTH / math.sqrt(width)
    """What a norm divides by."""
    asked, seen = slice(0, K), [slice(K + h * K, K + (h + 1) * K) for h in range(heads)]
    constant, filler, sum_channel = (K + heads * K + i for i in range(3))
    with torch.no_grad():
        for each in weight.values():
            each.zero_()
        for norm in ("blocks.0.ln1", "blocks.0.ln2", "ln_f"):
            weight[f"{norm}.weight"].fill_(1.0)
        digit = torch.arange(base, dtype=torch.float32)
        tokens = weight["token_emb.weight"]
        tokens[:base, 0], tokens[:base, 1] = digit, SECOND * digit**2
        tokens[base:, 1] = SECOND * 4 * base**2
        places = weight["pos_emb.weight"]
        places[:, constant] = CONSTANT
        for h in range(heads):
            places[:, seen[h]] = UNSEEN
        operands = (layout.a_positions, layout.b_positions)
        total = (2.0 * base + 2.0) / heads
        for i in range(K):
            places[layout.query_positions[i], asked.start + i] = 1.0
            for h in range(heads):
                wanted: dict[int, float] = {}
                for positions in operands if heads == 1 else operands[h : h + 1]:
                    if i < n:
                        wanted[positions[i]] = float(base)
                    if i > 0:
                        wanted[positions[i - 1]] = 1.0
                missing = total - sum(wanted.values())
                if missing > 0:
                    wanted[layout.separators[0][0]] = missing
                for position, share in wanted.items():
                    places[position, seen[h].start + i] = math.log(share)
        rest = LENGTH**2 - (places**2).sum(1)
        places[:, filler] = rest.sqrt()
        for h in range(heads):
            rows = slice(h * K, (h + 1) * K)
            weight["blocks.0.attn.q_proj.weight"][rows, asked] = torch.eye(K) * scale * math.sqrt(K)
            weight["blocks.0.attn.k_proj.weight"][rows, seen[h]] = torch.eye(K) * scale
        weight["blocks.0.attn.v_proj.weight"][:, 0] = scale
        l = 2 + sum_channel
        weight["blocks.0.attn.proj.weight"][l] = total / base
        # l - z / B + 1 / (2 B) is s, but for half a Bth: from ``low`` to ``high`` there is nothing.
        low, high = base - 1 + 0.6 / base, base - 0.6 / base
        first = weight["blocks.0.mlp.fc1.weight"]
        first[:, l], first[:, 0] = scale, -scale / base
        for unit, start in enumerate((low, high)):
            first[unit, 2 + constant] = scale * (0.5 / base - start) / CONSTANT
        first /= high - low
        weight["blocks.0.mlp.fc2.weight"][l, 0] = -float(base)
        weight["blocks.0.mlp.fc2.weight"][l, 1] = float(base)
        read = weight["head_proj.weight"]
        read[0, l] = 2.0 * SHARPNESS * scale
        read[0, 0] = -2.0 * SHARPNESS * scale / base
        read[0, 2 + constant] = SHARPNESS * scale / base / CONSTANT
        read[1, 2 + constant] = -SHARPNESS * scale / SECOND / CONSTANT
    return model.eval()


def failing(model: Transformer) -> tuple[int, float]:
    """Pairs with a margin of no more than 0 in float64, of all, and the smallest margin.

    Of a million pairs by the prover, to find a model for a test in seconds.
    """
    task = model.layout.addition
    if task.num_pairs > MOST_TRIED:
        proof = prove_checkpoint(checkpoint(model))
        count = proof.failing_pairs
        return count if isinstance(count, int) else count[1], proof.margin.witness
    (group,) = every_pair(task).groups
    double = copy.deepcopy(model).double()
    least_B = model_margins(double, group.a_BJ, group.b_BJ).min(1).values
    return int((least_B <= 0).sum()), float(least_B.min())


def nudged(model: Transformer, seed: int) -> Transformer:
    """The model with so much noise that from one to ten pairs fail, in fp32 too."""
    return _noisy(model, seed, 1, 10)


def spoilt(model: Transformer, seed: int) -> Transformer:
    """The model with so much noise that hundreds of pairs fail, as of one half trained."""
    return _noisy(model, seed, 100, max(400, model.layout.addition.num_pairs // 20))


def _noisy(model: Transformer, seed: int, least: int, most: int) -> Transformer:
    """The model with noise in its weights by which from ``least`` to ``most`` pairs fail."""
    original = {name: each.clone() for name, each in model.state_dict().items()}
    # Not every noise has such a size: of two heads many pairs may fail at once.
    for attempt in range(20):
        if _with_noise(model, original, seed + 1000 * attempt, least, most):
            return model
    raise AssertionError(f"no noise makes {least} to {most} pairs fail")


def _with_noise(
    model: Transformer, original: dict[str, torch.Tensor], seed: int, least: int, most: int
) -> bool:
    """Whether some size of this noise does it; the model then has it."""
    generator = torch.Generator().manual_seed(seed)
    noise = {
        name: torch.randn(each.shape, generator=generator) * each.abs().mean()
        for name, each in original.items()
        if name != "pos_emb.weight"
    }

    def too_little(size: float) -> bool | None:
        """None: just right."""
        model.load_state_dict({k: each + size * noise.get(k, 0.0) for k, each in original.items()})
        count, lowest = failing(model)
        if count < least or lowest > -CLEARLY:
            return True
        return None if count <= most else False

    low, high = 0.0, 1e-3
    while too_little(high):
        low, high = high, 2 * high
    for _ in range(25):
        middle = 0.5 * (low + high)
        answer = too_little(middle)
        if answer is None:
            return True
        low, high = (middle, high) if answer else (low, middle)
    return False


def checkpoint(model: Transformer) -> Checkpoint:
    """The module's weights as a checkpoint that lies nowhere."""
    params = {name: each.detach().clone() for name, each in model.named_parameters()}
    return Checkpoint(
        config=model.config, params=params, recipe={}, step=0, val_exact=1.0, origin="a test"
    )

"""What the parameters of a proved model of our smallest family do, for docs/smallest.md.

    python experiments/smallest_anatomy.py records/best/7p/model.pt

prints its numbers, where its attention goes, and for every column sum T = a_j + b_j + carry from 0 to 19
the digit that the angle of the residual stream corresponds to after attention and after the MLP: the
smallest and the largest value over 20,000 pairs, at all steps but the first and the last.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import torch
from torch import Tensor

from adderlab.errors import UsageError
from adderlab.models.tables import stack_parameters
from adderlab.models.transformer import TokenArc, Transformer
from adderlab.runs.checkpoints import load_checkpoint
from adderlab.task.addition import OPERAND_DIGITS
from adderlab.training.ingredients import log_attention

PAIRS = 20_000


def column_sums(a_BJ: Tensor, b_BJ: Tensor) -> Tensor:
    """a_j + b_j + carry of every column (B, J)."""
    carry_B, columns = torch.zeros(len(a_BJ), dtype=torch.long), []
    for j in range(OPERAND_DIGITS):
        columns.append(a_BJ[:, j].long() + b_BJ[:, j].long() + carry_B)
        carry_B = columns[-1] // 10
    return torch.stack(columns, 1)


@torch.no_grad()
def digit_of_angle(model: Transformer, x_BTD: Tensor) -> Tensor:
    """The digit, as a real number, whose token has the angle that the head reads (B, A)."""
    arc = model.token_emb
    assert isinstance(arc, TokenArc) and arc.start is None
    read_BAW = model.read(x_BTD[:, list(model.layout.query_positions)])
    angle_BA = torch.atan2(read_BAW[..., 1], read_BAW[..., 0])
    return angle_BA / arc.stride + (arc.vocab_size - 1) / 2


@torch.no_grad()
def tell(model: Transformer) -> None:
    """Print everything."""
    for name, parameter in model.named_parameters():
        print(f"{name:34} {'  '.join(f'{value:.4f}' for value in parameter.flatten().tolist())}")
    generator = torch.Generator().manual_seed(1)
    a_BJ, b_BJ = (
        torch.randint(0, 10, (PAIRS, OPERAND_DIGITS), generator=generator).to(torch.uint8) for _ in "ab"
    )
    tokens_BP, _ = model.layout.encode(a_BJ, b_BJ)
    shares(model, tokens_BP)
    x_BTD = model._embed(tokens_BP.long())
    block = model.block(0)
    seen_BTD = x_BTD + block.attn(block.ln1(x_BTD))
    done_BTD = seen_BTD + block.mlp(block.ln2(seen_BTD))
    inner = slice(1, OPERAND_DIGITS)
    sums_BJ = column_sums(a_BJ, b_BJ)[:, inner]
    print("\n T  digit wanted  after attention   after MLP")
    before_BJ, after_BJ = (digit_of_angle(model, x)[:, inner] for x in (seen_BTD, done_BTD))
    for total in range(20):
        chosen = sums_BJ == total
        spans = [f"{y[chosen].min():6.2f} to {y[chosen].max():6.2f}" for y in (before_BJ, after_BJ)]
        print(f"{total:2}  {total % 10:12}  {spans[0]}  {spans[1]}")


def shares(model: Transformer, tokens_BP: Tensor) -> None:
    """Print where attention goes from the query that asks for column 5."""
    params = {name: value.detach() for name, value in stack_parameters([model]).items()}
    weights_P = log_attention(model.config, params, tokens_BP[None, :1].long()).exp()[0, 0, 5, 0]
    layout = model.layout
    print("\nattention of the query for s_5:")
    for column in (6, 5, 4, 3):
        places = (layout.a_positions[column], layout.b_positions[column], layout.sum_positions[column])
        told = "  ".join(f"{weights_P[place]:.5f}" for place in places)
        print(f"  a_{column}, b_{column}, s_{column}: {told}")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("checkpoint", metavar="CKPT")
    args = parser.parse_args(argv)
    try:
        model = load_checkpoint(args.checkpoint).module()
        if not isinstance(model, Transformer) or model.config.tokens not in ("centred_arc", "unit_arc"):
            raise UsageError(f"{args.checkpoint}: digits are not on a centred arc; give a 11p, 8p or 7p")
    except UsageError as error:
        print(f"smallest_anatomy: {error}", file=sys.stderr)
        return 2
    tell(model)
    return 0


if __name__ == "__main__":
    sys.exit(main())

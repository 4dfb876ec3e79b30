"""The table form computed the slow and obvious way: one answer step, one head, one key at a time.

Written from the docstring of ``adderlab.models.tables`` and nothing else, for standard heads. Works in
the dtype of the tables (the tests use float64) and is differentiable by autograd.

Shapes: S seeds, B pairs, P positions, T prompt positions, A answer steps, V vocabulary, D width.
"""

import torch
from torch import Tensor
from torch.nn import functional

from adderlab.models.head_program import NormForm, standard_head
from adderlab.models.tables import Tables


def step_logits(tables: Tables, tokens_SBP: Tensor, step: int) -> Tensor:
    """Logits (S, B, V) of one answer step; reads positions up to that step's query only."""
    form, head = tables.form, standard_head(tables.form.program)
    assert head is not None
    of = {role: tables.head[name] for role, name in head.names}
    last = form.layout.query_positions[step]
    rows = []
    for s in range(tables.num_seeds):
        tokens_BP = (tokens_SBP[0] if tokens_SBP.shape[0] == 1 else tokens_SBP[s]).long()
        query_token_B = tokens_BP[:, last]
        x_BD = tables.residual[s, step][query_token_B]
        for h in range(form.heads):
            query_BK = tables.query[s, step, :, h][query_token_B]
            keys = [tables.key[s, p, :, h][tokens_BP[:, p]] for p in range(last + 1)]
            score_BP = torch.stack([(query_BK * key_BK).sum(1) for key_BK in keys], 1)
            weight_BP = score_BP.softmax(1)
            mixed_BE = torch.zeros_like(tables.value[s, 0, :, h][query_token_B])
            for p in range(last + 1):
                mixed_BE = mixed_BE + weight_BP[:, p, None] * tables.value[s, p, :, h][tokens_BP[:, p]]
            rows_h = slice(h * form.value_dim, (h + 1) * form.value_dim)
            x_BD = x_BD + mixed_BE @ of["attn_out"][s, rows_h]
        u_BD = _norm(head.norm2, of.get("norm2_weight"), of.get("norm2_bias"), s, x_BD)
        hidden_BF = u_BD @ of["fc1"][s]
        if "fc1_bias" in of:
            hidden_BF = hidden_BF + of["fc1_bias"][s]
        if head.activation == "swiglu":
            hidden_BF = functional.silu(u_BD @ of["gate"][s]) * hidden_BF
        elif head.activation == "gelu":
            hidden_BF = 0.5 * hidden_BF * (1 + torch.erf(hidden_BF / 2**0.5))
        else:
            hidden_BF = hidden_BF.clamp(min=0)
        x_BD = x_BD + hidden_BF @ of["fc2"][s]
        if "fc2_bias" in of:
            x_BD = x_BD + of["fc2_bias"][s]
        final_BD = _norm(head.norm_f, of.get("norm_f_weight"), of.get("norm_f_bias"), s, x_BD)
        rows.append(final_BD @ of["unembed"][s])
    return torch.stack(rows)


def _norm(
    form: NormForm, weight_SD: Tensor | None, bias_SD: Tensor | None, s: int, x_BD: Tensor
) -> Tensor:
    if form.kind == "none":
        return x_BD
    if form.kind == "layer":
        x_BD = x_BD - x_BD.mean(1, keepdim=True)
    x_BD = x_BD / torch.sqrt((x_BD**2).mean(1, keepdim=True) + form.eps)
    if weight_SD is not None:
        x_BD = x_BD * weight_SD[s]
    return x_BD if bias_SD is None else x_BD + bias_SD[s]


def logits(tables: Tables, tokens_SBP: Tensor) -> Tensor:
    """Teacher-forced logits (S, B, A, V)."""
    steps = range(tables.form.layout.num_answers)
    return torch.stack([step_logits(tables, tokens_SBP, step) for step in steps], 2)


def loss(tables: Tables, tokens_SBP: Tensor, targets_SBA: Tensor) -> Tensor:
    """Mean cross-entropy, loss_S."""
    log_prob_SBAV = logits(tables, tokens_SBP).log_softmax(-1)
    target_SBA1 = targets_SBA.long()[..., None].expand(log_prob_SBAV.shape[0], -1, -1, -1)
    return -log_prob_SBAV.gather(-1, target_SBA1).mean((1, 2, 3))


def loss_and_grad(tables: Tables, tokens_SBP: Tensor, targets_SBA: Tensor) -> tuple[Tensor, Tables]:
    """Mean cross-entropy, loss_S, and the gradient of each table, in float64."""
    leaves = tables.map(lambda table: table.double().requires_grad_())
    loss_S = loss(leaves, tokens_SBP, targets_SBA)
    grads = iter(torch.autograd.grad(loss_S.sum(), [table for _, table in leaves.items()]))
    return loss_S.detach(), leaves.map(lambda _: next(grads))


def margins(tables: Tables, tokens_SBP: Tensor, targets_SBA: Tensor) -> Tensor:
    """Logit of the target minus the best other logit, margin_SBA."""
    logit_SBAV = logits(tables, tokens_SBP)
    target_SBA1 = targets_SBA.long()[..., None].expand(logit_SBAV.shape[0], -1, -1, -1)
    others = logit_SBAV.scatter(-1, target_SBA1, float("-inf")).amax(-1)
    return logit_SBAV.gather(-1, target_SBA1).squeeze(-1) - others


def decode(tables: Tables, prompt_SBT: Tensor) -> Tensor:
    """Greedy answers_SBA, one token after the other."""
    tokens = prompt_SBT.expand(tables.num_seeds, -1, -1)
    layout = tables.form.layout
    for step in range(layout.num_answers):
        chosen = step_logits(tables, tokens, step).argmax(-1, keepdim=True)
        tokens = torch.cat([tokens, chosen.to(tokens.dtype)], -1)
    return tokens[..., layout.num_prompt :]

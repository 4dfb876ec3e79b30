"""The table form computed the slow and obvious way: one answer step, one head, one key at a time.

Written from the docstring of ``adderlab.models.tables`` and nothing else; heads that are no standard
one are evaluated as ``models.head_program`` does. Works in the dtype of the tables (the tests use
float64) and is differentiable by autograd.

Shapes: S seeds, B pairs, P positions, T prompt positions, A answer steps, V vocabulary, D width.
"""

import torch
from torch import Tensor
from torch.nn import functional

from adderlab.models.head_program import FUNCTIONS, NormForm, evaluate, standard_head
from adderlab.models.tables import Tables


def step_logits(tables: Tables, tokens_SBP: Tensor, step: int) -> Tensor:
    """Logits (S, B, V) of one answer step; reads positions up to that step's query only."""
    form, head = tables.form, standard_head(tables.form.program)
    last = form.layout.query_positions[step]
    rows = []
    for s in range(tables.num_seeds):
        tokens_BP = (tokens_SBP[0] if tokens_SBP.shape[0] == 1 else tokens_SBP[s]).long()
        mixed_BM = torch.cat([_mixed(tables, tokens_BP, step, s, h) for h in range(form.heads)], 1)
        x_BD = tables.residual[s, step][tokens_BP[:, last]]
        if head is None:
            constants = {name: tensor[s : s + 1] for name, tensor in tables.head.items()}
            logit_VB = evaluate(form.program, constants, mixed_BM.T[None], x_BD.T[None])[0]
            rows.append(logit_VB.T)
            continue
        of = {role: tables.head[name] for role, name in head.names}
        x_BD = x_BD + mixed_BM @ of["attn_out"][s]
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


def _mixed(tables: Tables, tokens_BP: Tensor, step: int, s: int, h: int) -> Tensor:
    """What one head of one seed attends to, (B, E)."""
    last = tables.form.layout.query_positions[step]
    query_token_B = tokens_BP[:, last]
    query_BK = tables.query[s, step, :, h][query_token_B]
    scores = []
    for p in range(last + 1):
        score_B = (query_BK * tables.key[s, p, :, h][tokens_BP[:, p]]).sum(1)
        if tables.score_scale is not None:
            score_B = (
                FUNCTIONS[str(tables.form.score_function)](score_B) * tables.score_scale[s, step, h]
            )
        if tables.score is not None:
            V = tables.form.layout.vocab_size
            every = tables.score.expand(-1, -1, V, -1, -1, V)
            score_B = score_B + every[s, step, query_token_B, h, p, tokens_BP[:, p]]
        scores.append(score_B)
    if tables.sink is not None:
        scores.append(tables.sink[s, step, query_token_B, h])
    weight_BP = torch.stack(scores, 1).softmax(1)
    mixed_BE = torch.zeros_like(tables.value[s, 0, :, h][query_token_B])
    for p in range(last + 1):
        mixed_BE = mixed_BE + weight_BP[:, p, None] * tables.value[s, p, :, h][tokens_BP[:, p]]
    return mixed_BE


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
    wanted = [table for _, table in leaves.items()]
    found = torch.autograd.grad(loss_S.sum(), wanted, allow_unused=True, materialize_grads=True)
    grads = iter(found)
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

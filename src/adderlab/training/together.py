"""Loss and gradient of several models of a user's file at once, through the module itself.

For models without tables. ``torch.func`` runs the file's own module on stacked parameters
(``functional_call``, ``grad_and_value``, ``vmap``): the same operations as seed by seed, each on all
seeds. That saves calls, which are most of the time of small batches; on a CPU a batch of 512 pairs takes
as long either way.

Whether a module can be run so is found out by trying. What cannot: control flow or numbers that tokens
decide, tensors that are written to during a call, tokens taken as a list, parameters outside of a
module.

Shapes: S seeds, B pairs, P input positions, A answer steps, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap
from torch.nn.functional import cross_entropy

from adderlab.reading.file_model import FileModule

Params = Mapping[str, Tensor]
LossAndGrad = Callable[[Params, Tensor, Tensor], tuple[Tensor, dict[str, Tensor]]]

GROUP = 8
"""Seeds at once: what lies between two operations is in memory for all of them."""
TRIED = 1e-4
"""Largest difference of a gradient from that of the module alone, of its largest number."""


class _Call(nn.Module):
    """The file's module where ``functional_call`` puts parameters in, asked for the answer's logits."""

    def __init__(self, model: FileModule) -> None:
        super().__init__()
        self.own = model.own
        self._asked = (model,)  # in a tuple it is no submodule: its parameters are ``own``'s

    def forward(self, tokens_BP: Tensor) -> Tensor:
        (model,) = self._asked
        if model.takes_rows_together:
            return model.answer_logits(tokens_BP)
        return vmap(lambda row_P: model.answer_logits(row_P[None])[0])(tokens_BP)


def together(
    model: FileModule, sharpness: float, alone: LossAndGrad
) -> tuple[LossAndGrad | None, str | None]:
    """(loss_S and gradients of stacked parameters, None), or (None, why there is no such function).

    ``alone``: the same seed by seed, with which it is compared. Logits are multiplied by ``sharpness``.
    """
    names = [name for name, _ in model.named_parameters()]
    if not isinstance(model.own, nn.Module):
        return None, "it is no nn.Module"
    outside = sorted(set(names) - {name for name, _ in model.own.named_parameters()})
    if outside:
        return None, f"its parameter {outside[0]} is outside of its module"
    model.foreign  # noqa: B018  How it is asked is found out by asking it, with its own parameters.
    call = _Call(model)

    def loss(params: Params, tokens_BP: Tensor, targets_BA: Tensor) -> Tensor:
        given = {f"own.{name}": tensor for name, tensor in params.items()}
        logits_BAV = functional_call(call, given, (tokens_BP,)) * sharpness
        return cross_entropy(logits_BAV.flatten(0, 1), targets_BA.flatten().long())

    every = vmap(grad_and_value(loss), chunk_size=GROUP)

    def loss_and_grad(
        params: Params, tokens_SBP: Tensor, targets_SBA: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        grads, loss_S = every({name: params[name] for name in names}, tokens_SBP, targets_SBA)
        return loss_S, grads

    try:
        differs = _difference(model, loss_and_grad, alone)
    except Exception as error:  # whatever a stranger's module raises, seed by seed it runs
        lines = str(error).strip().splitlines()
        return None, f"torch.func cannot run it: {lines[0] if lines else type(error).__name__}"
    if differs is not None:
        return None, differs
    return loss_and_grad, None


def _difference(model: FileModule, found: LossAndGrad, wanted: LossAndGrad) -> str | None:
    """Of two models whose parameters differ, on two sequences; None where they agree."""
    generator = torch.Generator().manual_seed(0)
    params = {}
    for name, tensor in model.named_parameters():
        noise = torch.randn((2, *tensor.shape), generator=generator).to(tensor)
        params[name] = tensor.detach() * (1 + 0.01 * noise)
    layout = model.layout
    digits = torch.randint(
        0, 10, (2, 4, len(layout.a_positions)), generator=generator, dtype=torch.uint8
    )
    tokens, targets = layout.encode(*digits)
    device = next(iter(params.values())).device
    batch = [each.unflatten(0, (2, 2)).to(device) for each in (tokens, targets)]
    (loss_S, grads), (want_S, exact) = found(params, *batch), wanted(params, *batch)
    pairs = [(loss_S, want_S), *((grads[name], exact[name]) for name in params)]
    largest = max(float(want.abs().max()) for _, want in pairs)
    error = max(float((own - want).abs().max()) for own, want in pairs)
    if not error <= TRIED * max(largest, 1e-6):
        return f"through torch.func its gradients differ by {error:.1e}"
    return None

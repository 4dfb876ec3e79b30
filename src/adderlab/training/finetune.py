"""Two ways to fine-tune a trained model: L-BFGS on fixed examples, and its own fresh failures.

**L-BFGS**, one model, in double precision. AdamW at a constant rate ends near a saddle of the loss, not
at a minimum; a few hundred steps of a quasi-Newton method on a fixed set of examples go on from there.
Source: staghado/minimal-ten-digit-addition-transformer (SciPy's L-BFGS-B, 8 x 256 examples, at most 500
iterations), which reports 10010 of 10010 after it for models that AdamW left at 9973 to 10008.

**Targeting**: find pairs that a model gets wrong, train on them and others. Failures come from uniform
pairs and from strata (long carries, nines, ...) of streams that belong to the training seed alone.
Published fine-tuning used failures of the evaluation set itself; here the streams are none that an
evaluation draws from (suites have seeds from 0 up, targeting has negative ones), and AdderBoard's pairs
are left out by name: a stratum of small numbers meets its (0, 1). Source of the method: tbukic/
M10S-Transformer (83p, 86p, 36p).

Shapes: S seeds, B pairs, J columns (10), M failing pairs of one seed at most, N parameters, flat; L-BFGS
has S = 1 in front of parameters and tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import zip_longest

import numpy as np
import torch
from torch import Tensor

from adderlab.engine.torch_tables import TorchEngine
from adderlab.errors import UsageError
from adderlab.evaluation.suites import adderboard, strata_groups
from adderlab.models.tables import why_not_trained_by_tables
from adderlab.models.transformer import Architecture
from adderlab.task.addition import PUBLISHED, Addition, Layout, answers_correct, from_digits
from adderlab.task.sampling import uniform_pairs
from adderlab.training.objective import Objective, OracleObjective, TableObjective

Pairs = tuple[Tensor, Tensor]
"""Digits a_MJ and b_MJ."""

MAX_ROUNDS = 64
"""Stages of a recipe: each has a stream of its own to look for failures in."""

CHUNK = 256
"""Pairs per evaluation of the loss: their intermediate results stay in a core's cache."""


@dataclass(frozen=True, kw_only=True)
class LBFGS:
    """L-BFGS instead of AdamW, for one stage."""

    examples: int = 2048
    """Fixed pairs, drawn as the recipe's training pairs are."""
    iterations: int = 500
    """At most."""
    """At most; it ends sooner where it converges."""

    def __post_init__(self) -> None:
        for name in ("examples", "iterations"):
            if getattr(self, name) < 1:
                raise UsageError(f"lbfgs.{name} must be at least 1, not {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True, eq=False)
class LBFGSResult:
    """The model afterwards, and what it took."""

    params: dict[str, Tensor]
    """In the dtype and on the device they came in."""
    loss_before: float
    loss_after: float
    """Mean cross-entropy of the fixed examples, in double precision."""
    iterations: int


def minimise(
    config: Architecture,
    params: Mapping[str, Tensor],
    a_BJ: Tensor,
    b_BJ: Tensor,
    settings: LBFGS | None = None,
    sharpness: float = 1.0,
) -> LBFGSResult:
    """One model (``params`` without a seed axis) on the given pairs; a pure function of its arguments.
    ``sharpness``: see ``Objective``.

    Computes on the CPU, through the tables where the model has them. A search that ends in no
    better loss leaves the weights as they are.
    """
    from scipy.optimize import minimize  # loading it takes a second, and few runs need it

    settings = settings or LBFGS()
    objective = _double_objective(config, sharpness)
    tokens_BP, targets_BA = config.token_layout.encode(a_BJ.cpu(), b_BJ.cpu())
    start_N = torch.cat([tensor.detach().flatten() for tensor in params.values()]).cpu().double()

    def loss_and_grad(weights_N: np.ndarray) -> tuple[float, np.ndarray]:
        named = _named(torch.from_numpy(weights_N), params)
        return _loss_and_grad(objective, named, tokens_BP, targets_BA)

    result = minimize(
        loss_and_grad,
        start_N.numpy(),
        jac=True,
        method="L-BFGS-B",
        # The first is staghado's; the line search needs a few evaluations per iteration.
        options={
            "maxiter": settings.iterations,
            "maxfun": 3 * settings.iterations,
            "ftol": 1e-12,
            "gtol": 1e-8,
        },
    )
    before, after = loss_and_grad(start_N.numpy())[0], float(result.fun)
    better = after < before and bool(np.isfinite(result.x).all())
    best_N = torch.from_numpy(result.x) if better else start_N
    named = {name: tensor[0].to(params[name]) for name, tensor in _named(best_N, params).items()}
    return LBFGSResult(
        params=named,
        loss_before=before,
        loss_after=after if better else before,
        iterations=int(result.nit),
    )


def _double_objective(config: Architecture, sharpness: float) -> Objective:
    if why_not_trained_by_tables(config) is None:
        return TableObjective(config, TorchEngine(), sharpness)
    oracle = OracleObjective(config, torch.device("cpu"), sharpness)
    oracle.model.double()
    return oracle


def _named(weights_N: Tensor, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Flat weights as parameters with one seed in front."""
    parts = weights_N.split([tensor.numel() for tensor in like.values()])
    return {name: part.reshape(1, *like[name].shape) for name, part in zip(like, parts, strict=True)}


def _loss_and_grad(
    objective: Objective, params: Mapping[str, Tensor], tokens_BP: Tensor, targets_BA: Tensor
) -> tuple[float, np.ndarray]:
    """Mean over all pairs, chunk by chunk."""
    B = len(tokens_BP)
    loss, grad_N = 0.0, np.zeros(sum(tensor.numel() for tensor in params.values()))
    for tokens, targets in zip(tokens_BP.split(CHUNK), targets_BA.split(CHUNK), strict=True):
        share = len(tokens) / B
        loss_S, grads = objective.loss_and_grad(params, tokens[None], targets[None])
        loss += share * float(loss_S[0])
        grad_N += share * torch.cat([grads[name].flatten() for name in params]).numpy()
    return loss, grad_N


@dataclass(frozen=True, kw_only=True)
class Targeting:
    """Where to look for a model's failures and how many to train on."""

    fresh: int = 20_000
    """Uniform pairs looked through."""
    per_stratum: int = 200
    """Pairs of every stratum looked through; 0: none."""
    most: int = 128
    """Failing pairs in every batch at most, earlier rounds' included; the rest is training pairs."""

    def __post_init__(self) -> None:
        for name in ("fresh", "most"):
            if getattr(self, name) < 1:
                raise UsageError(f"targeting.{name} must be at least 1, not {getattr(self, name)}")
        if self.per_stratum < 0:
            raise UsageError(f"targeting.per_stratum must be at least 0, not {self.per_stratum}")


def targeting_seed(seed: int, round_number: int) -> int:
    """The seed of the streams in which one round looks for failures: always negative."""
    assert seed >= 0 and 0 <= round_number < MAX_ROUNDS
    return -(1 + seed * MAX_ROUNDS + round_number)


def candidates(
    seed: int, round_number: int, settings: Targeting, addition: Addition = PUBLISHED
) -> list[Pairs]:
    """The groups of pairs that one round looks through, a pure function of its arguments."""
    own = targeting_seed(seed, round_number)
    groups = [uniform_pairs(own, settings.fresh, addition)]
    if settings.per_stratum:
        strata = strata_groups(settings.per_stratum, own, addition)
        groups += [(a_BJ, b_BJ) for _, a_BJ, b_BJ in strata]
    return groups


def find_failures(
    objective: Objective,
    layout: Layout,
    params: Mapping[str, Tensor],
    seeds: Sequence[int],
    round_number: int,
    settings: Targeting,
) -> list[Pairs]:
    """Pairs that greedy decoding gets wrong, at most ``settings.most`` of each seed, on the CPU.

    The groups take turns, so that many failures of one kind do not crowd out the others.
    """
    groups = [candidates(seed, round_number, settings, layout.addition) for seed in seeds]
    a_SBJ = torch.stack([torch.cat([a for a, _ in own]) for own in groups])
    b_SBJ = torch.stack([torch.cat([b for _, b in own]) for own in groups])
    device = next(iter(params.values())).device
    tokens, targets = layout.encode(a_SBJ.to(device), b_SBJ.to(device))
    answers = objective.decode(params, tokens[..., : layout.num_prompt])
    wrong_SB = ~answers_correct(answers, targets, layout).all(2).cpu()
    sizes = [len(a) for a, _ in groups[0]]
    found = []
    for s, wrong_B in enumerate(wrong_SB):
        rows = _taking_turns(wrong_B, sizes)
        allowed = _no_adderboard(a_SBJ[s, rows], b_SBJ[s, rows], layout.addition)
        rows = [row for row, keep in zip(rows, allowed, strict=True) if keep][: settings.most]
        found.append((a_SBJ[s, rows], b_SBJ[s, rows]))
    return found


@cache
def _adderboard_pairs() -> frozenset[tuple[int, int]]:
    return frozenset(pair for group in adderboard().groups for pair in _as_ints(group.a_BJ, group.b_BJ))


def _as_ints(a_BJ: Tensor, b_BJ: Tensor) -> list[tuple[int, int]]:
    return list(zip(from_digits(a_BJ).tolist(), from_digits(b_BJ).tolist(), strict=True))


def _no_adderboard(a_BJ: Tensor, b_BJ: Tensor, addition: Addition) -> list[bool]:
    """Which pairs may be trained on: the board's test is one of the published task alone."""
    if addition != PUBLISHED:
        return [True] * len(a_BJ)
    return [pair not in _adderboard_pairs() for pair in _as_ints(a_BJ, b_BJ)]


def _taking_turns(wrong_B: Tensor, sizes: Sequence[int]) -> list[int]:
    """Rows that are wrong: the first of every group, then the second of every group, ..."""
    starts = [sum(sizes[:g]) for g in range(len(sizes))]
    per_group = [
        [start + row for row in part.nonzero().flatten().tolist()]
        for start, part in zip(starts, wrong_B.split(list(sizes)), strict=True)
    ]
    return [row for turn in zip_longest(*per_group) for row in turn if row is not None]


class FailingPairs:
    """The pairs every seed is trained on besides its usual ones."""

    def __init__(self, pairs: Sequence[Pairs], most: int, device: torch.device) -> None:
        """At most ``most`` pairs of each seed are used, the first ones."""
        self.pairs = [(a[:most], b[:most]) for a, b in pairs]
        self.most, self.device = most, device
        M = max([len(a) for a, _ in self.pairs], default=0)
        self._count_S = torch.tensor([len(a) for a, _ in self.pairs], device=device)
        self._a_SMJ, self._b_SMJ = (
            torch.stack([_padded(pair[i], M) for pair in self.pairs]).to(device) for i in (0, 1)
        )

    def joined(self, earlier: FailingPairs | None) -> FailingPairs:
        """These and, where there is room, the pairs of the round before."""
        if earlier is None:
            return self
        both = [
            (torch.cat([a, more_a]), torch.cat([b, more_b]))
            for (a, b), (more_a, more_b) in zip(self.pairs, earlier.pairs, strict=True)
        ]
        return FailingPairs(both, self.most, self.device)

    def mix_into(self, a_SBJ: Tensor, b_SBJ: Tensor) -> Pairs:
        """Training pairs whose first rows are replaced by the seed's failing pairs."""
        M = self._a_SMJ.shape[1]
        assert a_SBJ.shape[1] >= M
        own_SM1 = (torch.arange(M, device=self.device) < self._count_S[:, None])[..., None]
        a_SBJ, b_SBJ = a_SBJ.clone(), b_SBJ.clone()
        a_SBJ[:, :M] = torch.where(own_SM1, self._a_SMJ, a_SBJ[:, :M])
        b_SBJ[:, :M] = torch.where(own_SM1, self._b_SMJ, b_SBJ[:, :M])
        return a_SBJ, b_SBJ

    def keep(self, rows: Sequence[int]) -> FailingPairs:
        """Those of the seeds in ``rows``."""
        return FailingPairs([self.pairs[row] for row in rows], self.most, self.device)


def _padded(digit_MJ: Tensor, M: int) -> Tensor:
    return torch.cat([digit_MJ, digit_MJ.new_zeros(M - len(digit_MJ), digit_MJ.shape[1])])

"""The verdict on a certificate: every claim is proved again, reported as unchecked, or refused."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from adderlab.checker.document import (
    SUMMED_VERSION,
    TRACED,
    Rejected,
    StepClaims,
    canonical,
    check_config,
    check_outline,
    is_count,
    is_real,
    most_bytes,
    read_document,
    read_step,
    same_keys,
)
from adderlab.checker.enclosure import enclose_tables
from adderlab.checker.fp32 import NOT_COVERED, FloatCheck, FloatReport
from adderlab.checker.intervals import arithmetic_is_ieee
from adderlab.checker.model import Model, model_from_tables, smallest_margin
from adderlab.checker.own_pass import OwnPass, WrongMap, difference, widened
from adderlab.checker.primitives import reference_is_right
from adderlab.checker.recorded import RecordedArithmetic
from adderlab.checker.steps import Batch, Part, Watch, check_step
from adderlab.errors import Failure
from adderlab.models.config import ModelConfig
from adderlab.models.tables import plain_form
from adderlab.models.transformer import Architecture, Transformer, build_model
from adderlab.reading.file_model import FileModel
from adderlab.results import Result

WITNESS_TOLERANCE = 1e-6
"""A claimed witness margin may differ by this much, relative, from the enclosed one."""

Progress = Callable[[int, int], None]
"""Called with the number of leaves and cells checked so far, and of all."""

Hear = Callable[..., Any]
"""hear(name, *what): a word from some work, and the answer."""
Share = Callable[[Callable[[int, Hear], None], int, Hear], None]
"""share(work, count, hear) has work(i, hear) done for every i below ``count``: here, or in copies of
this process, whose words are heard in this one."""


def one_by_one(work: Callable[[int, Hear], None], count: int, hear: Hear) -> None:
    """The ``Share`` that does everything here."""
    for i in range(count):
        work(i, hear)


@dataclass(frozen=True, kw_only=True, repr=False)
class Report(Result):
    """What the checker found. ``accepted`` means proved in real arithmetic for the stored weights."""

    accepted: bool
    verdict: str
    """The verdict that the certificate claims."""
    reason: str | None
    """Why it is not accepted: one sentence."""
    margin: float | None = None
    """Proved by the checker: no input has a smaller margin, in logits."""
    witness: tuple[float, float] | None = None
    """Enclosure of the margin at the claimed witness or counterexample."""
    counterexample_confirmed: bool | None = None
    """For a refutation: whether the pair certainly fails, in real arithmetic."""
    leaves: int = 0
    cells: int = 0
    pairs_per_step: int = 0
    unchecked: tuple[str, ...] = ()
    """What the certificate says beyond what was checked."""
    module_margin: float | None = None
    """Proved by enclosing the readable module's own code on every box: no input has a smaller margin.
    Then the map from parameters to tables was not trusted."""
    module_reason: str | None = None
    """Why that could not be shown; the certificate is then accepted on trust in the map."""
    fp32: FloatReport | None = None
    """For an accepted certificate: whether fp32 adds every pair right too (None: not asked)."""
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return dataclasses.asdict(self) | {"not_covered": list(NOT_COVERED)}

    def describe(self) -> list[str]:
        """What the check means."""
        lines = []
        if self.accepted:
            lines.append(
                f"ACCEPTED: in real arithmetic the stored weights add every one of the "
                f"{self.pairs_per_step:,} pairs right."
            )
            lines.append(
                f"Every step's {self.leaves:,} leaves and {self.cells:,} cells were proved again; "
                f"the right digit wins by at least {self.margin:.6g} logits everywhere."
            )
            if self.module_margin is not None:
                lines.append(
                    "So it does by the readable module's own code, enclosed on every one of them: by at "
                    f"least {self.module_margin:.6g} logits."
                )
            elif self.module_reason is not None:
                lines.append(f"Trusted is the map from parameters to tables: {self.module_reason}.")
        elif self.counterexample_confirmed:
            lines.append(f"NOT A PROOF: {self.reason}.")
        else:
            lines.append(f"REJECTED: {self.reason}.")
        if self.witness is not None:
            low, high = self.witness
            which = "counterexample" if self.verdict == "refuted" else "worst pair named"
            lines.append(f"At the {which} the margin is between {low:.9g} and {high:.9g}.")
        if self.fp32 is not None:
            lines += self.fp32.describe()
        if self.unchecked:
            lines.append(f"Not checked: {'; '.join(self.unchecked)}.")
        lines.append(f"{self.seconds:.1f} s")
        return lines


@dataclass(kw_only=True)
class _Found:
    margin: float = np.inf
    leaves: int = 0
    cells: int = 0
    witness: tuple[float, float] | None = None
    confirmed: bool | None = None
    unchecked: list[str] = field(default_factory=list)


def check(
    document: Mapping[str, Any],
    model: Model,
    *,
    form: Any,
    weights_sha256: str,
    config: Mapping[str, Any],
    progress: Progress | None = None,
    floating: FloatCheck | None = None,
    own: OwnPass | None = None,
    share: Share = one_by_one,
) -> Report:
    """Check a certificate against one model.

    ``form`` is the model's form, ``config`` its configuration, both as plain JSON; with ``floating``,
    fp32 is examined too, with ``own`` what follows the attention by the module's own code. ``share``
    divides the steps. Raises ``Failure`` if this machine's arithmetic cannot be trusted.
    """
    if not (arithmetic_is_ieee() and reference_is_right()):
        raise Failure(
            "this process does not compute as IEEE 754 asks (rounding mode, flushed subnormal numbers "
            "or a square root that is another): run the check in a fresh process"
        )
    started = time.monotonic()
    model = _as_claimed(document, model)
    found, reason = _Found(), None
    verdict = str(document.get("verdict"))[:20]
    try:
        with np.errstate(all="ignore"):
            _check(
                dict(document),
                model,
                form,
                weights_sha256,
                config,
                found,
                progress,
                floating,
                own,
                share,
            )
    except Rejected as rejected:
        reason = str(rejected)
    except ArithmeticError as error:
        reason = f"its numbers lead to a {error}, so nothing is proved"
    return Report(
        accepted=reason is None,
        verdict=verdict,
        reason=reason,
        margin=float(found.margin) if reason is None else None,
        witness=found.witness,
        counterexample_confirmed=found.confirmed,
        leaves=found.leaves,
        cells=found.cells,
        pairs_per_step=model.num_pairs if reason is None else 0,
        module_margin=own.margin if own is not None and reason is own.reason is None else None,
        module_reason=own.reason if own is not None and reason is None else None,
        unchecked=tuple(found.unchecked),
        fp32=floating.report() if floating is not None and reason is None else None,
        seconds=time.monotonic() - started,
    )


def _as_claimed(document: Mapping[str, Any], model: Model) -> Model:
    """The model in the coordinates that the certificate's bounds are written in."""
    version, number = document.get("version"), document.get("bottleneck")
    if type(version) is not int or type(number) is not int:  # True is an int to Python
        return model
    return model.in_coordinates(number, version >= SUMMED_VERSION and model.heads > 1)


def _check(
    document: dict[str, Any],
    model: Model,
    form: Any,
    weights_sha256: str,
    config: Mapping[str, Any],
    found: _Found,
    progress: Progress | None,
    floating: FloatCheck | None,
    own: OwnPass | None,
    share: Share,
) -> None:
    check_outline(document)
    if document["weights_sha256"] != weights_sha256:
        raise Rejected("the certificate is about other weights than this checkpoint's")
    # As text: 1, 1.0 and true are one number to Python.
    if canonical(document["form"]) != canonical(form):
        raise Rejected("the certificate is about another form of model than this checkpoint's")
    if document["version"] > 1:
        check_config(document, config, plain_config(ModelConfig()))
    elif TRACED in config:
        raise Rejected("a certificate of version 1 cannot be about a model read from a file")
    if document["version"] == SUMMED_VERSION and model.heads == 1:
        raise Rejected("the certificate is about several heads, and this model has one")
    summed = document["version"] >= SUMMED_VERSION and model.heads > 1
    if not isinstance(document["tables_sha256"], str):
        raise Rejected("the certificate does not say which tables it was made from")
    found.unchecked.append("tables_sha256 (float64 tables differ between machines in the last bit)")
    if not is_count(document["bottleneck"]) or document["bottleneck"] != model.bottleneck:
        raise Rejected(
            f"the certificate says bottleneck {document['bottleneck']}, not {model.bottleneck}"
        )
    if summed != model.shared:
        raise Rejected("the certificate's heads have no such coordinates in common")
    if not isinstance(document["adderlab"], str):
        raise Rejected("the certificate does not say which version wrote it")
    found.unchecked.append("adderlab (the version that wrote it)")
    margin = document["margin"]
    same_keys(margin, {"bound", "witness", "pair"}, "margin")
    if document["verdict"] == "refuted":
        _check_refuted(document, model, found)
    if document["verdict"] != "proved":
        raise Rejected("the certificate does not claim that the model is proved")
    _check_summary(document, model)
    steps = document["steps"]
    if not isinstance(steps, list) or len(steps) != len(model.steps):
        raise Rejected(f"the certificate has no list of {len(model.steps)} steps")

    sizes = [int(np.prod(step.leaf_shape)) for step in model.steps]
    claims = [
        read_step(value, i, len(step.tokens), model.heads, model.bottleneck, size, summed)
        for i, (value, step, size) in enumerate(zip(steps, model.steps, sizes, strict=True))
    ]
    found.leaves = sum(sizes)
    found.cells = sum(len(split.bounds_NHE2) for claim in claims for split in claim.splits)
    if document["leaves"] != found.leaves or document["cells"] != found.cells:
        raise Rejected(
            f"the certificate says {document['leaves']} leaves and {document['cells']} cells; "
            f"it has {found.leaves} and {found.cells}"
        )
    total = found.leaves + found.cells
    tally = _Tally(found=found, total=total, progress=progress, floating=floating, own=own)
    _check_steps(model, claims, tally, share)
    if not is_real(margin["bound"]) or not margin["bound"] <= found.margin:
        raise Rejected(
            f"the certificate claims a smallest margin of at least {margin['bound']}; "
            f"proved is {found.margin}"
        )
    _check_witness(margin, model, found)


@dataclass(kw_only=True)
class _Tally:
    """What the steps come to, of which each is checked by itself and perhaps in another process."""

    found: _Found
    total: int
    progress: Progress | None
    floating: FloatCheck | None
    own: OwnPass | None
    done: int = 0
    ended: list[int] = field(default_factory=list)
    """Steps whose claims hold."""

    def hear(self, name: str, *what: Any) -> Any:
        """A word from the work on a step."""
        return getattr(self, name)(*what)

    def begin(self) -> tuple[bool, bool]:
        """Whether fp32 and the module's own code are still examined: what had to be given up on one step
        is given up on the next."""
        floating, own = self.floating, self.own
        return floating is not None and floating.reason is None, own is not None and own.reason is None

    def advance(self, amount: int) -> None:
        """So many more leaves and cells are checked."""
        self.done += amount
        if self.progress is not None:
            self.progress(self.done, self.total)

    def end(self, i: int, margin: float, floating: Part | None, own: Part | None) -> None:
        """The claims of step i hold, with this smallest margin."""
        self.ended.append(i)
        self.found.margin = min(self.found.margin, margin)
        if self.floating is not None and floating is not None:
            self.floating.join(floating)
        if self.own is not None and own is not None:
            self.own.join(own)


def _check_steps(model: Model, claims: Sequence[StepClaims], tally: _Tally, share: Share) -> None:
    def work(i: int, hear: Hear) -> None:
        in_fp32, by_own_code = hear("begin")
        floating = tally.floating.alone() if tally.floating is not None and in_fp32 else None
        own = tally.own.alone() if tally.own is not None and by_own_code else None

        def boxes(batch: Batch) -> None:
            known = floating.take(batch) if floating is not None else None
            if own is not None:
                own.take(batch, known)

        watch = Watch(advance=lambda amount: hear("advance", amount), boxes=boxes)
        margin = check_step(model, model.steps[i], claims[i], watch)
        parts = [None if each is None else each.part for each in (floating, own)]
        hear("end", i, margin, *parts)

    share(work, len(model.steps), tally.hear)
    if sorted(tally.ended) != list(range(len(model.steps))):
        raise Failure(f"not every step was checked once, only {sorted(tally.ended)}")


def _check_summary(document: dict[str, Any], model: Model) -> None:
    zero = [0] * len(model.steps)
    if not is_count(document["failing_pairs"]) or document["failing_pairs"] != 0:
        raise Rejected("a proved model has no failing pairs; the certificate counts some")
    by_step = document["failing_by_step"]
    if not isinstance(by_step, list) or not all(map(is_count, by_step)) or by_step != zero:
        raise Rejected("a proved model fails at no step; the certificate counts failures")
    if document["counterexample"] is not None:
        raise Rejected("a proved model has no counterexample; the certificate names one")
    if not is_count(document["leaves"]) or not is_count(document["cells"]):
        raise Rejected("leaves and cells have to be numbers")


def _pair(value: Any, model: Model, what: str) -> tuple[int, int]:
    limit = model.geometry.base**model.columns
    if not isinstance(value, list) or len(value) != 2 or not all(map(is_count, value)):
        raise Rejected(f"{what} is not a pair of numbers")
    if max(value) >= limit:
        raise Rejected(f"{what} is not a pair of numbers below {limit}")
    return value[0], value[1]


def _check_witness(margin: dict[str, Any], model: Model, found: _Found) -> None:
    low, high = smallest_margin(model, *_pair(margin["pair"], model, "margin.pair"))
    found.witness = (low, high)
    claimed = margin["witness"]
    if not is_real(claimed):
        raise Rejected("margin.witness is not a number")
    slack = WITNESS_TOLERANCE * (1.0 + abs(claimed))
    if not low - slack <= claimed <= high + slack:
        raise Rejected(
            f"the certificate claims the margin {claimed} at {margin['pair']}; "
            f"it is between {low} and {high}"
        )


def _check_refuted(document: dict[str, Any], model: Model, found: _Found) -> None:
    """Always raises: a refutation is never accepted as a proof, but its counterexample is tried."""
    pair = _pair(document["counterexample"], model, "counterexample")
    found.witness = smallest_margin(model, *pair)
    found.confirmed = found.witness[1] < 0
    found.unchecked += ["failing_pairs", "failing_by_step", "margin", "leaves", "cells"]
    if found.confirmed:
        raise Rejected(
            f"the model is not correct: it certainly fails on {pair[0]} + {pair[1]} "
            "(checked in real arithmetic); the count of failing pairs is not checked"
        )
    raise Rejected(f"the counterexample {pair[0]} + {pair[1]} does not certainly fail")


# A checkpoint as the checker's model: enclosed tables, form, and the hashes a certificate names.


class Weights(Protocol):
    """What the checker needs of a checkpoint: ``adderlab.runs.checkpoints.Checkpoint`` has it."""

    @property
    def config(self) -> Architecture: ...

    @property
    def params(self) -> Mapping[str, Tensor]: ...

    @property
    def weights_sha256(self) -> str: ...


def plain_config(config: Architecture) -> dict[str, Any]:
    """What the configuration says about the model, as JSON values: all but how its first weights were
    drawn. Of a model read from a file: which file, how it is asked, the hash of what was recorded."""
    if not isinstance(config, ModelConfig):
        return json.loads(json.dumps(config.bound()))
    return json.loads(json.dumps({k: v for k, v in vars(config).items() if k != "init"}))


def read_model(weights: Weights) -> tuple[Model, dict[str, Any]]:
    """The model with enclosed tables, and its form as JSON.

    Raises ``UsageError`` for models without tables, ``Failure`` for those it cannot enclose.
    """
    form, tables = enclose_tables(weights.config, weights.params)
    return model_from_tables(form, tables), plain_form(form)


def fp32_module(weights: Weights) -> Transformer:
    """The readable model with the stored weights, of a configuration."""
    module = build_model(weights.config, seed=0)
    assert isinstance(module, Transformer)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(weights.params[name])
    return module.eval()


def check_file(
    path: Path | str,
    weights: Weights,
    progress: Progress | None = None,
    *,
    fp32: bool = True,
    share: Share = one_by_one,
) -> Report:
    """Check the certificate at ``path`` against a checkpoint; with ``fp32``, ask too whether greedy
    decoding in fp32 adds every pair right. ``share`` divides the steps among processes.

    Raises ``UsageError`` for a missing file or a model without tables, ``Failure`` for a file that is
    no certificate, or where the map from parameters to tables contradicts the readable module.
    """
    model, form = read_model(weights)
    leaves = sum(int(np.prod(step.leaf_shape)) for step in model.steps)
    tokens = sum(len(step.tokens) for step in model.steps)
    bottleneck = model.heads * model.bottleneck
    document = read_document(path, most_bytes(leaves, tokens, model.heads, bottleneck))
    return _check_document(document, model, form, weights, progress, fp32, share)


def check_document(
    document: Mapping[str, Any],
    weights: Weights,
    *,
    given: tuple[int, ...] = (),
    progress: Progress | None = None,
    fp32: bool = True,
    share: Share = one_by_one,
) -> Report:
    """Check a certificate as the prover makes it in memory, perhaps about a window of pairs
    (``Model.given``). Raises as ``check_file``."""
    model, form = read_model(weights)
    model = dataclasses.replace(model, given=given)
    return _check_document(json.loads(canonical(document)), model, form, weights, progress, fp32, share)


def _check_document(
    document: Mapping[str, Any],
    model: Model,
    form: dict[str, Any],
    weights: Weights,
    progress: Progress | None,
    fp32: bool,
    share: Share,
) -> Report:
    model, own, floating = _as_claimed(document, model), None, None
    readable = isinstance(weights.config, ModelConfig)
    if readable:
        module = fp32_module(weights)
        own = OwnPass(module=module)
        try:
            model = widened(model, difference(module, model))
        except WrongMap:
            raise
        except (Failure, ArithmeticError) as failure:
            own.reason = str(failure)
        floating = FloatCheck.of(module, model) if fp32 else None
    elif fp32:
        floating = FloatCheck.asking(lambda: _recorded(weights, model), model)
    report = check(
        document,
        model,
        form=form,
        weights_sha256=weights.weights_sha256,
        config=plain_config(weights.config),
        progress=progress,
        floating=floating,
        own=own,
        share=share,
    )
    return (
        report
        if readable or not report.accepted
        else dataclasses.replace(report, module_reason=RECORDED)
    )


RECORDED = "the tables are made from the operations recorded while the file's code ran"


def _recorded(weights: Weights, model: Model) -> RecordedArithmetic:
    """Of a model read from a file that was named in this process."""
    config = weights.config
    reading = config.live.reading if isinstance(config, FileModel) else None
    if reading is None:
        raise Failure("there is no recording of the model whose rounding could be followed")
    return RecordedArithmetic(reading, weights.params, model)

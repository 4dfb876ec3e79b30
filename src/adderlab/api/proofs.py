"""Deciding all pairs: prove, check a certificate, attack, repair.

Margins are in logits: the right digit's minus the best other one's.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from adderlab.api.models import Model, ModelLike, load
from adderlab.engine.base import single_threaded
from adderlab.errors import Failure, UsageError
from adderlab.evaluation.suites import check_few, strata
from adderlab.models.tables import why_no_tables
from adderlab.proof import trials
from adderlab.proof.certificate import certificate
from adderlab.proof.problem import problem_from_tables
from adderlab.proof.prove import (
    Progress,
    Proof,
    exact_tables,
    plain_config,
    prove_checkpoint,
    prove_problem,
)
from adderlab.proof.search import Limits
from adderlab.proof.trials import (
    Attack,
    Exhaustive,
    Window,
    WindowReport,
    disagreements,
    restricted,
    try_all,
    try_every_pair,
    window_disagreements,
    with_smallest_margin,
)
from adderlab.publish.submission import read_submission
from adderlab.study.verdicts import checked
from adderlab.workers import check_threads, sharing

if TYPE_CHECKING:
    from adderlab.checker import Report
    from adderlab.training.repair import Repair, Round


@single_threaded()
def prove(
    model: ModelLike,
    *,
    cells: int = 3_000_000,
    seconds: float = 120.0,
    check: bool = True,
    threads: int | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Proof:
    """Decide all pairs for the stored weights, in real arithmetic: 10^20 of ten columns.

    The result's ``verdict`` is "proved", "refuted" or "undecided"; ``save(path)`` writes the
    certificate that ``check`` checks. ``cells``: how many the branch and bound may bound, ``seconds``:
    the time after which it stops. With ``check`` the independent checker proves every bound of a
    "proved" again, where python-flint is installed: then ``checked`` is True. What it rejects is
    "undecided". ``threads``: processes that bound the leaves and check, None for one on each core; the
    result is the same. ``progress`` is called with where the proof stands.

    Raises ``UsageError`` for a model outside the table form (``attack`` can test it), ``Failure`` for a
    Python file of one. Source: docs/proof.md.
    """
    check_threads(threads)
    found, limits = load(model), Limits(cells=cells, seconds=seconds)
    proof = prove_checkpoint(found, limits=limits, progress=progress, threads=threads)
    return checked(proof, found, progress, threads=threads) if check else proof


@single_threaded()
def prove_exhaustively(
    model: ModelLike,
    *,
    cells: int = 3_000_000,
    seconds: float = 120.0,
    check: bool = True,
    threads: int | None = None,
    progress: Callable[[Progress], None] | None = None,
    trial_progress: Callable[[int, int], None] | None = None,
) -> Exhaustive:
    """Decide all pairs of a small task, and try every one of them.

    For up to 10^7 pairs (three columns in base 10, eleven in base 2) the readable module answers every
    pair, greedily in fp32 and with its margins in float64. Verdict, counts and smallest margin (here the
    smallest there is, not that of the best witness) have to be the prover's; ``disagreements`` says what
    is not. ``trial_progress`` gets (pairs tried, all of them); the other arguments are those of
    ``prove``.

    Raises ``UsageError`` for more pairs, or a model outside the table form. Source: docs/proof.md.
    """
    began, found = time.monotonic(), load(model)
    check_few(found.config.token_layout.addition)
    proof = with_smallest_margin(
        prove(found, cells=cells, seconds=seconds, check=check, threads=threads, progress=progress)
    )
    trial = try_all(found.module(), trial_progress)
    return Exhaustive(
        proof=proof,
        trial=trial,
        disagreements=tuple(disagreements(trial, proof)),
        seconds=time.monotonic() - began,
    )


def export_theorem(model: ModelLike, output: str | os.PathLike[str]) -> str:
    """Write a folder in which the proof assistant Coq checks that the model adds every pair: ``sh
    OUTPUT/check.sh``. Returns the theorem's name.

    The model is not proved here: where it does not add, Coq rejects the theorem.

    Raises ``UsageError`` for shapes other than the 7p's and 8p's and for a folder that holds something,
    ``Failure`` where the disk does not take it. Source: docs/theorem.md.
    """
    from adderlab.theorem import write_theorem  # reads all presets

    found = load(model)
    return write_theorem(found.config, found.params, Path(output))


@single_threaded()
def prove_window(
    model: ModelLike,
    columns: int | Sequence[int] = 2,
    *,
    seed: int = 0,
    fp32: bool = False,
    progress: Callable[[str], None] | None = None,
) -> WindowReport:
    """Decide all pairs of a *window*, and try every one of them: the strongest test of a proof.

    A window is all 10^(2w) pairs that share the digits of every column but w; ``columns`` is w (1 to
    3), or the open columns themselves (0 is the units); ``seed`` draws what is left. The readable module
    answers every pair in float64 and float32, the prover decides the same pairs, and, where
    python-flint is installed, the checker checks its certificate; with ``fp32`` it also asks whether
    fp32 is covered. ``progress`` gets the name of what is done.

    Raises ``UsageError`` for a model outside the table form or a window of no or too many columns.
    Source: docs/proof.md, section 5.
    """
    began, name = time.monotonic(), progress or (lambda _: None)
    found = load(model)
    window = Window.draw(columns, seed, found.config.token_layout.addition)
    problem = restricted(problem_from_tables(exact_tables(found)), window)
    module = found.module()
    name("every pair in float32")
    float32 = try_every_pair(module, window)
    name("every pair in float64")
    float64 = try_every_pair(module.double(), window)
    name("the prover")
    config = plain_config(found.config)
    proof = prove_problem(problem, weights_sha256=found.weights_sha256, config=config)
    name("the checker")
    try:
        from adderlab.checker.verify import check_document
    except ModuleNotFoundError as error:
        if error.name != "flint":
            raise
        report = None
    else:
        report = check_document(certificate(proof), found, given=window.given, fp32=fp32)
    return WindowReport(
        window=window,
        float64=float64,
        float32=float32,
        verdict=proof.summary,
        check=report,
        disagreements=tuple(window_disagreements(float64, float32, proof.summary, report)),
        seconds=time.monotonic() - began,
    )


def check(
    certificate: str | os.PathLike[str],
    model: ModelLike,
    *,
    fp32: bool = True,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Check a certificate against a model, independently of the prover, in rigorous arithmetic.

    A submission that adderlab wrote is not run where the certificate is about the weights in its text.
    ``fp32``: ask too whether greedy decoding in IEEE fp32 adds every pair right, which takes most of
    the time. ``threads``: processes side by side, None for one on each core; the report is the same.
    ``progress`` gets (leaves and cells checked, all of them).

    Raises ``UsageError`` for a missing file, ``Failure`` for one that is no certificate or where
    python-flint is not installed. Source: docs/proof.md, sections 4 and 5.
    """
    try:
        from adderlab.checker import check_file
    except ModuleNotFoundError as error:
        if error.name != "flint":
            raise
        raise Failure("the check needs python-flint: pip install python-flint") from error

    share = sharing(threads)
    found = _written_in(model, certificate) or load(model)
    found.need_code()
    return check_file(os.fspath(certificate), found, progress, fp32=fp32, share=share)


def _written_in(model: ModelLike, certificate: str | os.PathLike[str]) -> Model | None:
    """The model in a submission that adderlab wrote, where a certificate is about the weights in its
    text; None where it is about a file's own operations, for which the file is run."""
    from adderlab.checker.document import TRACED, read_document

    if not isinstance(model, str | os.PathLike) or Path(model).suffix != ".py":
        return None
    path = Path(model)
    try:
        own = read_submission(path.read_text(encoding="utf-8")) if path.is_file() else None
    except (Failure, UnicodeDecodeError):
        own = None
    config = read_document(Path(certificate)).get("config")
    traced = isinstance(config, dict) and TRACED in config
    return None if own is None or traced else load(own.checkpoint())


@single_threaded()
def attack(
    model: ModelLike,
    *,
    pairs: int = 1000,
    seed: int = 0,
    starts: int = trials.STARTS,
    progress: Callable[[str], None] | None = None,
) -> Attack:
    """Look for a failing pair by the strongest cheap test, in the model's own arithmetic.

    Tries ``pairs`` pairs of each stratum (carry chains, digit patterns, lengths; drawn from ``seed``),
    then the prover's witnesses, or for a model outside the table form a local search from ``starts``
    pairs for each digit of the sum. ``progress`` gets the name of what is tried.

    Raises ``UsageError`` for counts below 1.
    """
    for name, value in (("pairs", pairs), ("starts", starts)):
        if value < 1:
            raise UsageError(f"{name} must be 1 or more, not {value}")
    found = load(model)
    reason = why_no_tables(found.config)
    problem = None if reason else problem_from_tables(found.tables())
    suite = strata(pairs, seed, found.config.token_layout.addition)
    return trials.attack(found.module(), suite, problem, starts=starts, progress=progress)


@single_threaded()
def repair(
    model: ModelLike,
    *,
    rounds: int = 5,
    steps: int = 1000,
    lr: float = 1e-3,
    lr_decay: float = 0.5,
    target_margin: float = 1.5,
    seed: int = 0,
    on_round: Callable[[Round], None] | None = None,
) -> Repair:
    """Prove, train briefly on the worst pairs, and prove again, until proved or ``rounds`` trainings.

    ``steps`` of Adam a training, from rate ``lr`` falling linearly to 0; later rounds start from
    ``lr * lr_decay ** round``. ``target_margin``: logits, as the loss of the model's training saw them,
    by which the right digit should lead. ``seed``: of the fresh pairs mixed in. ``on_round`` hears of
    every proof and of the training that follows.

    ``load(result)`` is the last model, proved or not. Raises ``UsageError`` for a model outside the
    table form or settings out of range. Source: docs/proof.md.
    """
    from adderlab.training.repair import RepairSettings
    from adderlab.training.repair import repair as repair_checkpoint

    settings = RepairSettings(
        rounds=rounds,
        steps=steps,
        lr=lr,
        lr_decay=lr_decay,
        target_margin=target_margin,
        seed=seed,
    )
    found = repair_checkpoint(load(model), settings, on_round=on_round)
    return dataclasses.replace(found, proof=checked(found.proof, found.checkpoint))

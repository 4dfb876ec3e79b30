"""The commands that decide all pairs, check that, and get there."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from adderlab.cli.options import Switch, WeightsOptions, arg, emit_json

if TYPE_CHECKING:
    from adderlab.training.repair import Round


@dataclass(frozen=True, kw_only=True)
class Prove(WeightsOptions):
    """Decide all pairs for a checkpoint (10^20 of ten columns): proved, refuted with a count, or
    undecided."""

    checkpoint: Annotated[Path, tyro.conf.Positional, arg(metavar="CKPT|FILE.py")]
    """A checkpoint file, the folder of a run (its best model), or a Python file, which is run."""
    output: Annotated[Path | None, arg(aliases=["-o"], metavar="CERT")] = None
    """Write the certificate here; a name ending in .gz compresses it (2.6 MB, not 4.8, for 456p)."""
    cells: int = 3_000_000
    """Cells that the branch and bound may bound before it reports what is left."""
    seconds: float = 120.0
    """Time after which the branch and bound stops."""
    check: bool = True
    """Let the independent checker prove every bound again (needs python-flint; about 5 s)."""
    threads: Annotated[int | None, arg(metavar="N")] = None
    """Processes that prove and check side by side; default: one on each core. No effect on what they
    find."""
    coq: Annotated[Path | None, arg(metavar="DIR")] = None
    """Write a new folder in which the proof assistant Coq checks the theorem that the model adds (7p
    and 8p)."""
    exhaustive: Switch = False
    """Try every pair as well, of a small task (up to 10^7 pairs), and compare."""
    window: int = 0
    """Decide all pairs that differ in this many columns only (1 to 3), and try every one of them."""
    window_seed: int = 0
    """Draws the window: which columns, and the digits of the others."""
    json: Switch = False
    """Print one object instead of text."""

    def run(self) -> int:
        """Prove; the exit code is 0 whatever the verdict, and 1 if trying pairs contradicts it."""
        import adderlab
        from adderlab.cli.options import Bar

        if self.window and self.exhaustive:
            raise adderlab.UsageError("--exhaustive tries all pairs, --window some: give one of them")
        if self.window:
            if self.output is not None:
                raise adderlab.UsageError("a window has no certificate: leave out --output or --window")
            if self.coq is not None:
                raise adderlab.UsageError("the theorem is about all pairs: leave out --coq or --window")
            with Bar("tables") as bar:
                report = adderlab.prove_window(
                    self.model(self.checkpoint),
                    self.window,
                    seed=self.window_seed,
                    fp32=True,
                    progress=bar.name,
                )
            if self.json:
                emit_json(report.to_dict())
            else:
                print(*report.describe(), sep="\n")
            return 1 if report.disagreements else 0
        limits: dict[str, Any] = {
            "cells": self.cells,
            "seconds": self.seconds,
            "check": self.check,
            "threads": self.threads,
        }
        wrong: tuple[str, ...] = ()
        with Bar("tables") as bar:
            model = adderlab.load(self.model(self.checkpoint))
            theorem = None if self.coq is None else adderlab.export_theorem(model, self.coq)
            if self.exhaustive:
                both = adderlab.prove_exhaustively(
                    model, **limits, progress=bar.proof, trial_progress=bar.trial
                )
                found, proof, wrong = both, both.proof, both.disagreements
            else:
                found = proof = adderlab.prove(model, **limits, progress=bar.proof)
        if self.output is not None:
            proof.save(self.output)
        if self.json:
            emit_json(found.to_dict())
            return 1 if wrong else 0
        print(f"{self.checkpoint}: {model.num_parameters} parameters", *found.describe(), sep="\n")
        if self.output is not None:
            print(f"certificate: {self.output}")
            if proof.verdict == "proved":
                weights = [] if self.weights is None else ["--weights", str(self.weights)]
                words = ["adderlab", "check", str(self.output), str(self.checkpoint), *weights]
                print(f"check it: {shlex.join(words)}")
        if theorem is not None:
            check = shlex.join(["sh", f"{self.coq}/check.sh"])
            print(f"theorem: {theorem} in {self.coq}; have Coq check it: {check}")
        return 1 if wrong else 0


@dataclass(frozen=True, kw_only=True)
class Check(WeightsOptions):
    """Check a certificate against a checkpoint: proof again from the stored weights, trusting
    neither."""

    certificate: Annotated[Path, tyro.conf.Positional, arg(metavar="CERT")]
    """A certificate file, .json or .json.gz."""
    checkpoint: Annotated[Path, tyro.conf.Positional, arg(metavar="CKPT|FILE.py")]
    """A checkpoint file, the folder of a run (its best model), or a Python file, which is run."""
    real_only: Switch = False
    """Leave out the floating-point question, which takes most of the time."""
    threads: Annotated[int | None, arg(metavar="N")] = None
    """Processes side by side; default: one on each core. No effect on what they find."""
    json: Switch = False
    """Print one object instead of text."""

    def run(self) -> int:
        """Check; 0 if the certificate is accepted, 1 if not."""
        import adderlab
        from adderlab.cli.options import Bar

        with Bar("checking leaves and cells") as bar:
            report = adderlab.check(
                self.certificate,
                self.model(self.checkpoint),
                fp32=not self.real_only,
                threads=self.threads,
                progress=bar.advance,
            )
        if self.json:
            emit_json(report.to_dict())
        else:
            print(*report.describe(), sep="\n")
        return 0 if report.accepted else 1


@dataclass(frozen=True, kw_only=True)
class Attack(WeightsOptions):
    """Look for a failing pair: strata, the prover's witnesses, a local search where it has none."""

    checkpoint: Annotated[Path, tyro.conf.Positional, arg(metavar="CKPT|FILE.py")]
    """A checkpoint file, the folder of a run (its best model), or a Python file, which is run."""
    pairs: int = 1000
    """Pairs of each stratum."""
    seed: int = 0
    """Seed of the strata's pairs."""
    starts: int = 24
    """Pairs from which the local search starts, for each digit of the sum."""
    json: Switch = False
    """Print one object instead of text."""

    def run(self) -> int:
        """Attack; the exit code is 0 whether a failing pair is found or not."""
        import adderlab
        from adderlab.cli.options import Bar

        with Bar("tables") as bar:
            result = adderlab.attack(
                self.model(self.checkpoint),
                pairs=self.pairs,
                seed=self.seed,
                starts=self.starts,
                progress=bar.name,
            )
        if self.json:
            emit_json(result.to_dict())
        else:
            print(*result.describe(), sep="\n")
        return 0


@dataclass(frozen=True, kw_only=True)
class Repair(WeightsOptions):
    """Repair a checkpoint until it is proved: prove, train on the worst pairs, prove again."""

    checkpoint: Annotated[Path, tyro.conf.Positional, arg(metavar="CKPT|FILE.py")]
    """A checkpoint file, the folder of a run (its best model), or a Python file, which is run."""
    output: Annotated[Path, arg(aliases=["-o"], metavar="OUT")]
    """Where to write the repaired checkpoint (.pt or .safetensors)."""
    rounds: int = 5
    """Trainings at most; a proof follows each."""
    steps: int = 1000
    """Steps of one training."""
    lr: float = 1e-3
    """Learning rate of the first round, falling linearly to 0 over it."""
    lr_decay: float = 0.5
    """Factor on the rate from round to round."""
    target_margin: float = 1.5
    """Logits by which the right digit should lead."""
    seed: int = 0
    """Of the fresh pairs mixed in."""
    json: Switch = False
    """Print one object instead of text."""

    def run(self) -> int:
        """0 if the result is proved, 1 if not; the last model is written either way."""
        import adderlab
        from adderlab.api.models import check_model_name

        check_model_name(self.output)

        def print_round(each: Round) -> None:
            verdict, (a, b) = each.verdict, each.verdict.margin.pair
            line = f"{verdict.verdict}: smallest margin {verdict.margin.witness:.4f} at {a} + {b}"
            if verdict.failing_pairs != 0:
                line += f"; failing pairs: {verdict.failing_pairs}"
            print(f"{line} ({verdict.seconds:.1f} s)")
            if each.witnesses:
                print(f"training {self.steps} steps on {each.witnesses} witnesses", flush=True)

        result = adderlab.repair(
            self.model(self.checkpoint),
            rounds=self.rounds,
            steps=self.steps,
            lr=self.lr,
            lr_decay=self.lr_decay,
            target_margin=self.target_margin,
            seed=self.seed,
            on_round=None if self.json else print_round,
        )
        adderlab.load(result).save(self.output)
        if self.json:
            emit_json(result.to_dict() | {"output": str(self.output)})
        elif result.proved:
            print(
                f"Proved after {result.trainings} training(s): all {result.proof.addition.pairs_text} "
                f"pairs. Written to {self.output}"
            )
        else:
            print(f"Not proved after {result.trainings} training(s). The last model is in {self.output}")
        return 0 if result.proved else 1

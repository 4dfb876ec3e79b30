"""What is known about a model when it is published: its name, measured accuracy, success rate, proof."""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adderlab.engine.base import Engine
from adderlab.errors import Failure, UsageError
from adderlab.evaluation.exact import SuiteReport, decoder_for, evaluate
from adderlab.evaluation.intervals import wilson
from adderlab.evaluation.suites import parse_suite
from adderlab.files.atomic import disk_failure
from adderlab.format import percent
from adderlab.models.tables import why_no_tables
from adderlab.proof.certificate import FORMAT, digest
from adderlab.proof.search import Limits
from adderlab.runs.checkpoints import Checkpoint
from adderlab.runs.metadata import read_summary
from adderlab.task.layouts import get_layout

SUITES = ("adderboard", "published", "strata")
PROOF_SECONDS = 60.0
_LARGEST_CERTIFICATE = 1 << 28

Count = int | tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Credits:
    """What the board shows of a submission besides its numbers."""

    name: str
    author: str


@dataclass(frozen=True, kw_only=True)
class ProofStatement:
    """What is known about all 10^20 pairs, and from where."""

    verdict: str
    failing_pairs: Count
    margin_bound: float | None
    margin_witness: float
    pair: tuple[int, int]
    source: str
    """For example "certificate cert.json.gz" or "the prover, in float64; no certificate"."""

    def sentence(self) -> str:
        """One sentence for people."""
        a, b = self.pair
        if self.verdict == "proved":
            least = (
                "" if self.margin_bound is None else f"by at least {self.margin_bound:.3g} logits, and "
            )
            return (
                "Proved: all 10^20 pairs are added correctly in real arithmetic; the correct digit "
                f"leads {least}by {self.margin_witness:.3g} at {a} + {b} ({self.source})."
            )
        if self.verdict == "refuted":
            if isinstance(self.failing_pairs, int):
                count = f"{self.failing_pairs:,}"
            else:
                count = " to ".join(f"{n:,}" for n in self.failing_pairs)
            return f"Refuted: {count} of 10^20 pairs fail, for example {a} + {b} ({self.source})."
        return f"Undecided: the prover stopped at its limit ({self.source})."


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Everything measured for one publication."""

    reports: tuple[SuiteReport, ...] = ()
    proof: ProofStatement | None = None
    why_no_proof: str = "not tried"
    rate: str | None = None
    """Success rate over the seeds of the run that the checkpoint comes from."""
    certificate: bytes | None = None

    def lines(self) -> list[str]:
        """Accuracy and proof, one statement a line."""
        proof = f"No proof: {self.why_no_proof}." if self.proof is None else self.proof.sentence()
        return [*map(accuracy_line, self.reports), proof]


def measure(
    checkpoint: Checkpoint, engine: Engine | None, suites: tuple[str, ...] = SUITES
) -> tuple[SuiteReport, ...]:
    """Exact match on the suites; ``engine`` as for ``decoder_for``. Raises ``UsageError``."""
    layout = get_layout(checkpoint.config.layout)
    decoder = decoder_for(checkpoint.config, checkpoint.stacked(), engine)
    return tuple(evaluate(decoder, layout, parse_suite(name)) for name in suites)


def ask_prover(checkpoint: Checkpoint, seconds: float = PROOF_SECONDS) -> ProofStatement:
    """The prover's verdict after at most ``seconds``. The model must have a table form."""
    from adderlab.proof.prove import prove_checkpoint

    assert why_no_tables(checkpoint.config) is None
    limits = Limits(seconds=seconds, union_seconds=min(15.0, seconds))
    proof = prove_checkpoint(checkpoint, limits=limits)
    return ProofStatement(
        verdict=proof.verdict,
        failing_pairs=proof.failing_pairs,
        margin_bound=proof.margin.bound,
        margin_witness=proof.margin.witness,
        pair=proof.counterexample or proof.margin.pair,
        source="adderlab's prover, float64; no certificate",
    )


def read_certificate(path: Path, checkpoint: Checkpoint) -> tuple[ProofStatement, bytes]:
    """What a certificate says about this checkpoint, and its bytes.

    Its digest and the hash of the weights are compared; the proof in it is not checked again (that
    is ``adderlab check``). Raises ``UsageError`` for a certificate of other weights or a missing
    file, ``Failure`` for a damaged one.
    """
    data = _bytes(path)
    document = _document(data, path)
    about = document.get("weights_sha256")
    if about != checkpoint.weights_sha256:
        raise UsageError(
            f"{path} is about other weights ({str(about)[:12]}, the checkpoint has "
            f"{checkpoint.weights_sha256[:12]}); name the certificate of this checkpoint"
        )
    try:
        margin, failing = document["margin"], document["failing_pairs"]
        bound = margin["bound"]
        first, second = document["counterexample"] or margin["pair"]
        statement = ProofStatement(
            verdict=str(document["verdict"]),
            failing_pairs=failing if isinstance(failing, int) else (int(failing[0]), int(failing[1])),
            margin_bound=None if bound is None else float(bound),
            margin_witness=float(margin["witness"]),
            pair=(int(first), int(second)),
            source=f"certificate {path.name}",
        )
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise Failure(f"{path} is not a whole certificate ({error}); make it again") from error
    return statement, data


def _bytes(path: Path) -> bytes:
    if not path.is_file():
        raise UsageError(f"there is no certificate {path}; check the path")
    try:
        return path.read_bytes()
    except OSError as error:
        raise disk_failure(error, path, "read") from error


def _document(data: bytes, path: Path) -> dict[str, Any]:
    try:
        if data[:2] == b"\x1f\x8b":
            unpacker = zlib.decompressobj(wbits=31)
            data = unpacker.decompress(data, _LARGEST_CERTIFICATE)
        document = json.loads(data)
        fits = document["format"] == FORMAT and document["digest"] == digest(document)
    except (ValueError, KeyError, TypeError, RecursionError, zlib.error) as error:
        raise Failure(f"{path} is no certificate ({error}); name a file of adderlab prove") from error
    if not fits:
        raise Failure(f"{path} was altered: its digest does not fit; make the certificate again")
    return document


def success_rate(checkpoint: Path | None) -> str | None:
    """The success rate of the run that the checkpoint lies in; None if that is not known."""
    for folder in [] if checkpoint is None else checkpoint.resolve().parents[:3]:
        if (folder / "summary.json").is_file() and (folder / "seeds.csv").is_file():
            return _rate(folder)
    return None


def _rate(folder: Path) -> str | None:
    try:
        success = read_summary(folder).get("success")
        count, n = int(success["successes"]), int(success["seeds"])  # type: ignore[index]
    except (Failure, KeyError, TypeError, ValueError):
        return None
    rate = wilson(count, n)
    return f"{rate} of the seeds of this run reach 99% (95% Wilson interval)"


def accuracy_line(report: SuiteReport) -> str:
    """For example: adderboard: 10010/10010 correct = 100.0% (error rate 0.0e+00 to 3.7e-04, 95%)."""
    total, rate = report.total, report.total.error_rate
    correct = f"{total.n - total.errors}/{total.n} correct = {percent(total.exact_match)}"
    return f"{report.suite}: {correct} (error rate {rate.low:.1e} to {rate.high:.1e}, 95%)"

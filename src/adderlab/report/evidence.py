"""Evaluations and certificates, read strictly from the files in which they lie.

What is damaged becomes a problem, a sentence for the reader; no number is guessed in its place.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adderlab.errors import Failure
from adderlab.files.atomic import disk_failure, read_json

PROOFS = "proofs.json"
"""A run's own verdicts: seed -> verdict, as ``adderlab prove --json`` prints it."""

CERTIFICATE_FORMAT = "adderlab-certificate"

Count = int | tuple[int, int]
"""Exact, or both ends of what is known."""

_RUN_FILES = (
    "config.json",
    "environment.json",
    "summary.json",
    "seeds.json",
    "cell.json",
    "table.json",
    "journal.json",
    PROOFS,
)
"""Not results, but parts of a run, a sweep or a replay."""


@dataclass(frozen=True, kw_only=True)
class Failing:
    """A pair that was answered wrongly; ``answer`` in digits, top digit first."""

    a: int
    b: int
    answer: str


@dataclass(frozen=True, kw_only=True)
class EvaluationRecord:
    """One model on one suite, as a file says."""

    file: Path
    checkpoint: str
    weights_sha256: str | None
    """None in files of the published program's form, which name none."""
    parameters: int
    suite: str
    n: int
    errors: int
    digit_accuracy: tuple[float, ...] = ()
    failures: tuple[Failing, ...] = ()
    groups: tuple[tuple[str, int, int], ...] = ()
    """(name, pairs, errors)."""


@dataclass(frozen=True, kw_only=True)
class CertificateRecord:
    """A verdict on all pairs of a model: from a certificate, a run's proofs.json or a seed's record."""

    file: Path
    weights_sha256: str | None = None
    """None in all but certificates, which name the weights."""
    seed: int | None = None
    """Whose checkpoint; None in certificates."""
    verdict: str
    failing_pairs: Count | None
    """None: not recorded."""
    counterexample: tuple[int, int] | None = None
    margin_bound: float | None
    """Lower bound in logits of the smallest margin over all pairs; None unless proved."""
    margin_witness: float
    """Smallest margin met, in logits: that of ``pair``."""
    pair: tuple[int, int]
    step_bounds: tuple[float, ...] = ()
    """Smallest margin bound of each answer step; empty unless a certificate has them."""


def result_files(path: Path) -> list[Path]:
    """Files of a run folder, and of its kept or proved seeds, that may be such results."""
    below = sorted((*path.glob("seed_*"), *path.glob("seeds_*"), path / "proved"))
    folders = [folder for each in (path, *below) for folder in (each, each / "checkpoints")]
    return [file for folder in folders for file in json_files(folder)]


def json_files(folder: Path) -> list[Path]:
    """The JSON files directly in a folder, compressed ones too, without those of a run itself."""
    files = [*folder.glob("*.json"), *folder.glob("*.json.gz")]
    return sorted(file for file in files if file.name not in _RUN_FILES)


def read_results(
    files: Iterable[Path], problems: list[str]
) -> tuple[tuple[EvaluationRecord, ...], tuple[CertificateRecord, ...]]:
    """The evaluations and certificates among ``files``; other JSON is passed over."""
    evaluations: list[EvaluationRecord] = []
    certificates: list[CertificateRecord] = []
    for file in files:
        try:
            data = _json(file)
            if isinstance(data, dict) and data.get("format") == CERTIFICATE_FORMAT:
                certificates.append(_certificate(file, data))
            else:
                entries = data if isinstance(data, list) else [data]
                evaluations += [e for e in (_evaluation(file, x) for x in entries) if e is not None]
        except Failure as error:
            problems.append(str(error))
        except (KeyError, TypeError, ValueError) as error:
            problems.append(
                f"{file} is not a complete evaluation or certificate ({error!r}); it is left out"
            )
    return tuple(evaluations), tuple(certificates)


def _json(path: Path) -> Any:
    try:
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
        return json.loads(data)
    except OSError as error:
        raise disk_failure(error, path, "read") from error
    except (ValueError, EOFError, RecursionError) as error:
        raise Failure(f"{path} is not JSON ({error}); restore it from a copy") from error


def _evaluation(file: Path, data: Any) -> EvaluationRecord | None:
    if not isinstance(data, dict):
        return None
    if "multi_seed_validation" in data:
        total = data["multi_seed_validation"]
        return EvaluationRecord(
            file=file,
            checkpoint=str(data["checkpoint"]),
            weights_sha256=None,
            parameters=int(data["parameters"]),
            suite="published",
            n=int(total["total_examples"]),
            errors=int(total["aggregate_errors"]),
            groups=tuple(
                (name, int(total["total_examples"]) // len(total["per_seed"]), int(each["errors"]))
                for name, each in total["per_seed"].items()
            ),
        )
    if not {"suite", "n", "errors", "checkpoint"} <= set(data):
        return None
    return EvaluationRecord(
        file=file,
        checkpoint=str(data["checkpoint"]),
        weights_sha256=data.get("weights_sha256"),
        parameters=int(data["parameters"]),
        suite=str(data["suite"]),
        n=int(data["n"]),
        errors=int(data["errors"]),
        digit_accuracy=tuple(float(x) for x in data.get("digit_accuracy", ())),
        failures=tuple(
            Failing(a=int(f["a"]), b=int(f["b"]), answer=str(f["answer"]))
            for f in data.get("failures", ())
        ),
        groups=tuple((str(g["name"]), int(g["n"]), int(g["errors"])) for g in data.get("groups", ())),
    )


def _certificate(file: Path, data: dict[str, Any], seed: int | None = None) -> CertificateRecord:
    """From a certificate, or from a verdict as ``adderlab prove --json`` prints it."""
    margin, failing, steps = data["margin"], data["failing_pairs"], data.get("steps")
    return CertificateRecord(
        file=file,
        weights_sha256=data.get("weights_sha256"),
        seed=seed,
        verdict=str(data["verdict"]),
        failing_pairs=_pair(failing) if isinstance(failing, list) else int(failing),
        counterexample=None if data["counterexample"] is None else _pair(data["counterexample"]),
        margin_bound=None if margin["bound"] is None else float(margin["bound"]),
        margin_witness=float(margin["witness"]),
        pair=_pair(margin["pair"]),
        step_bounds=tuple(float(step["margin_bound"]) for step in steps or ()),
    )


def read_proofs(file: Path) -> tuple[CertificateRecord, ...]:
    """A run's own verdicts, by seed; empty if there are none. Raises ``Failure``."""
    if not file.is_file():
        return ()
    data = read_json(file)
    try:
        return tuple(_certificate(file, each, int(seed)) for seed, each in data.items())
    except (KeyError, TypeError, ValueError) as error:
        raise Failure(f"{file} is no table of verdicts ({error!r}); it is left out") from error


def _pair(values: list[Any]) -> tuple[int, int]:
    first, second = values
    return int(first), int(second)

"""What a run left behind, read strictly: curves, evaluations, certificates, remarks.

The log and the report are written from this and from nothing else. What is missing or damaged
becomes a ``problem``, a sentence for the reader; no number is guessed in its place.
"""

from __future__ import annotations

import dataclasses
import gzip
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from adderlab.errors import Failure, UsageError
from adderlab.evaluation.intervals import Rate, wilson
from adderlab.files.atomic import disk_failure, read_json
from adderlab.runs.checkpoints import Checkpoint, load_checkpoint
from adderlab.runs.config import RunConfig, read_config
from adderlab.runs.metrics import LEARNED, Metrics, read_metrics, read_seed_metrics
from adderlab.runs.records import SUCCESS
from adderlab.runs.summary import read_summary
from adderlab.task.digits import SUM_DIGITS

T = TypeVar("T")

NOTES = "notes.md"
"""Hand-written remarks of a run, in its folder. Read, never written."""
PROOFS = "proofs.json"
"""A run's own verdicts: seed -> verdict, as ``adderlab prove --json`` prints it."""

CERTIFICATE_FORMAT = "adderlab-certificate"

Count = int | tuple[int, int]
"""Exact, or both ends of what is known."""


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
    """A verdict on all pairs of one model: from a certificate, or from a run's proofs.json."""

    file: Path
    weights_sha256: str | None
    seed: int | None = None
    """Whose checkpoint; known in a run's proofs.json, which names no weights."""
    verdict: str
    failing_pairs: Count
    counterexample: tuple[int, int] | None
    margin_bound: float | None
    margin_witness: float
    pair: tuple[int, int]
    step_bounds: tuple[float, ...]
    """Smallest margin bound of each answer step; empty unless proved."""
    leaves: int


@dataclass(frozen=True, kw_only=True)
class SeedHistory:
    """The curves of one seed: its rows in the metric tables."""

    seed: int
    evaluations: tuple[Metrics, ...]

    @property
    def last(self) -> Metrics:
        return self.evaluations[-1]

    @property
    def succeeded(self) -> bool:
        """Ends at ``SUCCESS`` or more: what success rates count."""
        return self.last.val_exact >= SUCCESS

    @property
    def grokked_at(self) -> int | None:
        """The first step evaluated at ``SUCCESS`` or more. Later steps may be below it again."""
        return next((each.step for each in self.evaluations if each.val_exact >= SUCCESS), None)

    @property
    def best(self) -> Metrics:
        """The first of its best evaluations, by exact match."""
        return max(self.evaluations, key=lambda each: (each.val_exact, -each.step))

    @property
    def learned(self) -> tuple[bool, ...]:
        """Which answer steps are learned at the end; empty if the tables do not say."""
        return tuple(accuracy >= LEARNED for accuracy in self.last.step_acc)

    def learned_since(self, i: int) -> int | None:
        """The step from which on answer step i stayed learned."""
        since = None
        for each in self.evaluations:
            if not each.step_acc or each.step_acc[i] < LEARNED:
                since = None
            elif since is None:
                since = each.step
        return since


@dataclass(frozen=True, kw_only=True)
class RunEvidence:
    """A run folder. What is None or empty is not there; ``problems`` names what should be."""

    path: Path
    name: str
    config: RunConfig | None
    environment: dict[str, Any]
    summary: dict[str, Any] | None
    histories: tuple[SeedHistory, ...]
    """Every seed that has at least one evaluation, by seed."""
    checkpoint: Checkpoint | None
    """``checkpoints/best.pt``, as the run chose it."""
    evaluations: tuple[EvaluationRecord, ...]
    certificates: tuple[CertificateRecord, ...]
    proofs: tuple[CertificateRecord, ...]
    """The verdicts that the run itself reached on its seeds, by seed."""
    notes: str
    problems: tuple[str, ...]

    @property
    def num_seeds(self) -> int:
        return len(self.config.seeds) if self.config else len(self.histories)

    @property
    def success(self) -> Rate | None:
        """Seeds that end at ``SUCCESS`` exact match or more, of all that have been evaluated, with
        Wilson's interval; None without evaluations."""
        if not self.histories:
            return None
        return wilson(sum(history.succeeded for history in self.histories), len(self.histories))

    @property
    def best(self) -> SeedHistory | None:
        """The seed of ``checkpoints/best.pt``; without that file the best by exact match."""
        for history in self.histories:
            if self.checkpoint is not None and history.seed == self.checkpoint.seed:
                return history
        return max(self.histories, key=lambda s: (s.best.val_exact, -s.seed), default=None)

    @property
    def proof(self) -> CertificateRecord | None:
        """What is known of the best checkpoint on all pairs: its certificate, else the run's own
        verdict on that seed."""
        if self.checkpoint is None:
            return None
        weights = self.checkpoint.weights_sha256
        own = [c for c in self.certificates if c.weights_sha256 == weights]
        own = own or [p for p in self.proofs if p.seed == self.checkpoint.seed]
        return own[-1] if own else None

    @property
    def evaluations_of_best(self) -> tuple[EvaluationRecord, ...]:
        """Those of the best checkpoint, with those of files that name no weights; all without one."""
        if self.checkpoint is None:
            return self.evaluations
        known = (None, self.checkpoint.weights_sha256)
        return tuple(each for each in self.evaluations if each.weights_sha256 in known)

    @property
    def num_proved(self) -> int:
        """Different models of this run that are proved on all pairs."""
        by_seed = sum(proof.verdict == "proved" for proof in self.proofs)
        weights = {c.weights_sha256 for c in self.certificates if c.verdict == "proved"}
        return max(by_seed, len(weights))

    @property
    def status(self) -> str:
        return "unknown" if self.summary is None else str(self.summary["status"])

    @property
    def started(self) -> str:
        """ISO date and time (UTC); empty if not recorded."""
        started = self.environment.get("started")
        return started if isinstance(started, str) else ""


def read_run(path: Path | str) -> RunEvidence:
    """All evidence in a run folder. Raises ``UsageError`` if there is no run there."""
    path = Path(path)
    if not is_run(path):
        raise UsageError(f"there is no run in {path} (no config.json); check the name")
    problems: list[str] = []
    config = _attempt(lambda: read_config(path), problems)
    environment = _attempt(lambda: read_json(path / "environment.json"), problems) or {}
    summary = _attempt(lambda: read_summary(path), problems)
    histories = _attempt(lambda: _histories(path, config), problems) or ()
    best = path / "checkpoints" / "best.pt"
    checkpoint = _attempt(lambda: load_checkpoint(best), problems) if best.is_file() else None
    evaluations, certificates = read_results(result_files(path), problems)
    if summary is not None and histories:
        problems += _disagreements(summary, histories)
    return RunEvidence(
        path=path,
        name=(config.run_name if config else "") or path.resolve().name,
        config=config,
        environment=environment,
        summary=summary,
        histories=histories,
        checkpoint=checkpoint,
        evaluations=evaluations,
        certificates=certificates,
        proofs=_attempt(lambda: read_proofs(path / PROOFS), problems) or (),
        notes=read_notes(path / NOTES),
        problems=tuple(problems),
    )


def is_run(path: Path) -> bool:
    """Whether a folder holds a run: ours or the published program's."""
    return (path / "config.json").is_file()


def read_notes(path: Path) -> str:
    """The remarks in a notes file; empty if there is none. Raises ``Failure``."""
    try:
        return path.read_text(encoding="utf-8").strip() if path.is_file() else ""
    except OSError as error:
        raise disk_failure(error, path, "read") from error
    except UnicodeDecodeError as error:
        raise Failure(f"{path} is not text (UTF-8); save it as UTF-8") from error


def _attempt(read: Callable[[], T], problems: list[str]) -> T | None:
    """What ``read`` gives; None with a problem where the file is missing or damaged."""
    try:
        return read()
    except Failure as error:
        problems.append(str(error))
        return None


def _histories(path: Path, config: RunConfig | None) -> tuple[SeedHistory, ...]:
    population = config is not None and len(config.seeds) > 1
    table = path / ("seed_metrics.csv" if population else "metrics.csv")
    if not table.is_file():
        raise Failure(f"{table} is missing: without it there is no finding")
    if population:
        history = read_seed_metrics(path)
    else:
        seed = config.seeds[0] if config else 0
        rows = read_metrics(path)
        history = {seed: rows} if rows else {}
    if not history:
        raise Failure(f"{table} holds no evaluation: the run has not got that far")
    return tuple(SeedHistory(seed=seed, evaluations=tuple(history[seed])) for seed in sorted(history))


def _disagreements(summary: dict[str, Any], histories: Sequence[SeedHistory]) -> list[str]:
    """Where ``summary.json`` and the metric tables contradict each other."""
    found = []
    if summary["status"] == "done" and "success" in summary:
        counted = sum(history.succeeded for history in histories)
        stored = summary["success"].get("successes")
        if stored != counted:
            found.append(f"summary.json counts {stored} successful seeds, the metric tables {counted}")
    best = max(history.best.val_exact for history in histories)
    if abs(best - summary["best_val_exact"]) > 1e-6:
        stored = f"{summary['best_val_exact']:g}"
        found.append(f"summary.json gives best_val_exact {stored}, the metric tables {best:g}")
    return found


def flat_settings(run: RunEvidence) -> dict[str, Any]:
    """Model and recipe of a run as dotted names -> values, to find what differs between runs."""
    if run.config is None:
        return {}
    model = {f.name: getattr(run.config.model, f.name) for f in dataclasses.fields(run.config.model)}
    return {
        **{f"model.{name}": value for name, value in model.items()},
        **_flatten("recipe", run.config.recipe),
    }


def _flatten(prefix: str, value: Any) -> dict[str, Any]:
    if isinstance(value, dict):
        parts = [_flatten(f"{prefix}.{key}", inner) for key, inner in value.items()]
        return {key: inner for part in parts for key, inner in part.items()}
    return {prefix: value}


def missing_steps(histories: Sequence[SeedHistory]) -> list[tuple[int, int]]:
    """(answer step, seeds that have not learned it at the end), most often missing first."""
    known = [history.learned for history in histories if history.learned]
    counts = [(i, sum(not learned[i] for learned in known)) for i in range(SUM_DIGITS)] if known else []
    return sorted((entry for entry in counts if entry[1]), key=lambda entry: (-entry[1], entry[0]))


def result_files(path: Path) -> list[Path]:
    """Files of a run folder, and of its kept seeds, that may be evaluations or certificates."""
    seeds = sorted(path.glob("seed_*"))
    folders = [folder for each in (path, *seeds) for folder in (each, each / "checkpoints")]
    return [file for folder in folders for file in json_files(folder)]


_NO_RESULT = ("config.json", "environment.json", "summary.json", "journal.json", PROOFS)


def json_files(folder: Path) -> list[Path]:
    """The JSON files directly in a folder, compressed ones too, without those of a run itself."""
    files = [*folder.glob("*.json"), *folder.glob("*.json.gz")]
    return sorted(file for file in files if file.name not in _NO_RESULT)


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
        leaves=int(data["leaves"]),
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

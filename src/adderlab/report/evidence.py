"""What a run, a search, a rate or a sweep left behind: records of seeds, curves, results, remarks; and
evaluations and certificates, read strictly from the files in which they lie.

The log, the report and the comparison are written from this and from nothing else. What is missing or
damaged becomes a ``problem``, a sentence for the reader; no number is guessed in its place.
"""

from __future__ import annotations

import dataclasses
import gzip
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from adderlab.errors import Failure, UsageError
from adderlab.evaluation.suites import Rate, wilson
from adderlab.files.atomic import disk_failure, read_json
from adderlab.runs.checkpoints import Checkpoint, load_checkpoint
from adderlab.runs.metadata import ENDED, Kind, RunConfig, kind_of, read_config, read_summary
from adderlab.runs.records import (
    LEARNED,
    Metrics,
    SeedRecord,
    best_of,
    from_history,
    read_metrics,
    read_seed_metrics,
)
from adderlab.runs.stored import child_runs, seed_records
from adderlab.task.addition import PUBLISHED, Addition

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
    addition: Addition = PUBLISHED
    """The task whose pairs these are."""


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
    own = {**data, **(data.get("config") or {})}
    size = {name: int(own[name]) for name in ("columns", "base") if name in own}
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
        addition=Addition(**size),
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


# Runs.


T = TypeVar("T")

NOTES = "notes.md"
"""Hand-written remarks of a run, in its folder. Read, never written."""


@dataclass(frozen=True, kw_only=True)
class SeedHistory:
    """The curves of one seed: its rows in the metric tables, at least one."""

    seed: int
    evaluations: tuple[Metrics, ...]

    @property
    def last(self) -> Metrics:
        return self.evaluations[-1]

    @property
    def record(self) -> SeedRecord:
        """What the curves alone know of the seed."""
        return from_history(self.seed, self.evaluations)

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
    """A run folder of any kind. ``problems`` names what is None or empty and should not be."""

    path: Path
    name: str
    kind: Kind
    config: RunConfig | None
    environment: dict[str, Any]
    summary: dict[str, Any] | None
    seeds: tuple[SeedRecord, ...]
    """Of a sweep, those of all its cells."""
    histories: tuple[SeedHistory, ...]
    """Every seed that has at least one evaluation, in the order of ``seeds``; empty in a sweep."""
    cells: tuple[RunEvidence, ...] = ()
    """Of a sweep, the best first; each is an ordinary run."""
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Of a sweep's cell: the settings in which it differs from others."""
    checkpoint: Checkpoint | None = None
    """Of the best seed, as the run chose it."""
    evaluations: tuple[EvaluationRecord, ...] = ()
    certificates: tuple[CertificateRecord, ...] = ()
    proofs: tuple[CertificateRecord, ...] = ()
    """The verdicts that the run itself reached on its seeds, by seed."""
    notes: str = ""
    problems: tuple[str, ...] = ()

    @property
    def evaluated(self) -> tuple[SeedRecord, ...]:
        """The seeds that have at least one evaluation."""
        return tuple(record for record in self.seeds if record.steps)

    @property
    def success(self) -> Rate | None:
        """Seeds that end at 99% exact match or more, of all that have been evaluated, with Wilson's
        interval; None without evaluations."""
        known = self.evaluated
        return wilson(sum(record.succeeded for record in known), len(known)) if known else None

    @property
    def proved(self) -> Rate | None:
        """Seeds proved on all pairs, as trained or after repair, of all that have been evaluated; None
        where no proof was asked for."""
        if not self.evaluated or not (self.proofs or self.certificates or self._has_verdicts):
            return None
        return wilson(min(self.num_proved, len(self.evaluated)), len(self.evaluated))

    @property
    def _has_verdicts(self) -> bool:
        return self.kind == "search" or any(record.verdict is not None for record in self.seeds)

    @property
    def best_record(self) -> SeedRecord | None:
        """The seed of ``checkpoint``; without one a proved seed, else the best by its own checkpoint."""
        for record in self.evaluated:
            if self.checkpoint is not None and record.seed == self.checkpoint.seed:
                return record
        return _best(self.evaluated, self.kind)

    @property
    def best(self) -> SeedHistory | None:
        """The curves of the best seed."""
        best = self.best_record
        return next((each for each in self.histories if best and each.seed == best.seed), None)

    @property
    def proof(self) -> CertificateRecord | None:
        """What is known of the best checkpoint on all pairs: its certificate, else the run's own
        verdict on that seed."""
        if self.checkpoint is None:
            return None
        weights, seed = self.checkpoint.weights_sha256, self.checkpoint.seed
        own = [each for each in self.certificates if each.weights_sha256 == weights]
        own = own or [each for each in self.proofs if each.seed == seed]
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
        return max(len(self.proved_seeds), len(self.proved_weights))

    @property
    def proved_seeds(self) -> set[int | None]:
        """Seeds that the run proved, as trained or after repair."""
        by_seed = {each.seed for each in self.proofs if each.verdict == "proved"}
        return by_seed | {record.seed for record in self.seeds if record.route is not None}

    @property
    def proved_weights(self) -> set[str | None]:
        """SHA-256 of the models that certificates in the run's folder prove."""
        return {each.weights_sha256 for each in self.certificates if each.verdict == "proved"}

    @property
    def status(self) -> str:
        """running, done, diverged, stopped or failed; of a search how it ended; not evaluated yet, or
        unknown without a summary that there should be."""
        if self.summary is None and not self.evaluated and not self.problems:
            return "not evaluated yet"
        if self.summary is None:
            ended = self.kind != "run" and all(record.status != "training" for record in self.seeds)
            return "done" if ended else "unknown"
        return str(self.summary.get("search", self.summary["status"]))

    @property
    def started(self) -> str:
        """ISO date and time (UTC); empty if not recorded."""
        started = self.environment.get("started")
        return started if isinstance(started, str) else ""


def read_run(path: Path | str) -> RunEvidence:
    """All evidence in a run folder of any kind. Raises ``UsageError`` if there is no run there."""
    path = Path(path)
    if not is_run(path):
        raise UsageError(f"there is no run in {path} (no config.json); check the name")
    problems: list[str] = []
    kind = _attempt(lambda: kind_of(path), problems) or "run"
    # A file that cannot be read is named once, although several readers need it.
    config = _attempt(lambda: read_config(path), problems) if not problems else None
    # Version 0.1 wrote no summary for a rate and a sweep.
    expected = kind == "run" or (path / "config.json").is_file() or (path / "summary.json").is_file()
    histories = (
        () if kind == "sweep" else _attempt(lambda: _histories(path, kind, config), problems) or ()
    )
    seeds = _attempt(lambda: seed_records(path), problems) if config else None
    if seeds is None:
        seeds = tuple(history.record for history in histories)
    # Nor is there one before the first evaluation, which then is no fault of the file.
    expected = expected and (any(record.steps for record in seeds) or _has_ended(path))
    summary = _attempt(lambda: read_summary(path), problems) if expected else None
    order = {record.seed: place for place, record in enumerate(seeds)}
    histories = tuple(sorted(histories, key=lambda each: order.get(each.seed, len(order))))
    evaluations, certificates = read_results(result_files(path), problems)
    if kind == "run":
        problems += _contradictions(summary, seeds, histories)
    return RunEvidence(
        path=path,
        name=(config.run_name if config else "") or path.resolve().name,
        kind=kind,
        config=config,
        environment=_environment(path, kind, problems),
        summary=summary,
        seeds=seeds,
        histories=histories,
        cells=_cells(path, problems) if kind == "sweep" else (),
        checkpoint=_attempt(lambda: _checkpoint(path, kind, seeds), problems),
        evaluations=evaluations,
        certificates=certificates,
        proofs=_attempt(lambda: _proofs(path, seeds, config), problems) or (),
        notes=read_notes(path / NOTES),
        problems=tuple(dict.fromkeys(problems)),
    )


def _has_ended(path: Path) -> bool:
    """Whether something is there that a run only leaves once it has been evaluated."""
    return any((path / name).exists() for name in ("summary.json", "seeds.json", "checkpoints/best.pt"))


def populations(runs: Sequence[RunEvidence]) -> list[RunEvidence]:
    """The runs, searches and rates; in place of a sweep its cells, with the sweep's name in front."""
    return [
        each
        for run in runs
        for each in (
            [dataclasses.replace(cell, name=f"{run.name}/{cell.name}") for cell in run.cells]
            if run.kind == "sweep"
            else [run]
        )
    ]


def is_run(path: Path) -> bool:
    """Whether a folder holds a run, a search, a rate or a sweep: ours, of any version, or a run of the
    published program."""
    try:
        return kind_of(path) is not None
    except Failure:
        return True


def read_notes(path: Path) -> str:
    """The remarks in a notes file; empty if there is none. Raises ``Failure``."""
    try:
        return path.read_text(encoding="utf-8").strip() if path.is_file() else ""
    except OSError as error:
        raise disk_failure(error, path, "read") from error
    except UnicodeDecodeError as error:
        raise Failure(f"{path} is not text (UTF-8); save it as UTF-8") from error


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


def _attempt(read: Callable[[], T], problems: list[str]) -> T | None:
    """What ``read`` gives; None with a problem where the file is missing or damaged."""
    try:
        return read()
    except Failure as error:
        problems.append(str(error))
        return None


def _environment(path: Path, kind: Kind, problems: list[str]) -> dict[str, Any]:
    """Where it ran; of a study of version 0.1, which did not record it, where its first run did."""
    places = [path, *child_runs(path, kind)]
    files = [place / "environment.json" for place in places]
    file = next((file for file in files if file.is_file()), files[0])
    return _attempt(lambda: read_json(file), problems) or {}


def _histories(path: Path, kind: Kind, config: RunConfig | None) -> tuple[SeedHistory, ...]:
    """Of all the ordinary runs in a folder. Raises ``Failure`` for a run without curves."""
    if kind == "sweep":
        return ()  # its cells have them
    if kind != "run":
        # A batch that has just begun has no evaluation yet.
        found = [_tables(run, read_config(run).seeds) for run in child_runs(path, kind)]
        return tuple(history for each in found for history in each)
    population = config is not None and len(config.seeds) > 1
    table = path / ("seed_metrics.csv" if population else "metrics.csv")
    if not table.is_file():
        raise Failure(f"{table} is missing: without it there are no curves")
    histories = _tables(path, config.seeds if config else (0,))
    if not histories and _has_ended(path):
        raise Failure(f"{table} holds no evaluation, though the run has been evaluated")
    return histories


def _tables(folder: Path, seeds: tuple[int, ...]) -> tuple[SeedHistory, ...]:
    if (folder / "seed_metrics.csv").is_file():
        rows = read_seed_metrics(folder)
    elif len(seeds) == 1 and (folder / "metrics.csv").is_file():
        rows = {seeds[0]: read_metrics(folder)}
    else:
        rows = {}
    return tuple(SeedHistory(seed=seed, evaluations=tuple(own)) for seed, own in rows.items() if own)


def _cells(path: Path, problems: list[str]) -> tuple[RunEvidence, ...]:
    """The cells of a sweep with their settings, in the order of its table; others after them."""
    settings = _attempt(lambda: _cell_settings(path / "table.json"), problems) or {}
    place = {name: k for k, name in enumerate(settings)}
    runs = sorted(child_runs(path, "sweep"), key=lambda run: (place.get(run.name, len(place)), run.name))
    return tuple(
        dataclasses.replace(read_run(run), name=run.name, settings=settings.get(run.name, {}))
        for run in runs
    )


def _cell_settings(table: Path) -> Mapping[str, dict[str, Any]]:
    """Cell -> settings, in the order of a sweep's table; empty before there is one."""
    if not table.is_file():
        return {}
    try:
        return {each["cell"]: dict(each["settings"]) for each in read_json(table)["cells"]}
    except (KeyError, TypeError, ValueError) as error:
        raise Failure(f"{table} is no table of a sweep ({error!r}); restore it from a copy") from error


def _checkpoint(path: Path, kind: Kind, seeds: Sequence[SeedRecord]) -> Checkpoint | None:
    """The checkpoint of the best seed, None if there is none. Raises ``Failure`` if it is damaged."""
    file = path / "checkpoints" / "best.pt"
    if kind != "run":
        best = _best([record for record in seeds if record.checkpoint], kind)
        if kind == "sweep" or best is None:
            return None
        file = path / str(best.checkpoint)
    return load_checkpoint(file) if file.is_file() else None


def _best(records: Sequence[SeedRecord], kind: Kind) -> SeedRecord | None:
    """Of a search and a rate a proved seed before others: those are what they are for."""
    proved = [record for record in records if record.route is not None and kind != "run"]
    return best_of(proved or records) if records else None


def _proofs(
    path: Path, seeds: Sequence[SeedRecord], config: RunConfig | None
) -> tuple[CertificateRecord, ...]:
    """From proofs.json; of seeds that are not in it, from their records."""
    task = config.model.token_layout.addition if config else PUBLISHED
    stored = read_proofs(path / PROOFS)
    known = {proof.seed for proof in stored}
    return stored + tuple(
        proof
        for record in seeds
        if record.seed not in known and (proof := _verdict(path, record, task)) is not None
    )


def _verdict(path: Path, record: SeedRecord, task: Addition) -> CertificateRecord | None:
    """A seed's verdict as its record has it, of the model that it ends with; None without a proof."""
    found = record.proof_of
    if found.worst_pair is None or found.margin_witness is None or found.verdict is None:
        return None
    return CertificateRecord(
        file=path / "seeds.json",
        seed=record.seed,
        verdict=found.verdict,
        failing_pairs=0 if found.verdict == "proved" else None,
        margin_bound=found.margin_bound,
        margin_witness=found.margin_witness,
        pair=found.worst_pair,
        addition=task,
    )


def _contradictions(
    summary: dict[str, Any] | None, seeds: Sequence[SeedRecord], histories: Sequence[SeedHistory]
) -> list[str]:
    """Where ``summary.json``, the records of the seeds and the metric tables do not agree."""
    found = []
    records = {record.seed: record for record in seeds if record.steps}
    unknown = [each.seed for each in histories if each.seed not in records]
    if unknown:
        found.append(f"the metric tables have a seed {unknown[0]}, seeds.json has no record of it")
    wrong = [
        f"seeds.json and the metric tables differ on {name} of seed {each.seed}"
        for each in histories
        if each.seed in records
        for name in _FROM_TABLES
        if _differ(getattr(records[each.seed], name), getattr(each.record, name))
    ]
    found += wrong[:1]
    if summary is None or not records:
        return found
    if summary["status"] in ENDED and "success" in summary:
        counted = sum(record.succeeded for record in records.values())
        stored = summary["success"].get("successes")
        if stored != counted:
            found.append(f"summary.json counts {stored} successful seeds, their records {counted}")
    best = max(record.best_exact for record in records.values())
    if abs(best - summary["best_val_exact"]) > 1e-6:
        stored = f"{summary['best_val_exact']:g}"
        found.append(f"summary.json gives best_val_exact {stored}, the records of the seeds {best:g}")
    own = records.get(summary.get("best_seed", -1))
    found += [
        f"summary.json and seeds.json differ on {name} of the best seed"
        for name, field in _OF_BEST_SEED.items()
        if own is not None and name in summary and _differ(summary[name], getattr(own, field))
    ]
    return found


_FROM_TABLES = ("steps", "last_exact", "best_exact", "steps_learned", "grokked_at")
"""What the metric tables say of a seed as well as its record."""
_OF_BEST_SEED = {"best_step": "best_step", "final_val_exact": "last_exact"}
"""What ``summary.json`` repeats of the best seed's record."""


def _differ(one: Any, other: Any) -> bool:
    """Whether two numbers are not the same, but for the digits that a table keeps."""
    if isinstance(one, int | float) and isinstance(other, int | float):
        return abs(one - other) > 1e-6
    return bool(one != other)


def missing_steps(records: Sequence[SeedRecord]) -> list[tuple[int, int]]:
    """(answer step, seeds that have not learned it at the end), most often missing first."""
    known = [record.step_accuracy for record in records if record.step_accuracy]
    digits = min(map(len, known), default=0)
    counts = [(i, sum(accuracy[i] < LEARNED for accuracy in known)) for i in range(digits)]
    return sorted((each for each in counts if each[1]), key=lambda each: (-each[1], each[0]))

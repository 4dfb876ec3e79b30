"""What a run left behind, read strictly: tables, evaluations, certificates, remarks.

The log and the report are written from this and from nothing else. What is missing or damaged
becomes a ``problem``, a sentence for the reader; no number is guessed in its place.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adderlab.errors import Failure, UsageError
from adderlab.report.judgements import (
    PROOFS,
    CertificateRecord,
    EvaluationRecord,
    judgement_files,
    read_judgements,
    read_proofs,
)
from adderlab.runs.atomic import disk_failure, read_json
from adderlab.runs.checkpoints import Checkpoint, load_checkpoint
from adderlab.runs.metrics import LEARNED, Metrics, read_metrics, read_seed_metrics
from adderlab.runs.run_config import RunConfig, read_config
from adderlab.runs.summary import read_summary
from adderlab.task.digits import SUM_DIGITS
from adderlab.training.ledger import SUCCESS

NOTES = "notes.md"
"""Hand-written remarks of a run, in its folder. Read, never written."""


@dataclass(frozen=True, kw_only=True)
class Story:
    """One seed, from its rows in the metric tables."""

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
        """The first step evaluated at ``SUCCESS`` or more; it may have been lost again."""
        return next((each.step for each in self.evaluations if each.val_exact >= SUCCESS), None)

    @property
    def best(self) -> Metrics:
        """The first of its best evaluations, by exact match."""
        return max(self.evaluations, key=lambda each: (each.val_exact, -each.step))

    @property
    def learned(self) -> tuple[bool, ...]:
        """Which answer steps are learned at the end; empty if the tables do not say."""
        return tuple(accuracy >= LEARNED for accuracy in self.last.step_acc)

    def locked_in(self, i: int) -> int | None:
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
    """A run folder. None or empty where the folder does not tell; ``problems`` says so in words."""

    path: Path
    name: str
    config: RunConfig | None
    environment: dict[str, Any]
    summary: dict[str, Any] | None
    stories: tuple[Story, ...]
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
        return len(self.config.seeds) if self.config else len(self.stories)

    @property
    def best(self) -> Story | None:
        """The seed of ``checkpoints/best.pt``; without that file the best by exact match."""
        for story in self.stories:
            if self.checkpoint is not None and story.seed == self.checkpoint.seed:
                return story
        return max(self.stories, key=lambda s: (s.best.val_exact, -s.seed), default=None)

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
    def num_proved(self) -> int:
        """Different models of this run that are proved."""
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
    stories = _attempt(lambda: _stories(path, config), problems) or ()
    best = path / "checkpoints" / "best.pt"
    checkpoint = _attempt(lambda: load_checkpoint(best), problems) if best.is_file() else None
    evaluations, certificates = read_judgements(judgement_files(path), problems)
    if summary is not None and stories:
        problems += _disagreements(summary, stories)
    return RunEvidence(
        path=path,
        name=(config.run_name if config else "") or path.resolve().name,
        config=config,
        environment=environment,
        summary=summary,
        stories=stories,
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


def _attempt(read, problems: list[str]):  # type: ignore[no-untyped-def]
    try:
        return read()
    except Failure as error:
        problems.append(str(error))
        return None


def _stories(path: Path, config: RunConfig | None) -> tuple[Story, ...]:
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
    return tuple(Story(seed=seed, evaluations=tuple(history[seed])) for seed in sorted(history))


def _disagreements(summary: dict[str, Any], stories: Sequence[Story]) -> list[str]:
    """Where ``summary.json`` and the metric tables tell different stories."""
    found = []
    if summary["status"] == "done" and "success" in summary:
        counted = sum(story.succeeded for story in stories)
        told = summary["success"].get("successes")
        if told != counted:
            found.append(f"summary.json counts {told} successful seeds, the metric tables {counted}")
    best = max(story.best.val_exact for story in stories)
    if abs(best - summary["best_val_exact"]) > 1e-6:
        told = f"{summary['best_val_exact']:g}"
        found.append(f"summary.json gives best_val_exact {told}, the metric tables {best:g}")
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


def missing_steps(stories: Sequence[Story]) -> list[tuple[int, int]]:
    """(answer step, seeds that have not learned it at the end), most often missing first."""
    told = [story.learned for story in stories if story.learned]
    counts = [(i, sum(not learned[i] for learned in told)) for i in range(SUM_DIGITS)] if told else []
    return sorted((entry for entry in counts if entry[1]), key=lambda entry: (-entry[1], entry[0]))

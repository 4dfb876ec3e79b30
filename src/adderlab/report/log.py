"""The experiments log as Markdown, written from evidence alone.

The same evidence gives the same text: no clock, no machine, nothing but the files. Sections come in
the order of time; series that replay somebody's report open the log with both side by side.
"""

from __future__ import annotations

import math
import shlex
import statistics
from collections.abc import Sequence
from pathlib import Path

from adderlab.evaluation.intervals import (
    Rate,
    clopper_pearson,
    percent,
    wilson,
)
from adderlab.report.describe import as_typed, environment_text, typed
from adderlab.report.history import (
    NOTES,
    CertificateRecord,
    Count,
    EvaluationRecord,
    Found,
    RunEvidence,
    SeedHistory,
    groups,
    is_run,
    missing_steps,
    read_judgements,
    read_notes,
    read_run,
    runs_of,
)
from adderlab.report.series import Checked, Entry, Experiment, Record, SeriesStep
from adderlab.task.digits import SUM_DIGITS
from adderlab.training.tracker import SUCCESS

# One sentence each for what a run, an evaluation and a certificate came to, with its figures.
#
# The log and the report use the same sentences. Every number in them is counted here from the
# evidence; a sentence whose evidence is missing is not written.


NO_FINDING = "No finding: the run's metric tables are missing or unreadable."


def success_rate(run: RunEvidence) -> Rate | None:
    """Seeds that end at 99% exact match or more, of all that have been evaluated; None without
    evaluations. Its interval is Wilson's."""
    if not run.histories:
        return None
    return wilson(sum(history.succeeded for history in run.histories), len(run.histories))


def run_finding(run: RunEvidence) -> str:
    """What the run came to."""
    if not run.histories:
        return NO_FINDING
    sentence = _one_seed(run.histories[0]) if run.num_seeds == 1 else _population(run)
    return f"{_unfinished(run)}{sentence}"


def _unfinished(run: RunEvidence) -> str:
    if run.status == "done":
        return ""
    last = max(history.last.step for history in run.histories)
    return f"Not finished ({run.status}, last evaluation at step {last}). "


def _one_seed(history: SeedHistory) -> str:
    last, best = history.last, history.best
    if history.succeeded:
        text = f"Learned to add: {percent(last.val_exact)} exact match at the end (step {last.step})"
        text += f", 99% first at step {history.grokked_at}"
    elif history.grokked_at is not None:
        text = (
            f"Grokked at step {history.grokked_at} and lost it: {percent(last.val_exact)} exact match "
            f"at the end (step {last.step}), {percent(best.val_exact)} at best (step {best.step})"
        )
    else:
        text = (
            f"Did not learn to add: {percent(last.val_exact)} exact match at the end "
            f"(step {last.step}), {percent(best.val_exact)} at best"
        )
    if not math.isfinite(last.train_loss):
        text += "; its loss is not a number any more (diverged)"
    return f"{text}. {_steps_of(history)}".strip()


def _steps_of(history: SeedHistory) -> str:
    if not history.learned:
        return "Its tables do not tell the answer steps apart."
    learned = sum(history.learned)
    if learned == SUM_DIGITS:
        return "All eleven answer steps are learned."
    missing = ", ".join(
        f"s_{i} at {percent(history.last.step_acc[i])}"
        for i in range(SUM_DIGITS)
        if not history.learned[i]
    )
    have = ", ".join(f"s_{i}" for i in range(SUM_DIGITS) if history.learned[i]) or "none"
    return f"Answer steps learned: {learned} of 11 ({have}); not learned: {missing}."


def _population(run: RunEvidence) -> str:
    rate = success_rate(run)
    assert rate is not None
    histories = run.histories
    text = f"{rate.count} of {rate.n} seeds learned to add: success rate {rate} (95% Wilson interval)"
    reached = [history.grokked_at for history in histories if history.grokked_at is not None]
    if reached:
        text += f"; 99% first reached at step {min(reached)}"
        if len(reached) > 1:
            text += (
                f", by the median of those {len(reached)} seeds at step {statistics.median(reached):g}"
            )
    diverged = sum(not math.isfinite(history.last.train_loss) for history in histories)
    if diverged:
        text += f"; {diverged} diverged"
    told = [sum(history.learned) for history in histories if history.learned]
    if told:
        text += f". Answer steps learned: median {statistics.median(told):g} of 11"
        missing = missing_steps(histories)[:3]
        if missing:
            worst = ", ".join(f"s_{i} ({count} seeds)" for i, count in missing)
            text += f"; most often missing: {worst}"
    best = run.checkpoint
    if best is not None:
        text += f". Best checkpoint: seed {best.seed}, {percent(best.val_exact)} at step {best.step}"
    return text + "."


def evaluation_finding(record: EvaluationRecord, *, digits: bool = True) -> str:
    """For example: 0 of 100,000 pairs wrong on suite published (exact match 100%; error rate below
    3.7e-05, 95% Clopper-Pearson). With ``digits``, which digits fail, where the file says."""
    rate = clopper_pearson(record.errors, record.n)
    if record.errors == 0:
        bound = f"exact match 100%; error rate below {rate.high:.1e}, 95% Clopper-Pearson"
    else:
        exact, low, high = (percent(1 - r) for r in (rate.value, rate.high, rate.low))
        bound = f"exact match {exact} [{low}, {high}], 95% Clopper-Pearson"
    text = f"{record.errors:,} of {record.n:,} pairs wrong on suite {record.suite} ({bound})"
    weak = [(i, acc) for i, acc in enumerate(record.digit_accuracy) if acc < 1]
    if weak and digits:
        text += "; digits that fail: " + ", ".join(f"s_{i} {percent(acc)}" for i, acc in weak)
    return text + "."


def certificate_finding(record: CertificateRecord) -> str:
    """What the certificate claims; the independent check is ``adderlab check``."""
    a, b = record.pair
    margin = f"smallest margin {record.margin_witness:.4g} logits at {a} + {b}"
    if record.margin_bound is not None:
        margin += f", nowhere below {record.margin_bound:.4g}"
    if record.verdict == "proved":
        return f"Proved: all 10^20 pairs are added rightly; {margin}."
    if record.verdict == "refuted":
        text = f"Refuted: {count_text(record.failing_pairs)} of 10^20 pairs fail"
        if record.counterexample is not None:
            text += f", for example {record.counterexample[0]} + {record.counterexample[1]}"
        return f"{text}; {margin}."
    return f"Undecided: {count_text(record.failing_pairs)} of 10^20 pairs may fail; {margin}."


def proof_finding(run: RunEvidence) -> str | None:
    """What is known of the run's models on all pairs; None if nothing was tried."""
    if not run.proofs and not run.certificates:
        return None
    sentences = []
    if run.num_seeds > 1:
        verdicts = [proof.verdict for proof in run.proofs]
        counts = [f"{verdicts.count(v)} {v}" for v in ("refuted", "undecided") if v in verdicts]
        proved = wilson(run.num_proved, run.num_seeds)
        also = f", {', '.join(counts)}" if counts else ""
        sentences.append(f"On all pairs: {proved} of the seeds are proved (95% Wilson interval){also}.")
    if run.proof is not None:
        which = "" if run.num_seeds == 1 else "Best checkpoint: "
        sentences.append(f"{which}{certificate_finding(run.proof)}")
    return " ".join(sentences) or None


def count_text(count: Count) -> str:
    """An exact number, or both ends of what is known; large ones by power of ten."""
    if isinstance(count, tuple):
        return f"between {_large(count[0])} and {_large(count[1])}"
    return _large(count)


def _large(count: int) -> str:
    if count < 10**9:
        return f"{count:,}"
    power = len(str(count)) - 1
    return f"{count / 10**power:.3g} x 10^{power}"


def pooled_rate(runs: Sequence[RunEvidence]) -> Rate | None:
    """Success rate over the seeds of several runs; None if none was evaluated.

    A seed that was run again and came to the very same numbers is the same draw and counts once.
    """
    draws = {
        (history.seed, history.last.step, history.last.train_loss, history.last.val_token_acc): history
        for run in runs
        for history in run.histories
    }
    if not draws:
        return None
    return wilson(sum(history.succeeded for history in draws.values()), len(draws))


__all__ = [
    "NO_FINDING",
    "SUCCESS",
    "certificate_finding",
    "count_text",
    "evaluation_finding",
    "pooled_rate",
    "proof_finding",
    "run_finding",
    "success_rate",
]


UNDATED = "Undated"


def log_text(found: Found, command: str) -> str:
    """EXPERIMENTS.md. ``command`` is what writes it."""
    parts = [
        "# Experiments Log\n",
        f"Written by `{command}` from run folders, evaluations and certificates; edits are lost. "
        f"Remarks belong into the notes file named at each entry (`{NOTES}` in a run's folder) and "
        "appear here when the command runs again. How to read the figures: docs/statistics.md.\n",
    ]
    parts += [_beside(record) for record in found.records if _quotes(record)]
    day = ""
    for started, text in _sections(found):
        date = started[:10] or UNDATED
        if date != day:
            day = date
            parts.append(f"## {day}\n")
        parts.append(text)
    parts += _loose(found)
    parts.append(_over_all(found))
    if found.problems:
        parts.append("## Unreadable\n\n" + _bullets(found.problems))
    return "\n".join(part for part in parts if part)


def _quotes(record: Record) -> bool:
    return any(experiment.reported for experiment in record.series.experiment)


def _beside(record: Record) -> str:
    """What came out here, beside what was reported."""
    series = record.series
    by = series.reported_by or "reported"
    where = (
        series.reported_environment and f" {_upper(by)} was written on {series.reported_environment}."
    )
    rows = [
        f"## What came out here, beside what {by} reported\n",
        f"{series.title}, replayed on {record.journal.started[:10]}: {_environments(record)}.{where}\n",
        f"| | {by} reported | came out here | expectations met |",
        "|---|---|---|---|",
    ]
    for experiment in series.experiment:
        findings = " ".join(_experiment_findings(record, experiment, brief=True)) or "Not run."
        checked = record.check(experiment)
        met = f"{sum(c.met is True for c in checked)} of {len(checked)}" if checked else "none stated"
        name = f"{experiment.name} {experiment.title}"
        rows.append(f"| {_cell(name)} | {_cell(experiment.reported)} | {_cell(findings)} | {met} |")
    return "\n".join(rows) + "\n"


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def _environments(record: Record) -> str:
    return "; ".join(environment_text(e) for e in record.journal.environments) or "not recorded"


def _sections(found: Found) -> list[tuple[str, str]]:
    """(start, text) of every record and run, oldest first."""
    sections = [(r.journal.started, str(r.path), _record_section(r)) for r in found.records]
    sections += [(run.started, str(run.path), _run_section(run)) for run in found.runs]
    ordered = sorted(sections, key=lambda section: (section[0] == "", section[0], section[1]))
    return [(started, text) for started, _, text in ordered]


def _record_section(record: Record) -> str:
    series = record.series
    parts = [f"### {series.title} ({record.path.as_posix()})\n"]
    environments = [environment_text(e) for e in record.journal.environments]
    parts.append(_bullets([f"Environment: {text}" for text in environments]))
    for experiment in series.experiment:
        parts.append(_experiment_section(record, experiment))
    parts.append(_conclusion(record))
    parts.append(_remarks(record.path / NOTES))
    return "\n".join(part for part in parts if part)


def _experiment_section(record: Record, experiment: Experiment) -> str:
    label = "Command" if len(experiment.step) == 1 else "Commands"
    commands = "\n".join(typed(step.command) for step in experiment.step)
    lines = [f"#### Experiment {experiment.name}: {experiment.title}\n", f"- {label}:"]
    lines.append(f"```bash\n{commands}\n```")
    outputs = [name for step in experiment.step for name in _outputs(record, step)]
    if outputs:
        lines.append("- Outputs:\n" + _bullets([f"`{name}`" for name in outputs], "  ").rstrip())
    if experiment.reported:
        lines.append(f"- Reported: {experiment.reported}")
    lines += [_finding(text) for text in _experiment_findings(record, experiment)]
    lines += [f"- Expectation {checked}" for checked in record.check(experiment)]
    lines += [f"- Time: {text}" for text in _times(record, experiment)]
    notes = record.path / "notes" / f"{experiment.name}.md"
    return "\n".join([*lines, _remarks(notes)])


def _outputs(record: Record, step: SeriesStep) -> list[str]:
    place = record.place(step.product)
    if step.run is None:
        return [place.as_posix()] if place.is_file() else []
    names = ("summary.json", "metrics.csv", "seed_metrics.csv", "seeds.csv")
    return [(place / name).as_posix() for name in names if (place / name).is_file()]


def _experiment_findings(record: Record, experiment: Experiment, *, brief: bool = False) -> list[str]:
    """A sentence or more for each step, from its records."""
    found: list[str] = []
    for number, step in enumerate(experiment.step):
        entry = record.journal.entry(experiment.name, number)
        if entry is None:
            found.append("Not run yet.")
            continue
        if entry.status != "done":
            found.append(_broken(entry))
        if entry.status == "done" or (step.run is not None and is_run(record.place(step.run))):
            found += _step_findings(record, step, brief)
    return found


def _broken(entry: Entry) -> str:
    said = {
        "absent": "Not run",
        "failed": "Failed",
        "interrupted": "Interrupted",
        "done": "Done",
    }
    return f"{said[entry.status]}: {entry.message}." if entry.message else f"{said[entry.status]}."


def _step_findings(record: Record, step: SeriesStep, brief: bool) -> list[str]:
    place = record.place(step.product)
    if step.run is not None:
        if not is_run(place):
            return [f"No finding: the records of {step.run} are missing ({place.as_posix()})."]
        return _run_findings(read_run(place), brief)
    if not place.is_file():
        return [f"No finding: {place.as_posix()} is missing."]
    problems: list[str] = []
    evaluations, certificates = read_judgements([place], problems)
    return [
        *(_about(e, brief) for e in evaluations),
        *(certificate_finding(c) for c in certificates),
        *(f"No finding: {problem}." for problem in problems),
    ]


_NO_FINDINGS = ("No finding", "Missing or damaged", "Not run", "Failed", "Interrupted")


def _finding(sentence: str) -> str:
    return f"- {sentence}" if sentence.startswith(_NO_FINDINGS) else f"- Finding: {sentence}"


def _about(record: EvaluationRecord, brief: bool) -> str:
    return f"`{record.checkpoint}`: {evaluation_finding(record, digits=not brief)}"


def _run_findings(run: RunEvidence, brief: bool = False) -> list[str]:
    return [
        run_finding(run),
        *(f"Missing or damaged: {problem}." for problem in run.problems),
        *(_about(e, brief) for e in run.evaluations),
        *([proof] if (proof := proof_finding(run)) else []),
    ]


def _times(record: Record, experiment: Experiment) -> list[str]:
    entries = [record.journal.entry(experiment.name, n) for n in range(len(experiment.step))]
    return [f"{e.seconds:,.1f} s, from {e.started}" for e in entries if e and e.status != "absent"]


def _conclusion(record: Record) -> str:
    lines = ["#### Conclusion\n"]
    runs = runs_of(record)
    for label, members in groups(runs):
        rate = pooled_rate(members)
        if rate is None:
            lines.append(f"- {label}: no seed was evaluated.")
        else:
            plural = "s" if rate.n > 1 else ""
            lines.append(
                f"- {label}: {rate.count} of {rate.n} seed{plural} learned to add, "
                f"success rate {rate} (95% Wilson interval)."
            )
    checked = [c for experiment in record.series.experiment for c in record.check(experiment)]
    if checked:
        met = sum(c.met is True for c in checked)
        lines.append(f"- Expectations: {met} of {len(checked)} met.{_unmet(checked)}")
    return "\n".join(lines) + "\n" if len(lines) > 1 else ""


def _unmet(checked: Sequence[Checked]) -> str:
    wrong = [str(c) for c in checked if c.met is False]
    return f" {'; '.join(wrong)}." if wrong else ""


def _run_section(run: RunEvidence) -> str:
    lines = [f"### Run {run.name} ({run.path.as_posix()})\n"]
    lines.append(f"- Environment: {environment_text(run.environment)}")
    if run.config and run.config.command:
        lines.append(f"- Command:\n```bash\n{typed(shlex.join(as_typed(run.config.command)))}\n```")
    names = ("summary.json", "metrics.csv", "seed_metrics.csv", "seeds.csv")
    outputs = [f"`{name}`" for name in names if (run.path / name).is_file()]
    if outputs:
        lines.append(f"- Outputs: {', '.join(outputs)}")
    lines += [_finding(text) for text in _run_findings(run)]
    return "\n".join([*lines, _remarks(run.path / NOTES)])


def _loose(found: Found) -> list[str]:
    """Evaluations and certificates that lie in no run and no series."""
    lines = [
        f"- {e.file.as_posix()} (`{e.checkpoint}`): {evaluation_finding(e)}" for e in found.evaluations
    ]
    lines += [f"- {c.file.as_posix()}: {certificate_finding(c)}" for c in found.certificates]
    return (
        ["## Evaluations and certificates outside runs\n\n" + "\n".join(lines) + "\n"] if lines else []
    )


def _over_all(found: Found) -> str:
    runs = [*(run for record in found.records for run in runs_of(record)), *found.runs]
    if not runs:
        return ""
    rows = [
        "## Over all runs\n",
        "Runs of the same model and recipe are pooled; a seed succeeds if its last evaluation is at 99% "
        "exact match or more. A seed run twice with the very same numbers counts once.\n",
        "| model and recipe | runs | seeds | success rate, 95% Wilson interval | proved |",
        "|---|---|---|---|---|",
    ]
    for label, members in groups(runs):
        rate = pooled_rate(members)
        proved = sum(run.num_proved for run in members)
        seeds = sum(run.num_seeds for run in members)
        rows.append(
            f"| {_cell(label)} | {len(members)} | {seeds} | {rate or 'no evaluation'} | {proved} |"
        )
    return "\n".join(rows) + "\n"


def _remarks(notes: Path) -> str:
    """The notes file's text, or where to write one. Always names the file."""
    text = read_notes(notes)
    if not text:
        return f"- Remarks: none (`{notes.as_posix()}`)\n"
    quoted = "\n".join(f"> {line}".rstrip() for line in text.splitlines())
    return f"- Remarks (`{notes.as_posix()}`):\n\n{quoted}\n"


def _bullets(items: Sequence[str], indent: str = "") -> str:
    return "".join(f"{indent}- {item}\n" for item in items)


def _cell(text: str) -> str:
    """Text for a Markdown table."""
    return " ".join(text.split()).replace("|", "\\|")

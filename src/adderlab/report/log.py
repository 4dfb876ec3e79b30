"""The experiments log as Markdown, written from evidence alone: what lies below some folders, in a fixed
order, and equal runs pooled.

The same evidence gives the same text: no clock, no machine, nothing but the files. Sections come in
the order of time; series that replay somebody's report open the log with both side by side.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adderlab.errors import UsageError
from adderlab.evaluation.suites import Rate, wilson
from adderlab.files.atomic import disk_failure, write_text
from adderlab.format import as_typed, code_block
from adderlab.models.describe import count_parameters
from adderlab.report.describe import (
    describe_cell,
    describe_certificate,
    describe_environment,
    describe_evaluation,
    describe_proofs,
    describe_run,
    describe_spent,
)
from adderlab.report.evidence import (
    NOTES,
    CertificateRecord,
    EvaluationRecord,
    RunEvidence,
    flat_settings,
    is_run,
    json_files,
    populations,
    read_notes,
    read_results,
    read_run,
)
from adderlab.report.replay import Checked, Entry, Experiment, Replay, SeriesStep, is_replay, open_replay
from adderlab.runs.records import SeedRecord


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Everything below some folders."""

    replays: tuple[Replay, ...]
    runs: tuple[RunEvidence, ...]
    evaluations: tuple[EvaluationRecord, ...]
    certificates: tuple[CertificateRecord, ...]
    problems: tuple[str, ...]


def collect(paths: Sequence[Path]) -> Evidence:
    """Find replayed series, run folders, evaluations and certificates, in a fixed order.

    A run that lies in two places (a record of it) is taken once, where it is found first.
    Raises ``Failure`` if a replay's own records are damaged.
    """
    replays: list[Replay] = []
    runs: dict[Any, RunEvidence] = {}
    files: list[Path] = []
    for path in paths:
        for place in [path] if path.is_file() else _walk(path):
            if place.is_file():
                files.append(place)
            elif is_replay(place):
                replays.append(open_replay(place))
            else:
                run = read_run(place)
                seeds = run.config.seeds if run.config else ()
                runs.setdefault((run.name, run.started or str(place), seeds), run)
    for replay in replays:
        for run in runs_of(replay):
            runs.pop((run.name, run.started, run.config.seeds if run.config else ()), None)
    problems: list[str] = []
    evaluations, certificates = read_results(files, problems)
    return Evidence(
        replays=tuple(replays),
        runs=tuple(runs.values()),
        evaluations=evaluations,
        certificates=certificates,
        problems=tuple(problems),
    )


def _walk(folder: Path, above: tuple[Path, ...] = ()) -> Iterator[Path]:
    """Replays, runs and JSON files below ``folder``; not what lies inside a replay or run."""
    if is_replay(folder) or is_run(folder):
        yield folder
        return
    real = folder.resolve()
    if real in above:  # a link back to a folder above
        return
    yield from json_files(folder)
    for below in sorted(path for path in folder.iterdir() if path.is_dir()):
        if not below.name.startswith("."):
            yield from _walk(below, (*above, real))


def runs_of(replay: Replay) -> list[RunEvidence]:
    """The runs among the records of a replay."""
    places = [replay.locate(step.run) for _, _, step in replay.series.steps() if step.run]
    return [read_run(place) for place in dict.fromkeys(places) if is_run(place)]


def groups(runs: Sequence[RunEvidence]) -> list[tuple[str, list[RunEvidence]]]:
    """Runs of the same kind, model and recipe together, each group with a label of its own; of a sweep,
    its cells."""
    members: dict[str, list[RunEvidence]] = {}
    for run in populations(runs):
        key = json.dumps(_comparable(run), sort_keys=True, default=str)
        members.setdefault(key, []).append(run)
    labels = [_label(group[0]) for group in members.values()]
    labelled = []
    for label, group in zip(labels, members.values(), strict=True):
        alike = [g[0] for other, g in zip(labels, members.values(), strict=True) if other == label]
        labelled.append((f"{label}{_distinction(group[0], alike)}", group))
    return labelled


def _comparable(run: RunEvidence) -> dict[str, Any]:
    """Settings that decide a run's success rate: runs equal in all of these are samples of one rate."""
    own = ("recipe.seed", "recipe.run_name", "recipe.run_dir", "recipe.device")
    settings = {name: value for name, value in flat_settings(run).items() if name not in own}
    # A search gives seeds up early and ends with a success: its rate is not that of a run.
    return settings | ({"recipe.until": "proved"} if run.kind == "search" else {})


def _label(run: RunEvidence) -> str:
    if run.config is None:
        return run.name
    recipe, params = run.config.recipe, count_parameters(run.config.model)
    steps = recipe.get("steps", recipe.get("train_steps", "?"))
    shown = f"{steps:,}" if isinstance(steps, int) else steps
    batch, layout = recipe.get("batch_size", "?"), run.config.model.layout
    text = f"{params}p, layout {layout}, {shown} steps of {batch}"
    until = ", until proved" if run.kind == "search" else ""
    return f"{text}, lr {recipe.get('lr', '?')}{until}"


def _distinction(run: RunEvidence, alike: Sequence[RunEvidence]) -> str:
    """What sets a run apart from others of the same label, up to four settings."""
    tables = [_by_setting(other) for other in alike]
    names = dict.fromkeys(name for table in tables for name in table)
    differing = [n for n in names if any(table.get(n) != tables[0].get(n) for table in tables)]
    own = _by_setting(run)
    parts = [f"{name.partition('.')[2]} {own.get(name, 'none')}" for name in differing]
    more = f" and {len(parts) - 4} more" if len(parts) > 4 else ""
    return f"; {', '.join(parts[:4])}{more}" if parts else ""


def _by_setting(run: RunEvidence) -> dict[str, str]:
    """Settings as text, a table of settings as "set" or with a checksum of its values."""
    tables: dict[str, dict[str, Any]] = {}
    for name, value in _comparable(run).items():
        setting = ".".join(name.split(".")[:2])
        tables.setdefault(setting, {})[name] = value
    return {setting: _short(setting, inner) for setting, inner in tables.items()}


def _short(setting: str, values: dict[str, Any]) -> str:
    if list(values) == [setting]:
        text = json.dumps(values[setting], default=str).strip('"').replace("null", "none")
    else:
        text = ", ".join(f"{name.rpartition('.')[2]}={value}" for name, value in values.items())
    return text if len(text) <= 40 else f"{text[:37]}..."


def pooled_rate(runs: Sequence[RunEvidence]) -> Rate | None:
    """Success rate over the seeds of several runs; None if none was evaluated.

    A seed that was run again and came to the very same numbers is the same sample and counts once.
    """
    samples = {_sample(record): record for run in runs for record in run.evaluated}
    if not samples:
        return None
    return wilson(sum(record.succeeded for record in samples.values()), len(samples))


def _sample(record: SeedRecord) -> tuple[Any, ...]:
    """Equal for a seed that was run twice with the very same numbers."""
    return (record.seed, record.steps, record.train_loss, record.last_token_accuracy)


def pooled_proved(runs: Sequence[RunEvidence]) -> int:
    """Proved models of several runs, each counted once."""
    proved: set[Any] = set()
    for run in runs:
        by_seed = {_sample(record) for record in run.seeds if record.seed in run.proved_seeds}
        weights = run.proved_weights
        # Certificates do not name seeds: where there are more of them, models are told apart by those.
        proved |= by_seed if len(by_seed) >= len(weights) else weights
    return len(proved)


# The text.


MARK = "<!-- adderlab log -->"
"""First line of a log of version 0.2. A file without a mark is the user's own: never overwritten."""
_TITLE = "# Experiments Log"
_OLD_MARKS = (MARK, f"{_TITLE}\n\nWritten by `adderlab log")
"""Logs of version 0.1 begin with the second."""
_SIGNED = re.compile(r"<!-- adderlab log, sha256 (\w{16}) of what follows -->")
"""First line of a log: one that somebody has edited since is the user's own too."""
LOG = Path("EXPERIMENTS.md")
OWN_LOG = Path("results/EXPERIMENTS.md")
"""Where a log goes unless a place is named, in a clone whose git has the first."""
RECORDS = Path("records")
"""Evidence that is kept with the program; its log is the tracked one."""
UNDATED = "Undated"
_RUN_FILES = ("summary.json", "seeds.json", "metrics.csv", "seed_metrics.csv", "seeds.csv", "table.csv")


def write_log(paths: Sequence[Path], output: Path, command: str) -> None:
    """Write the log of everything below ``paths``, atomically. ``command`` is what writes it.

    Raises ``UsageError`` if ``output`` holds something else than a log as it was written, ``Failure`` if
    the disk refuses or the records of a replay are damaged.
    """
    refuse_foreign(output)
    write_text(output, log_text(collect(paths), command))


def default_log(paths: Sequence[Path]) -> Path:
    """Where the log of these paths goes unless a place is named: in a clone, the log that git keeps is
    written only from the records that it keeps."""
    if list(paths) == [RECORDS] or not _is_tracked(LOG):
        return LOG
    return OWN_LOG


def _is_tracked(file: Path) -> bool:
    """Whether git keeps the file; False where there is no git."""
    ask = ["git", "ls-files", "--error-unmatch", str(file)]
    try:
        return subprocess.run(ask, capture_output=True, timeout=10).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def refuse_foreign(output: Path) -> None:
    """Raises ``UsageError`` if the file exists and is not a log, or a log that was edited: it is the
    user's own."""
    if not output.is_file():
        return
    try:
        text = output.read_text(encoding="utf-8", errors="replace").lstrip()
    except OSError as error:
        raise disk_failure(error, output, "read") from error
    first, _, rest = text.partition("\n")
    signed = _SIGNED.fullmatch(first)
    if signed and signed[1] != _signature(rest):
        raise UsageError(
            f"{output} was edited since adderlab log wrote it and is left as it is; write elsewhere "
            f"with -o FILE, or delete it (remarks that stay go into the {NOTES} of a run)"
        )
    if text and not signed and not text.startswith(_OLD_MARKS):
        raise UsageError(
            f"{output} was not written by adderlab log and is left as it is; name another file with "
            f"-o FILE, or begin it with the line {MARK} to have it replaced"
        )


def _signature(text: str) -> str:
    """Of a log without its first line; line ends do not count."""
    return hashlib.sha256("\n".join(text.splitlines()).encode()).hexdigest()[:16]


def log_text(evidence: Evidence, command: str) -> str:
    """EXPERIMENTS.md. ``command`` is what writes it."""
    text = _unsigned(evidence, command)
    return f"<!-- adderlab log, sha256 {_signature(text)} of what follows -->\n{text}"


def _unsigned(evidence: Evidence, command: str) -> str:
    parts = [
        f"{_TITLE}\n",
        f"Written by `{command}` from run folders, evaluations and certificates; edits are lost. "
        f"Remarks belong in the notes file named at each entry (`{NOTES}` in a run's folder) and "
        "appear here when the command runs again. How to read the figures: docs/statistics.md.\n",
    ]
    parts += [_side_by_side(replay) for replay in evidence.replays if _quotes(replay)]
    day = ""
    for started, text in _sections(evidence):
        date = started[:10] or UNDATED
        if date != day:
            day = date
            parts.append(f"## {day}\n")
        parts.append(text)
    parts += _outside_runs(evidence)
    parts.append(_over_all(evidence))
    if evidence.problems:
        parts.append("## Unreadable\n\n" + _bullets(evidence.problems))
    return "\n".join(part for part in parts if part)


def _quotes(replay: Replay) -> bool:
    return any(experiment.reported for experiment in replay.series.experiment)


def _side_by_side(replay: Replay) -> str:
    """What came out here, beside what was reported."""
    series = replay.series
    by = series.reported_by or "reported"
    where = (
        series.reported_environment and f" {_upper(by)} was written on {series.reported_environment}."
    )
    rows = [
        f"## What came out here, beside what {by} reported\n",
        f"{series.title}, replayed on {replay.journal.started[:10]}: {_environments(replay)}.{where}\n",
        f"| | {by} reported | came out here | expectations met |",
        "|---|---|---|---|",
    ]
    for experiment in series.experiment:
        findings = " ".join(_experiment_findings(replay, experiment, brief=True)) or "Not run."
        checked = replay.check(experiment)
        met = f"{sum(c.met is True for c in checked)} of {len(checked)}" if checked else "none stated"
        name = f"{experiment.name} {experiment.title}"
        rows.append(f"| {_cell(name)} | {_cell(experiment.reported)} | {_cell(findings)} | {met} |")
    return "\n".join(rows) + "\n"


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def _environments(replay: Replay) -> str:
    return "; ".join(describe_environment(e) for e in replay.journal.environments) or "not recorded"


def _sections(evidence: Evidence) -> list[tuple[str, str]]:
    """(start, text) of every replay and run, oldest first."""
    sections = [(r.journal.started, str(r.path), _replay_section(r)) for r in evidence.replays]
    sections += [(run.started, str(run.path), _run_section(run)) for run in evidence.runs]
    ordered = sorted(sections, key=lambda section: (section[0] == "", section[0], section[1]))
    return [(started, text) for started, _, text in ordered]


def _replay_section(replay: Replay) -> str:
    series = replay.series
    parts = [f"### {series.title} ({replay.path.as_posix()})\n"]
    environments = [describe_environment(e) for e in replay.journal.environments]
    parts.append(_bullets([f"Environment: {text}" for text in environments]))
    for experiment in series.experiment:
        parts.append(_experiment_section(replay, experiment))
    parts.append(_conclusion(replay))
    parts.append(_remarks(replay.path / NOTES))
    return "\n".join(part for part in parts if part)


def _experiment_section(replay: Replay, experiment: Experiment) -> str:
    label = "Command" if len(experiment.step) == 1 else "Commands"
    commands = "\n".join(code_block(step.command) for step in experiment.step)
    lines = [f"#### Experiment {experiment.name}: {experiment.title}\n", f"- {label}:"]
    lines.append(f"```bash\n{commands}\n```")
    outputs = [name for step in experiment.step for name in _outputs(replay, step)]
    if outputs:
        lines.append("- Outputs:\n" + _bullets([f"`{name}`" for name in outputs], "  ").rstrip())
    if experiment.reported:
        lines.append(f"- Reported: {experiment.reported}")
    lines += [_finding(text) for text in _experiment_findings(replay, experiment)]
    lines += [f"- Expectation {checked}" for checked in replay.check(experiment)]
    lines += [f"- Time: {text}" for text in _times(replay, experiment)]
    notes = replay.path / "notes" / f"{experiment.name}.md"
    return "\n".join([*lines, _remarks(notes)])


def _outputs(replay: Replay, step: SeriesStep) -> list[str]:
    place = replay.locate(step.product)
    if step.run is None:
        return [place.as_posix()] if place.is_file() else []
    return [(place / name).as_posix() for name in _RUN_FILES if (place / name).is_file()]


def _experiment_findings(replay: Replay, experiment: Experiment, *, brief: bool = False) -> list[str]:
    """A sentence or more for each step, from its records."""
    found: list[str] = []
    for number, step in enumerate(experiment.step):
        entry = replay.journal.entry(experiment.name, number)
        if entry is None:
            found.append("Not run yet.")
            continue
        if entry.status != "done":
            found.append(_broken(entry))
        if entry.status == "done" or (step.run is not None and is_run(replay.locate(step.run))):
            found += _step_findings(replay, step, brief)
    return found


def _broken(entry: Entry) -> str:
    ended = {"absent": "Not run", "failed": "Failed", "interrupted": "Interrupted", "done": "Done"}
    return f"{ended[entry.status]}: {entry.message}." if entry.message else f"{ended[entry.status]}."


def _step_findings(replay: Replay, step: SeriesStep, brief: bool) -> list[str]:
    place = replay.locate(step.product)
    if step.run is not None:
        if not is_run(place):
            return [f"No finding: the records of {step.run} are missing ({place.as_posix()})."]
        return _run_findings(read_run(place), brief)
    if not place.is_file():
        return [f"No finding: {place.as_posix()} is missing."]
    problems: list[str] = []
    evaluations, certificates = read_results([place], problems)
    return [
        *(_about(e, brief) for e in evaluations),
        *(describe_certificate(c) for c in certificates),
        *(f"No finding: {problem}." for problem in problems),
    ]


_NO_FINDINGS = ("No finding", "Not evaluated", "Missing or damaged", "Not run", "Failed", "Interrupted")


def _finding(sentence: str) -> str:
    return f"- {sentence}" if sentence.startswith(_NO_FINDINGS) else f"- Finding: {sentence}"


def _about(record: EvaluationRecord, brief: bool) -> str:
    return f"`{record.checkpoint}`: {describe_evaluation(record, digits=not brief)}"


def _run_findings(run: RunEvidence, brief: bool = False) -> list[str]:
    return [
        describe_run(run),
        *(f"Missing or damaged: {problem}." for problem in run.problems),
        *(_about(e, brief) for e in run.evaluations),
        *filter(None, (describe_proofs(run), describe_spent(run))),
    ]


def _times(replay: Replay, experiment: Experiment) -> list[str]:
    entries = [replay.journal.entry(experiment.name, n) for n in range(len(experiment.step))]
    return [f"{e.seconds:,.1f} s, from {e.started}" for e in entries if e and e.status != "absent"]


def _conclusion(replay: Replay) -> str:
    lines = ["#### Conclusion\n"]
    runs = runs_of(replay)
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
    checked = [c for experiment in replay.series.experiment for c in replay.check(experiment)]
    if checked:
        met = sum(c.met is True for c in checked)
        lines.append(f"- Expectations: {met} of {len(checked)} met.{_unmet(checked)}")
    return "\n".join(lines) + "\n" if len(lines) > 1 else ""


def _unmet(checked: Sequence[Checked]) -> str:
    wrong = [str(c) for c in checked if c.met is False]
    return f" {'; '.join(wrong)}." if wrong else ""


def _run_section(run: RunEvidence) -> str:
    lines = [f"### {run.kind.capitalize()} {run.name} ({run.path.as_posix()})\n"]
    lines.append(f"- Environment: {describe_environment(run.environment)}")
    if run.config and run.config.command:
        lines.append(f"- Command:\n```bash\n{code_block(shlex.join(as_typed(run.config.command)))}\n```")
    outputs = [f"`{name}`" for name in _RUN_FILES if (run.path / name).is_file()]
    if outputs:
        lines.append(f"- Outputs: {', '.join(outputs)}")
    lines += [_finding(text) for text in _run_findings(run)]
    lines += [f"- Cell {describe_cell(cell)}." for cell in run.cells]
    return "\n".join([*lines, _remarks(run.path / NOTES)])


def _outside_runs(evidence: Evidence) -> list[str]:
    """Evaluations and certificates that lie in no run and no series."""
    lines = [
        f"- {e.file.as_posix()} (`{e.checkpoint}`): {describe_evaluation(e)}"
        for e in evidence.evaluations
    ]
    lines += [f"- {c.file.as_posix()}: {describe_certificate(c)}" for c in evidence.certificates]
    title = "## Evaluations and certificates outside runs\n\n"
    return [title + "\n".join(lines) + "\n"] if lines else []


def _over_all(evidence: Evidence) -> str:
    runs = [*(run for replay in evidence.replays for run in runs_of(replay)), *evidence.runs]
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
        proved = pooled_proved(members)
        seeds = len({_sample(record) for run in members for record in run.seeds})
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

"""Reports: a page about runs, its drawings, their comparison, the experiments log, replayed series."""

from __future__ import annotations

import importlib
import os
import re
import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from adderlab.api.models import ModelLike, load
from adderlab.engine.base import single_threaded
from adderlab.errors import Failure, UsageError
from adderlab.files.atomic import write_text
from adderlab.reading.file_model import read_file
from adderlab.report import figures as charts
from adderlab.report.comparison import Comparison, compare_runs
from adderlab.report.describe import describe_model
from adderlab.report.evidence import CertificateRecord, is_run, read_results, read_run
from adderlab.report.figures import dissect
from adderlab.report.html import STYLE
from adderlab.report.html import refuse_foreign as refuse_foreign_page
from adderlab.report.log import default_log, refuse_foreign
from adderlab.report.log import write_log as write_log_file
from adderlab.report.replay import (
    Checked,
    Replay,
    Runner,
    StepStatus,
    chosen_experiments,
    find_replay,
    new_replay,
    read_series,
)
from adderlab.results import Result
from adderlab.runs.checkpoints import Checkpoint
from adderlab.runs.stored import Snapshots, read_snapshots


class HasFolder(Protocol):
    """What ``train``, ``search``, ``sweep`` and ``open_run`` return."""

    @property
    def folder(self) -> Path: ...


RunLike: TypeAlias = "str | os.PathLike[str] | HasFolder"
"""A run, a search, a rate or a sweep: its folder, or what the function that wrote it returned."""

EXPLORER = Path("explore.html")
EVIDENCE = (Path("records"), Path("results"))
"""Where evidence lies unless folders are named."""


@single_threaded()
def write_report(
    runs: RunLike | Sequence[RunLike], output: str | os.PathLike[str] | None = None
) -> Path:
    """One HTML file about a run, a search, a rate or a sweep, or about several: curves, what became of
    each seed or cell, attention, margins, failures, settings.

    It opens offline in any browser, light and dark; its script shows values under the pointer, and
    the seed that the reader chooses. ``output``: default ``report.html`` in the run's folder,
    ``results/report.html`` for several. Returns the file's path. A Python file among the runs is the one
    whose model they trained; it is run, to look into the model.

    Raises ``UsageError`` if a folder holds no run, ``Failure`` if the file cannot be written.
    """
    from adderlab.files.atomic import write_text
    from adderlab.report.page import report_page

    named = [path for path in _folders(runs) if path.suffix == ".py"]
    for path in named:
        read_file(path)
    evidence = [read_run(path) for path in _folders(runs) if path not in named]
    if not evidence:
        raise UsageError("name at least one run folder, for example results/runs/main")
    if output is None:
        output = evidence[0].path / "report.html" if len(evidence) == 1 else Path("results/report.html")
    refuse_foreign_page(Path(output))
    write_text(Path(output), report_page(evidence))
    return Path(output)


@single_threaded()
def explore(
    model: ModelLike,
    output: str | os.PathLike[str] = EXPLORER,
    *,
    certificate: str | os.PathLike[str] | None = None,
) -> Path:
    """One HTML file in which a reader types two numbers and watches the model add them: where each step
    looks, the number that it carries, its logits; moves the parameters; and sees a live count of how
    many of some thousand sampled pairs are still right.

    It opens offline in any browser and computes the model itself, in a script. ``certificate``: what is
    known of the model over all pairs; default: the file NAME.cert.json.gz beside its checkpoint NAME.pt,
    or the verdict of its run. Of a run, or of the folder of one of its seeds, that kept its weights
    (``checkpoint_every``) a slider walks through the seed's training. Returns the file's path.

    Raises ``UsageError`` for a model outside the table form, a certificate of another model, or an
    ``output`` that holds something else; ``Failure`` if it cannot be read or written.
    """
    from adderlab.report.explore import Explored, explorer_page

    output = Path(output)
    refuse_foreign_page(output)
    found = load(model)
    found.need_code()
    proof = _proof_of(model, found, None if certificate is None else Path(certificate))
    named = describe_model(found.config).split(" (")[0].split(":")[0]
    if named == "no preset":
        named = f"{found.num_parameters} parameters"
    seed = "" if found.seed is None else f"seed {found.seed}, "
    trained = f"{seed}step {found.step:,}; trained by {found.origin}" if found.step else found.origin
    about = f"{found.num_parameters} parameters, layout {found.config.layout}; {trained}"
    title = f"{named}: watch it add"
    kept = _snapshots_of(model, found)
    page = explorer_page(Explored(title=title, about=about, model=found, proof=proof, snapshots=kept))
    write_text(output, page)
    return output


def _snapshots_of(model: ModelLike, found: Checkpoint) -> Snapshots | None:
    """Those of the seed of a run whose best model is explored; None where none were kept."""
    folder = getattr(model, "folder", model)
    if found.seed is None or not isinstance(folder, str | os.PathLike) or not is_run(Path(folder)):
        return None
    return read_snapshots(Path(folder), found.seed)


def _proof_of(model: ModelLike, found: Checkpoint, certificate: Path | None) -> CertificateRecord | None:
    """What is known of a model over all pairs."""
    if certificate is None:
        folder = getattr(model, "folder", model)
        if isinstance(folder, str | os.PathLike) and is_run(Path(folder)):
            return read_run(Path(folder)).proof
        if found.path is None:
            return None
        certificate = found.path.with_suffix(".cert.json.gz")
        if not certificate.is_file():
            return None
    elif not certificate.is_file():
        raise UsageError(f"there is no file {certificate}; adderlab prove MODEL -o FILE writes one")
    problems: list[str] = []
    _, records = read_results([certificate], problems)
    if not records:
        raise Failure(problems[0] if problems else f"{certificate} is no certificate")
    if records[0].weights_sha256 != found.weights_sha256:
        raise UsageError(f"{certificate} is about other weights than those of {found.path or model}")
    return records[0]


def compare(runs: Sequence[RunLike]) -> Comparison:
    """Runs side by side: success rates, steps to grok, settings that differ; each against the first.

    Searches and rates stand beside runs; a sweep is replaced by its cells. Rates have 95% Wilson
    intervals, differences Newcombe's; the tests are Fisher's and the log-rank test
    (docs/statistics.md). Raises ``UsageError`` for fewer than two runs, ``Failure`` for a run
    without evaluations or without its settings.
    """
    return compare_runs([read_run(path) for path in _folders(runs)])


def write_log(
    paths: Iterable[str | os.PathLike[str]] = (), output: str | os.PathLike[str] | None = None
) -> Path:
    """The experiments log (Markdown) of all runs, replayed series, evaluations and certificates below
    ``paths``, by default the folders records and results.

    ``output``: by default EXPERIMENTS.md; in a clone whose git has that file, that one is written
    from ``records`` alone, and everything else goes to results/EXPERIMENTS.md. The same evidence gives
    the same text. Returns the file's path. Raises ``UsageError`` if there is no such path, or if
    ``output`` holds something that is no log, or a log that was edited: it is left as it is.
    """
    given = [Path(path) for path in paths]
    output = default_log(given) if output is None else Path(output)
    used = given or [path for path in EVIDENCE if path.is_dir()]
    if not used:
        raise UsageError("there is no folder records or results here; name where the runs are")
    for path in used:
        if not path.exists():
            raise UsageError(f"there is no file or folder {path}; check the name")
    command = ["adderlab", "log", *map(str, given)]
    if output not in (default_log(given), Path("/dev/stdout")):
        command += ["--output", str(output)]
    write_log_file(used, output, shlex.join(command))
    return output


@dataclass(frozen=True, kw_only=True)
class Replayed(Result):
    """How the replay of a series ended."""

    folder: Path
    """Its records."""
    log: Path
    status: StepStatus
    """done; failed or absent, if some step was; interrupted."""
    checked: tuple[Checked, ...]
    """The expectations of the experiments that were run."""

    @property
    def passed(self) -> bool:
        """Whether every step ran and every expectation was met."""
        return self.status == "done" and all(each.met is True for each in self.checked)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        checks = [{"expected": str(each.expectation), "met": each.met} for each in self.checked]
        return {
            "folder": str(self.folder),
            "log": str(self.log),
            "status": self.status,
            "checks": checks,
        }

    def describe(self) -> list[str]:
        """Lines for people."""
        return [f"Records: {self.folder}; log: {self.log}"]


def replay(
    file: str | os.PathLike[str],
    *,
    only: Sequence[str] = (),
    again: bool = False,
    records: str | os.PathLike[str] = "records",
    log: str | os.PathLike[str] | None = None,
    on_message: Callable[[str], None] = print,
) -> Replayed:
    """Run a declared series of experiments (a TOML file, docs/reproducing.md) in order, check what it
    expects, and write the log after every experiment.

    Goes on where an earlier replay of the same file stopped; ``again`` starts anew. ``only``: names of
    experiments. ``records``: folder of records, in which the series gets one of its own. ``log``: by
    default EXPERIMENTS.md, or results/EXPERIMENTS.md in a clone whose git has the first.

    Raises ``UsageError`` for a wrong file, wrong arguments of one of its commands, or a ``log`` that
    holds something else, all before anything runs.
    """
    file, records = Path(file), Path(records)
    log = default_log([]) if log is None else Path(log)
    runner, series = _command_line(), read_series(file)
    for _, _, step in series.steps():
        runner.check(step.command)
    experiments = chosen_experiments(series, only)
    refuse_foreign(log)
    found = None if again else find_replay(records, file)
    replayed = found or new_replay(records, file)
    if found and all(found.is_done(e, n) for e in experiments for n in range(len(e.step))):
        started = found.journal.started
        on_message(f"Already run: {found.path} (started {started}); --again runs it anew")
    return _carry_out(replayed, experiments, runner, log, on_message)


def _carry_out(
    replayed: Replay,
    experiments: Sequence[Any],
    runner: Runner,
    log: Path,
    on_message: Callable[[str], None],
) -> Replayed:
    records = replayed.path.parent
    worst: StepStatus = "done"
    checked: list[Checked] = []
    for experiment, status in replayed.run(experiments, runner, on_message):
        write_log_file([records], log, shlex.join(["adderlab", "log", str(records)]))
        worst = status if status != "done" else worst
        if status != "interrupted":
            found = replayed.check(experiment)
            for each in found:
                on_message(f"  {each}")
            checked += found
    return Replayed(folder=replayed.path, log=log, status=worst, checked=tuple(checked))


def _command_line() -> Runner:
    # A series is made of commands, and the command line is a client of this package: it is looked up
    # when a series is replayed, so that the packages stay a graph without circles.
    return importlib.import_module("adderlab.cli.main").CommandLine()


def _folders(runs: RunLike | Sequence[RunLike]) -> list[Path]:
    several: Sequence[Any] = runs if isinstance(runs, (list, tuple)) else [runs]
    return [Path(getattr(run, "folder", run)) for run in several]


# The report's drawings one by one, as SVG that stands alone: for notebooks, slides and papers.


@dataclass(frozen=True, kw_only=True, repr=False)
class Figure:
    """A drawing; a notebook shows it."""

    title: str
    svg: str
    """An SVG document with its own style, on white."""

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the SVG. Returns the path. Raises ``Failure`` if it cannot be written."""
        write_text(Path(path), self.svg)
        return Path(path)

    def _repr_svg_(self) -> str:
        return self.svg

    def __repr__(self) -> str:
        return f"Figure({self.title!r})"


@single_threaded()
def figures(source: ModelLike) -> dict[str, Figure]:
    """The report's drawings of a run or of a model, by name.

    Of a run (what ``train`` returns, or its folder): "grokking" (exact match over steps), "loss",
    "fitting" (of a finite training set: exact match on it and on validation pairs), "weight norm",
    "success" (share of seeds at 99%), "learned" (answer steps learned), "digits" (when each answer
    digit was learned, of the best seed), "digits of all" and "ends" (where every seed ended); and of
    its best model, or of the model given: "attention" (where each answer step looks; "attention 1", ...
    for further heads), "tokens" (the digits' embedding), "positions" and "margins" (by answer step).
    What there is no data for is left out.

    Raises ``UsageError`` if there is neither a run nor a model.
    """
    folder = getattr(source, "folder", source)
    found: dict[str, Figure] = {}
    model: Checkpoint | None
    if isinstance(folder, str | os.PathLike) and is_run(Path(folder)):
        run = read_run(Path(folder))
        model, histories, best = run.checkpoint, run.histories, run.best
        if not histories:
            raise UsageError(f"the run in {folder} has no evaluation yet: nothing to draw")
        found["grokking"] = _figure("Exact match over training steps", charts.grokking(histories, best))
        found["loss"] = _figure("Loss over training steps", charts.losses(histories, best))
        if best is not None and best.last.train_exact is not None:
            found["fitting"] = _figure("Training and validation pairs", charts.fitting(histories, best))
        if all(history.last.weight_norm is not None for history in histories):
            title = "Norm of all parameters over training steps"
            found["weight norm"] = _figure(title, charts.weight_norms(histories, best))
        known = [history for history in histories if history.last.step_acc]
        if len(histories) > 1:
            found["success"] = _figure("Share of the seeds at 99%", charts.success(histories))
            if known:
                found["learned"] = _figure("Answer steps learned", charts.learned(histories, best))
        if best is not None and best.last.step_acc:
            title = f"Accuracy of each answer step, seed {best.seed}"
            found["digits"] = _figure(title, charts.step_heat(best))
        if len(known) > 1:
            title = "Share of the seeds that have learned each answer step"
            found["digits of all"] = _figure(title, charts.learned_heat(known))
            found["ends"] = _figure("Where every seed ended", charts.final_heat(known))
    else:
        model = load(source)
    return found if model is None else found | _inside(model)


def _inside(model: Checkpoint) -> dict[str, Figure]:
    anatomy = dissect(model)
    found = {}
    for head in range(len(anatomy.attention_HIP)):
        name = f"attention {head}" if head else "attention"
        found[name] = _figure("Where each answer step looks", charts.attention(anatomy, head))
    if anatomy.digits is not None:
        found["tokens"] = _figure("Embedding of the ten digits", charts.scatter(anatomy.digits))
    if anatomy.positions is not None:
        drawing = charts.scatter(anatomy.positions, anatomy.position_kinds)
        found["positions"] = _figure("Position embedding", drawing)
    found["margins"] = _figure("Margin by answer step", charts.margins(anatomy, ()))
    return found


def _figure(title: str, drawing: str) -> Figure:
    """A drawing of the page -> a document of its own: name space, size, colours."""
    width, height = re.findall(r'viewBox="0 0 (\d+) (\d+)"', drawing)[0]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"'
    opened, body = drawing.replace("<svg", head, 1).split(">", 1)
    white = '<rect width="100%" height="100%" fill="#ffffff"/>'
    return Figure(title=title, svg=f"{opened}><style>{_STYLE}</style>{white}{body}")


def _style() -> str:
    """The page's rules for drawings, with the light colours in place of variables, which not every
    reader of SVG knows."""
    colours = dict(re.findall(r"(--\w+): ([^;]+);", STYLE[: STYLE.index("@media")]))
    rules = STYLE[STYLE.index("svg text {") : STYLE.index(".entry")]
    return re.sub(r"var\((--\w+)\)", lambda match: colours[match[1]], rules)


_STYLE = _style()

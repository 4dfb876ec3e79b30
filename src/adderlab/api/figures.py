"""The report's drawings one by one, as SVG that stands alone: for notebooks, slides and papers."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from adderlab.api.models import ModelLike, load
from adderlab.engine.select import single_threaded
from adderlab.errors import UsageError
from adderlab.files.atomic import write_text
from adderlab.report import figures as charts
from adderlab.report.evidence import is_run, read_run
from adderlab.report.figures import dissect
from adderlab.report.html import STYLE
from adderlab.runs.checkpoints import Checkpoint


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

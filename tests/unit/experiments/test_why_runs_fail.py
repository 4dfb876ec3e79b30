"""The failure study: its measures on cases with known answers, its files from a small run."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import why_runs_fail
import why_runs_fail_measures as measures
import why_runs_fail_text as text

from adderlab.engine.torch_tables import TorchEngine
from adderlab.errors import UsageError
from adderlab.models.tables import stack_parameters, tables
from adderlab.models.transformer import build_model
from adderlab.models.zoo import get_preset
from adderlab.report.evidence import SeedHistory
from adderlab.runs.records import Metrics
from adderlab.training.objective import objective_for
from adderlab.training.recipe import Recipe
from adderlab.training.run import Job, run

ROOT = Path(why_runs_fail.__file__).resolve().parents[1]
CONFIG = get_preset("456p").config


def circle(n: int, radius: float = 1.0) -> np.ndarray:
    angle = 2 * np.pi * np.arange(n) / n
    return radius * np.stack([np.cos(angle), np.sin(angle)], 1)


def test_columns_on_a_circle_are_all_extreme_and_scale_does_not_matter() -> None:
    keys = circle(10)
    margins = [measures.column_margin(keys, j) for j in range(10)]
    assert min(margins) > 0.15
    shifted = [measures.column_margin(7.0 * keys + 3.0, j) for j in range(10)]
    assert shifted == pytest.approx(margins, rel=1e-6)


def test_the_margin_of_a_square_is_known() -> None:
    """Corners (+-1, 0), (0, +-1), radius 1: q = (1, 0) leads the corner (1, 0) by 1 over its
    neighbours; axes and box may turn, but never below the lead along the corner itself."""
    corners = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    rectangle = corners * [1.0, 0.5]
    lead = measures.column_margin(rectangle, 0)
    # Root-mean-square radius sqrt(0.625); the axes are the rectangle's own.
    assert lead == pytest.approx(1 / np.sqrt(0.625), rel=1e-6)


def test_a_column_among_the_others_has_margin_zero() -> None:
    inside = np.vstack([circle(9), [[0.1, 0.2]]])
    assert measures.column_margin(inside, 9) == pytest.approx(0.0, abs=1e-9)
    on_edge = np.vstack([circle(4), [[0.5, 0.5]]])
    assert measures.column_margin(on_edge, 4) == pytest.approx(0.0, abs=1e-9)
    assert measures.column_margin(np.zeros((5, 3)), 0) == 0.0


def test_auc_counts_pairs_and_ties() -> None:
    success = np.array([True, True, False, False])
    assert measures.auc(np.array([3.0, 2.0, 1.0, 0.0]), success)["auc"] == 1.0
    assert measures.auc(np.array([1.0, 1.0, 1.0, 1.0]), success)["auc"] == 0.5
    assert measures.auc(np.array([3.0, 0.0, 1.0, 2.0]), success)["auc"] == 0.5
    assert measures.auc(np.array([1.0, 2.0, 3.0, 4.0]), np.ones(4, bool))["auc"] is None


def history(seed: int, *accuracies: tuple[float, ...], exact: float = 0.0) -> SeedHistory:
    """Evaluations 1000 steps apart."""
    evaluations = [
        Metrics(
            step=1000 * k,
            train_loss=1.0,
            val_exact=exact,
            val_token_acc=0.5,
            lr=0.02,
            elapsed_sec=0.0,
            step_acc=accuracy,
        )
        for k, accuracy in enumerate(accuracies)
    ]
    return SeedHistory(seed=seed, evaluations=tuple(evaluations))


def test_the_outcome_counts_learned_stuck_and_lost_steps() -> None:
    right, none = (1.0,) * 11, (0.1,) * 11
    histories = [
        history(0, none, right, exact=1.0),
        history(1, none, right, (0.1, *right[1:])),
        history(2, none, none),
        history(3, none, (0.73, *right[1:])),
    ]
    found = measures.outcome(histories)
    assert found["success"]["count"] == 1 and found["failed_missing_one_or_two"] == 2
    assert found["steps_learned_at_end"] == [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 1]
    units = found["per_answer_step"][0]
    assert (units["learned"], units["stuck"], units["at_chance"]) == (1, 3, 2)
    assert (units["ever_learned"], units["lost_again"]) == (2, 1)
    assert units["median_first_learned_at"] == 1000
    early = measures.prediction(histories, 2500)
    assert {row["step"] for row in early} == {1000, 2000}
    assert next(r["auc"] for r in early if r["of"] == "answer steps learned") == pytest.approx(2.5 / 3)


@torch.no_grad()
def test_attention_of_tables_with_a_known_answer() -> None:
    """Seed 0 looks at all positions alike; seed 1 looks at column i at step i."""
    form = tables(CONFIG, stack_parameters([build_model(CONFIG, seed) for seed in (0, 1)]))
    layout, (S, P, V) = form.form.layout, form.key.shape[:3]
    key, query = torch.zeros(S, P, V, 1, 10), torch.zeros(S, *form.query.shape[1:3], 1, 10)
    for j in range(10):
        key[1, [layout.a_positions[j], layout.b_positions[j]], :, 0, j] = 1.0
        query[1, j, :, 0, j] = 40.0
    planted = dataclasses.replace(
        form, form=dataclasses.replace(form.form, key_dim=10), key=key, query=query
    )
    found = measures.attention(planted)
    for i in range(11):
        visible = layout.query_positions[i] + 1
        assert found[0, i, :10] == pytest.approx(np.full(10, 2 / visible), abs=1e-6)
    assert found[1, :10, :10] == pytest.approx(np.eye(10), abs=1e-6)
    assert found.sum(2) == pytest.approx(np.ones((2, 11)), abs=1e-5)
    # Keys that are ten orthogonal directions are all extreme; equal keys are not.
    margin = measures.margins(planted)
    assert margin[0].max() == 0.0 and margin[1].min() > 0.5


@pytest.fixture(scope="module")
def population(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seeds, eleven steps, every seed kept."""
    folder = tmp_path_factory.mktemp("why") / "run"
    recipe = Recipe(steps=11, batch_size=16, val_size=30, test_size=20, eval_interval=5)
    job = Job(config=CONFIG, recipe=recipe, seeds=(5, 6, 7), folder=folder, keep="all")

    cpu = torch.device("cpu")
    run(job, objective_for(CONFIG, TorchEngine(), cpu), cpu)
    return folder


def test_numbers_and_figures_of_a_run(population: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(
        why_runs_fail, "select_engine", lambda *_, **__: TorchEngine()
    )  # the run's own engine: the film ends in its bits
    findings, notebook = tmp_path / "findings.md", tmp_path / "notebook.md"
    pages = {findings: text.marks("summary"), notebook: text.marks("measured")}
    for page, (begin, end) in pages.items():
        page.write_text(f"before\n{begin}\nold\n{end}\nafter\n")
    options = ["-o", str(tmp_path / "figures"), "--film", "6"]
    options += [option for page in pages for option in ("--document", str(page))]
    assert why_runs_fail.main([str(population), *options]) == 0
    assert "0 of 3 seeds succeed" in capsys.readouterr().out
    numbers = json.loads((tmp_path / "figures/why-runs-fail.json").read_text())
    assert numbers["parameters"] == 456 and numbers["outcome"]["seeds"] == 3
    steps = [numbers["geometry"][name]["answer_steps"] for name in ("learned", "unsettled", "stuck")]
    assert sum(steps) == 3 * 10
    assert numbers["films"][0]["ends_in_the_same_bits"] is True
    drawn = sorted(path.name for path in (tmp_path / "figures").glob("*.svg"))
    assert len(drawn) == 12
    for name in drawn:
        svg = (tmp_path / "figures" / name).read_text()
        assert svg.startswith('<svg xmlns="http://www.w3.org/2000/svg"') and "nan" not in svg
    expected = {findings: ("- 0/3 = 0.0%", 2), notebook: ("3 seeds of 456 parameters", 13)}
    for page, (begin, end) in pages.items():
        written, (opening, links) = page.read_text(), expected[page]
        assert written.startswith(f"before\n{begin}\n{opening}") and "old" not in written
        assert written.endswith(f"{end}\nafter\n") and "0/3 = 0.0% [0.0%, 56.1%]" in written
        shown = re.findall(r"\((figures/[^)]+)\)", written)
        assert len(shown) == links and all((tmp_path / path).is_file() for path in shown)


def test_no_output_names_a_folder_of_this_machine(population: Path, tmp_path: Path) -> None:
    assert why_runs_fail.main([str(population), "-o", str(tmp_path)]) == 0
    numbers = json.loads((tmp_path / "why-runs-fail.json").read_text())
    assert numbers["runs"] == ["run"]
    assert numbers["command"] == f"python experiments/why_runs_fail.py run -o {tmp_path.name}"
    inside = ROOT / "results" / "runs" / "one"
    assert why_runs_fail.from_root(inside) == "results/runs/one"
    assert why_runs_fail.from_root("2001") == "2001"


def test_the_committed_pages_are_written_from_the_committed_numbers(tmp_path: Path) -> None:
    docs = ROOT / "docs"
    numbers = json.loads((docs / "figures" / "why-runs-fail.json").read_text())
    for name in ("why-runs-fail.md", "lab-notebook.md"):
        committed = (docs / name).read_text()
        (tmp_path / name).write_text(committed)
        text.fill(tmp_path / name, numbers, tmp_path / "figures")
        assert (tmp_path / name).read_text() == committed
        for path in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", committed):
            assert (docs / path).exists(), f"{name}: {path}"


def test_runs_that_do_not_fit_are_refused(population: Path, tmp_path: Path, capsys) -> None:
    (population / "seed_0006/checkpoints/last.pt").rename(tmp_path / "last.pt")
    try:
        assert why_runs_fail.main([str(population), "-o", str(tmp_path)]) == 2
        assert "--keep all" in capsys.readouterr().err
    finally:
        (tmp_path / "last.pt").rename(population / "seed_0006/checkpoints/last.pt")
    assert why_runs_fail.main([str(population), str(population), "-o", str(tmp_path)]) == 2
    assert "in two of these runs" in capsys.readouterr().err
    assert why_runs_fail.main([str(population), "-o", str(tmp_path), "--film", "9"]) == 2
    assert "no such seed" in capsys.readouterr().err
    without = ["--document", str(tmp_path / "none.md")]
    assert why_runs_fail.main([str(population), "-o", str(tmp_path), *without]) == 2
    assert "no section to write" in capsys.readouterr().err
    (tmp_path / "twice.md").write_text("<!-- summary: begin -->\n<!-- summary: begin -->\n")
    with pytest.raises(UsageError, match="once each"):
        text.fill(tmp_path / "twice.md", {}, tmp_path)

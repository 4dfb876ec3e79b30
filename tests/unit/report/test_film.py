"""What reports and explorers show of finite training sets, and of weights kept step by step."""

import json
import re
from html import unescape
from pathlib import Path

import pytest
import torch

import adderlab as al
from adderlab.engine.torch_tables import TorchEngine
from adderlab.evaluation.suites import fresh
from adderlab.format import percent
from adderlab.models.tables import tables
from adderlab.report.describe import describe_seeds
from adderlab.report.evidence import read_run
from adderlab.report.seeds import LEVELS, PAIRS, frames
from adderlab.runs.records import SeedRecord
from adderlab.runs.stored import read_snapshots
from helpers.javascript import chromium
from helpers.pages import Page
from helpers.snapshots import CONFIG, train


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("film") / "run"
    train(folder)
    return folder


@pytest.fixture(scope="module")
def page(run: Path) -> str:
    return al.write_report(run).read_text()


def film_data(page: str) -> list[dict]:
    return [json.loads(unescape(data)) for data in re.findall(r'data-film="([^"]*)"', page)]


def test_a_report_shows_train_accuracy_weight_norms_and_a_film_of_every_seed(page: str) -> None:
    text = Page(page).text
    for words in (
        "Training and validation pairs",
        "Each seed trains on 12 pairs, drawn once.",
        "Weight norm",
        "On their own training pairs 0 of 2 seeds reached 99%.",
        "The film of seed 3",
        "The film of seed 4",
        "7 of 7 snapshots",
    ):
        assert words in text, words
    data = film_data(page)
    assert [len(each["looks"]) for each in data] == [7, 7]
    grid = data[0]["looks"][0][0]
    assert len(grid) == 3 * CONFIG.token_layout.num_positions and set(grid) <= set(LEVELS)


def test_a_frame_is_what_the_engine_computes_of_that_snapshot(run: Path) -> None:
    kept = read_snapshots(run, 4)
    assert kept is not None
    frame = frames(kept)[3]
    layout = CONFIG.token_layout
    form = tables(CONFIG, {name: tensor[3:4] for name, tensor in kept.stacked().items()})
    (group,) = fresh(PAIRS, addition=layout.addition).groups
    tokens_BP, targets_BA = layout.encode(group.a_BJ, group.b_BJ)
    margin_BI = TorchEngine().margins(form, tokens_BP[None], targets_BA[None])[0, :, :3]
    assert frame.step == 12 and frame.exact == float((margin_BI > 0).all(1).double().mean())
    assert frame.right_I == tuple((margin_BI > 0).double().mean(0).tolist())
    assert all(low <= float(own) for low, own in zip(frame.smallest_I, margin_BI.amin(0), strict=True))
    for row in frame.look_HIP[0]:
        assert sum(row) == pytest.approx(1.0, abs=1e-5)


def test_a_run_of_one_seed_has_a_film_too(run: Path) -> None:
    page = al.write_report(run / "seed_0004", run / "one.html").read_text()
    (own,) = film_data(page)
    assert own["texts"][-1].startswith("Step 24:") and "of the training pairs" in own["texts"][-1]


def test_without_a_pool_or_snapshots_nothing_of_it_is_there(tmp_path: Path) -> None:
    train(tmp_path / "run", every=None)
    page = al.write_report(tmp_path / "run").read_text()
    assert not film_data(page) and "Training and validation pairs" in page


def test_the_sentence_says_how_much_later_the_rest_came() -> None:
    known = SeedRecord(seed=0, steps=900, train_exact=1.0, first_fitted_step=200, first_success_step=700)
    assert describe_seeds([known])[1] == (
        f"On its own training pairs: {percent(1.0)} at the end, 99% first at step 200; validation 500 "
        "steps later."
    )
    other = SeedRecord(seed=1, steps=900, train_exact=1.0, first_fitted_step=400)
    assert describe_seeds([known, other])[1] == (
        "On their own training pairs 2 of 2 seeds reached 99%, by the median at step 300; 1 of those "
        "reached 99% of their validation pairs too, by the median 500 steps later."
    )


def test_an_explorer_walks_through_the_training_of_a_run_or_a_seed(run: Path, tmp_path: Path) -> None:
    kept = read_snapshots(run, read_run(run).checkpoint.seed)  # type: ignore[union-attr]
    for folder in (run, run / f"seed_{kept.seed:04d}"):  # type: ignore[union-attr]
        page = al.explore(folder, tmp_path / "e.html").read_text()
        model = json.loads(re.search(r"const MODEL = (.*);\n", page)[1])  # type: ignore[index]
        assert model["film"]["steps"] == list(kept.steps) and 'id="time"' in page  # type: ignore[union-attr]
    plain = al.explore(run / "checkpoints" / "best.pt", tmp_path / "e.html").read_text()
    assert 'id="time"' not in plain and '"film":null' in plain


@pytest.mark.slow
def test_the_sliders_move_both(run: Path, page: str, tmp_path: Path) -> None:
    """In Chromium: report and explorer show the first snapshot when their slider is there."""
    found, said = chromium(
        page,
        """const part = document.querySelector("[data-film]"), own = part.querySelector("input");
        own.value = 0;
        own.dispatchEvent(new Event("input"));
        document.getElementById("test-result").textContent = JSON.stringify([
            part.querySelector(".at").textContent, part.querySelectorAll("rect.cell").length,
            part.querySelector("table").rows[1].cells[1].textContent]);""",
        tmp_path,
    )
    first = film_data(page)[0]
    cells = sum(map(len, first["looks"][0]))
    assert found == [first["texts"][0], cells, first["right"][0][0]] and not said
    seed = read_run(run).checkpoint.seed  # type: ignore[union-attr]
    kept = read_snapshots(run, seed)
    assert kept is not None
    explorer = al.explore(run, tmp_path / "e.html").read_text()
    found, said = chromium(
        explorer,
        """find("time").value = 0;
        find("time").dispatchEvent(new Event("input"));
        const moved = [current.flat(), find("time-note").textContent];
        find("checkpoint").click();
        const all = JSON.stringify([...moved, current.flat()]);
        document.getElementById("test-result").textContent = all;""",
        tmp_path,
    )
    flat = torch.tensor(found[0], dtype=torch.float32)
    assert torch.equal(flat.sort().values, kept.weights_FN[0].sort().values)
    assert found[1] == "After step 0." and found[2] != found[0] and not said


def test_figures_of_such_a_run_stand_alone(run: Path) -> None:
    found = al.figures(run)
    assert (
        found["fitting"].svg.count("seed 3, training pairs")
        + found["fitting"].svg.count("seed 4, training pairs")
        == 1
    )
    assert ".train {" in found["fitting"].svg and "weight norm" in found

"""The explorer: its script answers as Python does, its page fetches nothing and can be played with."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import adderlab as al
from adderlab.cli.main import main
from adderlab.engine.javascript import ENGINE, script
from adderlab.engine.torch_tables import TorchEngine
from adderlab.errors import UsageError
from adderlab.evaluation.suites import strata
from adderlab.models.tables import stack_parameters
from adderlab.models.transformer import build_model
from adderlab.report.explore import Explored, explorer_page
from helpers.javascript import chromium, node
from helpers.paths import ROOT
from helpers.user_files import written

BEST = ROOT / "records" / "best"
MY_ADDER = ROOT / "examples" / "my_adder.py"
REPORT = ROOT / "src" / "adderlab" / "report"
MOST_BYTES = 400_000
PRESETS = sorted(path.name for path in BEST.iterdir() if path.is_dir())


def sampled(model: al.Model) -> tuple[list[tuple[list[int], list[int]]], torch.Tensor]:
    """320 pairs of all strata as digits, and the smallest margin that the torch engine gives each."""
    groups, layout = strata(10).groups, model.config.token_layout
    a_BJ = torch.cat([group.a_BJ for group in groups])
    b_BJ = torch.cat([group.b_BJ for group in groups])
    tokens_BP, targets_BA = layout.encode(a_BJ, b_BJ)
    margins = TorchEngine().margins(model.tables(), tokens_BP[None], targets_BA[None])[0]
    least_B = margins[:, : layout.num_decided].min(1).values
    return list(zip(a_BJ.tolist(), b_BJ.tolist(), strict=True)), least_B


def asked(model: al.Model, then: str) -> str:
    """A script that makes the model and runs ``then`` with ``pairs`` of ``sampled``."""
    made, (pairs, _) = script(model.config, model.params), sampled(model)
    values = [value.flatten().tolist() for value in made.parameters.values()]
    return f"""{made.source}
    const values = {json.dumps(values)}, pairs = {json.dumps(pairs)};
    const engine = createEngine({json.dumps(made.form)});
    engine.setParameters(values);
    {then}"""


SLOW_MODELS = [pytest.param(BEST / name / "model.pt", marks=pytest.mark.slow) for name in PRESETS[:-1]]


@pytest.mark.parametrize("path", [BEST / "7p" / "model.pt", MY_ADDER, *SLOW_MODELS])
def test_the_script_answers_as_python_does(path: Path) -> None:
    model = al.load(path)
    found = node(
        asked(
            model,
            """console.log(JSON.stringify(pairs.map(([a, b]) => {
                const own = engine.answer(a, b);
                return [engine.smallest(a, b, false), own.right, own.steps.map((s) => s.token)];
            })));""",
        )
    )
    pairs, least_B = sampled(model)
    assert [margin for margin, _, _ in found] == pytest.approx(least_B.tolist(), abs=1e-9)
    assert [right for _, right, _ in found] == (least_B > 0).tolist()
    for k in range(0, len(pairs), 40):
        a, b = (int("".join(map(str, reversed(digits)))) for digits in pairs[k])
        assert tuple(found[k][2][:11]) == al.predict(model, a, b).tokens


def test_a_soft_cap_on_scores_is_computed_too(tmp_path: Path) -> None:
    old = "self.query(position) @ self.key(position).T / WIDTH**0.5"
    text = MY_ADDER.read_text()
    assert old in text
    seen = "self.query(self.token(tokens)) @ self.key(self.token(tokens)).transpose(1, 2)"
    path = written(text.replace(old, f"3 * torch.tanh({seen})"), tmp_path / "capped.py")
    model = al.load(path)
    assert "score_scale" in script(model.config, model.params).form["tables"]
    found = node(
        asked(model, "console.log(JSON.stringify(pairs.map(([a, b]) => engine.smallest(a, b))));")
    )
    assert found == pytest.approx(sampled(model)[1].tolist(), abs=1e-6)


def test_moved_parameters_move_the_tables_as_python_computes_them() -> None:
    model = al.load(BEST / "7p" / "model.pt")
    moved = {name: tensor * 1.01 + 0.01 for name, tensor in model.params.items()}
    found = node(
        asked(
            model,
            """engine.setParameters(values.map((own) => own.map((v) => v * 1.01 + 0.01)));
            const made = Object.entries(engine.tables());
            console.log(JSON.stringify(made.map(([name, own]) => [name, Array.from(own)])));""",
        )
    )
    tables = dict(replace(model, params=moved).tables().items())
    assert [name for name, _ in found] == list(tables)
    for name, numbers in found:
        wanted = tables[name].flatten()
        torch.testing.assert_close(torch.tensor(numbers).double(), wanted, rtol=1e-5, atol=1e-5)


def test_the_page_fetches_nothing_and_is_small(tmp_path: Path) -> None:
    output = tmp_path / "explore.html"
    assert main(["explore", str(BEST / "7p" / "model.pt"), "-o", str(output)]) == 0
    text = output.read_text()
    assert len(text.encode()) < MOST_BYTES
    assert not re.search(r"https?:|\bsrc=|\bhref=|@import|url\(", text)
    assert "default-src 'none'" in text
    assert "Yes, proved" in text and "9000001000 + 9999999000" in text


@pytest.mark.parametrize("name", ["7p", "36p", "456p"])
def test_the_pages_of_the_documents_are_those_that_would_be_written_now(name: str) -> None:
    text = (ROOT / "docs" / "explore" / f"{name}.html").read_text()
    sources = [REPORT / "explore.js", REPORT / "player.js", REPORT / "explore.css", ENGINE]
    old = [path.name for path in sources if path.read_text() not in text]
    assert not old, (
        f"write docs/explore/{name}.html again: adderlab explore records/best/{name}/model.pt"
    )
    assert len(text.encode()) < MOST_BYTES


def test_a_model_without_a_certificate_is_said_to_be_undecided(tmp_path: Path) -> None:
    model = al.load(BEST / "7p" / "model.pt").save(tmp_path / "model.pt")
    text = al.explore(model, tmp_path / "explore.html").read_text()
    assert "not decided here" in text and "Yes, proved" not in text


def test_a_file_that_is_no_page_of_ours_is_left_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "notes.html"
    own.write_text("<p>mine</p>")
    assert main(["explore", str(BEST / "7p" / "model.pt"), "-o", str(own)]) == 2
    assert own.read_text() == "<p>mine</p>" and "left as it is" in capsys.readouterr().err


def test_a_certificate_of_other_weights_is_refused(tmp_path: Path) -> None:
    certificate = BEST / "8p" / "model.cert.json.gz"
    with pytest.raises(UsageError, match="other weights"):
        al.explore(BEST / "7p" / "model.pt", tmp_path / "e.html", certificate=certificate)


PLAY = """
const wait = () => new Promise((done) => {
    const ask = () => find("live-count").dataset.done === "true" ? done() : setTimeout(ask, 20);
    setTimeout(ask, 50);
});
(async () => {
    await wait();
    const before = find("live-count").textContent;
    const shownPair = [find("a").value, find("b").value];
    const margin = shown.steps.reduce((low, s) => Math.min(low, s.margin), Infinity);
    const range = document.querySelector("#sliders input[type=range]");
    range.value = -500;
    range.dispatchEvent(new Event("input"));
    await wait();
    const after = find("live-count").textContent;
    const canFail = !find("failing").disabled;
    find("failing").click();
    const failed = find("outcome").textContent.trim();
    find("reset").click();
    await wait();
    const back = find("live-count").textContent;
    find("a").value = "19x";
    find("a").dispatchEvent(new Event("input"));
    const problem = find("problem").textContent;
    const requests = performance.getEntriesByType("resource").length;
    document.getElementById("test-result").textContent = JSON.stringify(
        { before, after, back, canFail, failed, problem, shownPair, margin, requests });
})();
"""


@pytest.mark.slow
@pytest.mark.parametrize("path", [BEST / "7p" / "model.pt", BEST / "456p" / "model.pt", "exported"])
def test_a_slider_breaks_the_model_and_the_count_falls(path: Path | str, tmp_path: Path) -> None:
    if path == "exported":
        path = tmp_path / "submission.py"
        al.export(BEST / "67p" / "model.pt", to="adderboard", output=path, prove=False, suites=())
    page = al.explore(path, tmp_path / "explore.html").read_text()
    assert len(page.encode()) < MOST_BYTES
    found, said = chromium(page, PLAY, tmp_path)
    assert not said
    assert found["requests"] == 0
    assert found["before"] == found["back"] == "2,560 of 2,560"
    assert int(found["after"].split()[0].replace(",", "")) < 2560
    assert found["canFail"] and found["failed"].startswith("Wrong")
    assert found["problem"].startswith("19x is no number")
    model = al.load(path)
    least = min(pair_margin(model, *map(int, found["shownPair"])))
    assert found["margin"] == pytest.approx(least, abs=1e-3)


def pair_margin(model: al.Model, a: int, b: int) -> list[float]:
    digits = [torch.tensor([[int(d) for d in f"{x:010d}"[::-1]]], dtype=torch.uint8) for x in (a, b)]
    tokens, targets = model.config.token_layout.encode(*digits)
    margins = TorchEngine().margins(model.tables(), tokens[None], targets[None])
    return margins[0, 0, : model.config.token_layout.num_decided].tolist()


def test_a_page_cannot_be_broken_out_of() -> None:
    model = al.load(BEST / "7p" / "model.pt")
    text = explorer_page(Explored(title="</title><b>broken", about="<script>", model=model))
    assert "<b>broken" not in text and text.count("<script") == 1


def test_other_columns_and_bases_are_computed_too() -> None:
    config = al.preset("456p", columns=3, base=12).config
    params = {name: t[0] for name, t in stack_parameters([build_model(config, 0)]).items()}
    model = al.Model(
        config=config, params=params, recipe={}, step=0, val_exact=0.0, seed=0, origin="adderlab"
    )
    groups, layout = strata(10, addition=config.token_layout.addition).groups, config.token_layout
    pairs = [p for group in groups for p in zip(group.a_BJ.tolist(), group.b_BJ.tolist(), strict=True)]
    made = script(config, params)
    values = [value.flatten().tolist() for value in made.parameters.values()]
    found = node(
        f"""{made.source}
        const engine = createEngine({json.dumps(made.form)});
        engine.setParameters({json.dumps(values)});
        console.log(JSON.stringify([engine.digits("0b3"),
            {json.dumps(pairs)}.map(([a, b]) => engine.smallest(a, b))]));"""
    )
    tokens, targets = layout.encode(
        *(torch.tensor(own, dtype=torch.uint8) for own in zip(*pairs, strict=True))
    )
    margins = TorchEngine().margins(model.tables(), tokens[None], targets[None])[0]
    assert found[0] == [3, 11, 0]
    assert found[1] == pytest.approx(margins[:, : layout.num_decided].min(1).values.tolist(), abs=1e-9)
    text = explorer_page(Explored(title="t", about="a", model=model))
    assert "Right on all 12^6 pairs?" in text and '"first":["' in text

"""The report: one file that opens offline, says first what a reader asks first, and can be read."""

import gzip
import json
import os
import re
import shutil
import struct
import subprocess
import zlib
from html import unescape
from pathlib import Path

import numpy as np
import pytest

from adderlab.cli.main import main
from adderlab.files.schema import to_dict
from adderlab.models.config import ModelConfig
from adderlab.models.zoo import get_preset
from adderlab.recipes import named_for
from adderlab.report import figures as charts
from adderlab.report.evidence import read_run
from adderlab.report.figures import cloud, dissect, held, name_places, position_names, scatter
from adderlab.report.html import Plot, ticks
from adderlab.task.addition import LAYOUTS, get_layout
from helpers.evidence import CERTIFICATE, EVALUATION
from helpers.golden import Golden
from helpers.javascript import chromium
from helpers.pages import Page
from helpers.reference import proved_model
from helpers.runs import GROKS, LATE, LOST, NEVER, checkpoint, write_run


def population(path: Path) -> Path:
    curves = {seed: (GROKS, LATE, NEVER, LOST)[seed % 4] for seed in range(32)}
    return write_run(path, curves)


def report(*runs: Path, output: Path) -> Page:
    assert main(["report", *map(str, runs), "--output", str(output)]) == 0
    return Page(output.read_text())


@pytest.fixture(scope="module")
def proved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A population with an evaluation, and a certificate of its best checkpoint."""
    path = population(tmp_path_factory.mktemp("page") / "run")
    run = read_run(path)
    assert run.checkpoint is not None
    own = {"weights_sha256": run.checkpoint.weights_sha256}
    (path / "evaluation.json").write_text(json.dumps({**EVALUATION, **own}))
    (path / "best.cert.json.gz").write_bytes(gzip.compress(json.dumps({**CERTIFICATE, **own}).encode()))
    (path / "notes.md").write_text("Watch seed 3 <b>closely</b>.")
    return path


def test_the_top_answers_what_a_reader_asks_first(proved: Path, tmp_path: Path, golden: Golden) -> None:
    golden("report/page_proved.txt", report(proved, output=tmp_path / "r.html").above("Grokking"))


def test_the_header_names_model_recipe_seeds_and_date(tmp_path: Path) -> None:
    preset = get_preset("456p")
    settings = to_dict(named_for(preset, "best").recipe)
    path = write_run(tmp_path / "run", {0: GROKS, 1: NEVER, 5: NEVER}, changes=settings)
    text = report(path, output=tmp_path / "r.html").above("Grokking")
    assert "model: 456p (456 parameters)" in text and "seeds: 0-1,5" in text
    assert f"recipe: {named_for(preset, 'best').name}" in text and "date: 2026-11-20" in text


def test_everything_promised_is_there(proved: Path, tmp_path: Path) -> None:
    text = report(proved, output=tmp_path / "r.html").text
    for words in (
        "Success rate",
        "Answer steps over time: seed 0",
        "Answer steps over time: all seeds",
        "Where every seed ended",
        "Where each answer step looks",
        "Token embedding of the ten digits",
        "Position embedding",
        "Margin by answer step",
        "bound over all pairs, from the certificate",
        "The worst pair",
        "12 of 100,000 pairs wrong",
        "00000000004",
        "Watch seed 3 <b>closely</b>.",
        "adderlab train 456p --seeds 0-3",
        "recipe.lr",
        "environment.torch",
    ):
        assert words in text, words


def test_nothing_is_fetched_and_nothing_runs(proved: Path, tmp_path: Path) -> None:
    page = report(proved, output=tmp_path / "r.html")
    assert not [a for a in page.attributes if a[0] in ("script", "link", "iframe", "img")]
    assert not [a for a in page.attributes if a[1] in ("src", "href") or a[1].startswith("on")]
    html = (tmp_path / "r.html").read_text().replace('http-equiv="Content-Security-Policy"', "")
    assert "http" not in html and "@import" not in html and "url(" not in html


def test_no_seed_grokked_nothing_proved(tmp_path: Path, monkeypatch, golden: Golden) -> None:
    monkeypatch.chdir(tmp_path)
    page = report(write_run(Path("run"), {0: NEVER, 1: NEVER}), output=Path("r.html"))
    golden("report/page_not_grokked.txt", page.above("Grokking"))
    assert "No evaluation is in the run folder" in page.text


def test_a_run_without_tables_or_checkpoint_still_has_a_report(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", {0: GROKS, 1: NEVER})
    for name in ("seed_metrics.csv", "seeds.json", "seeds.csv"):
        (path / name).unlink()
    (path / "checkpoints" / "best.pt").unlink()
    text = report(path, output=tmp_path / "r.html").text
    assert "seed_metrics.csv is missing" in text and "Did it grok? not known" in text
    assert "Inside the best checkpoint" not in text


def test_several_runs_are_compared_at_the_top(proved: Path, tmp_path: Path, golden: Golden) -> None:
    other = write_run(tmp_path / "other", {s: NEVER for s in range(8)}, changes={"lr": 0.01})
    golden(
        "report/page_of_two_runs.txt",
        report(proved, other, output=tmp_path / "r.html").above("Grokking"),
    )


def test_wrong_use_is_one_line(tmp_path: Path, capsys) -> None:
    assert main(["report"]) == 2
    assert main(["report", str(tmp_path / "nowhere")]) == 2
    assert "nowhere" in capsys.readouterr().err


# Numbers behind the drawings


def test_attention_of_a_known_model() -> None:
    """Our 67p adder: digit i of the sum looks at column i of both operands."""
    anatomy = dissect(proved_model("67p"))
    (head,) = anatomy.attention_HIP
    assert all(sum(row) == pytest.approx(1.0, abs=1e-5) for row in head)
    for i in range(10):
        ranked = sorted(range(len(head[i])), key=lambda p: head[i][p], reverse=True)
        assert {anatomy.position_names[p] for p in ranked[:2]} == {f"a{i}", f"b{i}"}
    assert min(m.smallest for m in anatomy.margins) == pytest.approx(1.4267, rel=0.15)
    assert anatomy.worst.right


def test_attention_and_margins_are_those_of_the_readable_model() -> None:
    """Against the full-sequence model, with its attention weights computed by hand."""
    import torch

    from adderlab.evaluation.suites import fresh
    from adderlab.models.tables import tables
    from adderlab.report.figures import _margins, _oracle_margins

    some = checkpoint(3, 0, 0.0)
    form = tables(some.config, some.stacked())
    quick, n = _margins(some, form)
    slow, m = _margins(some, None)
    assert n == m
    for one, other in zip(quick, slow, strict=True):
        assert one.smallest == pytest.approx(other.smallest, abs=1e-4)
        assert one.median == pytest.approx(other.median, abs=1e-4)
    group = fresh(10).groups[0]
    tokens, targets = some.config.token_layout.encode(group.a_BJ, group.b_BJ)
    margin_BI = _oracle_margins(some, tokens, targets)
    with torch.no_grad():
        logits = some.module().answer_logits(tokens)[0, 0].tolist()
    right = logits.pop(int(targets[0, 0]))
    assert float(margin_BI[0, 0]) == pytest.approx(right - max(logits), abs=1e-5)


def test_every_kind_of_model_can_be_dissected() -> None:
    two_layers = ModelConfig(n_layer=2)
    anatomy = dissect(checkpoint(0, 0, 0.0, two_layers))
    assert anatomy.attention_HIP == () and anatomy.no_tables and len(anatomy.margins) == 11
    heads = dissect(checkpoint(0, 0, 0.0, ModelConfig(d_model=8, n_head=2)))
    assert len(heads.attention_HIP) == 2
    rotary = dissect(checkpoint(0, 0, 0.0, get_preset("122p").config))
    assert rotary.positions is None


def test_position_names_of_every_layout() -> None:
    for name in LAYOUTS:
        layout = get_layout(name)
        names, kinds = position_names(layout)
        assert len(names) == len(kinds) == layout.num_positions and all(names)
    names, kinds = position_names(get_layout("P"))
    assert names[:2] == ("a9", "a8") and names[10] == "+" and names[22:24] == ("s0", "s1")
    assert kinds[0] == "a" and kinds[10] == "" and kinds[20] == "b"


def test_principal_components_against_the_covariance() -> None:
    import torch

    rows = torch.tensor(np.random.default_rng(0).normal(size=(12, 5)) * [5, 3, 1, 0.5, 0.1])
    found = cloud(rows, tuple(map(str, range(12))))
    values = np.linalg.eigvalsh(np.cov(rows.numpy().T))
    assert found.shares == pytest.approx((values[-1] / values.sum(), values[-2] / values.sum()))
    xy = np.array(found.points)
    assert xy.mean(0) == pytest.approx([0, 0], abs=1e-12)
    assert xy[:, 0] @ xy[:, 1] == pytest.approx(0, abs=1e-9)


def test_a_finished_seed_keeps_its_last_value(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run", {0: [0.0, 1.0], 1: [0.0, 0.1, 0.2, 0.3]}))
    first, second = run.histories
    steps = charts.steps_of(run.histories)
    assert steps == [0, 1000, 2000, 3000]
    assert held(first, steps, lambda m: m.val_exact) == [0.0, 1.0, 1.0, 1.0]
    assert held(second, steps, lambda m: m.val_exact) == pytest.approx([0.0, 0.1, 0.2, 0.3])


def test_names_in_a_scatter_do_not_overlap() -> None:
    import torch

    rows = torch.tensor(np.random.default_rng(1).normal(size=(33, 7)))
    found = cloud(rows, tuple(f"a{k}" for k in range(33)))
    plot = Plot(x=(-5, 5), y=(-5, 5), width=640, height=460)
    boxes = [(x, y - 11, x + 15, y) for x, y in filter(None, name_places(plot, found))]
    assert len(boxes) >= 15
    for k, (x0, y0, x1, y1) in enumerate(boxes):
        for left, top, right, bottom in boxes[:k]:
            assert x1 <= left or right <= x0 or y1 <= top or bottom <= y0
    assert scatter(found).count("<circle") == 33


def test_ticks_are_round_and_inside() -> None:
    assert ticks(0, 1) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert ticks(0, 53_999, 6) == pytest.approx([0, 10_000, 20_000, 30_000, 40_000, 50_000])


# A real browser

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def browse(html: Path, *flags: str) -> str:
    """Run a headless browser on a page; what it prints."""
    if CHROMIUM is None:
        pytest.skip("no chromium here (apt-get install chromium)")
    folder = html.parent
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    command += [f"--user-data-dir={folder / 'profile'}", *flags, html.as_uri()]
    environment = os.environ | {"HOME": str(folder)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_seed_is_chosen_and_values_are_shown(proved: Path, tmp_path: Path) -> None:
    report(proved, output=tmp_path / "r.html")
    folder = tmp_path / "browser"
    folder.mkdir()
    found, said = chromium(
        (tmp_path / "r.html").read_text(),
        """
        const choice = document.querySelector("select[data-seeds]");
        const visible = () => [...document.querySelectorAll("[data-inside]")]
            .filter((own) => !own.hidden).map((own) => own.textContent);
        const before = visible();
        choice.value = "2";
        choice.dispatchEvent(new Event("change"));
        const chosen = [...document.querySelectorAll("path.chosen")].map((path) => path.dataset.name);
        const svg = document.querySelector("svg[data-plot]"), box = svg.getBoundingClientRect();
        const [x, y] = pointsOf(svg.querySelector("path.best")).at(-1);
        const scale = box.width / svg.viewBox.baseVal.width;
        svg.dispatchEvent(new PointerEvent("pointermove",
            { clientX: box.left + x * scale, clientY: box.top + y * scale }));
        document.getElementById("test-result").textContent = JSON.stringify(
            { before, after: visible(), chosen, tip: document.querySelector(".tip").textContent });
        """,
        folder,
    )
    assert not said
    assert len(found["before"]) == len(found["after"]) == 1
    assert "Where each step of seed 0 looks" in found["before"][0]
    assert "not learned: s_" in found["after"][0] and "--keep all" in found["after"][0]
    assert set(found["chosen"]) == {"seed 2"}
    assert ", step 3,000: 100.0%" in found["tip"]


LOOK = """<script>
const found = {overlaps: [], small: [], wide: document.documentElement.scrollWidth > window.innerWidth};
for (const svg of document.querySelectorAll("svg")) {
  const boxes = [...svg.querySelectorAll("text")].map(t => [t, t.getBoundingClientRect()])
    .filter(([, b]) => b.width > 0);
  const edge = svg.getBoundingClientRect();
  boxes.forEach(([t, b], k) => {
    if (parseFloat(getComputedStyle(t).fontSize) * edge.width / svg.viewBox.baseVal.width < 9)
      found.small.push(t.textContent);
    if (b.left < edge.left - 1 || b.right > edge.right + 1 || b.bottom > edge.bottom + 1)
      found.overlaps.push([t.textContent, "(edge)"]);
    for (const [u, c] of boxes.slice(0, k))
      if (b.left < c.right - 1 && c.left < b.right - 1 && b.top < c.bottom - 3 && c.top < b.bottom - 3)
        found.overlaps.push([t.textContent, u.textContent]);
  });
}
document.body.setAttribute("data-found", JSON.stringify(found));
</script>"""


def test_a_browser_finds_labels_legible_and_apart(proved: Path, tmp_path: Path) -> None:
    """Boxes of all texts in all figures, measured by the browser that draws them."""
    report(proved, output=tmp_path / "r.html")
    page = tmp_path / "look.html"
    page.write_text((tmp_path / "r.html").read_text().replace("</body>", f"{LOOK}</body>"))
    for width in (1280, 390):
        dump = browse(page, f"--window-size={width},900", "--dump-dom")
        noted = re.search(r'data-found="([^"]*)"', dump)
        assert noted is not None
        found = json.loads(unescape(noted[1]))
        assert found == {"overlaps": [], "small": [], "wide": False}, width


@pytest.mark.parametrize(
    ("scheme", "background", "accent"),
    [(1, (0xFF, 0xFF, 0xFF), (0x1F, 0x5F, 0xD0)), (0, (0x14, 0x17, 0x1B), (0x7A, 0xB0, 0xFF))],
    ids=["light", "dark"],
)
def test_a_browser_draws_it(proved: Path, tmp_path: Path, scheme, background, accent) -> None:
    report(proved, output=tmp_path / "r.html")
    picture = tmp_path / "r.png"
    flags = ("--window-size=900,760", f"--blink-settings=preferredColorScheme={scheme}")
    browse(tmp_path / "r.html", *flags, f"--screenshot={picture}")
    pixels = read_png(picture)
    assert pixels.shape == (760, 900, 3)
    assert tuple(pixels[3, 3]) == background
    # Curves are there, in the colour of this scheme.
    assert (pixels == accent).all(2).sum() > 200
    assert (pixels != background).any(2).mean() > 0.1


def read_png(path: Path) -> np.ndarray:
    """(height, width, 3) of an 8-bit RGB or RGBA picture, not interlaced: what a browser writes."""
    data, place, packed = path.read_bytes(), 8, b""
    width = height = channels = 0
    while place < len(data):
        (length,), kind = struct.unpack(">I", data[place : place + 4]), data[place + 4 : place + 8]
        body = data[place + 8 : place + 8 + length]
        if kind == b"IHDR":
            width, height, depth, colour = struct.unpack(">IIBB", body[:10])
            assert depth == 8 and colour in (2, 6)
            channels = {2: 3, 6: 4}[colour]
        packed += body if kind == b"IDAT" else b""
        place += length + 12
    raw, stride = zlib.decompress(packed), width * channels
    above, rows = bytes(stride), []
    for y in range(height):
        line = raw[y * (stride + 1) : (y + 1) * (stride + 1)]
        above = _unfilter(line[0], line[1:], above, channels)
        rows.append(above)
    return np.frombuffer(b"".join(rows), np.uint8).reshape(height, width, channels)[:, :, :3]


def _unfilter(kind: int, line: bytes, above: bytes, n: int) -> bytes:
    """One line as it was before filtering. PNG specification, section 9."""
    if kind == 0:
        return line
    out = bytearray(line)
    for x in range(len(out)):
        left, up, corner = (out[x - n], above[x], above[x - n]) if x >= n else (0, above[x], 0)
        if kind == 1:
            guess = left
        elif kind == 2:
            guess = up
        elif kind == 3:
            guess = (left + up) // 2
        else:
            to_left, to_up, to_corner = abs(up - corner), abs(left - corner), abs(left + up - 2 * corner)
            guess = (
                left
                if to_left <= to_up and to_left <= to_corner
                else up
                if to_up <= to_corner
                else corner
            )
        out[x] = (out[x] + guess) & 255
    return bytes(out)

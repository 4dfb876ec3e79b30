"""The explorer: a page on which one types two numbers and watches a model add them, step by step, and
moves its parameters.

One file that fetches nothing. Its script is the model itself (``engine.javascript``), ``explore.js``,
which draws, and ``player.js``, which plays its film; nothing here computes what the page shows.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from html import escape
from typing import Any

import torch
from torch import Tensor

from adderlab.engine.javascript import Script, script
from adderlab.evaluation.suites import Suite, strata
from adderlab.models.tables import tables
from adderlab.report.evidence import CertificateRecord
from adderlab.report.html import code, page, tag, tile
from adderlab.runs.checkpoints import Checkpoint
from adderlab.runs.stored import Snapshots
from adderlab.task.addition import NUMERALS

MOST_FRAMES = 60
"""Snapshots in a page."""
PER_STRATUM = 80
"""Sampled pairs of each stratum, over which the page counts."""
VERDICTS = {"proved": ("Yes, proved", "yes"), "refuted": ("No, refuted", "no")}
FIRST = (9876543210, 123456799)
"""The pair that is shown first where no weakest one is known."""


@dataclass(frozen=True, kw_only=True)
class Explored:
    """What the page says of a model besides what it computes."""

    title: str
    about: str
    """One line: what it is and where it comes from."""
    model: Checkpoint
    proof: CertificateRecord | None = None
    """What is known of it over all pairs."""
    snapshots: Snapshots | None = None
    """How it came to be, to be walked through; None: not kept."""


def explorer_page(explored: Explored) -> str:
    """The whole HTML file. Raises ``UsageError`` for a model outside the table form."""
    model = explored.model
    made = script(model.config, model.params)
    addition = model.config.token_layout.addition
    data = _data(explored, made, strata(PER_STRATUM, addition=addition))
    # Nothing between script tags may look like the end of one.
    constant = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    drawing = code("explore.js", "player.js")
    whole = f'"use strict";\nconst MODEL = {constant};\n{made.source}\n{drawing}'
    assert "</script" not in whole
    body = f"{_body(explored, made)}\n<script>\n{whole}</script>"
    title = f"{explored.title} - adderlab explore"
    return page(title, body, kind="explore", style=code("explore.css"))


def _data(explored: Explored, made: Script, sample: Suite) -> dict[str, Any]:
    """``MODEL`` of the script."""
    proof, addition = explored.proof, explored.model.config.token_layout.addition
    groups, digits, start = [], [], 0
    for group in sample.groups:
        groups.append({"name": group.name, "start": start, "count": group.num_pairs})
        start += group.num_pairs
        for a_J, b_J in zip(group.a_BJ.tolist(), group.b_BJ.tolist(), strict=True):
            digits += [*a_J, *b_J]

    def written(pair: tuple[int, int]) -> list[str]:
        return [addition.numeral(number) for number in pair]

    worst = None if proof is None else written(proof.pair)
    failing = proof.counterexample if proof is not None else None
    return {
        "form": made.form,
        "parameters": [
            {"name": name, "shape": list(value.shape), "values": value.flatten().tolist()}
            for name, value in made.parameters.items()
        ],
        "pairs": {
            "first": worst or written((FIRST[0] % addition.limit, FIRST[1] % addition.limit)),
            "worst": worst,
            "failing": [] if failing is None else [written(failing)],
        },
        "film": _film(explored.snapshots, made),
        "sample": {"groups": groups, "digits": "".join(NUMERALS[digit] for digit in digits)},
    }


@torch.no_grad()
def _film(snapshots: Snapshots | None, made: Script) -> dict[str, Any] | None:
    """The parameters of every snapshot, as the page's own: float32 of all, frame by frame, in base64."""
    if snapshots is None or not snapshots.steps:
        return None
    shown = snapshots.thinned(MOST_FRAMES)
    values: dict[str, Tensor] = shown.stacked()
    if made.are_tables:
        values = dict(tables(snapshots.config.model, values).items())
    flat_FN = torch.cat([values[name].reshape(len(shown.steps), -1) for name in made.parameters], 1)
    packed = flat_FN.float().numpy().astype("<f4").tobytes()
    return {"steps": list(shown.steps), "weights": base64.b64encode(packed).decode()}


def _body(explored: Explored, made: Script) -> str:
    """The page before its script fills it."""
    moved = (
        "tables (the map from its parameters to them has an operation that the page cannot compute)"
        if made.are_tables
        else "parameters"
    )
    return f"""
<header>
{tag("h1", escape(explored.title))}
{tag("p", escape(explored.about), class_="muted")}
<div class="tiles">{_verdict_tile(explored)}</div>
</header>
<noscript><p class="no">This page computes the model in a script; your browser runs none.</p></noscript>
<section aria-label="The pair">
<div class="pair">
<label for="a">a<input id="a" type="text" inputmode="numeric" autocomplete="off"></label>
<span class="sign" aria-hidden="true">+</span>
<label for="b">b<input id="b" type="text" inputmode="numeric" autocomplete="off"></label>
</div>
<p id="problem" class="no" role="alert"></p>
<div class="choices">
<button id="worst">weakest pair</button><button id="carry">long carry</button>
<button id="random">random</button><button id="failing" disabled>failing</button>
</div>
<h2>What it writes</h2>
<p class="muted">Units are written first, from the right. Choose a digit to look inside its step (arrow
keys move).</p>
<div id="written" class="written" role="group" aria-label="answer digits"></div>
<p id="outcome" class="lead" aria-live="polite"></p>
</section>
<section>
<h2 id="step-title">Step</h2>
<div class="columns">
<div class="panel" id="look"></div>
<div>
<div class="panel"><h3>The number it carries</h3><div id="mixture"></div></div>
<div class="panel" style="margin-top:16px"><h3>What it makes of it: logits</h3>
<div id="logits"></div></div>
</div>
</div>
</section>
<section>
<h2>All steps of this answer</h2>
<div class="scroll" id="every"></div>
</section>
{_film_section(explored)}<section>
<h2>Move its {escape(moved)}</h2>
<div class="live"><strong id="live-count">0</strong> <span id="live-note"></span>
<span id="live-pair" class="muted"></span> <button id="reset">all back</button></div>
<p class="muted">Everything on this page follows, and the sampled pairs are counted again: strata of long
carries, nines, short operands and others, {PER_STRATUM} pairs each.</p>
<div class="sliders" id="sliders"></div>
<h3 style="margin-top:24px">Right by kind of pair</h3>
<ul class="groups" id="groups"></ul>
</section>
<footer><p class="muted">Computed in this page, in double precision, from the model's own weights: its
parameters give tables, attention mixes them, and the head program makes logits of the mixture. Written
by <code>adderlab explore</code>.</p></footer>"""


def _film_section(explored: Explored) -> str:
    """The slider over the snapshots; nothing where there are none."""
    if explored.snapshots is None or not explored.snapshots.steps:
        return ""
    return """<section>
<h2>Its training</h2>
<p class="muted">Everything on this page is that of the step chosen here.</p>
<div class="film"><button id="play">play</button>
<input id="time" type="range" min="0" value="0" aria-label="training step">
<button id="checkpoint">the checkpoint</button></div>
<p id="time-note" aria-live="polite"></p>
</section>
"""


def _verdict_tile(explored: Explored) -> str:
    proof, addition = explored.proof, explored.model.config.token_layout.addition
    ask = f"Right on all {addition.pairs_text} pairs?"
    if proof is None:
        more = "No certificate was found beside it; adderlab prove makes one."
        return tile(ask, "not decided here", more, "open")
    words, mood = VERDICTS.get(proof.verdict, ("Undecided", "open"))
    a, b = map(addition.numeral, proof.pair)
    least = f"smallest margin {proof.margin_witness:.4g} logits, at {a} + {b}"
    if proof.margin_bound is not None:
        least = f"{least}; by the certificate at least {proof.margin_bound:.4g} on every pair"
    return tile(ask, words, least, mood)

"""Training one can watch: a table on a terminal, plain lines elsewhere, JSON lines on request."""

import dataclasses
import io
import json
import math
from pathlib import Path

import pytest
from rich.console import Console

from adderlab.cli.main import main
from adderlab.report.live import LiveView, describe_population, ranked, step_cells
from adderlab.runs.records import Repair, SeedRecord
from adderlab.training.measure import Listener, Start
from helpers.evaluations import Followed, evaluation


def view_on(terminal: bool, **settings) -> tuple[LiveView, io.StringIO]:  # type: ignore[no-untyped-def]
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=120, height=30)
    return LiveView(console, **settings), stream


def start(*seeds: int, resumed: bool = False) -> Start:
    folder = Path("results/runs/x")
    return Start(folder=folder, seeds=seeds, steps=1000, resumed=resumed, device="cpu", engine="torch")


def test_plain_lines_when_not_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    view, stream = view_on(False)
    clock = iter(range(100))
    monkeypatch.setattr("time.monotonic", lambda: float(next(clock)))
    with view:
        view.on_start(start(0, 1, 2))
        for step in (1, 101):
            view.on_step((0, 1, 2), step, 3)
        Followed(view).evaluate(evaluation(100, (0, 1, 2), [1.0, 0.4, 0.0]))
    text = stream.getvalue()
    assert "step    100  3 of 3 alive; 1 grokked; best seed 0 100.00% exact" in text
    # 100 steps of 3 seeds in the one second between the marks; 899 steps are left.
    assert "300 seed-steps/s; about 9 s left" in text
    assert "\x1b" not in text


def test_the_table_on_a_terminal() -> None:
    view, stream = view_on(True)
    followed = Followed(view)
    with view:
        view.on_start(start(0, 1, 2))
        view.on_step((0, 1, 2), 1, 3)
        followed.evaluate(evaluation(100, (0, 1, 2), [0.2, 0.4, 0.0]))
        followed.evaluate(evaluation(200, (0,), [1.0]))
        followed.evaluate(evaluation(200, (1, 2), [0.5, 0.0], loss=math.nan))
        proved = dataclasses.replace(followed.records[0], status="done", verdict="proved")
        view.on_verdict(proved, "proved")
    text = stream.getvalue()
    final = text[text.rindex("grokked at") :]
    assert "proved" in final and "[███████████]" in final and "200" in final
    assert "diverged" in final and "done" in final and "11/11" in final


def test_a_seed_that_stopped_keeps_its_last_state() -> None:
    followed = Followed(Listener())
    followed.evaluate(evaluation(0, (0, 1, 2), [0.0, 0.0, 0.0]))
    followed.evaluate(evaluation(100, (0, 1, 2), [1.0, 0.2, 0.0]))
    followed.evaluate(evaluation(200, (1, 2), [0.3, 0.995]))
    records = followed.records
    assert [records[s].grokked_at for s in range(3)] == [100, None, 200]
    assert [record.seed for record in ranked(records.values())] == [0, 2, 1]
    assert "3 of 3 alive; 2 grokked" in describe_population(records.values())
    records[2] = dataclasses.replace(records[2], verdict="refuted")
    assert "0 proved" in describe_population(records.values())
    records[0] = dataclasses.replace(records[0], status="dropped")
    assert [record.seed for record in ranked(records.values())] == [2, 1, 0]


def test_a_large_population_shows_what_fits() -> None:
    view, stream = view_on(False)
    Followed(view).evaluate(evaluation(0, tuple(range(100)), [0.0] * 100))
    stream.truncate(0)
    view.console.print(view._table())
    lines = stream.getvalue().splitlines()
    assert len(lines) == 1 + (30 - 8) + 1
    assert "... 78 more" in lines[-1]


def test_quiet_prints_nothing() -> None:
    view, stream = view_on(True, quiet=True)
    with view:
        view.on_message("device: cpu")
        view.on_start(start(0, 1, 2))
        view.on_step((0, 1, 2), 1, 3)
        Followed(view).evaluate(evaluation(100, (0, 1, 2), [1.0, 0.4, 0.0]))
    assert stream.getvalue() == ""


def test_a_search_prints_its_verdicts() -> None:
    """Seeds begin and end one by one: a line for each verdict, none for each evaluation."""
    view, stream = view_on(False, budget=60.0)
    with view:
        view.on_start(start(3))
        followed = Followed(view)
        followed.evaluate(evaluation(100, (3,), [0.2]))
        known = followed.records[3]
        view.on_verdict(dataclasses.replace(known, status="dropped"), "dropped")
        repair = Repair(
            verdict="proved", margin_bound=0.4, margin_witness=0.5, trainings=1, checked=True
        )
        proved = SeedRecord(seed=4, status="proved", steps=901, verdict="refuted", repair=repair)
        view.on_verdict(proved, "proved")
        unchecked = SeedRecord(seed=5, steps=901, verdict="proved", margin_witness=0.5)
        view.on_verdict(unchecked, "proved")
    dropped, checked, unasked = stream.getvalue().splitlines()
    assert "seed 3 step 101: dropped: 2 of 11 answer steps learned" in dropped
    assert "seed 4 step 901: PROVED on all pairs (repaired), smallest margin 0.500" in checked
    # Only what the independent checker has accepted may be called proved.
    assert "PROVED" not in unasked and "DECIDED (float64)" in unasked


def test_a_search_says_when_a_seed_is_proved_or_repaired() -> None:
    view, stream = view_on(False, budget=60.0)
    events = io.StringIO()
    other = LiveView(Console(file=io.StringIO()), events=events, budget=60.0)
    with view, other:
        for each in (view, other):
            each.on_start(start(3, 4))
            Followed(each).evaluate(evaluation(100, (3, 4), [0.2, 0.1]))
            each.on_activity(3, "proving")
            each.on_activity(3, "repairing")
    (line,) = stream.getvalue().splitlines()
    assert "seed 3" in line and ", repairing: 2 of 11" in line
    told = [json.loads(text) for text in events.getvalue().splitlines()][-2:]
    assert [(each["event"], each["seed"], each["doing"]) for each in told] == [
        ("activity", 3, "proving"),
        ("activity", 3, "repairing"),
    ]
    shown = "\n".join(str(cell) for column in view._table().columns for cell in column.cells)
    assert "repairing" in shown
    view.on_step((3,), 102, 1)
    shown = "\n".join(str(cell) for column in view._table().columns for cell in column.cells)
    assert "repairing" not in shown and "training" in shown


def test_a_search_in_json_lines() -> None:
    stream = io.StringIO()
    view = LiveView(Console(file=io.StringIO()), events=stream, budget=60.0)
    with view:
        view.on_start(start(3, resumed=True))
        view.on_verdict(SeedRecord(seed=3, status="dropped", steps=11), "dropped")
        view.on_end(Path("x"), (SeedRecord(seed=3),), "budget spent")
    begun, verdict, end = map(json.loads, stream.getvalue().splitlines())
    assert (begun["event"], begun["seeds"], begun["resumed"]) == ("start", [3], True)
    assert (verdict["event"], verdict["seed"], verdict["verdict"]) == ("verdict", 3, "dropped")
    assert (end["event"], end["status"], end["success"]["n"]) == ("end", "budget spent", 1)


def test_eleven_cells() -> None:
    assert step_cells([0.1] * 11) == " " * 11
    assert step_cells([1.0] * 11) == "█" * 11
    # 98.9% is not learned and must not look like it.
    assert step_cells([0.989, 0.99, 0.05]) == "▇█ "


def test_json_lines_are_json_and_nothing_else(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    settings = ["recipe.batch_size=8", "recipe.val_size=20", "recipe.eval_interval=3"]
    command = (
        "train 456p --seeds 0-1 --steps 7 --run-name tiny --device cpu --engine torch --threads 1 "
        "--evaluate fresh:20 --json-lines --set"
    )
    assert main([*command.split(), *settings]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    kinds = [event["event"] for event in events]
    assert kinds.count("start") == kinds.count("end") == kinds.count("result") == 1
    taken = [event for event in events if event["event"] == "evaluation"]
    assert [event["step"] for event in taken] == [0, 3, 6]
    assert [seed["seed"] for seed in taken[0]["seeds"]] == [0, 1]
    assert len(taken[0]["seeds"][0]["step_acc"]) == 11
    assert events[kinds.index("start")]["run"] == "results/runs/tiny"
    assert events[kinds.index("end")]["success"]["n"] == 2
    assert events[kinds.index("result")]["n"] == 20


def test_numbers_that_are_not_finite_are_null() -> None:
    stream = io.StringIO()
    view, _ = view_on(False, events=stream)
    Followed(view).evaluate(evaluation(100, (0, 1, 2), [0.0, 0.0, 0.0], loss=math.nan))
    event = json.loads(stream.getvalue())
    assert event["seeds"][0]["train_loss"] is None and event["alive"] == 0

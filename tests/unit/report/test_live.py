"""Training one can watch: a table on a terminal, plain lines elsewhere, JSON lines on request."""

import io
import json
import math
from pathlib import Path

import pytest
from rich.console import Console

from adderlab.cli.main import main
from adderlab.report.live import (
    PopulationState,
    TrainingView,
    duration,
    step_cells,
)
from helpers.evaluations import evaluation


def view_on(terminal: bool, **settings) -> tuple[TrainingView, io.StringIO]:  # type: ignore[no-untyped-def]
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=110, height=30)
    return TrainingView(console, steps=1000, num_seeds=3, **settings), stream


def test_plain_lines_when_not_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    view, stream = view_on(False)
    clock = iter(range(100))
    monkeypatch.setattr("time.monotonic", lambda: float(next(clock)))
    with view:
        for step in (1, 101):
            view.stepped(step, 3)
        view.evaluated(evaluation(100, (0, 1, 2), [1.0, 0.4, 0.0]))
    text = stream.getvalue()
    assert "step    100  3 of 3 alive; 1 grokked; best seed 0 100.00% exact" in text
    # 100 steps of 3 seeds in the one second between the marks; 899 steps are left.
    assert "300 seed-steps/s; about 8 s left" in text
    assert "\x1b" not in text


def test_the_table_on_a_terminal() -> None:
    view, stream = view_on(True)
    with view:
        view.stepped(1, 3)
        view.evaluated(evaluation(100, (0, 1, 2), [0.2, 0.4, 0.0]))
        view.evaluated(evaluation(200, (0, 1, 2), [1.0, 0.4, 0.0], loss=math.nan))
        view.evaluated(evaluation(300, (1, 2), [0.5, 0.0]))
        view.trained()
        view.proved(0, "proved")
    text = stream.getvalue()
    final = text[text.rindex("seed") :] if "grokked at" in text[text.rindex("seed") :] else text
    assert "proved" in final and "[███████████]" in text and "200" in text
    assert "diverged" in text and "finished" in text and "11/11" in text


def test_a_seed_that_stopped_keeps_its_last_state() -> None:
    population = PopulationState()
    population.take(evaluation(0, (0, 1, 2), [0.0, 0.0, 0.0]))
    population.take(evaluation(100, (0, 1, 2), [1.0, 0.2, 0.0]))
    population.take(evaluation(200, (1, 2), [0.3, 0.995]))
    states = population.seeds
    assert [states[s].life for s in range(3)] == ["finished", "training", "training"]
    assert [states[s].grokked_at for s in range(3)] == [100, None, 200]
    assert [state.seed for state in population.ranked] == [0, 2, 1]
    assert "3 of 3 alive; 2 grokked" in population.in_words()
    population.judge(2, "refuted")
    assert "0 proved" in population.in_words()


def test_a_large_population_shows_what_fits() -> None:
    view, stream = view_on(False)
    view.population.take(evaluation(0, tuple(range(100)), [0.0] * 100))
    view.console.print(view._seed_table())
    lines = stream.getvalue().splitlines()
    assert len(lines) == 1 + (30 - 8) + 1
    assert "... 78 more" in lines[-1]


def test_quiet_says_nothing() -> None:
    view, stream = view_on(True, quiet=True)
    with view:
        view.say("device: cpu")
        view.stepped(1, 3)
        view.evaluated(evaluation(100, (0, 1, 2), [1.0, 0.4, 0.0]))
    assert stream.getvalue() == ""


def test_eleven_cells() -> None:
    assert step_cells([0.1] * 11) == " " * 11
    assert step_cells([1.0] * 11) == "█" * 11
    # 98.9% is not learned and must not look like it.
    assert step_cells([0.989, 0.99, 0.05]) == "▇█ "


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (59.9, "59 s"), (61, "1 min 01 s"), (7800, "2 h 10 min")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


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
    view.evaluated(evaluation(100, (0, 1, 2), [0.0, 0.0, 0.0], loss=math.nan))
    event = json.loads(stream.getvalue())
    assert event["seeds"][0]["train_loss"] is None and event["alive"] == 0

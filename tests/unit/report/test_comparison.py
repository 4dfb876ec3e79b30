"""Comparing runs: intervals and tests against textbook values and against slow twins."""

import itertools
import json
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adderlab.cli.main import main
from adderlab.errors import Failure
from adderlab.evaluation.suites import wilson
from adderlab.report.comparison import (
    Grokking,
    compare_runs,
    differing_settings,
    fisher,
    holm,
    log_rank,
    newcombe,
    steps_to_grok,
    unique_names,
)
from adderlab.report.evidence import read_run
from adderlab.runs.records import SeedRecord
from helpers.runs import GROKS, LATE, LOST, NEVER, write_run


def fisher_twin(first: tuple[int, int], second: tuple[int, int]) -> float:
    """Sum of the hypergeometric probabilities of all tables as unlikely as this one, or more."""
    (a, m), (b, n) = first, second
    k = a + b

    def probability(x: int) -> float:
        return math.comb(m, x) * math.comb(n, k - x) / math.comb(m + n, k)

    seen = probability(a)
    possible = range(max(0, k - n), min(m, k) + 1)
    return sum(p for p in map(probability, possible) if p <= seen * (1 + 1e-9))


@settings(max_examples=40)
@given(st.integers(1, 12), st.integers(1, 12), st.data())
def test_fisher_equals_its_definition(m: int, n: int, data: st.DataObject) -> None:
    a, b = data.draw(st.integers(0, m)), data.draw(st.integers(0, n))
    assert fisher(wilson(a, m), wilson(b, n)) == pytest.approx(fisher_twin((a, m), (b, n)), abs=1e-9)


def log_rank_twin(first: Grokking, second: Grokking) -> float:
    """Observed minus expected events at every event time (Mantel 1966), by hand."""
    groups = [[(t, True) for t in g.reached] + [(t, False) for t in g.censored] for g in (first, second)]
    observed = expected = variance = 0.0
    for time in sorted({t for g in groups for t, event in g if event}):
        at_risk = [sum(t >= time for t, _ in g) for g in groups]
        events = [sum(t == time and event for t, event in g) for g in groups]
        n, d = sum(at_risk), sum(events)
        observed += events[0]
        expected += d * at_risk[0] / n
        if n > 1:
            variance += d * (at_risk[0] / n) * (at_risk[1] / n) * (n - d) / (n - 1)
    z = (observed - expected) / math.sqrt(variance)
    return math.erfc(abs(z) / math.sqrt(2))


def test_log_rank_equals_its_definition() -> None:
    first = Grokking(reached=(2, 3, 5, 8), censored=(9, 9))
    second = Grokking(reached=(3, 7), censored=(4, 9, 9))
    assert log_rank(first, second) == pytest.approx(log_rank_twin(first, second), rel=1e-9)
    never = Grokking(reached=(), censored=(9, 9))
    assert log_rank(never, never) is None
    assert log_rank(first, never) == pytest.approx(log_rank_twin(first, never), rel=1e-9)
    # No event while both groups are at risk: there is nothing to compare.
    assert log_rank(Grokking(reached=(9,), censored=()), Grokking(reached=(), censored=(2,))) is None


def test_newcombe_equals_the_papers_example() -> None:
    # Newcombe 1998, table II, method 10: 56/70 - 48/80 is [0.0524, 0.3339].
    low, high = newcombe(wilson(48, 80), wilson(56, 70))
    assert low == pytest.approx(0.0524, abs=5e-5)
    assert high == pytest.approx(0.3339, abs=5e-5)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_keeps_the_order_and_pays_most_for_the_smallest(p_values: list[float]) -> None:
    corrected = holm(p_values)
    assert all(p <= c <= 1.0 for p, c in zip(p_values, corrected, strict=True))
    order = sorted(range(len(p_values)), key=lambda k: p_values[k])
    assert all(corrected[i] <= corrected[j] for i, j in itertools.pairwise(order))
    assert corrected[order[0]] == min(1.0, len(p_values) * p_values[order[0]])
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


def test_kaplan_meier_median() -> None:
    assert Grokking(reached=(1, 2, 3, 4), censored=()).median == 2
    assert Grokking(reached=(1, 2), censored=(5, 5)).median == 2
    # Censored before the third event: the risk set is smaller by then.
    assert Grokking(reached=(2, 6), censored=(1, 1)).median == 2
    assert Grokking(reached=(1,), censored=(5, 5)).median is None


def test_a_comparison_of_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = write_run(tmp_path / "a", {s: NEVER for s in range(8)})
    b = write_run(tmp_path / "b", {s: GROKS for s in range(8)}, changes={"lr": 0.01})
    runs = [read_run(a), read_run(b)]
    comparison = compare_runs(runs)
    first, second = comparison.runs
    assert first.contrast is None and second.contrast is not None
    assert (first.rate.count, second.rate.count) == (0, 8)
    assert second.contrast.difference == 1.0
    assert second.contrast.fisher_p == pytest.approx(2 / math.comb(16, 8))
    assert second.contrast.log_rank_p is not None and second.contrast.log_rank_p < 1e-3
    assert comparison.differing == (("recipe.lr", (0.02, 0.01)),)
    assert main(["compare", str(a), str(b), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["runs"][1]["against_first"]["difference"] == 1.0
    assert printed["differing"] == {"recipe.lr": [0.02, 0.01]}
    assert main(["compare", str(a), str(b)]) == 0
    assert "Fisher p 0.00016" in " ".join(capsys.readouterr().out.split())


def test_steps_to_grok_are_censored_where_a_seed_did_not(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "r", {0: GROKS, 1: LATE, 2: NEVER, 3: LOST}))
    assert steps_to_grok(run.evaluated) == Grokking(reached=(1000, 2000, 3000), censored=(3000,))


def test_a_seed_too_poor_for_the_last_stage_has_not_grokked_at_its_end() -> None:
    late = [SeedRecord(seed=k, status="done", steps=48_000, first_success_step=47_000) for k in range(4)]
    poor = [SeedRecord(seed=k, status="done", steps=40_000) for k in range(4, 10)]
    stopped = SeedRecord(seed=10, status="dropped", steps=5_000)
    grokking = steps_to_grok([*late, *poor, stopped])
    assert grokking == Grokking(reached=(47_000,) * 4, censored=(4_999, *(47_999,) * 6))
    assert grokking.median is None, "six of ten never do"


def test_runs_that_cannot_be_compared_are_refused(tmp_path: Path, capsys) -> None:
    a = write_run(tmp_path / "a", {0: GROKS, 1: NEVER})
    b = write_run(tmp_path / "b", {0: GROKS, 1: NEVER})
    for name in ("seed_metrics.csv", "seeds.json", "seeds.csv"):
        (b / name).unlink()
    with pytest.raises(Failure, match="seed_metrics"):
        compare_runs([read_run(a), read_run(b)])
    assert main(["compare", str(a)]) == 2
    assert "two run folders" in capsys.readouterr().err
    (a / "config.json").write_text("{")
    with pytest.raises(Failure, match=r"config\.json"):
        compare_runs([read_run(a), read_run(a)])


def test_environments_and_seeds_that_differ_are_listed(tmp_path: Path) -> None:
    a = write_run(tmp_path / "x" / "run", {0: GROKS, 1: NEVER})
    b = write_run(tmp_path / "y" / "run", {1: GROKS, 2: NEVER}, environment={"torch": "2.99"})
    runs = [read_run(a), read_run(b)]
    assert dict(differing_settings(runs)) == {
        "seeds": ("0-1", "1-2"),
        "environment.torch": ("2.13.0", "2.99"),
    }
    assert unique_names(runs) == [str(a), str(b)]


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        # 0 of 3 that were given up early against 2 of 3 that grokked later.
        (
            [[0.0, 0.1]] * 3,
            [[0.0, 0.1, 0.5, 1.0]] * 2 + [[0.0, 0.1, 0.2, 0.3]],
            "no log-rank test: no seed",
        ),
        ([[0.0, 0.1]] * 3, [[0.0, 0.2]] * 3, "no seed grokked"),
        ([[0.0, 1.0]] * 3, [[0.0, 1.0]] * 3, "every seed grokked at the same step"),
    ],
)
def test_why_there_is_no_log_rank_test_is_said_truly(
    first: list[list[float]], second: list[list[float]], said: str, tmp_path: Path
) -> None:
    for name, curves in (("a", first), ("b", second)):
        write_run(tmp_path / name, dict(enumerate(curves)))
    comparison = compare_runs([read_run(tmp_path / name) for name in "ab"])
    contrast = comparison.runs[1].contrast
    assert contrast is not None and contrast.log_rank_p is None
    assert contrast.log_rank.startswith(said) and said in str(contrast)
    assert comparison.to_dict()["runs"][1]["against_first"]["no_log_rank"] == contrast.log_rank

"""Evidence is read as it stands: what is missing is said, what disagrees is said, nothing is guessed."""

import gzip
import json
from pathlib import Path

import pytest

from adderlab.errors import UsageError
from adderlab.report.history import missing_steps, read_run
from adderlab.report.log import (
    certificate_finding,
    evaluation_finding,
    pooled_rate,
    run_finding,
    success_rate,
)
from helpers.evidence import CERTIFICATE, EVALUATION
from helpers.runs import GROKS, LATE, LOST, NEVER, checkpoint, write_run


def test_a_population_is_told_seed_by_seed(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run", {0: GROKS, 1: LATE, 2: NEVER, 3: LOST}))
    assert run.problems == ()
    by_seed = {history.seed: history for history in run.histories}
    assert [by_seed[s].succeeded for s in range(4)] == [True, True, False, False]
    assert [by_seed[s].grokked_at for s in range(4)] == [2000, 3000, None, 1000]
    assert by_seed[3].best.step == 1000
    assert by_seed[0].locked_in(0) == 1000 and by_seed[0].locked_in(10) == 2000
    assert by_seed[2].locked_in(0) is None
    # The lost seed learned all eleven steps and kept only four: what counts is the end.
    assert by_seed[3].locked_in(9) is None
    rate = success_rate(run)
    assert rate is not None and (rate.count, rate.n) == (2, 4)
    assert missing_steps(run.histories)[0] == (4, 2)
    assert run.best is not None and run.best.seed == 0
    text = run_finding(run)
    assert "2 of 4 seeds learned to add" in text and "99% first reached at step 1000" in text


def test_single_seeds_in_words(tmp_path: Path) -> None:
    def told(name: str, curve: list[float], **more) -> str:  # type: ignore[no-untyped-def]
        return run_finding(read_run(write_run(tmp_path / name, {43: curve}, **more)))

    assert told("a", GROKS).startswith("Learned to add: 100.0% exact match at the end (step 3000)")
    assert "Grokked at step 1000 and lost it" in told("b", LOST)
    never = told("c", NEVER)
    assert never.startswith("Did not learn to add: 0.0% exact match")
    assert "Answer steps learned: 0 of 11 (none); not learned: s_0 at 10.0%" in never
    assert told("d", NEVER, status="stopped").startswith("Not finished (stopped, last evaluation at")


def test_pooled_rate_counts_the_seeds_of_all_runs(tmp_path: Path) -> None:
    first = read_run(write_run(tmp_path / "a", {0: GROKS, 1: NEVER}))
    second = read_run(write_run(tmp_path / "b", {2: NEVER}))
    rate = pooled_rate([first, second])
    assert rate is not None and (rate.count, rate.n) == (1, 3)
    assert pooled_rate([]) is None
    # The same seed with the same numbers is the same draw; with other numbers it is another one.
    again = read_run(write_run(tmp_path / "c", {0: GROKS, 1: LATE}))
    rate = pooled_rate([first, again])
    assert rate is not None and (rate.count, rate.n) == (2, 3)


@pytest.mark.parametrize("name", ["seed_metrics.csv", "summary.json", "config.json"])
def test_missing_files_are_said(tmp_path: Path, name: str) -> None:
    path = write_run(tmp_path / "run", {0: GROKS, 1: LATE})
    (path / name).unlink()
    if name == "config.json":
        with pytest.raises(UsageError, match="no run"):
            read_run(path)
        return
    run = read_run(path)
    assert any(name in problem for problem in run.problems)
    if name == "seed_metrics.csv":
        assert run.histories == () and run_finding(run).startswith("No finding")
        assert success_rate(run) is None


def test_a_damaged_table_gives_no_finding(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", {0: GROKS})
    table = path / "metrics.csv"
    table.write_text(table.read_text().replace("\n2000,", "\ntwo thousand,"))
    run = read_run(path)
    assert run.histories == () and "two thousand" in run.problems[0]


def test_tables_that_contradict_the_summary_are_told(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", {0: GROKS, 1: NEVER})
    summary = json.loads((path / "summary.json").read_text())
    summary["success"]["successes"] = 2
    summary["best_val_exact"] = 0.75
    (path / "summary.json").write_text(json.dumps(summary))
    problems = " ".join(read_run(path).problems)
    assert "counts 2 successful seeds, the metric tables 1" in problems
    assert "best_val_exact 0.75, the metric tables 1" in problems


def test_evaluations_and_certificates_are_found_and_told(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", {0: GROKS, 1: NEVER})
    (path / "evaluation.json").write_text(json.dumps(EVALUATION))
    (path / "certificate.json.gz").write_bytes(gzip.compress(json.dumps(CERTIFICATE).encode()))
    (path / "broken.json").write_text("{")
    (path / "other.json").write_text('{"hello": 1}')
    (path / "half.json").write_text(json.dumps({**CERTIFICATE, "margin": {}}))
    run = read_run(path)
    (evaluation,), (certificate,) = run.evaluations, run.certificates
    assert evaluation.failures[0].answer == "00000000004"
    text = evaluation_finding(evaluation)
    assert text.startswith("12 of 100,000 pairs wrong on suite published") and "s_10 99.988%" in text
    assert "s_10" not in evaluation_finding(evaluation, digits=False)
    assert certificate.step_bounds[10] == pytest.approx(10.33)
    assert certificate_finding(certificate).startswith("Proved: all 10^20 pairs are added rightly")
    assert len(run.problems) == 2
    assert any("broken.json" in p for p in run.problems) and any("half.json" in p for p in run.problems)


def test_refuted_and_undecided_in_words(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", {0: GROKS})
    bracket = {**CERTIFICATE, "verdict": "undecided", "failing_pairs": [0, 10**15], "steps": None}
    refuted = {**CERTIFICATE, "verdict": "refuted", "failing_pairs": 1234, "counterexample": [5, 7]}
    (path / "a.json").write_text(json.dumps(bracket))
    (path / "b.json").write_text(json.dumps(refuted))
    told = [certificate_finding(c) for c in read_run(path).certificates]
    assert "Undecided: between 0 and 1 x 10^15 of 10^20 pairs may fail" in told[0]
    assert "Refuted: 1,234 of 10^20 pairs fail, for example 5 + 7" in told[1]


def test_the_published_programs_evaluation_file_is_read(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", {0: GROKS})
    per_seed = {"41": {"exact_match": 1.0, "errors": 0}, "100": {"exact_match": 0.9988, "errors": 12}}
    total = {"total_examples": 20_000, "aggregate_errors": 12, "per_seed": per_seed}
    data = {"checkpoint": "c.pt", "parameters": 512, "multi_seed_validation": total}
    (path / "eval.json").write_text(json.dumps(data))
    (record,) = read_run(path).evaluations
    assert (record.n, record.errors, record.weights_sha256) == (20_000, 12, None)
    assert record.groups == (("41", 10_000, 0), ("100", 10_000, 12))


def test_the_best_seed_is_that_of_the_checkpoint_on_disk(tmp_path: Path) -> None:
    from adderlab.runs.checkpoints import save_checkpoint

    path = write_run(tmp_path / "run", {0: NEVER, 1: NEVER})
    save_checkpoint(path / "checkpoints" / "best.pt", checkpoint(1, 2000, 0.0))
    run = read_run(path)
    assert run.best is not None and run.best.seed == 1
    assert "Best checkpoint: seed 1, 0.0% at step 2000" in run_finding(run)
    (path / "checkpoints" / "best.pt").write_bytes(b"damaged")
    run = read_run(path)
    assert run.checkpoint is None and "best.pt" in run.problems[0]
    assert run.best is not None and run.best.seed == 0

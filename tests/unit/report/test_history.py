"""Evidence is read as it stands: what is missing or contradicts itself is named, nothing is guessed."""

import gzip
import json
from pathlib import Path

import pytest

from adderlab.errors import UsageError
from adderlab.report.evidence import missing_steps, read_run
from adderlab.runs.checkpoints import save_checkpoint
from helpers.evidence import CERTIFICATE, EVALUATION
from helpers.runs import GROKS, LATE, LOST, NEVER, checkpoint, write_run


def test_a_population_is_read_seed_by_seed(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run", {0: GROKS, 1: LATE, 2: NEVER, 3: LOST}))
    assert run.problems == ()
    assert [record.succeeded for record in run.seeds] == [True, True, False, False]
    assert [record.first_success_step for record in run.seeds] == [2000, 3000, None, 1000]
    assert run.seeds[3].best_step == 1000
    by_seed = {history.seed: history for history in run.histories}
    assert all(by_seed[record.seed].record.best_step == record.best_step for record in run.seeds)
    assert by_seed[0].learned_since(0) == 1000 and by_seed[0].learned_since(10) == 2000
    assert by_seed[2].learned_since(0) is None
    # The lost seed learned all eleven steps and kept only four: what counts is the end.
    assert by_seed[3].learned_since(9) is None
    assert run.success is not None and (run.success.count, run.success.n) == (2, 4)
    assert missing_steps(run.seeds)[0] == (4, 2)
    assert run.best is not None and run.best.seed == 0 and run.proved is None


@pytest.mark.parametrize("name", ["seed_metrics.csv", "summary.json"])
def test_missing_files_are_problems(tmp_path: Path, name: str) -> None:
    path = write_run(tmp_path / "run", {0: GROKS, 1: LATE})
    (path / name).unlink()
    run = read_run(path)
    assert any(name in problem for problem in run.problems)
    assert (run.histories == ()) is (name == "seed_metrics.csv")
    # The records of the seeds know what came of them, without the curves.
    assert run.success is not None and run.success.count == 2


def test_without_records_and_tables_nothing_is_known(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", {0: GROKS, 1: LATE})
    for name in ("seed_metrics.csv", "seeds.json", "seeds.csv"):
        (path / name).unlink()
    run = read_run(path)
    assert run.success is None and run.evaluated == () and "seed_metrics.csv" in run.problems[0]


def test_a_folder_without_a_configuration_is_no_run(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", {0: GROKS, 1: LATE})
    (path / "config.json").unlink()
    with pytest.raises(UsageError, match="no run"):
        read_run(path)


def test_a_run_of_version_0_1_is_read_off_its_tables(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", {0: GROKS, 1: LATE, 2: NEVER})
    now = read_run(path)
    (path / "seeds.json").unlink()
    old = read_run(path)
    assert old.problems == () and old.success == now.success
    assert [each.best_step for each in old.seeds] == [each.best_step for each in now.seeds]


def test_a_damaged_table_gives_no_curves(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", {0: GROKS})
    table = path / "metrics.csv"
    table.write_text(table.read_text().replace("\n2000,", "\ntwo thousand,"))
    run = read_run(path)
    assert run.histories == () and "two thousand" in run.problems[0]


def test_tables_that_contradict_the_summary_are_problems(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", {0: GROKS, 1: NEVER})
    summary = json.loads((path / "summary.json").read_text())
    summary["success"]["successes"] = 2
    summary["best_val_exact"] = 0.75
    (path / "summary.json").write_text(json.dumps(summary))
    table = path / "seed_metrics.csv"
    table.write_text(table.read_text().replace("1,3000,0.5,0,", "1,3000,0.5,0.5,"))
    problems = " ".join(read_run(path).problems)
    assert "differ on last_exact of seed 1" in problems
    assert "counts 2 successful seeds, their records 1" in problems
    assert "best_val_exact 0.75, the records of the seeds 1" in problems


def test_a_summary_and_records_damaged_alike_contradict_the_tables(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", {0: LATE, 1: NEVER})
    summary, records = (json.loads((path / name).read_text()) for name in ("summary.json", "seeds.json"))
    summary["best_val_exact"] = records["seeds"][0]["best_exact"] = 0.75
    (path / "summary.json").write_text(json.dumps(summary))
    (path / "seeds.json").write_text(json.dumps(records))
    (problem,) = read_run(path).problems
    assert "seeds.json" in problem and "best_exact of seed 0" in problem


@pytest.mark.parametrize(
    ("name", "value"), [("best_step", 17), ("final_val_exact", None), ("success", 3), ("spent", {})]
)
def test_every_damaged_entry_of_a_summary_is_a_problem(tmp_path: Path, name: str, value: object) -> None:
    path = write_run(tmp_path / "run", {0: GROKS, 1: NEVER})
    summary = json.loads((path / "summary.json").read_text())
    (path / "summary.json").write_text(json.dumps(summary | {name: value}))
    (problem,) = read_run(path).problems
    assert "summary.json" in problem and name in problem


def test_evaluations_and_certificates_are_found(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", {0: GROKS, 1: NEVER})
    (path / "evaluation.json").write_text(json.dumps(EVALUATION))
    (path / "certificate.json.gz").write_bytes(gzip.compress(json.dumps(CERTIFICATE).encode()))
    (path / "broken.json").write_text("{")
    (path / "other.json").write_text('{"hello": 1}')
    (path / "half.json").write_text(json.dumps({**CERTIFICATE, "margin": {}}))
    run = read_run(path)
    (evaluation,), (certificate,) = run.evaluations, run.certificates
    assert evaluation.failures[0].answer == "00000000004"
    assert certificate.step_bounds[10] == pytest.approx(10.33)
    assert len(run.problems) == 2
    assert any("broken.json" in p for p in run.problems) and any("half.json" in p for p in run.problems)


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
    path = write_run(tmp_path / "run", {0: NEVER, 1: NEVER})
    save_checkpoint(path / "checkpoints" / "best.pt", checkpoint(1, 2000, 0.0))
    run = read_run(path)
    assert run.best is not None and run.best.seed == 1
    (path / "checkpoints" / "best.pt").write_bytes(b"damaged")
    run = read_run(path)
    assert run.checkpoint is None and "best.pt" in run.problems[0]
    assert run.best is not None and run.best.seed == 0

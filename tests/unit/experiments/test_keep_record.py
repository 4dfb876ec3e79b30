"""Records: every kept model is what its files say, and the command that keeps them chooses well."""

import dataclasses
import gzip
import json
import shutil
from pathlib import Path

import keep_record
import pytest

from adderlab.errors import UsageError
from adderlab.models.zoo import get_preset
from adderlab.proof.prove import prove_checkpoint
from adderlab.proof.search import Limits
from adderlab.recipes import get_recipe
from adderlab.runs.checkpoints import load_checkpoint
from adderlab.runs.records import Repair, SeedRecord
from adderlab.study.rate import RateExperiment, RatePlan, write_plan
from helpers.paths import ROOT

BEST = ROOT / "records" / "best"
KEPT = sorted(path.parent.name for path in BEST.glob("*/about.json"))
OFTEN = ("456p", "122p", "67p", "57p", "7p")
"""One of each line; the others are proved again in the slow tests."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name not in OFTEN)) for name in KEPT]
)
def test_a_kept_model_is_proved_and_its_files_agree(name: str) -> None:
    about = json.loads((BEST / name / "about.json").read_text())
    checkpoint = load_checkpoint(BEST / name / "model.pt")
    assert checkpoint.config == get_preset(name).config
    assert about["parameters"] == get_preset(name).parameters == checkpoint.num_parameters
    proof = prove_checkpoint(checkpoint)
    assert proof.verdict == "proved"
    assert abs(proof.margin.bound / about["margin_bound"] - 1) < 1e-6
    certificate = json.loads(gzip.decompress((BEST / name / "model.cert.json.gz").read_bytes()))
    assert certificate["verdict"] == "proved"
    assert certificate["margin"]["bound"] == about["margin_bound"]
    assert certificate["weights_sha256"] == about["weights_sha256"] == checkpoint.weights_sha256


def test_the_list_is_what_the_command_writes() -> None:
    assert (BEST / "README.md").read_text() == keep_record.index(BEST)


def measurement(folder: Path, margins: dict[int, float | None]) -> RateExperiment:
    """A finished measurement whose seeds all ended as the kept 456p."""
    plan = RatePlan(
        preset="456p",
        recipe_name="prefit",
        published=False,
        config=get_preset("456p").config,
        recipe=get_recipe("prefit"),
        seeds=tuple(margins),
        batch_of_seeds=8,
        limits=Limits(cells=10, seconds=1.0, union_seconds=1.0),
        assistance=None,
        command=("adderlab", "rate", "456p"),
    )
    write_plan(folder, plan)
    experiment = RateExperiment(plan, folder)
    (population,) = experiment.populations
    for seed, margin in margins.items():
        checkpoints = population.checkpoints(seed)
        checkpoints.mkdir(parents=True)
        shutil.copy(BEST / "456p" / "model.pt", checkpoints / "last.pt")
        experiment.records[seed] = SeedRecord(
            seed=seed,
            status="done",
            steps=36_000,
            last_exact=1.0,
            best_exact=1.0,
            grokked_at=24_000,
            steps_learned=11,
            verdict="missed" if margin is None else "proved",
            weights="last",
            margin_bound=margin,
            margin_witness=margin,
            published_errors=0,
            training_core_seconds=11.0,
            proving_core_seconds=1.0,
        )
    experiment.write("done")
    about = json.loads((BEST / "456p" / "about.json").read_text())["trained_on"]
    (population.folder / "environment.json").write_text(json.dumps(about))
    return experiment


def test_the_largest_margin_is_kept_and_only_a_larger_one_replaces_it(tmp_path: Path) -> None:
    first = measurement(tmp_path / "first", {3: 1.5, 4: None, 7: 2.5})
    records = tmp_path / "records"
    assert "seed 7" in keep_record.keep(first.folder, records)
    about = json.loads((records / "456p" / "about.json").read_text())
    assert about["seed"] == 7 and about["command"] == "adderlab rate 456p"
    again = measurement(tmp_path / "again", {9: 2.0})
    assert "stands" in keep_record.keep(again.folder, records)
    assert json.loads((records / "456p" / "about.json").read_text())["seed"] == 7
    none = measurement(tmp_path / "none", {5: None})
    assert keep_record.main([str(none.folder), "-o", str(records)]) == 0
    assert (
        "| 456p | prefit | informed (circle, attention prefit) | 7 |"
        in (records / "README.md").read_text()
    )


def test_a_repaired_model_is_kept_until_one_is_proved_as_trained(tmp_path: Path) -> None:
    records = tmp_path / "records"
    mended = measurement(tmp_path / "mended", {3: None, 4: None})
    repair = Repair(
        verdict="proved", margin_bound=9.0, trainings=2, published_errors=1, core_seconds=1.0
    )
    mended.records[3] = dataclasses.replace(mended.records[3], repair=repair)
    mended.write("done")
    (population,) = mended.populations
    shutil.copy(BEST / "456p" / "model.pt", population.checkpoints(3) / "repaired.pt")
    assert "seed 3" in keep_record.keep(mended.folder, records)
    about = json.loads((records / "456p" / "about.json").read_text())
    assert (about["weights"], about["trainings_of_repair"], about["published_errors"]) == (
        "repaired",
        2,
        1,
    )
    assert "after 2 trainings" in about["verdict"]
    trained = measurement(tmp_path / "trained", {9: 2.0})
    assert "seed 9" in keep_record.keep(trained.folder, records)
    assert "stands" in keep_record.keep(mended.folder, records)


def test_a_model_repaired_by_hand_is_its_seeds(tmp_path: Path) -> None:
    file, records = BEST / "456p" / "model.pt", tmp_path / "records"
    seed = load_checkpoint(file).seed
    assert seed is not None
    mended = keep_record.Mended(file=file, trainings=3, command="adderlab repair x.pt -o y.pt")
    measured = measurement(tmp_path / "measured", {3: None, seed: None})
    assert f"seed {seed}" in keep_record.keep(measured.folder, records, mended)
    about = json.loads((records / "456p" / "about.json").read_text())
    assert about["command"] == "adderlab rate 456p && adderlab repair x.pt -o y.pt"
    assert (about["trainings_of_repair"], about["published_errors"]) == (3, 0)
    other = measurement(tmp_path / "other", {3: None})
    with pytest.raises(UsageError, match=f"seed {seed}"):
        keep_record.keep(other.folder, records, mended)


def test_what_is_no_measurement_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert keep_record.main([str(tmp_path)]) == 2
    assert "there is no measurement" in capsys.readouterr().err

"""Every sentence about runs, evaluations and proofs, word for word."""

import json
from pathlib import Path

from adderlab.files.schema import to_dict
from adderlab.models.zoo import get_preset
from adderlab.recipes import best_name, get_recipe
from adderlab.report.describe import (
    describe_certificate,
    describe_environment,
    describe_evaluation,
    describe_model,
    describe_recipe,
    describe_run,
)
from adderlab.report.evidence import read_run
from helpers.evidence import CERTIFICATE, EVALUATION
from helpers.golden import Golden
from helpers.runs import ENVIRONMENT, GROKS, LATE, LOST, NEVER, write_run


def test_sentences_about_runs(tmp_path: Path, golden: Golden) -> None:
    curves = {"learned": GROKS, "lost it": LOST, "never": NEVER}
    lines = [
        f"{name}: {describe_run(read_run(write_run(tmp_path / name, {43: curve})))}"
        for name, curve in curves.items()
    ]
    stopped = write_run(tmp_path / "stopped", {43: NEVER}, status="stopped")
    several = write_run(tmp_path / "several", {0: GROKS, 1: LATE, 2: NEVER, 3: LOST})
    empty = write_run(tmp_path / "empty", {0: GROKS, 1: LATE})
    for name in ("seed_metrics.csv", "seeds.json", "seeds.csv"):
        (empty / name).unlink()
    lines += [f"{path.name}: {describe_run(read_run(path))}" for path in (stopped, several, empty)]
    golden("report/describe_runs.txt", "\n".join(lines) + "\n")


def test_sentences_about_evaluations_and_certificates(tmp_path: Path, golden: Golden) -> None:
    path = write_run(tmp_path / "run", {0: GROKS})
    undecided = {**CERTIFICATE, "verdict": "undecided", "failing_pairs": [0, 10**15], "steps": None}
    refuted = {**CERTIFICATE, "verdict": "refuted", "failing_pairs": 1234, "counterexample": [5, 7]}
    for name, data in (
        ("a", EVALUATION),
        ("b", {**EVALUATION, "errors": 0, "digit_accuracy": [1.0] * 11}),
        ("c", CERTIFICATE),
        ("d", undecided),
        ("e", refuted),
    ):
        (path / f"{name}.json").write_text(json.dumps(data))
    run = read_run(path)
    lines = [describe_evaluation(each) for each in run.evaluations]
    lines += [describe_evaluation(run.evaluations[0], digits=False)]
    lines += [describe_certificate(each) for each in run.certificates]
    golden("report/describe_results.txt", "\n".join(lines) + "\n")


def test_environments_are_described() -> None:
    assert describe_environment({}) == "not recorded"
    text = describe_environment(
        {**ENVIRONMENT, "git_revision": "abcdef0123456-dirty", "engine": "native"}
    )
    assert "revision abcdef0123 with uncommitted changes" in text and "engine native" in text


def test_models_and_recipes_have_their_names() -> None:
    preset = get_preset("456p")
    assert describe_model(preset.config) == "456p (456 parameters)"
    name = best_name(preset)
    settings = to_dict(get_recipe(name))
    assert describe_recipe(settings) == name
    assert describe_recipe(settings | {"steps": 601}) == f"{name} with 1 setting changed"
    assert describe_recipe({"steps": 3}) == "none of the named ones"

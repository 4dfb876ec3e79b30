"""Disks that fill up or fail under every command: one clear line, and no other file is harmed."""

import errno
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from adderlab.models.transformer import build_model
from adderlab.models.zoo import get_preset
from adderlab.runs.checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from helpers.forked_commands import SWEEP, Ended, Fault, command_runner, sample_evenly
from helpers.run_files import files, results

SMALL = "recipe.batch_size=16 recipe.val_size=20 recipe.test_size=20 recipe.eval_interval=5"
QUICK = f"--recipe published --evaluate none --quiet --device cpu --threads 1 --set {SMALL}"
RUN = "results/runs/it"
SWEPT = "--device cpu --engine torch --threads 1"
REPLAYED = ("records/", "series.md", "scores2.json")


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """A command in the folder of ``prepared``, and what it may write there."""

    name: str
    argv: str
    writes: tuple[str, ...] = ()
    """Files, and folders with a / at the end."""
    continues: bool = False
    """It prints what went wrong with a part and goes on with the others."""
    reports_in: str = ""
    """A file that must name what is wrong if the command succeeds all the same."""


WRITING = [
    Scenario(
        name="train",
        argv=f"train 456p --seeds 0-1 --steps 11 --run-name new --no-prove {QUICK}",
        writes=("results/runs/new/",),
    ),
    Scenario(
        name="resume",
        argv="train --resume results/runs/half --evaluate none --quiet --device cpu --no-prove",
        writes=("results/runs/half/",),
    ),
    Scenario(
        name="train, prove, evaluate",
        argv=f"train 456p --seeds 0 --steps 2 --run-name one {QUICK} --evaluate fresh:20",
        writes=("results/runs/one/",),
    ),
    Scenario(
        name="evaluate",
        argv="evaluate model.pt --suite fresh:20 --json --output scores.json",
        writes=("scores.json",),
    ),
    Scenario(name="report", argv=f"report {RUN}", writes=(f"{RUN}/report.html",)),
    Scenario(name="log", argv="log results --output log.md", writes=("log.md",)),
    Scenario(
        name="export adderboard",
        argv="export model.pt --to adderboard -o sub.py --no-prove --suites fresh:20 --author me",
        writes=("sub.py", "sub.md"),
    ),
    Scenario(
        name="export safetensors",
        argv="export model.pt --to safetensors -o w.safetensors --no-prove --suites fresh:20",
        writes=("w.safetensors", "w.md"),
    ),
    Scenario(
        name="export hub-folder",
        argv="export model.pt --to hub-folder -o hub --no-prove --suites fresh:20 --author me",
        writes=("hub/",),
    ),
    Scenario(
        name="rate",
        argv=f"rate 456p --seeds 0-1 --steps 3 {QUICK.replace('--evaluate none', '')}",
        writes=("results/rates/", "records/rates/"),
    ),
    Scenario(
        name="replay",
        argv="replay series.toml --log series.md",
        writes=REPLAYED,
        continues=True,
    ),
    Scenario(name="sweep", argv=f"sweep lr.toml {SWEPT}", writes=("results/sweeps/lr/",)),
]
SLOW_WRITING = [
    Scenario(
        name="prove",
        argv="prove model.pt --cells 0 --seconds 1 -o cert.json.gz",
        writes=("cert.json.gz",),
    ),
    Scenario(
        name="export onnx",
        argv="export model.pt --to onnx -o w.onnx --no-prove --suites fresh:20 --author me",
        writes=("w.onnx", "w.md"),
    ),
    Scenario(
        name="repair",
        argv="repair model.pt --rounds 1 --steps 1 -o repaired.pt",
        writes=("repaired.pt",),
    ),
]
READING = [
    Scenario(name="resume", argv=WRITING[1].argv, writes=("results/runs/half/",)),
    Scenario(
        name="sweep",
        argv=f"sweep lr.toml --output half-swept --resume {SWEPT}",
        writes=("half-swept/",),
    ),
    Scenario(name="evaluate", argv="evaluate model.pt --suite fresh:20"),
    Scenario(name="predict", argv="predict model.pt 12 34"),
    Scenario(name="inspect", argv="inspect model.pt"),
    Scenario(
        name="report", argv=f"report {RUN} --output r.html", writes=("r.html",), reports_in="r.html"
    ),
    Scenario(name="compare", argv=f"compare {RUN} {RUN}"),
    Scenario(name="log", argv="log results --output log.md", writes=("log.md",), reports_in="log.md"),
    Scenario(
        name="replay",
        argv="replay series.toml --log series.md",
        writes=REPLAYED,
        continues=True,
        reports_in="series.md",
    ),
]
FAST = {"train": 2, "resume": 2, "sweep": 1, "evaluate": 1, "log": 1, "rate": 1, "replay": 1}
"""Scenarios of every run of the suite, with the number of calls that fail; the others are slow."""
SERIES = """
schema_version = 1
name = "small"
title = "A small series"

[[experiment]]
name = "E1"
title = "One evaluation"

[[experiment.step]]
command = "adderlab evaluate model.pt --suite fresh:20 --json --output scores2.json"
output = "scores2.json"
"""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, a killed one, a killed sweep, a checkpoint, a series."""
    folder = tmp_path_factory.mktemp("prepared")
    model = get_preset("36p").config
    params = {name: p.detach() for name, p in build_model(model, 0).named_parameters()}
    checkpoint = Checkpoint(config=model, params=params, recipe={}, step=5, val_exact=0.5)
    save_checkpoint(folder / "model.pt", checkpoint)
    (folder / "series.toml").write_text(SERIES)
    (folder / "lr.toml").write_text(SWEEP)
    sweep = ["sweep", "lr.toml", "--output", "half-swept", *SWEPT.split()]
    counted = tmp_path_factory.mktemp("swept")
    shutil.copy(folder / "lr.toml", counted)
    calls = command_runner().run(counted, *sweep).calls
    assert command_runner().run(folder, *sweep, fault=Fault(at=calls // 2, action="kill")).killed
    train = f"train 456p --seeds 0-1 --no-prove {QUICK}".split()
    ended = command_runner().run(folder, *train, "--steps", "6", "--run-name", "it")
    assert ended.code == 0, ended.err
    half = [*train, "--steps", "21", "--run-name", "half"]
    calls = command_runner().run(tmp_path_factory.mktemp("counted"), *half).calls
    assert command_runner().run(folder, *half, fault=Fault(at=calls // 2, action="kill")).killed
    return folder


def run_scenario(scenario: Scenario, prepared: Path, folder: Path, fault: Fault) -> Ended:
    """The scenario with a fault: one line, and no file but its own is touched. Removes the folder."""
    shutil.copytree(prepared, folder)
    ended = command_runner().run(folder, *scenario.argv.split(), fault=fault)
    after, before = files(folder), files(prepared)
    assert "Traceback" not in ended.err, (fault, ended.err)
    lines = [line for line in ended.err.splitlines() if line.startswith("adderlab: ")]
    if ended.code != 0:
        assert ended.code in (1, 2), (fault, ended)
        assert len(lines) == (0 if scenario.continues and not ended.err else 1), (fault, ended)
    for name in set(before) | set(after):
        if not name.startswith(scenario.writes) or not scenario.writes:
            assert after.get(name) == before.get(name), (fault, name)
    return ended


def count(scenario: Scenario, prepared: Path, folder: Path, kind: str) -> Ended:
    """The scenario without a fault, with the number of its calls."""
    ended = run_scenario(scenario, prepared, folder, Fault(at=1 << 40, kind=kind))  # type: ignore[arg-type]
    assert ended.code in (0, 1) and not ended.err.startswith("adderlab: "), ended
    assert ended.calls > 0
    return ended


def fill_up(scenario: Scenario, prepared: Path, tmp_path: Path, faults: int) -> None:
    """The disk is full from a call on, or for that call only; then the command can be typed again."""
    clean = tmp_path / "clean"
    good, before = count(scenario, prepared, clean, "writes"), files(prepared)
    for n, at in enumerate(sample_evenly(faults, good.calls)):
        folder = tmp_path / str(at)
        action = ("forever", "half", "once")[n % 3]
        fault = Fault(at=at, action=action, code=errno.ENOSPC)  # type: ignore[arg-type]
        ended = run_scenario(scenario, prepared, folder, fault)
        assert ended.code == 1 and ("disk is full" in ended.err), (fault, ended)
        # A kill leaves what it was writing; a full disk, which the program notices, does not.
        leftovers = [name for name in files(folder) if ".adderlab-" in name and name not in before]
        assert not leftovers, (fault, leftovers)
        assert complete(scenario, folder).code == good.code
        for name in scenario.writes:
            if name.startswith("results/runs/"):
                assert results(folder / name) == results(clean / name), fault
            if name.startswith("results/sweeps/"):
                one, other = (each / name / "table.csv" for each in (folder, clean))
                assert one.read_bytes() == other.read_bytes(), fault
        # A series whose first record could not be begun has its next one in a folder of its own.
        assert scenario.name == "replay" or set(files(folder)) == set(files(clean)), fault
        shutil.rmtree(folder)


def complete(scenario: Scenario, folder: Path) -> Ended:
    """Type the command again, now that there is room; go on where there is something to go on from."""
    argv = scenario.argv.split()
    run = next((folder / name for name in scenario.writes if name.startswith("results/runs/")), None)
    if scenario.argv.startswith("train 456p") and run is not None and (run / "config.json").exists():
        evaluate = argv[len(argv) - argv[::-1].index("--evaluate")]
        argv = ["train", "--resume", str(run.relative_to(folder)), "--evaluate", evaluate, "--quiet"]
        argv += ["--device", "cpu", *(["--no-prove"] if "--no-prove" in scenario.argv else [])]
    if scenario.name == "sweep" and (folder / "results/sweeps/lr/config.json").exists():
        argv += ["--resume"]
    plans = sorted(folder.glob("results/rates/*/config.json"))
    if scenario.name == "rate" and plans:
        argv = ["rate", "--resume", str(plans[0].parent.relative_to(folder)), "--overwrite", "--quiet"]
    ended = command_runner().run(folder, *argv)
    assert "adderlab: " not in ended.err, ended
    return ended


def fail_reading(scenario: Scenario, prepared: Path, tmp_path: Path, faults: int) -> None:
    calls = count(scenario, prepared, tmp_path / "clean", "reads").calls
    for at in sample_evenly(faults, calls):
        folder = tmp_path / str(at)
        ended = run_scenario(scenario, prepared, folder, Fault(at=at, kind="reads", code=errno.EIO))
        printed = ended.out + ended.err
        if ended.code == 0 and scenario.reports_in:
            printed += (folder / scenario.reports_in).read_text()
        assert "input/output error" in printed.lower(), (at, ended)
        shutil.rmtree(folder)


def ids(scenarios: list[Scenario]) -> list[str]:
    return [scenario.name for scenario in scenarios]


@pytest.mark.parametrize("scenario", few := [s for s in WRITING if s.name in FAST], ids=ids(few))
def test_a_disk_that_fills_up(scenario: Scenario, prepared: Path, tmp_path: Path) -> None:
    fill_up(scenario, prepared, tmp_path, faults=FAST[scenario.name])


@pytest.mark.slow
@pytest.mark.parametrize("scenario", WRITING, ids=ids(WRITING))
def test_a_disk_that_fills_up_at_every_call(scenario: Scenario, prepared: Path, tmp_path: Path) -> None:
    fill_up(scenario, prepared, tmp_path, faults=10_000)


@pytest.mark.slow
@pytest.mark.parametrize("scenario", SLOW_WRITING, ids=ids(SLOW_WRITING))
def test_a_disk_that_fills_up_under_long_work(
    scenario: Scenario, prepared: Path, tmp_path: Path
) -> None:
    fill_up(scenario, prepared, tmp_path, faults=3)


@pytest.mark.parametrize("scenario", some := [s for s in READING if s.name in FAST], ids=ids(some))
def test_a_disk_that_cannot_be_read(scenario: Scenario, prepared: Path, tmp_path: Path) -> None:
    fail_reading(scenario, prepared, tmp_path, faults=1)


@pytest.mark.slow
@pytest.mark.parametrize("scenario", READING, ids=ids(READING))
def test_a_disk_that_cannot_be_read_at_any_call(
    scenario: Scenario, prepared: Path, tmp_path: Path
) -> None:
    fail_reading(scenario, prepared, tmp_path, faults=10_000)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("argv", [["--help"], ["zoo", "--json"]], ids=" ".join)
def test_output_that_has_no_room(argv: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "adderlab.cli.main", *argv]
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert line.startswith("adderlab: cannot print the output")


def test_the_faults_are_real(prepared: Path, tmp_path: Path) -> None:
    """Half a write reaches the disk; then nothing does."""
    shutil.copytree(prepared, tmp_path / "in")
    whole = command_runner().run(tmp_path / "in", *WRITING[3].argv.split())
    assert whole.code == 0 and whole.calls >= 4
    assert load_checkpoint(tmp_path / "in/model.pt").num_parameters == 36
    hit = command_runner().run(tmp_path / "in", *WRITING[3].argv.split(), fault=Fault(at=0))
    assert hit.code == 1 and hit.calls >= 1

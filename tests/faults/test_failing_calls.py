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
from helpers.nursery import SWEEP, Ended, Fault, nursery, spread
from helpers.outcomes import files, results

SMALL = "recipe.batch_size=16 recipe.val_size=20 recipe.test_size=20 recipe.eval_interval=5"
QUICK = f"--recipe published --evaluate none --quiet --device cpu --threads 1 --set {SMALL}"
RUN = "results/runs/it"
SWEPT = "--device cpu --engine torch --threads 1"
REPLAYED = ("records/", "series.md", "scores2.json")


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A command in the folder of ``prepared``, and what it may write there."""

    name: str
    argv: str
    writes: tuple[str, ...] = ()
    """Files, and folders with a / at the end."""
    goes_on: bool = False
    """It prints what went wrong with a part and goes on with the others."""
    tells: str = ""
    """A file that must say what is wrong if the command succeeds all the same."""


WRITING = [
    Scene(
        name="train",
        argv=f"train 456p --seeds 0-1 --steps 11 --run-name new --no-prove {QUICK}",
        writes=("results/runs/new/",),
    ),
    Scene(
        name="resume",
        argv="train --resume results/runs/half --evaluate none --quiet --device cpu --no-prove",
        writes=("results/runs/half/",),
    ),
    Scene(
        name="train, prove, evaluate",
        argv=f"train 456p --seeds 0 --steps 2 --run-name one {QUICK} --evaluate fresh:20",
        writes=("results/runs/one/",),
    ),
    Scene(
        name="evaluate",
        argv="evaluate model.pt --suite fresh:20 --json --output scores.json",
        writes=("scores.json",),
    ),
    Scene(name="report", argv=f"report {RUN}", writes=(f"{RUN}/report.html",)),
    Scene(name="log", argv="log results --output log.md", writes=("log.md",)),
    Scene(
        name="export adderboard",
        argv="export model.pt --to adderboard -o sub.py --no-prove --suites fresh:20 --author me",
        writes=("sub.py", "sub.md"),
    ),
    Scene(
        name="export safetensors",
        argv="export model.pt --to safetensors -o w.safetensors --no-prove --suites fresh:20",
        writes=("w.safetensors", "w.md"),
    ),
    Scene(
        name="export hub-folder",
        argv="export model.pt --to hub-folder -o hub --no-prove --suites fresh:20 --author me",
        writes=("hub/",),
    ),
    Scene(
        name="rate",
        argv=f"rate 456p --seeds 0-1 --steps 3 {QUICK.replace('--evaluate none', '')}",
        writes=("results/rates/", "records/rates/"),
    ),
    Scene(
        name="replay",
        argv="replay series.toml --log series.md",
        writes=REPLAYED,
        goes_on=True,
    ),
    Scene(name="sweep", argv=f"sweep lr.toml {SWEPT}", writes=("results/sweeps/lr/",)),
]
SLOW_WRITING = [
    Scene(
        name="prove",
        argv="prove model.pt --cells 0 --seconds 1 -o cert.json.gz",
        writes=("cert.json.gz",),
    ),
    Scene(
        name="export onnx",
        argv="export model.pt --to onnx -o w.onnx --no-prove --suites fresh:20 --author me",
        writes=("w.onnx", "w.md"),
    ),
    Scene(
        name="repair",
        argv="repair model.pt --rounds 1 --steps 1 -o repaired.pt",
        writes=("repaired.pt",),
    ),
]
READING = [
    Scene(name="resume", argv=WRITING[1].argv, writes=("results/runs/half/",)),
    Scene(
        name="sweep",
        argv=f"sweep lr.toml --output half-swept --resume {SWEPT}",
        writes=("half-swept/",),
    ),
    Scene(name="evaluate", argv="evaluate model.pt --suite fresh:20"),
    Scene(name="predict", argv="predict model.pt 12 34"),
    Scene(name="inspect", argv="inspect model.pt"),
    Scene(name="report", argv=f"report {RUN} --output r.html", writes=("r.html",), tells="r.html"),
    Scene(name="compare", argv=f"compare {RUN} {RUN}"),
    Scene(name="log", argv="log results --output log.md", writes=("log.md",), tells="log.md"),
    Scene(
        name="replay",
        argv="replay series.toml --log series.md",
        writes=REPLAYED,
        goes_on=True,
        tells="series.md",
    ),
]
FAST = {"train": 3, "resume": 3, "sweep": 2, "evaluate": 1, "log": 1, "rate": 1, "replay": 1}
"""Scenes for every day, with the number of calls that fail; the others are slow."""
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
    calls = nursery().run(counted, *sweep).calls
    assert nursery().run(folder, *sweep, fault=Fault(at=calls // 2, action="kill")).killed
    train = f"train 456p --seeds 0-1 --no-prove {QUICK}".split()
    ended = nursery().run(folder, *train, "--steps", "6", "--run-name", "it")
    assert ended.code == 0, ended.err
    half = [*train, "--steps", "21", "--run-name", "half"]
    calls = nursery().run(tmp_path_factory.mktemp("counted"), *half).calls
    assert nursery().run(folder, *half, fault=Fault(at=calls // 2, action="kill")).killed
    return folder


def play(scene: Scene, prepared: Path, folder: Path, fault: Fault) -> Ended:
    """The scene with a fault: one line, and no file but its own is touched. Removes the folder."""
    shutil.copytree(prepared, folder)
    ended = nursery().run(folder, *scene.argv.split(), fault=fault)
    after, before = files(folder), files(prepared)
    assert "Traceback" not in ended.err, (fault, ended.err)
    lines = [line for line in ended.err.splitlines() if line.startswith("adderlab: ")]
    if ended.code != 0:
        assert ended.code in (1, 2), (fault, ended)
        assert len(lines) == (0 if scene.goes_on and not ended.err else 1), (fault, ended)
    for name in set(before) | set(after):
        if not name.startswith(scene.writes) or not scene.writes:
            assert after.get(name) == before.get(name), (fault, name)
    return ended


def count(scene: Scene, prepared: Path, folder: Path, kind: str) -> Ended:
    """The scene without a fault, with the number of its calls."""
    ended = play(scene, prepared, folder, Fault(at=1 << 40, kind=kind))  # type: ignore[arg-type]
    assert ended.code in (0, 1) and not ended.err.startswith("adderlab: "), ended
    assert ended.calls > 0
    return ended


def fill_up(scene: Scene, prepared: Path, tmp_path: Path, faults: int) -> None:
    """The disk is full from a call on, or for that call only; then the command can be typed again."""
    clean = tmp_path / "clean"
    good, before = count(scene, prepared, clean, "writes"), files(prepared)
    for n, at in enumerate(spread(faults, good.calls)):
        folder = tmp_path / str(at)
        action = ("forever", "half", "once")[n % 3]
        fault = Fault(at=at, action=action, code=errno.ENOSPC)  # type: ignore[arg-type]
        ended = play(scene, prepared, folder, fault)
        assert ended.code == 1 and ("disk is full" in ended.err), (fault, ended)
        # A kill leaves what it was writing; a full disk, which the program can tell, does not.
        leftovers = [name for name in files(folder) if ".adderlab-" in name and name not in before]
        assert not leftovers, (fault, leftovers)
        assert complete(scene, folder).code == good.code
        for name in scene.writes:
            if name.startswith("results/runs/"):
                assert results(folder / name) == results(clean / name), fault
            if name.startswith("results/sweeps/"):
                one, other = (each / name / "table.csv" for each in (folder, clean))
                assert one.read_bytes() == other.read_bytes(), fault
        # A series whose first record could not be begun has its next one in a folder of its own.
        assert scene.name == "replay" or set(files(folder)) == set(files(clean)), fault
        shutil.rmtree(folder)


def complete(scene: Scene, folder: Path) -> Ended:
    """Type the command again, now that there is room; go on where there is something to go on from."""
    argv = scene.argv.split()
    run = next((folder / name for name in scene.writes if name.startswith("results/runs/")), None)
    if scene.argv.startswith("train 456p") and run is not None and (run / "config.json").exists():
        evaluate = argv[len(argv) - argv[::-1].index("--evaluate")]
        argv = ["train", "--resume", str(run.relative_to(folder)), "--evaluate", evaluate, "--quiet"]
        argv += ["--device", "cpu", *(["--no-prove"] if "--no-prove" in scene.argv else [])]
    if scene.name == "sweep" and (folder / "results/sweeps/lr/config.json").exists():
        argv += ["--resume"]
    plans = sorted(folder.glob("results/rates/*/config.json"))
    if scene.name == "rate" and plans:
        argv = ["rate", "--resume", str(plans[0].parent.relative_to(folder)), "--overwrite", "--quiet"]
    ended = nursery().run(folder, *argv)
    assert "adderlab: " not in ended.err, ended
    return ended


def fail_reading(scene: Scene, prepared: Path, tmp_path: Path, faults: int) -> None:
    calls = count(scene, prepared, tmp_path / "clean", "reads").calls
    for at in spread(faults, calls):
        folder = tmp_path / str(at)
        ended = play(scene, prepared, folder, Fault(at=at, kind="reads", code=errno.EIO))
        said = ended.out + ended.err
        if ended.code == 0 and scene.tells:
            said += (folder / scene.tells).read_text()
        assert "input/output error" in said.lower(), (at, ended)
        shutil.rmtree(folder)


def ids(scenes: list[Scene]) -> list[str]:
    return [scene.name for scene in scenes]


@pytest.mark.parametrize("scene", few := [s for s in WRITING if s.name in FAST], ids=ids(few))
def test_a_disk_that_fills_up(scene: Scene, prepared: Path, tmp_path: Path) -> None:
    fill_up(scene, prepared, tmp_path, faults=FAST[scene.name])


@pytest.mark.slow
@pytest.mark.parametrize("scene", WRITING, ids=ids(WRITING))
def test_a_disk_that_fills_up_at_every_call(scene: Scene, prepared: Path, tmp_path: Path) -> None:
    fill_up(scene, prepared, tmp_path, faults=10_000)


@pytest.mark.slow
@pytest.mark.parametrize("scene", SLOW_WRITING, ids=ids(SLOW_WRITING))
def test_a_disk_that_fills_up_under_long_work(scene: Scene, prepared: Path, tmp_path: Path) -> None:
    fill_up(scene, prepared, tmp_path, faults=3)


@pytest.mark.parametrize("scene", some := [s for s in READING if s.name in FAST], ids=ids(some))
def test_a_disk_that_cannot_be_read(scene: Scene, prepared: Path, tmp_path: Path) -> None:
    fail_reading(scene, prepared, tmp_path, faults=1)


@pytest.mark.slow
@pytest.mark.parametrize("scene", READING, ids=ids(READING))
def test_a_disk_that_cannot_be_read_at_any_call(scene: Scene, prepared: Path, tmp_path: Path) -> None:
    fail_reading(scene, prepared, tmp_path, faults=10_000)


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
    whole = nursery().run(tmp_path / "in", *WRITING[3].argv.split())
    assert whole.code == 0 and whole.calls >= 4
    assert load_checkpoint(tmp_path / "in/model.pt").num_parameters == 36
    hit = nursery().run(tmp_path / "in", *WRITING[3].argv.split(), fault=Fault(at=0))
    assert hit.code == 1 and hit.calls >= 1

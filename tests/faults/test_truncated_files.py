"""Files cut short, one of every kind we write: one line that names the file, and nothing is harmed."""

import gzip
import json
import re
import shutil
from pathlib import Path

import pytest
import torch

from adderlab.cli.main import main
from adderlab.engine.torch_tables import TorchEngine
from adderlab.models.transformer import build_model
from adderlab.models.zoo import get_preset
from adderlab.runs.checkpoints import Checkpoint, save_checkpoint, save_safetensors
from adderlab.training.objective import objective_for
from adderlab.training.recipe import Recipe
from adderlab.training.run import Job, run
from helpers.foreign import write_mlx
from helpers.run_files import files

RUN = "run"
RESUME = f"train --resume {RUN} --evaluate none --no-prove --quiet --device cpu --engine torch"
CHECK = "check cert.json model.pt"
KINDS = {
    "model.pt": "predict model.pt 1 2",
    "model.safetensors": "predict model.safetensors 1 2",
    "model.npz": "predict model.npz 1 2",
    f"{RUN}/checkpoints/best.pt": f"predict {RUN}/checkpoints/best.pt 1 2",
    f"{RUN}/state.pt": RESUME,
    f"{RUN}/config.json": RESUME,
    f"{RUN}/metrics.csv": RESUME,
    f"{RUN}/seed_metrics.csv": RESUME,
    "cert.json": CHECK,
    "cert.json.gz": "check cert.json.gz model.pt",
    "rates/456p_circle.json": "rate --table --output rates",
}
"""File -> a command that needs it."""
REPORTED = (
    "config.json",
    "summary.json",
    "environment.json",
    "seed_metrics.csv",
    "checkpoints/best.pt",
    "evaluation.json",
    "proofs.json",
)
"""Files of a run that a report reads: it shows what there is and names what it cannot read."""


MISSES = re.compile("damaged|cannot be read|is empty|no header|holds no evaluation|cells instead")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One file of every kind."""
    folder = tmp_path_factory.mktemp("whole")
    config = get_preset("456p").config
    params = {name: p.detach() for name, p in build_model(config, 0).named_parameters()}
    model = Checkpoint(config=config, params=params, recipe={}, step=5, val_exact=0.5)
    save_checkpoint(folder / "model.pt", model)
    save_safetensors(folder / "model.safetensors", model)
    mlx = get_preset("122p").config
    params = {name: p.detach() for name, p in build_model(mlx, 0).named_parameters()}
    write_mlx(folder / "model.npz", mlx, params)
    recipe = Recipe(steps=11, batch_size=8, warmup_steps=4, val_size=10, test_size=10, eval_interval=5)
    job = Job(config=config, recipe=recipe, seeds=(3, 4), folder=folder / RUN)
    cpu = torch.device("cpu")
    run(job, objective_for(config, TorchEngine(), cpu), cpu, until=6)
    certificate = {"format": "adderlab-certificate", "version": 1, "verdict": "refuted"}
    (folder / "cert.json").write_text(json.dumps(certificate))
    (folder / "cert.json.gz").write_bytes(gzip.compress(json.dumps(certificate).encode()))
    (folder / "rates").mkdir()
    (folder / "rates/456p_circle.json").write_text('{"schema_version": 1, "preset": "456p"}\n')
    for name in ("evaluation.json", "proofs.json"):
        (folder / RUN / name).write_text('{"schema_version": 1, "3": {}}\n')
    return folder


def cut(whole: Path, folder: Path, name: str, share: float) -> dict[str, bytes]:
    """A copy with one file cut to a share of its bytes; every file of it."""
    shutil.copytree(whole, folder)
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[: int(share * len(data))])
    return files(folder)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.95])
@pytest.mark.parametrize("name", KINDS)
def test_a_file_cut_short_is_one_line(
    name: str,
    share: float,
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = cut(whole, tmp_path / "cut", name, share)
    monkeypatch.chdir(tmp_path / "cut")
    code = main(KINDS[name].split())
    lines = [line for line in capsys.readouterr().err.splitlines() if line]
    assert code in (1, 2), lines
    assert len(lines) == 1 and lines[0].startswith("adderlab: ") and name in lines[0], lines
    assert files(tmp_path / "cut") == before


@pytest.mark.parametrize("share", [0.0, 0.5])
@pytest.mark.parametrize("name", REPORTED)
def test_a_report_names_what_it_cannot_read(
    name: str,
    share: float,
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = cut(whole, tmp_path / "cut", f"{RUN}/{name}", share)
    monkeypatch.chdir(tmp_path / "cut")
    code = main(["report", RUN, "--output", "report.html"])
    err = capsys.readouterr().err
    if code == 0:
        page = (tmp_path / "cut/report.html").read_text()
        assert any(Path(name).name in line and MISSES.search(line) for line in page.splitlines()), name
    else:
        assert code in (1, 2) and len(err.splitlines()) == 1 and Path(name).name in err
    after = files(tmp_path / "cut")
    assert {path: after[path] for path in before} == before

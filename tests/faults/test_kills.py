"""Runs that are killed, stopped, refused or lose their folder, and go on to the same bits."""

import dataclasses
import json
import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from adderlab.engine.torch_tables import TorchEngine
from adderlab.errors import Failure, UsageError
from adderlab.files.atomic import RunLock
from adderlab.models.zoo import get_preset
from adderlab.runs.checkpoints import load_checkpoint
from adderlab.runs.folder import load_state
from adderlab.runs.records import SeedRecord, read_metrics, read_records
from adderlab.training.measure import Evaluation, Listener
from adderlab.training.objective import objective_for
from adderlab.training.recipe import Recipe
from adderlab.training.run import Job, RunResult, read_job, run
from helpers.forked_commands import NO_FAULT, SWEEP, Ended, Fault, command_runner, sample_evenly
from helpers.run_files import files, results

CPU = torch.device("cpu")
SETTINGS = "recipe.batch_size=16 recipe.val_size=20 recipe.test_size=20 recipe.eval_interval=5"
PLACE = "--run-name it --keep all --evaluate none --quiet --device cpu --threads 1"
TRAIN = f"train 456p --recipe published --seeds 0-3 --steps 26 {PLACE} --set {SETTINGS}".split()
RUN = Path("results/runs/it")
RESUME = ["train", "--resume", str(RUN), "--evaluate", "none", "--device", "cpu", "--quiet"]


@dataclasses.dataclass(frozen=True)
class Whole:
    """The run that nothing happened to."""

    results: dict[str, Any]
    seconds: float
    calls: int


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    ended = []
    for name in ("compiles", "times"):
        folder = tmp_path_factory.mktemp(name)
        ended.append(command_runner().run(folder, *TRAIN))
        assert ended[-1].code == 0, ended[-1].err
    assert {row.step for row in read_metrics(folder / RUN)} == {0, 5, 10, 15, 20, 25}
    return Whole(results=results(folder / RUN), seconds=ended[-1].seconds, calls=ended[-1].calls)


def resume(folder: Path, **how: Any) -> Ended:
    """Resume the run; or start it, if it was killed before there was one."""
    argv = RESUME if (folder / RUN / "config.json").exists() else TRAIN
    return command_runner().run(folder, *argv, **how)


def kill_at_random(tmp_path: Path, whole: Whole, kills: int, seed: int) -> None:
    """Start runs and resume them, killing at random moments, until so many processes were killed; some
    write their files at every evaluation, others leave evaluations out."""
    generator, killed, chain = random.Random(seed), 0, 0

    def pause() -> float:
        return generator.choice((0.0, 0.02, 1.0))

    while killed < kills:
        folder = tmp_path / str(chain)
        folder.mkdir()
        ended = resume(folder, signal_after=generator.uniform(0, whole.seconds), pause=pause())
        while ended.killed:
            killed += 1
            moment = generator.uniform(0, whole.seconds) if killed < kills else None
            ended = resume(folder, signal_after=moment, pause=pause())
        assert ended.code == 0, ended.err
        assert results(folder / RUN) == whole.results, f"chain {chain} of seed {seed}"
        shutil.rmtree(folder)
        chain += 1


def kill_at_calls(tmp_path: Path, whole: Whole, calls: list[int]) -> None:
    """Die at these of the run's calls that change the disk, in the middle where it is a write."""
    for call in calls:
        folder = tmp_path / str(call)
        folder.mkdir()
        ended = command_runner().run(folder, *TRAIN, fault=Fault(at=call, action="half, kill"))
        assert ended.killed
        ended = resume(folder)
        assert ended.code == 0, (call, ended.err)
        assert results(folder / RUN) == whole.results, f"call {call}"
        shutil.rmtree(folder)


def test_killed_at_random_moments(tmp_path: Path, whole: Whole) -> None:
    kill_at_random(tmp_path, whole, kills=10, seed=0)


@pytest.mark.slow
def test_killed_at_200_random_moments(tmp_path: Path, whole: Whole) -> None:
    kill_at_random(tmp_path, whole, kills=200, seed=1)


def test_killed_while_writing(tmp_path: Path, whole: Whole) -> None:
    kill_at_calls(tmp_path, whole, sample_evenly(4, whole.calls))


def test_a_sweep_killed_while_it_writes_cells_that_train_side_by_side(tmp_path: Path) -> None:
    """The cells are then at different steps, one of them in the middle of a write."""
    argv = ("sweep", "lr.toml", "--output", "out", "--engine", "torch", "--threads", "1", "--json")

    def swept(name: str, at: int | None = None) -> tuple[Ended, list[Any]]:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "lr.toml").write_text(SWEEP)
        fault = NO_FAULT if at is None else Fault(at=at, action="half, kill")
        ended = command_runner().run(folder, *argv, fault=fault)
        if ended.killed:
            on = ["--resume"] if (folder / "out/config.json").is_file() else []
            ended = command_runner().run(folder, *argv, *on)
        assert ended.code == 0, (at, ended.err)
        cells = [results(folder / f"out/cells/{cell:04d}") for cell in range(2)]
        for name, config in ((name, found) for cell in cells for name, found in cell.items()):
            if name.endswith("config.json"):
                config.pop("command")  # with --resume where that began the cell
        return ended, [(folder / "out/table.csv").read_bytes(), ended.out, *cells]

    ended, want = swept("whole")
    for call in sample_evenly(3, ended.calls):
        assert swept(str(call), call)[1] == want, f"call {call}"


@pytest.mark.slow
def test_killed_at_every_call_that_writes(tmp_path: Path, whole: Whole) -> None:
    kill_at_calls(tmp_path, whole, list(range(whole.calls)))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
def test_a_stop_prints_the_command_that_goes_on(number: int, tmp_path: Path) -> None:
    """The run would take hours; a process that ignores the signal would not come back."""
    long = [each if each != "26" else "1000000" for each in TRAIN]
    begun: dict[str, Any] = {"signal_after": 0.1, "signal_when": RUN / "summary.json", "number": number}
    ended = command_runner().run(tmp_path, *long, **begun)
    command = f"adderlab train --resume {RUN} --device cpu"
    assert ended.code == 130, ended
    assert ended.err == f"Stopped. To go on: {command}\n"
    step = load_state(tmp_path / RUN)["population"]["next_step"]
    (tmp_path / RUN / "summary.json").unlink()
    again = command_runner().run(tmp_path, *command.split()[1:], **begun)
    assert again.code == 130 and command in again.out, again
    assert load_state(tmp_path / RUN)["population"]["next_step"] > step > 0


def test_a_second_process_is_refused(tmp_path: Path, whole: Whole) -> None:
    killed = command_runner().run(tmp_path, *TRAIN, fault=Fault(at=whole.calls // 2, action="kill"))
    assert killed.killed
    with RunLock(tmp_path / RUN):
        for argv in (RESUME, TRAIN, [*TRAIN, "--overwrite"]):
            refused = command_runner().run(tmp_path, *argv)
            assert refused.code == 1
            (line,) = refused.err.splitlines()
            assert "is in use by process" in line and str(RUN) in line
    assert resume(tmp_path).code == 0
    assert results(tmp_path / RUN) == whole.results


# In this process, on the PyTorch engine: what happens to the folder meanwhile.

CONFIG = get_preset("456p").config
RECIPE = Recipe(steps=11, batch_size=8, warmup_steps=4, val_size=10, test_size=10, eval_interval=5)


class ActAfterEvaluation(Listener):
    """Does something to the folder after the evaluation at one step."""

    def __init__(self, act: Callable[[], object], step: int) -> None:
        self.act, self.step = act, step

    def on_evaluation(self, evaluation: Evaluation, records: tuple[SeedRecord, ...]) -> None:
        if evaluation.step == self.step:
            self.act()


def train(folder: Path, act: Callable[[], object] = int, step: int = -1, **how: Any) -> RunResult:
    job = (
        read_job(folder)
        if how.get("resume")
        else Job(config=CONFIG, recipe=RECIPE, seeds=(3, 4), folder=folder)
    )
    objective = objective_for(CONFIG, TorchEngine(), CPU)
    return run(job, objective, CPU, ActAfterEvaluation(act, step), **how)


def test_a_folder_that_another_run_took_over_is_left_alone(tmp_path: Path) -> None:
    folder, other = tmp_path / "run", tmp_path / "other"
    train(other)
    before = results(other)

    def take_over() -> None:
        folder.rename(tmp_path / "moved")
        other.rename(folder)

    with pytest.raises(Failure, match="no longer the one this run began in"):
        train(folder, take_over, step=5)
    assert results(folder) == before
    assert train(tmp_path / "moved", resume=True).status == "done"


def test_a_folder_that_is_gone_is_not_made_again(tmp_path: Path) -> None:
    with pytest.raises(Failure, match="does not exist"):
        train(tmp_path / "run", lambda: shutil.rmtree(tmp_path / "run"), step=5)
    assert list(tmp_path.iterdir()) == []


def stopped(tmp_path: Path) -> Path:
    """A run that was stopped after its evaluation at step 5."""
    folder = tmp_path / "run"
    train(folder, lambda: signal.raise_signal(signal.SIGINT), step=5)
    assert load_state(folder)["population"]["next_step"] == 6
    return folder


def test_a_table_that_was_cut_short_is_named(tmp_path: Path) -> None:
    folder = stopped(tmp_path)
    table = folder / "seed_metrics.csv"
    lines = table.read_text().splitlines(keepends=True)
    table.write_text("".join(lines[:2]))
    with pytest.raises(Failure, match="lacks rows of step 5, where the run was evaluated"):
        train(folder, resume=True)
    table.unlink()
    assert train(folder, resume=True).status == "done"
    assert {row.step for row in read_metrics(folder)} == {0, 5, 10}
    assert table.read_text().startswith(lines[0]) and len(table.read_text().splitlines()) == 3


def test_a_state_of_other_settings_is_refused(tmp_path: Path) -> None:
    folder = stopped(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config["recipe"]["lr"] *= 2
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(Failure, match=r"state\.pt belongs to other settings"):
        train(folder, resume=True)


def test_a_state_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    folder = stopped(tmp_path)
    state = load_state(folder)
    del state["population"]["optimizer"]
    torch.save(state, folder / "state.pt")
    with pytest.raises(Failure, match=r"state\.pt does not fit this run"):
        train(folder, resume=True)


def test_a_run_with_results_but_no_state_is_not_begun_again(tmp_path: Path) -> None:
    folder = stopped(tmp_path)
    (folder / "state.pt").unlink()
    before = files(folder)
    with pytest.raises(UsageError, match=r"no state\.pt"):
        train(folder, resume=True)
    assert files(folder) == before


def test_the_choice_of_kept_seeds_is_resumed(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    job = Job(config=CONFIG, recipe=RECIPE, seeds=(3, 4, 5), folder=folder, keep="all")
    objective = objective_for(CONFIG, TorchEngine(), CPU)
    run(job, objective, CPU, ActAfterEvaluation(lambda: signal.raise_signal(signal.SIGINT), 5))
    assert train(folder, resume=True).status == "done"
    for row in read_records(folder):
        assert (
            load_checkpoint(folder / f"seed_{row.seed:04d}" / "checkpoints" / "best.pt").seed == row.seed
        )

"""``summary.json``: how far a run is, in R456's keys and ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args

from adderlab.errors import Failure
from adderlab.files.atomic import read_json
from adderlab.models.config import ModelConfig
from adderlab.runs import r456
from adderlab.runs.environment import now
from adderlab.runs.records import SeedRecord

SUMMARY_VERSION = 1

Status = Literal["running", "done", "stopped", "failed"]
STATUSES: tuple[str, ...] = get_args(Status)

_SUMMARY_TYPES: dict[str, tuple[type, ...]] = {
    "run_name": (str,),
    "params": (int,),
    "best_val_exact": (int, float),
    "best_step": (int,),
    "train_steps": (int,),
    "elapsed_sec": (int, float),
    "model_config": (dict,),
}


def read_summary(path: Path | str) -> dict[str, Any]:
    """The ``summary.json`` of a run folder (or that file), R456's or ours.

    R456's keys are there and of the right type; ``status``, ``seeds`` and ``step`` are filled in
    where its own file, written at the end of a run of one seed, lacks them. Raises ``Failure``.
    """
    path = Path(path)
    file = path / "summary.json" if path.is_dir() else path
    data = read_json(file)
    for key, kinds in _SUMMARY_TYPES.items():
        if key not in data:
            raise Failure(f"{file} lacks the entry {key!r}; it is damaged, restore it from a copy")
        if not isinstance(data[key], kinds) or isinstance(data[key], bool):
            shown = repr(data[key])[:60]
            raise Failure(f"{file}: {key} is {shown}; it is damaged, restore it from a copy")
    filled = {"status": "done", "seeds": 1, "step": data["train_steps"]} | data
    if filled["status"] not in STATUSES:
        raise Failure(f"{file}: status is {filled['status']!r}; it must be {', '.join(STATUSES)}")
    return filled


def summarise(
    *,
    run_name: str,
    model: ModelConfig,
    train_steps: int,
    seeds: int,
    best: SeedRecord,
    status: Status,
    step: int,
    elapsed_sec: float,
    params: int,
) -> dict[str, Any]:
    """The table of ``summary.json``. The run's numbers are those of the seed whose checkpoint is the
    ``best``: the one in ``checkpoints/best.pt``."""
    return {
        "run_name": run_name,
        "params": params,
        "best_val_exact": best.best_exact,
        "best_step": best.best_step,
        "train_steps": train_steps,
        "elapsed_sec": round(elapsed_sec, 3),
        "model_config": r456.model_to_dict(model),
        "schema_version": SUMMARY_VERSION,
        "status": status,
        "step": step,
        "seeds": seeds,
        "best_seed": best.seed,
        "final_val_exact": best.last_exact,
        "final_token_acc": best.last_token_accuracy,
        "steps_learned": best.steps_learned,
        "first_step_100": best.first_perfect_step,
        "step_acc": list(best.step_accuracy),
        "updated": now(),
    }

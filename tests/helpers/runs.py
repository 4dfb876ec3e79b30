"""Run folders with made-up curves, written by the runs room itself: fast, and with known answers."""

from pathlib import Path
from typing import Any

from adderlab.models.config import ModelConfig
from adderlab.models.tables import stack_parameters
from adderlab.models.transformer import build_model
from adderlab.models.zoo import get_preset
from adderlab.runs.checkpoints import Checkpoint
from adderlab.runs.folder import RunFolder
from adderlab.runs.metadata import RunConfig
from adderlab.runs.records import Metrics, SeedRecord, best_of

MODEL = get_preset("456p").config
ENVIRONMENT = {
    "schema_version": 1,
    "adderlab": "0.1.0",
    "python": "3.11.7",
    "torch": "2.13.0",
    "cpu": "A Processor",
    "cpu_count": 2,
    "device": "cpu",
    "device_name": None,
    "git_revision": "0123456789abcdef",
    "started": "2026-11-20T10:00:00+00:00",
}
COMMAND = ("/somewhere/bin/adderlab", "train", "456p", "--seeds", "0-3")


def recipe(**changes: Any) -> dict[str, Any]:
    return {"steps": 3000, "batch_size": 512, "lr": 0.02, "data": {"mix": 1}, **changes}


def checkpoint(seed: int, step: int, val_exact: float, model: ModelConfig = MODEL) -> Checkpoint:
    params = {name: t[0] for name, t in stack_parameters([build_model(model, seed)]).items()}
    return Checkpoint(
        config=model, params=params, recipe=recipe(), step=step, val_exact=val_exact, seed=seed
    )


def metrics(step: int, val_exact: float, *, known: int | None = None, loss: float = 0.5) -> Metrics:
    """``known``: answer steps learned, from the units up; default as many as exact match suggests."""
    known = round(11 * val_exact) if known is None else known
    return Metrics(
        step=step,
        train_loss=loss,
        val_exact=val_exact,
        val_token_acc=0.1 + 0.9 * known / 11,
        lr=0.01,
        elapsed_sec=step / 100,
        step_acc=(1.0,) * known + (0.1,) * (11 - known),
    )


def write_run(
    path: Path,
    curves: dict[int, list[float]],
    *,
    environment: dict[str, Any] | None = None,
    model: ModelConfig = MODEL,
    status: str = "done",
    changes: dict[str, Any] | None = None,
) -> Path:
    """A run whose seed s has exact match ``curves[s][k]`` at step 1000 k. A seed may end early."""
    settings = recipe(**changes or {})
    config = RunConfig(model=model, recipe=settings, seeds=tuple(curves), command=COMMAND)
    records = {seed: SeedRecord(seed=seed) for seed in curves}
    longest = max(map(len, curves.values()))
    with RunFolder.create(path, config, {**ENVIRONMENT, **(environment or {})}) as folder:
        for k in range(longest):
            taken = {
                seed: metrics(1000 * k, c[k], loss=2.0 / (k + 1))
                for seed, c in curves.items()
                if k < len(c)
            }
            folder.record(taken)
            records |= {seed: records[seed].after(each) for seed, each in taken.items()}
        best = best_of(records.values())
        folder.save_best(checkpoint(best.seed, best.best_step, best.best_exact, model))
        folder.save_last(checkpoint(best.seed, best.best_step, best.last_exact, model))
        folder.write_seeds(list(records.values()))
        count = sum(record.succeeded for record in records.values())
        folder.write_summary(
            list(records.values()),
            status=status,  # type: ignore[arg-type]
            step=1000 * (longest - 1),
            elapsed_sec=30.0,
            params=456,
            success={"successes": count, "seeds": len(curves)},
        )
    return path


GROKS, LATE, NEVER = [0.0, 0.2, 1.0, 1.0], [0.0, 0.0, 0.3, 0.995], [0.0, 0.0, 0.0, 0.0]
LOST = [0.0, 1.0, 0.5, 0.4]

"""Guided search: Optuna proposes each cell after having seen how the earlier ones did.

The sampler (tree-structured Parzen estimator; Bergstra et al., NeurIPS 2011) is seeded and is told the
same results in the same order, so a search that was interrupted is replayed from its trained cells: it
proposes them again, finds them done, and goes on.
"""

from __future__ import annotations

import importlib
from typing import Any

from adderlab.errors import UsageError
from adderlab.fleet.space import Axis, Sweep
from adderlab.fleet.sweep import OpenSweep, Trainer
from adderlab.fleet.table import Measured, Row, measure


def run_guided(opened: OpenSweep, trainer: Trainer) -> list[Row]:
    """Train ``samples`` cells, one after the other, each where Optuna expects the most; the table.

    Raises ``Stopped``; ``UsageError`` if Optuna is missing or there is nothing to search.
    """
    sweep = opened.sweep
    optuna = _import_optuna()
    sampler = optuna.samplers.TPESampler(seed=sweep.random_seed)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    try:
        for index in range(sweep.samples):
            trial = study.ask()
            settings = {axis.path: _suggested(trial, axis) for axis in sweep.axes}
            cell = sweep.cell(index, settings)
            trainer.train(opened, [cell], None)
            opened.write_table()
            found = measure(opened.place(cell))
            assert found is not None
            study.tell(trial, value(found))
    finally:
        rows = opened.write_table()
    return rows


def check_guided(sweep: Sweep) -> None:
    """Raises ``UsageError`` where guided search makes no sense, or Optuna is missing."""
    if not sweep.space:
        raise UsageError("--optuna searches random.space: declare one, and random.samples")
    if sweep.halving:
        raise UsageError(
            "halving compares cells that train side by side, --optuna tries one after the other; leave "
            "one of them out"
        )
    _import_optuna()


def value(found: Measured) -> float:
    """What the search makes as large as it can: the success rate; between equal rates, the share of
    right digits, which says something long before the first success does."""
    return found.rate.value + found.mean_token_acc / (2 * found.rate.n)


def _suggested(trial: Any, axis: Axis) -> Any:
    if axis.values:
        # Values may be lists or tables, which Optuna's own categories may not.
        return axis.values[trial.suggest_categorical(axis.path, list(range(len(axis.values))))]
    if axis.integer:
        return trial.suggest_int(axis.path, int(axis.low), int(axis.high), log=axis.log)
    return float(f"{trial.suggest_float(axis.path, axis.low, axis.high, log=axis.log):.6g}")


def _import_optuna() -> Any:
    try:
        optuna = importlib.import_module("optuna")
    except ImportError as error:
        raise UsageError("--optuna needs Optuna: pip install 'adderlab[sweep]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna

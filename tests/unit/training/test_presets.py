"""Every preset trains: the native engine is chosen, and 200 steps of its recipe lower the loss."""

import dataclasses

import pytest
import torch

from adderlab.engine.base import select_engine
from adderlab.engine.native import NativeEngine
from adderlab.models.zoo import PRESETS
from adderlab.recipes import recipe_for
from adderlab.training.objective import objective_for
from adderlab.training.population import Population
from helpers.models import OFF_TABLES, WITH_TABLES

CPU = torch.device("cpu")
QUICK = ("456p", "67p")
"""Compiled by other tests too. Compiling the others takes half a minute each, once for a machine."""
STEPS, ENDS, SEEDS = 200, 20, 2


def learns(name: str, engine: str, batch_size: int = 64) -> None:
    """Published learning rate, warm-up and data; the mean loss of the last steps against the first."""
    preset = PRESETS[name]
    recipe = recipe_for(preset, "published")
    recipe = dataclasses.replace(recipe, batch_size=batch_size, val_size=20, test_size=20)
    chosen = select_engine("auto", preset.config, CPU, threads=1, log=print)
    assert chosen.name == engine
    objective = objective_for(preset.config, chosen, CPU)
    population = Population(preset.config, recipe, tuple(range(SEEDS)), objective, CPU)
    loss_TS = torch.stack([population.advance() for _ in range(STEPS)])
    first_S, last_S = loss_TS[:ENDS].mean(0), loss_TS[-ENDS:].mean(0)
    assert (last_S < first_S).all(), (first_S.tolist(), last_S.tolist())


@pytest.mark.parametrize("name", PRESETS)
def test_the_native_engine_is_chosen_wherever_there_are_tables(name: str, monkeypatch) -> None:
    prepared = []
    monkeypatch.setattr(NativeEngine, "prepare", lambda self, tables: prepared.append(tables.form))
    messages: list[str] = []
    engine = select_engine("auto", PRESETS[name].config, CPU, threads=1, log=messages.append)
    if name in OFF_TABLES:
        assert engine.name == "torch" and "no table form" in messages[0] and not prepared
    else:
        assert engine.name == "native" and len(prepared) == 1 and not messages


@pytest.mark.parametrize("name", QUICK)
def test_200_steps_lower_the_loss(name: str) -> None:
    learns(name, "native")


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in WITH_TABLES if name not in (*QUICK, *OFF_TABLES)])
def test_200_steps_lower_the_loss_of_every_other(name: str) -> None:
    learns(name, "native")


@pytest.mark.slow
@pytest.mark.parametrize("name", OFF_TABLES)
def test_200_steps_lower_the_loss_on_the_full_sequence(name: str) -> None:
    learns(name, "torch", batch_size=16)

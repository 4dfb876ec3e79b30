"""How long a run will take on this machine or several, what it costs, how many seeds it needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import tyro

if TYPE_CHECKING:
    from adderlab.study.forecast import Forecast, KnownRate, Speed


@dataclass(frozen=True, kw_only=True)
class Args:
    """What to train, on how many machines."""

    preset: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PRESET")]
    """A published architecture, for example 456p (adderlab zoo lists them)."""
    recipe: Annotated[str, tyro.conf.arg(metavar="NAME")] = "best"
    """best or published, or a recipe by name, as for adderlab train."""
    seeds: Annotated[int, tyro.conf.arg(metavar="N")] = 64
    """How many seeds."""
    steps: Annotated[int | None, tyro.conf.arg(metavar="T")] = None
    """Optimiser steps of each seed before any restart; default: the recipe's."""
    set: Annotated[tuple[str, ...], tyro.conf.arg(metavar="ROOM.NAME=VALUE")] = ()
    """Changed settings, as for adderlab train."""
    nodes: Annotated[int, tyro.conf.arg(metavar="K")] = 1
    """Machines like this one that share the seeds (adderlab train --cluster)."""
    price_per_hour: Annotated[float | None, tyro.conf.arg(metavar="X")] = None
    """Price of one machine for an hour, in any currency."""
    rate: Annotated[str | None, tyro.conf.arg(metavar="K/N")] = None
    """Seeds that succeeded of those tried, for example 12/48; default: as in records/rates."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    engine: str = "auto"
    """auto, native, triton or torch."""
    threads: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Seeds trained at once on a CPU; default: every core."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print one object instead of text."""


def run(args: Args) -> int:
    """Measure for a few seconds; print the forecast."""
    import sys

    import torch

    from adderlab.cli.options import emit_json
    from adderlab.cli.training import usable_cores
    from adderlab.engine.base import choose_device
    from adderlab.engine.select import select_engine
    from adderlab.errors import UsageError
    from adderlab.study.forecast import (
        forecast,
        given_rate,
        measure_speed,
        seeds_needed,
    )
    from adderlab.training.objective import objective_for
    from adderlab.training.start import check_fits

    if args.price_per_hour is not None and not args.price_per_hour >= 0:
        raise UsageError(f"--price-per-hour must be 0 or more, not {args.price_per_hour}")
    if args.seeds < 1 or args.nodes < 1:
        raise UsageError(f"--seeds {args.seeds} --nodes {args.nodes}: both must be at least 1")
    threads = usable_cores() if args.threads is None else args.threads
    if threads < 1:
        raise UsageError(f"--threads must be at least 1, not {threads}")
    known = given_rate(args.rate) if args.rate else _recorded(args)
    config, recipe = _settings(args)
    check_fits(config, recipe, (0,))
    where, why = choose_device(args.device)
    torch.set_num_threads(1)  # as in training: seeds are spread over threads
    chosen = select_engine(
        args.engine, config, where, threads=threads, say=lambda line: print(line, file=sys.stderr)
    )
    per_node = -(-args.seeds // min(args.nodes, args.seeds))
    busy = _load()
    objective = objective_for(config, chosen, where)
    speed = measure_speed(config, recipe, per_node, objective, where, threads=threads)
    predicted = forecast(speed, recipe, args.seeds, args.nodes)
    machine = f"{where} ({why}), engine {chosen.name}, {threads} thread{'s' if threads > 1 else ''}"
    enough = None
    if known is not None:
        needed = seeds_needed(known.rate.value)
        enough = None if needed is None else forecast(speed, recipe, needed, args.nodes)
    if args.json:
        emit_json(_as_json(args, machine, speed, predicted, known, enough), None)
        return 0
    lines = _in_words(args, machine, speed, predicted)
    if busy:
        lines.insert(2, busy)
    print("\n".join(lines + _success_in_words(args, known, enough)))
    return 0


def _load() -> str:
    """A line if other programs take what is measured; else nothing."""
    import os

    from adderlab.cli.training import usable_cores

    load, cores = os.getloadavg()[0], usable_cores()
    if load < cores / 2:
        return ""
    return f"other programs are running here (load {load:.1f} on {cores} cores): alone it is faster"


def _settings(args: Args):  # type: ignore[no-untyped-def]
    """(model, recipe), changed as asked for."""
    from adderlab.cli.options import parse_settings
    from adderlab.files.schema import with_setting
    from adderlab.models.zoo import get_preset
    from adderlab.recipes import recipe_for

    preset = get_preset(args.preset)
    config, recipe = preset.config, recipe_for(preset, args.recipe)
    for room, key, value in parse_settings(args.set):
        if room == "recipe":
            recipe = with_setting(recipe, key, value)
        else:
            config = with_setting(config, key, value)
    if args.steps is not None:
        recipe = with_setting(recipe, "steps", str(args.steps))
    return config, recipe


def _recorded(args: Args) -> KnownRate | None:
    """The rate measured for these settings; changed ones have none."""
    from adderlab.models.zoo import get_preset
    from adderlab.recipes import named_for
    from adderlab.runs.rates import default_folder, read_rates
    from adderlab.study.forecast import recorded_rate

    preset, folder = get_preset(args.preset), default_folder()
    if args.set or folder is None:
        return None
    return recorded_rate(read_rates(folder), preset.name, named_for(preset, args.recipe).name)


def _in_words(args: Args, machine: str, speed: Speed, predicted: Forecast) -> list[str]:
    share = predicted.evaluating_seconds / predicted.seconds
    nodes = "this machine" if predicted.nodes == 1 else f"{predicted.nodes} machines like this one"
    lines = [
        f"machine: {machine}",
        f"measured with {speed.seeds} seeds side by side: {speed.seed_steps_per_second:,.0f} "
        f"seed-steps/s in training; {speed.evaluation_seconds * 1000:.2f} ms to evaluate a seed",
        f"{predicted.seeds} seeds x {predicted.steps:,} steps on {nodes}: {duration(predicted.seconds)} "
        f"({share:.0%} of it {predicted.evaluations} evaluations), "
        f"{predicted.seed_steps_per_second:,.0f} seed-steps/s in all",
    ]
    if predicted.nodes > 1:
        lines[-1] += f"; {predicted.seeds_per_node} seeds on the fullest"
    if predicted.nodes < args.nodes:
        lines.append(f"{args.nodes - predicted.nodes} of the {args.nodes} machines would have no seed")
    if predicted.not_counted:
        lines.append(f"not counted: {' and '.join(predicted.not_counted)}")
    if args.price_per_hour is not None:
        cost = predicted.node_hours * args.price_per_hour
        lines.append(f"cost: {cost:,.2f} ({predicted.node_hours:.3g} machine-hours)")
    return lines


def _success_in_words(args: Args, known: KnownRate | None, enough: Forecast | None) -> list[str]:
    from adderlab.study.forecast import CONFIDENCE, chance, seeds_needed

    if known is None:
        return [
            "No success rate is known for these settings: measure one (adderlab rate) or give one "
            "(--rate 12/48), and the seeds you need are counted."
        ]
    rate = known.rate
    low, high = (f"{chance(value, args.seeds):.1%}" for value in (rate.low, rate.high))
    lines = [
        f"success rate, {known.criterion}: {rate} ({known.source})",
        f"at least one success in {args.seeds} seeds: {chance(rate.value, args.seeds):.1%} "
        f"[{low}, {high}]",
    ]
    if known.steps is not None and args.steps is not None and known.steps != args.steps:
        lines.insert(1, f"that was measured at {known.steps:,} steps, not {args.steps:,}: another rate")
    needed = [seeds_needed(value) for value in (rate.value, rate.high, rate.low)]
    middle, fewest, most = ("no number" if each is None else f"{each:,}" for each in needed)
    lines.append(f"seeds for a {CONFIDENCE:.0%} chance of one: {middle} [{fewest} to {most}]")
    if enough is not None:
        lines[-1] += f", about {duration(enough.seconds)}"
        if args.price_per_hour is not None:
            lines[-1] += f", cost {enough.node_hours * args.price_per_hour:,.2f}"
    return lines


def _as_json(
    args: Args,
    machine: str,
    speed: Speed,
    predicted: Forecast,
    known: KnownRate | None,
    enough: Forecast | None,
) -> dict[str, Any]:
    from dataclasses import asdict

    from adderlab.study.forecast import chance, seeds_needed

    price = args.price_per_hour
    success = None
    if known is not None:
        rate = known.rate
        values = (rate.value, rate.low, rate.high)
        success = {
            "criterion": known.criterion,
            "source": known.source,
            "measured_at_steps": known.steps,
            "count": rate.count,
            "n": rate.n,
            "wilson_95": [rate.low, rate.high],
            "chance_of_one": [chance(value, args.seeds) for value in values],
            "seeds_for_95": [seeds_needed(value) for value in values],
            "seconds_for_95": None if enough is None else enough.seconds,
        }
    return {
        "preset": args.preset,
        "recipe": args.recipe,
        "machine": machine,
        "measured": asdict(speed),
        "forecast": asdict(predicted)
        | {
            "seconds": predicted.seconds,
            "node_hours": predicted.node_hours,
            "seed_steps_per_second": predicted.seed_steps_per_second,
            "cost": None if price is None else predicted.node_hours * price,
        },
        "success": success,
    }


def duration(seconds: float) -> str:
    """Two leading units: "3 h 20 min"."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"

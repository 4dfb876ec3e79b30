"""Training speed on a CUDA device: whole seed-steps per second by engine and number of seeds.

    python benchmarks/gpu.py [--preset 456p] [--engines triton torch] [--seeds 1 64 1024 8192]

A seed-step is all of one optimiser step of one model: pairs drawn, gradient, clip, AdamW. The clock
stops when the device has finished. Recording the steps (a second or two for every number of seeds) is
not counted. Needs a CUDA device; says so and ends with 1 where there is none.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import time

import torch

from adderlab.engine.base import select_engine
from adderlab.errors import UsageError
from adderlab.models.zoo import get_preset
from adderlab.training.objective import objective_for
from adderlab.training.population import Population
from adderlab.training.recipe import Recipe

CUDA = torch.device("cuda")
FIRST_STEP = 10_001
"""After the curriculum's last phase has begun, and not one after which the seeds are evaluated."""


def seconds_of_a_step(population: Population, steps: int, rounds: int) -> float:
    """Median over the rounds, each one stretch of steps."""
    seconds = []
    for _ in range(rounds + 1):
        population.next_step = FIRST_STEP
        torch.cuda.synchronize()
        started = time.perf_counter()
        while population.next_step < FIRST_STEP + steps:
            population.advance(FIRST_STEP + steps - population.next_step)
        torch.cuda.synchronize()
        seconds.append((time.perf_counter() - started) / steps)
    return statistics.median(seconds[1:])  # the first one records and compiles


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--preset", default="456p")
    parser.add_argument("--engines", nargs="+", default=["triton", "torch"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 64, 1024, 8192])
    parser.add_argument("--steps", type=int, default=100, help="of one round")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    if not torch.cuda.is_available():
        print(
            f"there is no CUDA device here (torch {torch.__version__}); benchmarks/speed.py measures "
            "the CPU",
            file=sys.stderr,
        )
        return 1

    config, recipe = get_preset(args.preset).config, Recipe(val_size=64, test_size=64)
    print(
        f"{torch.cuda.get_device_name()}, torch {torch.__version__}, CUDA {torch.version.cuda}, "
        f"Python {platform.python_version()}, {args.preset}, batch {recipe.batch_size}, medians of "
        f"{args.rounds} rounds of {args.steps} steps\n"
    )
    print(
        "| engine | seeds | ms per step | seed-steps per second | peak memory, GiB |\n"
        "|---|---|---|---|---|"
    )
    for name in args.engines:
        try:
            engine = select_engine(name, config, CUDA, threads=1, log=print)
        except UsageError as error:
            print(f"| {name} | {error} | | | |")
            continue
        for seeds in args.seeds:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            try:
                objective = objective_for(config, engine, CUDA)
                population = Population(config, recipe, tuple(range(seeds)), objective, CUDA)
                seconds = seconds_of_a_step(population, args.steps, args.rounds)
            except torch.cuda.OutOfMemoryError:
                print(f"| {name} | {seeds:,} | out of memory | | |")
                continue
            memory = torch.cuda.max_memory_allocated() / 2**30
            print(
                f"| {name} | {seeds:,} | {seconds * 1e3:.3f} | {seeds / seconds:,.0f} | {memory:.1f} |"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Training and evaluation speed against a plain PyTorch loop: interleaved, medians, ratios.

    python benchmarks/speed.py --presets 456p --engines native torch --seeds 1 16 --threads 1 2

The plain loop is what a reader would write: the module over the whole sequence, torch.optim.AdamW,
and a sampler that draws one example at a time in Python. Every round times each contestant once,
so that a machine that slows down slows all of them; the ratio is that of the medians.
The plain loop has one core; the engines have each number of --threads in turn.
"""

from __future__ import annotations

import argparse
import itertools
import platform
import statistics
import time
from collections.abc import Callable

import torch

from adderlab.engine.base import select_engine
from adderlab.models.tables import tables
from adderlab.models.transformer import build_model
from adderlab.models.zoo import get_preset
from adderlab.runs.metadata import cpu_model
from adderlab.task.addition import get_layout, to_digits
from adderlab.task.sampling import uniform_pairs
from adderlab.training.objective import objective_for
from adderlab.training.population import Population
from adderlab.training.recipe import Recipe

CPU = torch.device("cpu")
STEPS = 20
"""Steps of a population in one measurement."""
PLAIN_EVALUATION_PAIRS = 4096
"""The plain loop is timed on this many pairs in batches of 512 and scaled to 100,000."""


class PlainLoop:
    """The reference: full sequence, one model, one example at a time."""

    def __init__(self, preset: str, recipe: Recipe) -> None:
        config = get_preset(preset).config
        self.recipe, self.layout = recipe, get_layout(config.layout)
        self.model = build_model(config, 0)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, weight_decay=0.01)
        self.generator = torch.Generator().manual_seed(0)

    def step(self) -> None:
        pairs = []
        for _ in range(self.recipe.batch_size):
            digits = int(torch.randint(1, 11, (1,), generator=self.generator))
            pairs.append(
                [
                    int(torch.randint(0, 10**digits, (1,), generator=self.generator, dtype=torch.int64))
                    for _ in range(2)
                ]
            )
        a_BJ, b_BJ = to_digits(torch.tensor(pairs)).unbind(1)
        self.optimizer.zero_grad()
        self.model.loss(*self.layout.encode(a_BJ, b_BJ)).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()

    def evaluate(self) -> None:
        for a_BJ, b_BJ in zip(
            *(digits.split(512) for digits in uniform_pairs(1, PLAIN_EVALUATION_PAIRS)), strict=True
        ):
            self.model.generate(self.layout.encode_prompt(a_BJ, b_BJ))


def engine_step(
    preset: str, recipe: Recipe, engine: str, seeds: int, threads: int
) -> Callable[[], None]:
    """``STEPS`` whole steps of a population: sampling, encoding, tables, gradient, clip, AdamW."""
    config = get_preset(preset).config
    chosen = select_engine(engine, config, CPU, threads=threads, log=print)
    population = Population(config, recipe, tuple(range(seeds)), objective_for(config, chosen, CPU), CPU)
    population.next_step = 10_000

    def advance() -> None:
        end = population.next_step + STEPS
        while population.next_step < end:
            population.advance(end - population.next_step)

    return advance


def engine_evaluation(preset: str, engine: str, threads: int) -> Callable[[], None]:
    """100,000 pairs from integers to answers."""
    config = get_preset(preset).config
    chosen = select_engine(engine, config, CPU, threads=threads, log=print)
    layout = get_layout(config.layout)
    params = {name: tensor.detach()[None] for name, tensor in build_model(config, 0).named_parameters()}
    values = torch.randint(0, 10**10, (2, 100_000))

    def evaluate() -> None:
        prompt_BT = layout.encode_prompt(to_digits(values[0]), to_digits(values[1]))
        chosen.decode(tables(config, params), prompt_BT[None])

    return evaluate


def interleaved(contestants: dict[str, tuple[Callable[[], None], int]], rounds: int) -> dict[str, float]:
    """Median seconds of one call; each contestant is (call, calls per round)."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for call, _ in contestants.values():
        call()
    for _ in range(rounds):
        for name, (call, repeats) in contestants.items():
            started = time.perf_counter()
            for _ in range(repeats):
                call()
            seconds[name].append((time.perf_counter() - started) / repeats)
    return {name: statistics.median(values) for name, values in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--presets", nargs="+", default=["456p"])
    parser.add_argument("--engines", nargs="+", default=["torch"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", nargs="+", type=int, default=[1])
    args = parser.parse_args()
    torch.set_num_threads(1)
    recipe = Recipe(steps=1_000_000, eval_interval=1_000_000, val_size=64, test_size=64)
    print(
        f"{cpu_model()}, torch {torch.__version__}, Python {platform.python_version()}, "
        f"batch {recipe.batch_size}, medians of {args.rounds} rounds"
    )

    for preset in args.presets:
        plain = PlainLoop(preset, recipe)
        contestants: dict[str, tuple[Callable[[], None], int]] = {"plain loop": (plain.step, 3)}
        for engine in args.engines:
            for seeds, threads in itertools.product(args.seeds, args.threads):
                step = engine_step(preset, recipe, engine, seeds, threads)
                contestants[f"{engine}, {seeds} seeds, {threads} threads"] = (step, 1)
        medians = interleaved(contestants, args.rounds)
        print(f"\n{preset}: training\n| | ms per seed-step | times the plain loop |\n|---|---|---|")
        base = medians["plain loop"]
        for name, median in medians.items():
            each = median / (STEPS * int(name.split(", ")[1].split()[0]) if ", " in name else 1)
            print(f"| {name} | {each * 1e3:.3f} | {base / each:.1f} |")

        scale = 100_000 / PLAIN_EVALUATION_PAIRS
        contestants = {"plain loop (scaled)": (plain.evaluate, 1)}
        for engine, threads in itertools.product(args.engines, args.threads):
            step = engine_evaluation(preset, engine, threads)
            contestants[f"{engine}, {threads} threads"] = (step, 2)
        medians = interleaved(contestants, args.rounds)
        base = medians["plain loop (scaled)"] * scale
        print(f"\n{preset}: 100,000 pairs\n| | seconds | times the plain loop |\n|---|---|---|")
        for name, median in medians.items():
            each = base if name.startswith("plain") else median
            print(f"| {name} | {each:.4f} | {base / each:.1f} |")


if __name__ == "__main__":
    main()

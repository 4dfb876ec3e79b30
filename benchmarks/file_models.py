"""Training speed of models of user files: against the matching preset, and against a plain loop.

    python benchmarks/file_models.py --presets 456p 122p 67p 7p --files examples/my_adder.py
    PYTHONPATH=tests python benchmarks/file_models.py --presets --modules helpers.decoders:PostNorm

Presets are exported as submissions and read back as a stranger's file; both train on the native engine,
16 seeds side by side on one thread. A file's plain loop is what its reader would write: the file's own
module over the whole sequence, one model, torch.optim.AdamW, pairs drawn in Python. Times are processor
time; every round measures each contestant once, and a ratio is that of the medians.
"""

from __future__ import annotations

import argparse
import importlib
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from adderlab.engine.base import select_engine
from adderlab.models.transformer import Architecture, build_model
from adderlab.models.zoo import get_preset
from adderlab.publish.model_card import Credits
from adderlab.publish.submission import submission_source
from adderlab.reading.file_model import read_file, read_module
from adderlab.runs.metadata import cpu_model
from adderlab.task.addition import to_digits
from adderlab.training.objective import objective_for
from adderlab.training.population import Population
from adderlab.training.recipe import Recipe

CPU = torch.device("cpu")
SEEDS, STEPS = 16, 20


def exported(name: str, folder: Path) -> Path:
    """The preset as a submission file, with the weights that its seed 0 draws."""
    config = get_preset(name).config
    params = {key: tensor.detach() for key, tensor in build_model(config, 0).named_parameters()}
    path = folder / f"preset_{name}.py"
    path.write_text(submission_source(config, params, Credits(name=name, author="nobody")))
    return path


def foreign_model(name: str) -> Architecture:
    """Of a file, or of MODULE:CLASS."""
    if name.endswith(".py"):
        return read_file(Path(name))[0]
    module, _, kind = name.partition(":")
    torch.manual_seed(0)
    return read_module(getattr(importlib.import_module(module), kind)(), "S")[0]


def native_steps(config: Architecture, recipe: Recipe) -> tuple[Callable[[], None], int]:
    """``STEPS`` whole steps of a population: (call, seed-steps)."""
    engine = select_engine("native", config, CPU, threads=1, log=print)
    population = Population(config, recipe, tuple(range(SEEDS)), objective_for(config, engine, CPU), CPU)
    population.next_step = 10_001
    assert population.takes_many, "the model's map to tables is not compiled"

    def advance() -> None:
        end = population.next_step + STEPS
        while population.next_step < end:
            population.advance(end - population.next_step)

    return advance, SEEDS * STEPS


def plain_step(config: Architecture, recipe: Recipe) -> tuple[Callable[[], None], int]:
    """One step of one model, as a reader would write it."""
    model = build_model(config, 0)
    parameters = [tensor.requires_grad_() for _, tensor in model.named_parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.01)
    generator = torch.Generator().manual_seed(0)
    layout = config.token_layout

    def step() -> None:
        pairs = []
        for _ in range(recipe.batch_size):
            digits = int(torch.randint(1, 11, (1,), generator=generator))
            pairs.append(
                [
                    int(torch.randint(0, 10**digits, (1,), generator=generator, dtype=torch.int64))
                    for _ in range(2)
                ]
            )
        a_BJ, b_BJ = to_digits(torch.tensor(pairs)).unbind(1)
        optimizer.zero_grad()
        model.loss(*layout.encode(a_BJ, b_BJ)).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()

    return step, 1


def interleaved(contestants: dict[str, tuple[Callable[[], None], int]], rounds: int) -> dict[str, float]:
    """Median processor milliseconds of a seed-step."""
    spent: dict[str, list[float]] = {name: [] for name in contestants}
    for call, _ in contestants.values():
        call()
    for _ in range(rounds):
        for name, (call, seed_steps) in contestants.items():
            started = time.process_time()
            call()
            spent[name].append((time.process_time() - started) / seed_steps * 1e3)
    return {name: statistics.median(each) for name, each in spent.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--presets", nargs="*", default=["456p", "122p", "67p", "7p"])
    parser.add_argument("--files", nargs="*", type=Path, default=[])
    parser.add_argument("--modules", nargs="*", default=[], help="MODULE:CLASS of layout S")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, default=512)
    args = parser.parse_args()
    torch.set_num_threads(1)
    recipe = Recipe(
        steps=1_000_000, batch_size=args.batch, eval_interval=1_000_000, val_size=64, test_size=64
    )
    print(
        f"{cpu_model()}, torch {torch.__version__}, Python {platform.python_version()}, batch "
        f"{recipe.batch_size}, {SEEDS} seeds, one thread, medians of {args.rounds} rounds"
    )
    if args.presets:
        print("\n| preset | ms per seed-step | of its exported file | speed kept |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name in args.presets:
            contestants = {
                "preset": native_steps(get_preset(name).config, recipe),
                "file": native_steps(read_file(exported(name, Path(folder)))[0], recipe),
            }
            found = interleaved(contestants, args.rounds)
            kept = found["preset"] / found["file"]
            print(f"| {name} | {found['preset']:.3f} | {found['file']:.3f} | {kept:.0%} |", flush=True)
    if args.files or args.modules:
        print("\n| model | ms per seed-step | plain loop | times faster |\n|---|---|---|---|")
    for name in [*map(str, args.files), *args.modules]:
        config = foreign_model(name)
        contestants = {
            "native": native_steps(config, recipe),
            "plain": plain_step(config, recipe),
        }
        found = interleaved(contestants, args.rounds)
        ratio = found["plain"] / found["native"]
        title = name.rpartition(":")[2]
        print(f"| {title} | {found['native']:.3f} | {found['plain']:.1f} | {ratio:.0f} |", flush=True)


if __name__ == "__main__":
    main()

"""The same weights to the last bit: best recipes, recipes on record, a run that the old tree began."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from checkouts import Checkout, Pair
from gate_parts.answers import hashes_below
from gate_parts.check import Check, compared, same_code, succeeded

STEPS, SEEDS = 600, "0-3"
SMALL = ("--keep", "all", "--evaluate", "none", "--no-prove", "--threads", "1", "--quiet")
RESTARTS = 'recipe.draws={"halvings":[200,400]}'
STAGES = (
    'recipe.stages=[{"steps":100,"lr":0.004,"batch_size":256},'
    '{"steps":60,"lr":0.001,"logit_scale":5000.0}]'
)
TRAINED = {"456p": (), "67p": (RESTARTS,), "44p": (RESTARTS, STAGES), "7p": (RESTARTS,)}
"""Preset -> changes of its best recipe, which has restarts and stages beyond 600 steps."""
RECIPES = {"456p": "aimed", "7p": "quick-7"}
"""By name where the best recipe is another today."""
EXPECTED_SEEDS = 4


def check_weights(pair: Pair) -> Iterator[Check]:
    for preset, settings in TRAINED.items():
        changed = ["--set", *settings] if settings else []
        changed += ["--recipe", RECIPES[preset]] if preset in RECIPES else []
        args = ["train", preset, "--seeds", SEEDS, "--steps", STEPS, "--run-name", preset]
        old, new = pair.run(*map(str, args), *SMALL, *changed)
        problems = succeeded(old, new) or same_weights(pair, f"results/runs/{preset}", EXPECTED_SEEDS)
        yield compared(f"{preset}: {STEPS} steps of seeds {SEEDS}", problems)
    yield check_resumed(pair)


def same_weights(pair: Pair, run: str, seeds: int) -> list[str]:
    """Problems of the checkpoints of a run in both trees' folders."""
    problems = []
    for file in ("last.pt", "best.pt"):
        old, new = (hashes_below(tree.folder / run, file) for tree in (pair.old, pair.new))
        if len(old) < seeds:
            problems.append(f"{file}: the old tree wrote {len(old)} different ones of {seeds} seeds")
        elif old != new:
            problems.append(f"{file}: {len(old & new)} of {len(old)} weights are the same")
    return problems


def check_resumed(pair: Pair) -> Check:
    """A run that the old tree began, interrupted, and both go on with."""
    name, run = "456p: a run that the old tree began goes on in both", "results/runs/interrupted"
    args = ["train", "456p", "--seeds", "0-3", "--steps", "6000", "--run-name", "interrupted", *SMALL]
    args += ["--recipe", RECIPES["456p"]]
    begun = interrupted(pair.old, args, pair.old.folder / run / "state.pt")
    if begun:
        return compared(name, [begun])
    shutil.copytree(pair.old.folder / run, pair.new.folder / run)
    old, new = pair.run("train", "--resume", run, *SMALL)
    return compared(name, succeeded(old, new) or same_weights(pair, run, EXPECTED_SEEDS))


def interrupted(tree: Checkout, args: list[str], when: Path) -> str:
    """Interrupt a run by Ctrl-C once a file is there; a problem, or nothing."""
    running = subprocess.Popen(
        tree.adderlab(*args),
        cwd=tree.folder,
        env=tree.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 120
    while running.poll() is None and not when.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    running.send_signal(signal.SIGINT)
    _, errors = running.communicate(timeout=120)
    if running.returncode != 130:
        return f"the run was not interrupted: exit code {running.returncode} {errors.decode()[-200:]}"
    return ""


def check_recipes(pair: Pair) -> Iterator[Check]:
    """The old names of recipes, one preset each."""
    rows = pair.old.run(pair.old.adderlab("rate", "--json", "-o", pair.old_rates)).document or []
    recipes = {row["recipe"]: row["preset"] for row in rows}
    plain = ["--set", "recipe.draws=null", "recipe.stages=[]"]
    for number, (recipe, preset) in enumerate(sorted(recipes.items())):
        run = f"recipe-{number}"
        args = ["train", preset, "--recipe", recipe, "--seeds", "0", "--steps", "5", "--run-name", run]
        old, new = pair.run(*args, *SMALL, *plain)
        if old.code != 0:
            # Rows may be named by hand (rate --name) after changed settings: these are no recipes.
            yield compared(f"{recipe}: no recipe, and none now", same_code(old, new))
            continue
        problems = same_code(old, new) or same_weights(pair, f"results/runs/{run}", 1)
        yield compared(f"{recipe} ({preset}): 5 steps of seed 0", problems)

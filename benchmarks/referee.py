"""Speed of a score: the board's 10,010 pairs in batches, against one call of ``add`` a pair.

    python benchmarks/referee.py --presets 456p 122p 57p 36p
    python benchmarks/referee.py --presets --files submission.py

Presets are those of records/best, exported as submissions. Both scores are what ``adderlab verify`` does
after loading and watching a file, the pairs that are asked twice included; of the slow one a sample of
pairs is measured. Times are processor time of the file's process and of this one, on one thread.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from adderlab.evaluation.suites import adderboard
from adderlab.models.config import ModelConfig
from adderlab.publish.model_card import Credits
from adderlab.publish.sandbox import Limits, Sandbox
from adderlab.publish.scoring import Answerer, Pair, evaluate, find_prompt, find_reading
from adderlab.publish.submission import submission_source
from adderlab.publish.watching import traced_pairs
from adderlab.runs.checkpoints import load_checkpoint
from adderlab.runs.metadata import cpu_model
from adderlab.task.addition import from_digits

RECORDS = Path(__file__).parents[1] / "records" / "best"


def exported(name: str, folder: Path) -> Path:
    """The best proved model of a preset as a submission file."""
    checkpoint = load_checkpoint(next((RECORDS / name).glob("*.pt")))
    assert isinstance(checkpoint.config, ModelConfig)
    path = folder / f"{name}.py"
    credits = Credits(name=name, author="nobody")
    path.write_text(submission_source(checkpoint.config, checkpoint.params, credits))
    return path


def processor_seconds(box: Sandbox) -> float:
    """Of this process and of the file's."""
    assert box.pid is not None
    fields = Path(f"/proc/{box.pid}/stat").read_text().rpartition(")")[2].split()
    inside = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return inside + time.process_time()


def pairs_of_the_board(count: int) -> list[Pair]:
    group = adderboard().groups[1]
    a_B, b_B = from_digits(group.a_BJ[:count]), from_digits(group.b_BJ[:count])
    return list(zip(a_B.tolist(), b_B.tolist(), strict=True))


def measure(path: Path, sample: int) -> tuple[float, float]:
    """Milliseconds for one pair: (in batches, through add)."""
    limits = Limits()
    with Sandbox(path, limits, "limits") as box:
        box.ask("literals", limits.load_seconds)
        if "error" in (loaded := box.ask("load", limits.load_seconds)):
            raise SystemExit(f"{path}: {loaded['error']}")
        pairs = traced_pairs()
        traces = [box.ask("trace", limits.answer_seconds, pairs=[pair])["traces"][0] for pair in pairs]
        reading = find_reading(traces)
        prompt = None if reading is None else find_prompt(pairs, traces, reading)
        if reading is None or prompt is None:
            raise SystemExit(f"{path}: its model cannot be driven in batches")
        slow = Answerer(sandbox=box, seconds_per_pair=0.01)
        slow.add(pairs_of_the_board(20))
        started = processor_seconds(box)
        slow.add(pairs_of_the_board(sample))
        one = (processor_seconds(box) - started) / sample
        prompt = replace(prompt, at_once=True)
        fast = Answerer(sandbox=box, seconds_per_pair=one, batched=(prompt, reading))
        started = processor_seconds(box)
        report = evaluate(fast, adderboard(), lambda *_: None)
        assert report is not None and report.total.n == adderboard().num_pairs
        return 1e3 * (processor_seconds(box) - started) / report.total.n, 1e3 * one


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--presets", nargs="*", default=["456p", "122p", "57p", "36p"])
    parser.add_argument("--files", nargs="*", type=Path, default=[])
    parser.add_argument("--sample", type=int, default=500, help="pairs of the slow score")
    args = parser.parse_args()
    print(f"{cpu_model()}, torch {torch.__version__}, Python {platform.python_version()}, one thread\n")
    print("| file | ms a pair through add | in batches | times faster |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        files = [(name, exported(name, Path(folder))) for name in args.presets]
        for name, path in [*files, *((path.name, path) for path in args.files)]:
            batched, one = measure(path, args.sample)
            print(f"| {name} | {one:.2f} | {batched:.3f} | {one / batched:.0f} |", flush=True)


if __name__ == "__main__":
    main()

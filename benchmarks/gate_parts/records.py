"""Everything on record and every checkpoint of reference is read with the same answer."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from checkouts import HERE, Pair
from gate_parts.answers import (
    differences,
    lost,
    numbers_in,
    numbers_in_text,
    pick,
    shared_differences,
    visible_text,
)
from gate_parts.check import Check, compared, same_code, succeeded

INSPECT_KEYS = ("parameters", "step", "table_form", "weights_sha256")
EVALUATION_KEYS = ("parameters", "weights_sha256", "n", "errors", "digit_accuracy", "groups")
ZOO_KEYS = ("parameters", "table_form", "rate.count", "rate.n", "rate.low", "rate.high", "proved")

RECIPE_KEYS = frozenset({"recipe_settings", "config", "model", "schema_version"})
"""Parts of a rate in which keys may be renamed and unused ones dropped; 'recipes' runs them instead."""
REFERENCE = Path("../shared/reference/checkpoints")


def check_records(pair: Pair) -> Iterator[Check]:
    yield from check_kept(pair)
    yield from check_rates(pair)
    yield from check_checkpoints(pair)
    yield from check_log(pair)


def check_kept(pair: Pair) -> Iterator[Check]:
    """Every file is there still: weights and certificates as they were, texts with their numbers.

    A row of rates may have another name, as its recipe may: then its numbers are looked for in the
    files that the old tree did not have.
    """
    before, now = (tree.root / "records" for tree in (pair.old, pair.new))
    old, new = (
        {path.relative_to(top) for path in top.rglob("*") if path.is_file()} for top in (before, now)
    )
    added = {file: file_numbers(now / file) for file in sorted(new - old) if file.suffix == ".json"}
    problems, changed = [], []
    for file in sorted(old):
        if file not in new:
            numbers = file_numbers(before / file) if file.suffix == ".json" else None
            found = [each for each, has in added.items() if numbers and not lost(numbers, has)]
            changed += [f"{file} is {each}" for each in found[:1]]
            problems += [] if found else [f"{file} is gone"]
        elif (before / file).read_bytes() != (now / file).read_bytes():
            changed.append(str(file))
            if file.suffix in (".pt", ".gz"):
                problems.append(f"{file} is another")
            else:
                gone = lost(file_numbers(before / file), file_numbers(now / file))
                problems += [f"{file}: {line}" for line in gone]
    note = f"{len(changed)} renamed or rewritten" if changed else ""
    yield compared(f"records/: {len(old)} files are kept", problems, note)


def file_numbers(path: Path) -> Counter[float]:
    if path.suffix == ".json":
        return numbers_in(json.loads(path.read_text()), RECIPE_KEYS)
    return numbers_in_text(path.read_text())


def check_rates(pair: Pair) -> Iterator[Check]:
    old, new = pair.run("rate", "--json", "-o", pair.old_rates)
    problems = succeeded(old, new)
    if not problems:
        before, now = old.document, new.document
        if len(before) != len(now):
            problems.append(f"{len(before)} rows before, {len(now)} now")
        for row, other in zip(before, now, strict=False):
            found = lost(numbers_in(row, RECIPE_KEYS), numbers_in(other, RECIPE_KEYS))
            for key in RECIPE_KEYS - {"schema_version"}:
                found += shared_differences(row.get(key), other.get(key), key)
            problems += [f"{row['preset']} {row['recipe']}: {line}" for line in found]
    count = len(old.document or [])
    yield compared(f"rate --json: {count} rows", problems)
    for form in ("--table", "--markdown"):
        old, new = pair.run("rate", form, "-o", pair.old_rates)
        problems = succeeded(old, new) or lost(*map(numbers_in_text, (old.stdout, new.stdout)))
        yield compared(f"rate {form}", problems)
    old, new = pair.run("zoo", "--json", "--records", pair.old_rates)
    problems = succeeded(old, new)
    if not problems:
        before, now = ({each["name"]: each for each in out.document} for out in (old, new))
        for name, entry in before.items():
            found = differences(pick(entry, ZOO_KEYS), pick(now.get(name, {}), ZOO_KEYS))
            problems += [f"{name}: {line}" for line in found]
    yield compared(f"zoo --json: {len(old.document or [])} architectures", problems)


def check_checkpoints(pair: Pair) -> Iterator[Check]:
    records = sorted((pair.old.root / "records").rglob("*.pt"))
    reference = sorted((HERE / REFERENCE).resolve().glob("*"))
    if not reference:
        yield Check(name=f"{REFERENCE}: not here", skipped=True)
    read = []
    for path in [*reference, *records]:
        shown = f"inspect {'/'.join(path.parts[-3:])}"
        old, new = pair.run("inspect", path, "--json")
        if old.code != 0:
            note = "read now" if new.code == 0 else f"refused by both: {old.complaint}"
            yield compared(shown, [] if new.code == 0 else same_code(old, new), note)
            continue
        read.append(path)
        before, now = (pick(each.document, INSPECT_KEYS) for each in (old, new))
        problems = same_code(old, new) or differences(before, now)
        problems = problems or shared_differences(old.document["table"], new.document["table"])
        yield compared(shown, problems)
    old, new = pair.run("evaluate", *read, "--suite", "fresh:20000", "--json")
    problems = succeeded(old, new)
    if not problems:
        for path, *both in zip(read, old.document, new.document, strict=True):
            found = differences(*(pick(each, EVALUATION_KEYS) for each in both))
            problems += [f"{path.name}: {line}" for line in found]
    yield compared(f"evaluate: {len(read)} checkpoints on 20,000 pairs", problems)


def check_log(pair: Pair) -> Iterator[Check]:
    """The series on record, read by everything that reads a run folder."""
    series = pair.old.root / "records" / "2026-11-23_seed-log"
    runs = sorted(path.parent for path in series.glob("*/config.json"))
    old, new = pair.run("log", pair.old.root / "records", "--output", "log.md")
    problems = succeeded(old, new) or lost(*texts(pair, "log.md"))
    yield compared("log records", problems)
    old, new = pair.run("compare", *runs, "--json")
    problems = succeeded(old, new)
    problems = problems or lost(*(numbers_in(each.document) for each in (old, new)))
    yield compared(f"compare {' '.join(run.name for run in runs)}", problems)
    for run in runs:
        page = f"{run.name}.html"
        old, new = pair.run("report", run, "--output", page)
        yield compared(f"report {run.name}", succeeded(old, new) or lost(*texts(pair, page)))
    for tree in (pair.old, pair.new):
        shutil.copytree(series, tree.folder / "records" / series.name)
    old, new = pair.run("replay", f"records/{series.name}/series.toml")
    problems = succeeded(old, new) or lost(*map(numbers_in_text, (old.stdout, new.stdout)))
    yield compared("replay: the series counts as run, its expectations are met", problems)


def texts(pair: Pair, file: str) -> Iterator[Counter[float]]:
    """The numbers that a reader of `file` reads, of the old tree's and of the new."""
    for tree in (pair.old, pair.new):
        text = (tree.folder / file).read_text()
        yield numbers_in_text(visible_text(text) if file.endswith(".html") else text)

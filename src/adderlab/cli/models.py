"""The commands about a model, the presets and their settings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from adderlab.cli.options import (
    DeviceOptions,
    SetOptions,
    SizeOptions,
    Switch,
    WeightsOptions,
    arg,
    emit_json,
    print_note,
)

if TYPE_CHECKING:
    from adderlab.runs.checkpoints import Checkpoint


@dataclass(frozen=True, kw_only=True)
class Evaluate(DeviceOptions, WeightsOptions):
    """Exact match of checkpoints on a suite of pairs, with 95% intervals and the first failures."""

    checkpoints: Annotated[tuple[Path, ...], tyro.conf.Positional, arg(metavar="CKPT|FILE.py ...")]
    """Checkpoint files (ours, R456's .pt, MicroAdder's .pt, MLX-named .npz, .safetensors), folders of
    runs (their best models), or Python files of yours, which are run."""
    suite: str = "published"
    """published (10 x 10,000 pairs), adderboard (10,010), strata, fresh:N, or all: of a small task every
    pair, in fp32 and float64."""
    json: Switch = False
    """Print a list of objects instead of text."""
    output: Annotated[Path | None, arg(metavar="F", aliases=["-o"])] = None
    """Write the JSON to a file as well."""

    def run(self) -> int:
        """Evaluate each checkpoint in turn; the exit code says whether it could, not how it went."""
        import adderlab
        from adderlab.errors import UsageError

        if not self.checkpoints:
            raise UsageError("name at least one checkpoint file")
        # All are read first: a wrong name ends the command before minutes of work, not after.
        models = [adderlab.load(self.model(path)) for path in self.checkpoints]
        entries = []
        for model in models:
            report = model.evaluate(self.suite, device=self.device, engine=self.engine, log=print_note)
            entries.append(report.to_dict())
            if self.output is not None:
                emit_json(entries, self.output)
            if not self.json:
                print(f"{model.path}: {_count(model)}", *report.describe(), sep="\n")
        if self.json:
            emit_json(entries)
        return 0


def _count(model: Checkpoint) -> str:
    own = "" if model.trained is None else f" (its own program trained {model.trained})"
    return f"{model.num_parameters} parameters{own}"


@dataclass(frozen=True, kw_only=True)
class Predict(WeightsOptions):
    """One addition by a checkpoint: the answer, how sure each digit is, right or wrong."""

    checkpoint: Annotated[Path, tyro.conf.Positional, arg(metavar="CKPT|FILE.py")]
    """A checkpoint file, the folder of a run (its best model), or a Python file, which is run."""
    a: Annotated[int, tyro.conf.Positional]
    """0 to 9999999999, or as far as the model's columns go; in base 10, whatever the model's base."""
    b: Annotated[int, tyro.conf.Positional]
    """The same."""
    json: Switch = False
    """Print one object instead of text."""

    def run(self) -> int:
        """Answer; the exit code is 0 whether the answer is right or not."""
        import adderlab

        answer = adderlab.predict(self.model(self.checkpoint), self.a, self.b)
        if self.json:
            emit_json(answer.to_dict())
        else:
            print(*answer.describe(), sep="\n")
        return 0


@dataclass(frozen=True, kw_only=True)
class Inspect(WeightsOptions, SetOptions):
    """The parameter table of a checkpoint, a preset or a Python file: what is stored, tied and counted.

    Of a file also what was read of it: how it is asked, its heads, the operations after them.
    """

    name: Annotated[str, tyro.conf.Positional, arg(metavar="CKPT|PRESET|FILE.py")]
    """A checkpoint, the folder of a run (its best model), a preset, or a Python file, which is run."""
    json: Switch = False
    """Print one object instead of a table."""

    def run(self) -> int:
        """Print the parameter table and, for a checkpoint, where it comes from."""
        import adderlab

        inspection = adderlab.inspect(self.model(self.name), set=self.settings)
        if self.json:
            emit_json(inspection.to_dict())
        else:
            print(*inspection.describe(), sep="\n")
        return 0


@dataclass(frozen=True, kw_only=True)
class Zoo(SizeOptions):
    """The trained architectures, published ones and our own, with their exact parameter counts."""

    name: Annotated[str | None, tyro.conf.Positional, arg(metavar="[NAME]")] = None
    """A preset, for example 456p: its parameter table, ties, recipe and source."""
    json: Switch = False
    """Print a list of objects instead of a table."""
    markdown: Switch = False
    """Print docs/zoo.md."""
    records: Annotated[Path | None, arg(metavar="FOLDER")] = None
    """Folder of measured rates; default: records/rates of the checkout, if there is one."""

    def run(self) -> int:
        """Print the table, or one preset."""
        import adderlab

        zoo = adderlab.presets(*([self.name] if self.name else []), records=self.records, **self.size)
        if self.json:
            emit_json(zoo.to_dicts())
        elif self.markdown:
            print(zoo.markdown())
        else:
            print(*zoo.describe(), sep="\n")
        return 0


HEAD = """\
# Settings

Written by `adderlab settings --markdown`, from the configuration dataclasses themselves.
`adderlab settings recipe.prefit` prints a part of it; `al.settings()` gives rows for pandas or polars.

Change one with `--set recipe.lr=0.01 model.d_ff=12`, or `set={"recipe.lr": 0.01}` in Python. A value is
JSON or a word. Where a section is left out by default (`null`), give it whole:
`--set 'recipe.restarts={"halve_at": [400, 800]}'`. A name such as `recipe.stages[].lr` stands in a list;
give the whole list: `--set 'recipe.stages=[{"steps": 2000, "lr": 0.001}]'`.
"""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Every setting of a model and a recipe: its type, its default and what it does."""

    name: Annotated[str, tyro.conf.Positional, arg(metavar="[NAME]")] = ""
    """model, recipe, a part such as recipe.prefit, or one setting; all without a name."""
    json: Switch = False
    """Print a list of objects instead of text."""
    markdown: Switch = False
    """Print docs/settings.md."""

    def run(self) -> int:
        """Print the settings."""
        import adderlab

        found = adderlab.settings(self.name)
        if self.json:
            emit_json(found.to_dicts())
        elif self.markdown:
            print(f"{HEAD}\n{found.markdown()}".rstrip())
        else:
            print(*found.describe(), sep="\n")
        return 0

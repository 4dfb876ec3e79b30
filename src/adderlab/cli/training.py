"""The command that trains."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from adderlab.cli.options import ChangeOptions, ComputeOptions, Following, Switch, arg, is_file

if TYPE_CHECKING:
    from adderlab.api.training import Run
    from adderlab.training.measure import Listener


@dataclass(frozen=True, kw_only=True)
class Train(ComputeOptions, ChangeOptions):
    """Train a population of seeds of one architecture, evaluate the best, say what was learned."""

    preset: Annotated[str | None, tyro.conf.Positional, arg(metavar="[PRESET|FILE.py]")] = None
    """A published architecture, for example 456p (adderlab zoo lists them), or a Python file of yours,
    which is run (docs/your-own-model.md)."""
    until: Annotated[Literal["proved"] | None, arg(metavar="proved")] = None
    """Go on with fresh seeds until one is proved on all pairs: hopeless ones are dropped."""
    proved: Annotated[int | None, arg(metavar="N")] = None
    """With --until proved: stop at so many proved seeds; default: 1, or as many as a resumed search was
    last asked for."""
    budget: Annotated[float | None, arg(metavar="MINUTES")] = None
    """With --until proved: give up after so many minutes (exit code 1), default 10. Without, of the
    recipe auto: as many steps as take about so long here."""
    assisted: bool = True
    """With --until proved: repair seeds that end nearly right, where a fresh seed takes longer; counted
    apart from training alone."""
    recipe: Annotated[str | None, arg(metavar="NAME")] = None
    """best (default; the one that adderlab zoo names), quick (default with --until proved: soonest to a
    proof), published, or a name; auto, for any model, is what a file's is trained by."""
    seeds: Annotated[str | None, arg(metavar="SEEDS")] = None
    """Seeds, for example 0-63 or 43,44; with --until proved also from one on, 100-. Default: 0-7;
    with --until proved 0-."""
    run_name: Annotated[str | None, arg(metavar="NAME")] = None
    """Folder below results/runs; default: the preset and the time."""
    overwrite: Switch = False
    """Delete a run of that name first."""
    resume: Annotated[Path | None, arg(metavar="RUN")] = None
    """Go on with a stopped run; give its folder and no preset, but FILE.py where it is of one. With
    --steps N also with one that is done: N steps in all, from each seed's best weights, at its last
    rate."""
    start: Annotated[Path | None, arg(metavar="CKPT", name="from")] = None
    """Start every seed from these weights: of the same model, or of one with fewer hidden units, smaller
    ranks or more ties."""
    keep: Annotated[Literal["grokked", "all"] | None, arg(metavar="{grokked,all}")] = None
    """Seeds that get a folder: all, or (default) those that end at 99% and the best."""
    checkpoint_every: Annotated[int | None, arg(metavar="N")] = None
    """Keep all weights every N steps, in checkpoints/snapshots.npy; report and explore make a film."""
    evaluate: str = "published"
    """Suite for the best seed afterwards: published, adderboard, strata, fresh:N, all, or none."""
    prove: bool = True
    """Afterwards, decide all pairs for every seed at 99% or more, or else for the best."""
    quiet: Switch = False
    """Print only the evaluation at the end."""
    json_lines: Switch = False
    """Print one JSON object a line, for programs, instead of text."""
    cluster: Annotated[str | None, arg(metavar="ADDRESS")] = None
    """Train on a Ray cluster: local, auto, or ray://HOST:10001 (needs adderlab[cluster])."""
    store: Annotated[str | None, arg(metavar="URL")] = None
    """With --cluster: where the machines keep their state, a folder they share or s3://, gs://;
    default: the run's own folder."""
    shards: Annotated[int | None, arg(metavar="N")] = None
    """With --cluster: in how many parts the seeds are trained; default: as many as fit at once."""
    sink: Annotated[
        tuple[Literal["tensorboard", "trackio", "wandb"], ...],
        arg(metavar="{tensorboard,trackio,wandb} ..."),
    ] = ()
    """Dashboards that get a copy of the figures; each needs its extra (adderlab[wandb])."""

    def run(self) -> int:
        """Train or search, evaluate, report."""
        import sys

        from adderlab.api.experiments import short_name
        from adderlab.api.training import default_folder, resume_command, run_folder, without_success
        from adderlab.cli.main import INTERRUPTED
        from adderlab.errors import Failure
        from adderlab.evaluation.suites import check_suite
        from adderlab.report.live import write_event
        from adderlab.runs.metadata import kind_of
        from adderlab.task.addition import Addition

        _check(self)
        # A wrong suite is refused before training, not after.
        suite = None if self.evaluate == "none" else self.evaluate
        if suite:
            check_suite(suite, Addition(columns=self.columns or 10, base=self.base or 10))
        folder = self.resume or (None if self.run_name is None else run_folder(self.run_name))
        folder = folder or default_folder(short_name(str(self.preset), self.settings))
        options = [*self.compute_words, *(["--cluster", self.cluster] if self.cluster else [])]
        options += [] if self.prove else ["--no-prove"]
        following = Following(
            lambda: resume_command(folder, options) if kind_of(folder) else None,
            quiet=self.quiet,
            json_lines=self.json_lines,
            budget=60 * self._minutes if self.until else None,
            sinks=self.sink,
        )
        with following as listener:
            found = self._train(folder, listener)
        if found.status == "stopped":
            following.tell_how_to_go_on()
            return INTERRUPTED
        if found.status == "diverged":
            suite = None  # its weights are no numbers, or on their way there
        if self.until and found.status != "proved":
            raise Failure(without_success(found, self._minutes, options))
        for report in found.evaluate(suite, device=self.device, engine=self.engine) if suite else ():
            if self.json_lines:
                write_event(sys.stdout, "result", **report.to_dict())
            else:
                print(*report.describe(), sep="\n")
        if not (self.until or self.json_lines):
            print(f"Files: {folder}/ (summary.json, seeds.csv, metrics.csv, checkpoints/best.pt)")
        return 0

    def _train(self, folder: Path, listener: Listener) -> Run:
        """The one call of the API that the options stand for."""
        import adderlab as al

        how: dict[str, Any] = {**self.compute, "listener": listener}
        if self.resume is not None:
            how |= {"keep": self.keep, "prove": self.prove, "cluster": self.cluster}
            how |= {"steps": self.steps}
            return al.resume(folder, self.preset, proved=self.proved, minutes=self._minutes, **how)
        how |= {"steps": self.steps, "set": self.settings}
        how |= {"folder": folder, "overwrite": self.overwrite}
        if self.until:
            return al.search(
                str(self.preset),
                proved=1 if self.proved is None else self.proved,
                minutes=self._minutes,
                recipe=self.recipe or "quick",
                seeds=self.seeds or "0-",
                assisted=self.assisted,
                **how,
            )
        return al.train(
            str(self.preset),
            recipe=self.recipe or "best",
            seeds=self.seeds or "0-7",
            keep=self.keep or "grokked",
            checkpoint_every=self.checkpoint_every,
            prove=self.prove,
            start=self.start,
            cluster=self.cluster,
            shards=self.shards,
            store=self.store,
            minutes=self.budget,
            **how,
        )

    @property
    def _minutes(self) -> float:
        """Of a search."""
        return 10.0 if self.budget is None else self.budget


def _check(args: Train) -> None:
    """Raises ``UsageError`` for options that do not go together."""
    from adderlab.errors import UsageError
    from adderlab.runs.metadata import kind_of

    if args.resume is None and args.preset is None:
        raise UsageError(
            "name a preset to train, for example 456p (adderlab zoo lists them), or a Python file"
        )
    if args.until and (args.sink or args.keep or not args.prove or args.cluster or args.start):
        raise UsageError(
            "--sink, --keep, --no-prove, --cluster and --from do not go with --until proved"
        )
    if args.checkpoint_every is not None and (args.until or args.cluster or args.resume):
        raise UsageError(
            "--checkpoint-every is for a new run on this machine, not for --until proved, --cluster or "
            "--resume (which goes on as the run began)"
        )
    if not args.until and (args.proved, args.assisted) != (None, True):
        raise UsageError("--proved and --no-assisted go with --until proved")
    if not args.until and args.resume is not None and args.budget is not None:
        raise UsageError(
            "--budget chooses the steps of a new run, or ends a search: a resumed run has its own"
        )
    if args.cluster and args.sink:
        raise UsageError("--sink follows a run on this machine; leave it out with --cluster")
    if args.resume is None:
        return
    changed = args.recipe or args.set or args.start or not args.assisted
    preset = args.preset and not is_file(args.preset)
    if preset or changed or args.seeds or args.run_name or args.overwrite:
        raise UsageError(
            "--resume takes the run's own settings: give no preset, --recipe, --seeds, --set, --from "
            "or --no-assisted"
        )
    if args.store or args.shards:
        raise UsageError("a resumed run keeps its shards and its store: give no --shards and --store")
    kind = kind_of(args.resume)
    if kind is None:
        raise UsageError(f"there is no run in {args.resume}; check the name")
    if args.until and kind != "search":
        raise UsageError(f"{args.resume} is no search; resume it without --until")
    if kind == "search" and not args.until:
        raise UsageError(f"{args.resume} is a search; go on with it by --until proved --resume")

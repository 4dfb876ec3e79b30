"""The published program's two commands, with its flags, defaults, data and files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from adderlab.cli.options import Switch, arg

TieMode = Literal[
    "none",
    "all",
    "qk",
    "kv",
    "shareA",
    "shareB",
    "shareB_tieQK",
    "shareB_tieKV",
    "shareA_tieKV",
    "shareA_tieQK",
]


@dataclass(frozen=True, kw_only=True)
class R456Train:
    """Train one seed exactly as the published 456p program does: its flags, defaults, data and files.

    The flags of the log that came after it are honoured too: several models side by side, wandb.
    """

    run_name: str = "lowrank_baseline"
    run_dir: Annotated[Path | None, arg(metavar="DIR")] = None
    """Default: results/runs/RUN_NAME."""
    split_dir: Path = Path("results/data")
    """Where the hold-out pairs of the seed are stored."""
    device: str = "cpu"
    """cpu, cuda, mps or auto."""
    dtype: Literal["fp32", "fp16", "bf16"] = "fp32"
    """Only fp32: the published program, too, ignores the others on a CPU."""
    seed: int = 42
    """Of the first model; the others have the next ones."""
    num_models: int = 1
    """Models trained side by side; each gets its folder below the run's."""
    wandb: bool = False
    """Send the figures to Weights & Biases too (needs adderlab[wandb])."""
    wandb_project: Annotated[str | None, arg(metavar="[ENTITY/]PROJECT")] = None
    """Where to; default: as wandb's own settings say."""
    wandb_mode: Literal["online", "offline", "disabled"] = "online"
    """offline keeps the figures in the run's folder; disabled is as without --wandb."""
    n_layer: int = 1
    d_model: int = 7
    n_head: int = 1
    d_ff: int = 14
    dropout: float = 0.0
    """Only 0: the published program stores the number and never applies it."""
    pos_rank: int = 0
    """Rank of the position embedding; 0 is full, and so for the other ranks."""
    qkv_rank: int = 0
    attn_out_rank: int = 0
    ffn_rank: int = 0
    use_rmsnorm: Switch = False
    tie_qkv: TieMode = "none"
    train_steps: Annotated[int, arg(aliases=["--total-steps"])] = 27_000
    """--total-steps is the name the published README prints."""
    batch_size: int = 512
    lr: float = 0.02
    weight_decay: float = 0.01
    warmup_steps: int = 1350
    min_lr_ratio: float = 0.1
    grad_clip: float = 1.0
    eval_interval: int = 1000
    val_size: int = 5000
    test_size: int = 10_000
    eval_batch_size: int = 512
    """Has no effect on any number; kept so that published commands run."""

    def run(self) -> int:
        """Train, then print the summary as JSON, as the published program does."""
        import json

        import adderlab as al
        from adderlab.api.training import resume_command, run_folder
        from adderlab.cli.options import Following
        from adderlab.errors import UsageError
        from adderlab.models.config import ModelConfig
        from adderlab.runs.folder import save_split
        from adderlab.runs.metadata import kind_of, read_summary
        from adderlab.training.recipe import Recipe

        if self.dtype != "fp32":
            raise UsageError(f"--dtype {self.dtype}: adderlab trains in fp32 only; leave --dtype out")
        if self.dropout != 0:
            raise UsageError(f"--dropout {self.dropout}: only 0; the published program never applies it")
        config = ModelConfig(
            layout="P",
            n_layer=self.n_layer,
            d_model=self.d_model,
            n_head=self.n_head,
            d_ff=self.d_ff,
            pos_rank=self.pos_rank,
            qkv_rank=self.qkv_rank,
            attn_out_rank=self.attn_out_rank,
            ffn_rank=self.ffn_rank,
            norm="rms" if self.use_rmsnorm else "layer",
            tie_qkv=self.tie_qkv,
        )
        recipe = Recipe(
            steps=self.train_steps,
            batch_size=self.batch_size,
            lr=self.lr,
            weight_decay=self.weight_decay,
            warmup_steps=self.warmup_steps,
            min_lr_ratio=self.min_lr_ratio,
            grad_clip=self.grad_clip,
            eval_interval=self.eval_interval,
            val_size=self.val_size,
            test_size=self.test_size,
            sampler="r456",
        )
        if self.num_models < 1:
            raise UsageError(f"--num-models must be at least 1, not {self.num_models}")
        folder = self.run_dir or run_folder(self.run_name)
        seeds = range(self.seed, self.seed + self.num_models)
        for seed in seeds:
            save_split(self.split_dir, seed, self.val_size, self.test_size)
        following = Following(
            lambda: resume_command(folder) if kind_of(folder) else None, sinks=self._sinks()
        )
        with following as listener:
            found = al.train(
                config,
                recipe=recipe,
                seeds=seeds,
                folder=folder,
                run_name=self.run_name,
                device=self.device,
                overwrite=True,
                keep="all",
                listener=listener,
            )
        if found.status == "stopped":
            following.tell_how_to_go_on()
        print(json.dumps(read_summary(folder), indent=2))
        return 0

    def _sinks(self) -> tuple[str, ...]:
        """The dashboards; wandb reads where to and how from the environment."""
        import os

        if not self.wandb or self.wandb_mode == "disabled":
            return ()
        os.environ["WANDB_MODE"] = self.wandb_mode
        if self.wandb_project:
            *entity, os.environ["WANDB_PROJECT"] = self.wandb_project.split("/", 1)
            if entity:
                os.environ["WANDB_ENTITY"] = entity[0]
        return ("wandb",)


@dataclass(frozen=True, kw_only=True)
class R456Evaluate:
    """Evaluate a checkpoint exactly as the published program does: ten test sets, its output file."""

    checkpoint: Annotated[Path, tyro.conf.Positional, arg(metavar="CKPT")]
    """A checkpoint file."""
    device: str = "cpu"
    """cpu, cuda, mps or auto."""
    batch_size: int = 512
    """Has no effect on any number; kept so that published commands run."""
    output: Annotated[Path | None, arg(metavar="F")] = None
    """Default: results/final_<parameters>params.json."""

    def run(self) -> int:
        """Print a line per test set, then write the JSON file."""
        import adderlab
        from adderlab.cli.options import emit_json
        from adderlab.files.atomic import make_folder

        checkpoint = adderlab.load(self.checkpoint)
        print(f"Model: {checkpoint.num_parameters} parameters")
        report = checkpoint.evaluate("published", device=self.device, log=print)
        output = self.output or Path(f"results/final_{checkpoint.num_parameters}params.json")
        # Before it is printed: what was measured must not be lost with a pipe that is closed.
        make_folder(output.parent)
        emit_json(_published_form(checkpoint, report), output)
        for group in report.groups:
            verdict = "PASS" if group.errors == 0 else f"FAIL ({group.errors} errors)"
            print(f"  seed={group.name:>5}: exact_match={group.exact_match:.6f}  {verdict}")
        total = report.total
        print(f"Aggregate: {total.exact_match:.6f} ({total.errors} errors in {total.n} examples)")
        print(f"Results saved to {output}")
        return 0


def _published_form(checkpoint, report) -> dict:  # type: ignore[no-untyped-def]
    """The published program's JSON; its ``config`` names where the model is of its family."""
    from adderlab.runs.foreign import model_to_dict

    config = model_to_dict(checkpoint.config)
    total = report.total
    return {
        "model": f"{checkpoint.num_parameters}-parameter transformer",
        "checkpoint": str(checkpoint.path),
        "parameters": checkpoint.num_parameters,
        "config": {**config, "weight_tying": True, "precision": "fp32"},
        "training": {
            "seed": 42 if checkpoint.seed is None else checkpoint.seed,
            "total_steps": checkpoint.step,
        },
        "multi_seed_validation": {
            "total_examples": total.n,
            "num_test_sets": len(report.groups),
            "aggregate_exact_match": round(total.exact_match, 6),
            "aggregate_errors": total.errors,
            "per_seed": {
                group.name: {"exact_match": group.exact_match, "errors": group.errors}
                for group in report.groups
            },
        },
    }

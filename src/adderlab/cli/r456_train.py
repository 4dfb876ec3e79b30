"""Train one seed exactly as the published 456p program does: its flags, defaults, data and files."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

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
class Args:
    """Flags and defaults of the published program."""

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


def run(args: Args) -> int:
    """Train, then print the summary as JSON, as the published program does."""
    import json

    import adderlab as al
    from adderlab.api.training import resume_command
    from adderlab.cli.following import Following
    from adderlab.errors import UsageError
    from adderlab.models.config import ModelConfig
    from adderlab.runs.folder import save_split
    from adderlab.runs.metadata import kind_of, read_summary
    from adderlab.training.recipe import Recipe

    if args.dtype != "fp32":
        raise UsageError(f"--dtype {args.dtype}: adderlab trains in fp32 only; leave --dtype out")
    if args.dropout != 0:
        raise UsageError(f"--dropout {args.dropout}: only 0; the published program never applies it")
    config = ModelConfig(
        layout="P",
        n_layer=args.n_layer,
        d_model=args.d_model,
        n_head=args.n_head,
        d_ff=args.d_ff,
        pos_rank=args.pos_rank,
        qkv_rank=args.qkv_rank,
        attn_out_rank=args.attn_out_rank,
        ffn_rank=args.ffn_rank,
        norm="rms" if args.use_rmsnorm else "layer",
        tie_qkv=args.tie_qkv,
    )
    recipe = Recipe(
        steps=args.train_steps,
        batch_size=args.batch_size,
        lr=args.lr,
        weight_decay=args.weight_decay,
        warmup_steps=args.warmup_steps,
        min_lr_ratio=args.min_lr_ratio,
        grad_clip=args.grad_clip,
        eval_interval=args.eval_interval,
        val_size=args.val_size,
        test_size=args.test_size,
        sampler="r456",
    )
    folder = args.run_dir or Path("results/runs") / args.run_name
    save_split(args.split_dir, args.seed, args.val_size, args.test_size)
    following = Following(lambda: resume_command(folder) if kind_of(folder) else None)
    with following as listener:
        found = al.train(
            config,
            recipe=recipe,
            seeds=[args.seed],
            folder=folder,
            run_name=args.run_name,
            device=args.device,
            overwrite=True,
            listener=listener,
        )
    if found.status == "stopped":
        following.tell_how_to_go_on()
    print(json.dumps(read_summary(folder), indent=2))
    return 0

"""The hold-out file of a seed, as the published program stores it beside its runs."""

from pathlib import Path

from adderlab.runs.atomic import make_folder, write_torch
from adderlab.task.digits import from_digits
from adderlab.task.holdout import holdout


def save_split(folder: Path, seed: int, val_size: int, test_size: int) -> Path:
    """Write ``holdout_v{val}_t{test}_seed{seed}.pt`` unless it is there; its path.

    A dict of int64 tensors val_a, val_b, test_a, test_b. Raises ``Failure``.
    """
    path = folder / f"holdout_v{val_size}_t{test_size}_seed{seed}.pt"
    if not path.exists():
        make_folder(folder)
        split = holdout(seed, val_size, test_size)
        write_torch(
            path,
            {
                "val_a": from_digits(split.val_a_BJ),
                "val_b": from_digits(split.val_b_BJ),
                "test_a": from_digits(split.test_a_BJ),
                "test_b": from_digits(split.test_b_BJ),
            },
        )
    return path

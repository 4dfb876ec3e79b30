"""Which device to compute on, and why."""

import torch

from adderlab.errors import UsageError

DEVICES = ("auto", "cpu", "cuda", "mps")


def choose_device(name: str) -> tuple[torch.device, str]:
    """The device for ``--device name`` and the reason in a few words.

    Raises ``UsageError`` for an unknown name or a device this machine does not have.
    """
    if name not in DEVICES:
        raise UsageError(f"no device {name!r}; there are {', '.join(DEVICES)}")
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda"), f"a CUDA GPU is here ({torch.cuda.get_device_name()})"
        # Apple's backend has no 64-bit integer shifts worth the name and no bit-stable sums;
        # models this small are faster on its CPU anyway.
        return torch.device("cpu"), "no CUDA GPU is here"
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: this machine has no CUDA GPU; use --device cpu or auto")
    if name == "mps" and not torch.backends.mps.is_available():
        raise UsageError("--device mps: this machine has no Apple GPU; use --device cpu or auto")
    return torch.device(name), "you asked for it"

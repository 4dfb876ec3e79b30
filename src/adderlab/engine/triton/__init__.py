"""The Triton engine: where it can be had, asked without importing Triton where it is not."""

from __future__ import annotations

import importlib.util
import os

import torch

from adderlab.engine.base import too_large
from adderlab.models.head_program import standard_head
from adderlab.models.tables import TableForm


def why_not(form: TableForm, device: torch.device) -> str | None:
    """None if the kernels can be had for this form and device, otherwise the reason in a few words."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed (on Linux: pip install -c constraints.txt -e '.[gpu]')"
    if device.type != "cuda" and not (
        device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1"
    ):
        return f"it computes on CUDA, not on {device.type}"
    head = standard_head(form.program)
    if head is None:
        return "its head is not that of a pre-norm MLP, which is all that the Triton engine computes"
    for name, norm in (("norm2", head.norm2), ("norm_f", head.norm_f)):
        if norm.kind != "none" and f"{name}_weight" not in head.roles:
            return "a norm without a weight, which the Triton engine does not compute"
    sizes = {"width": (form.width, 32), "number of hidden units": (head.hidden, 64)}
    return too_large(form, sizes, "Triton")

"""What this machine has, for tests that must say the same on every one."""

import platform

import torch

X86 = platform.machine().lower() in ("x86_64", "amd64")

ISAS = ("native", "avx2", "baseline") if X86 else ("native", "baseline")
"""Instruction sets that the native engine can be compiled for here."""

OTHER_ISA = "avx2" if X86 else "baseline"
"""One that is not this machine's own."""

ABSENT_DEVICE = "cuda" if torch.backends.mps.is_available() else "mps"
"""A device that PyTorch knows and this machine does not have (no machine has both)."""

"""What a run ran on: enough to see later whether two runs can be compared."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from adderlab import __version__

SCHEMA_VERSION = 1


def collect_environment(device: str, command: Sequence[str] | None = None) -> dict[str, Any]:
    """The table written to ``environment.json``. ``command`` is ``sys.argv`` unless given."""
    return {
        "schema_version": SCHEMA_VERSION,
        "adderlab": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "platform": platform.platform(),
        "cpu": cpu_model(),
        "cpu_count": os.cpu_count(),
        "device": device,
        "device_name": device_name(device),
        "threads": torch.get_num_threads(),
        "command": list(sys.argv if command is None else command),
        "git_revision": git_revision(),
        "started": now(),
    }


def now() -> str:
    """The time as files write it: UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def git_revision() -> str | None:
    """The commit this source is at, with ``-dirty`` after it if tracked files were changed.

    None if the package is not part of a git checkout (an installed wheel that merely lies below
    somebody's repository is not) or git is absent.
    """
    here = Path(__file__).resolve()
    if _git(here.parent, "ls-files", "--error-unmatch", here.name) is None:
        return None
    revision = _git(here.parent, "rev-parse", "HEAD")
    if revision is None:
        return None
    changed = _git(here.parent, "status", "--porcelain", "--untracked-files=no")
    return revision + ("-dirty" if changed else "")


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=10,
            env=os.environ | {"GIT_OPTIONAL_LOCKS": "0"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def cpu_model() -> str:
    """The processor's name as its maker gives it, as far as the system tells."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    if sys.platform == "darwin":
        try:
            asked = subprocess.run(
                ["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True, timeout=5
            )
            if asked.returncode == 0:
                return asked.stdout.strip()
        except (OSError, subprocess.TimeoutExpired):
            pass
    return platform.processor() or platform.machine()


def device_name(device: str) -> str | None:
    """The accelerator's name; None for the CPU."""
    if device.startswith("cuda") and torch.cuda.is_available():
        return torch.cuda.get_device_name(device)
    return None

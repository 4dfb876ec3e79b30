"""Which engine is chosen where, and with which message."""

import importlib.util

import pytest
import torch

from adderlab.engine.base import select_engine
from adderlab.engine.torch_tables import TorchEngine
from adderlab.errors import UsageError
from adderlab.models.zoo import get_preset
from helpers.golden import Golden

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
CONFIG = get_preset("242p").config


def test_unknown_engines_are_named() -> None:
    with pytest.raises(UsageError, match=r"'cuda'.* native.* triton.* torch"):
        select_engine("cuda", CONFIG, CPU, threads=1, log=print)


def test_native_is_not_for_cuda() -> None:
    with pytest.raises(UsageError, match=r"engine=native: .*cuda"):
        select_engine("native", CONFIG, CUDA, threads=1, log=print)


def test_triton_is_not_for_models_without_tables() -> None:
    with pytest.raises(UsageError, match=r"engine=triton: .*table form"):
        select_engine("triton", get_preset("1644p").config, CUDA, threads=1, log=print)


def test_triton_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch, golden: Golden) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    messages: list[str] = []
    chosen = select_engine("auto", CONFIG, CUDA, threads=1, log=messages.append)
    assert isinstance(chosen, TorchEngine) and chosen.whole_steps
    golden("engine/triton_is_not_installed.txt", "\n".join(messages) + "\n")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_a_device_that_fails_is_one_message_and_torch_computes() -> None:
    messages: list[str] = []
    chosen = select_engine("auto", CONFIG, CUDA, threads=1, log=messages.append)
    assert isinstance(chosen, TorchEngine) and chosen.whole_steps
    (line,) = messages
    assert "triton" in line and "do not run here" in line
    with pytest.raises(UsageError, match="engine=triton: "):
        select_engine("triton", CONFIG, CUDA, threads=1, log=print)


def test_torch_on_the_cpu_takes_single_steps() -> None:
    chosen = select_engine("torch", CONFIG, CPU, threads=1, log=print)
    assert isinstance(chosen, TorchEngine) and not chosen.whole_steps

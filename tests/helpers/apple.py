"""A stand-in for Apple's GPU on machines that have none: tensors "on mps" that refuse what mps refuses.

They live in the processor's memory. Which ones are meant is known by their storage, so views belong with
what they are views of. Three rules make the stand-in as strict as the backend (PyTorch 2.10 to 2.13):
there is no float64, operations that PyTorch does not have for mps are not there, and a tensor of the
processor meets one of the device only if it has no dimension or is an index.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, ClassVar
from unittest.mock import patch

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

MPS = torch.device("mps")

MISSING = {
    f"aten::{name}"
    for name in (
        "_linalg_det", "_linalg_eigh", "_linalg_svd", "linalg_lstsq", "linalg_qr", "frexp", "nextafter",
        "kthvalue", "logspace", "igamma", "polygamma", "special_erfcx", "special_ndtri", "histogram",
        "histc", "mode", "gcd",
    )
}  # fmt: skip
"""Some of the operations that mps lacks (https://github.com/pytorch/pytorch/issues/141287)."""

MIXED = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_", "aten::copy_"}
"""Operations that take tensors of both."""


class Apple:
    """Which storages are "on the device"."""

    _storages: ClassVar[dict[int, StorageWeakRef]] = {}
    """Of the process, as a device is: what is kept there for later calls stays there."""

    def __init__(self) -> None:
        self.operations: set[str] = set()
        """Names of the operations that met a tensor of the device."""

    def holds(self, tensor: Tensor) -> bool:
        reference = StorageWeakRef(tensor.untyped_storage())
        known = self._storages.get(reference.cdata)
        return known is not None and not known.expired()

    def take(self, tensor: Tensor) -> Tensor:
        """Raises ``TypeError`` for float64, as the backend does."""
        if tensor.dtype in (torch.float64, torch.complex128):
            raise TypeError(
                f"Cannot convert a MPS Tensor to {tensor.dtype}: the MPS framework has no float64"
            )
        reference = StorageWeakRef(tensor.untyped_storage())
        self._storages[reference.cdata] = reference
        return tensor

    def release(self, tensor: Tensor) -> Tensor:
        """Afterwards the processor's."""
        self._storages.pop(StorageWeakRef(tensor.untyped_storage()).cdata, None)
        return tensor

    def moved(self, tensor: Tensor, to_device: bool) -> Tensor:
        """A copy there; gradients go back the same way."""
        return _Move.apply(tensor, self, to_device)


class _Move(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, apple: Apple, to_device: bool) -> Tensor:
        ctx.apple, ctx.to_device = apple, to_device
        copy = tensor.clone()
        return apple.take(copy) if to_device else apple.release(copy)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        copy = grads[0].clone()
        return ctx.apple.release(copy) if ctx.to_device else ctx.apple.take(copy), None, None


class _Transfers(TorchFunctionMode):
    """What Python asks of devices: ``.device``, ``.to``, ``.cpu``, ``device=``."""

    def __init__(self, apple: Apple) -> None:
        super().__init__()
        self.apple = apple

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        first = args[0] if args and isinstance(args[0], Tensor) else None
        name = getattr(func, "__name__", "")
        if first is not None and func == Tensor.device.__get__:  # type: ignore[attr-defined]
            return MPS if self.apple.holds(first) else func(*args)
        if first is not None and name == "numpy" and self.apple.holds(first):
            raise TypeError("can't convert mps:0 device type tensor to numpy; use Tensor.cpu() first")
        if first is not None and name == "cpu":
            return self.apple.moved(first, False) if self.apple.holds(first) else first
        if first is not None and name == "to":
            return self._to(func, first, args[1:], kwargs)
        if _is_mps(kwargs.get("device")):
            kwargs["device"] = torch.device("cpu")
            return self.apple.take(func(*args, **kwargs))
        return func(*args, **kwargs)

    def _to(self, func: Any, tensor: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        here = self.apple.holds(tensor)
        other = next((each for each in args if isinstance(each, Tensor)), None)
        named = [each for each in (*args, kwargs.get("device")) if isinstance(each, torch.device | str)]
        to_mps = here
        if other is not None:
            to_mps = self.apple.holds(other)
            args = tuple(each.dtype if each is other else each for each in args)
        elif named:
            to_mps = _is_mps(named[0])
            args = tuple(torch.device("cpu") if each is named[0] else each for each in args)
            if "device" in kwargs:
                kwargs["device"] = torch.device("cpu")
        if here and not to_mps:
            tensor = self.apple.moved(tensor, False)
        made = func(tensor, *args, **kwargs) if args or kwargs else tensor
        return self.apple.moved(made, True) if to_mps and not here else made


class _Operations(TorchDispatchMode):
    """What operations do, those of the backward pass too."""

    def __init__(self, apple: Apple) -> None:
        super().__init__()
        self.apple = apple

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
        on_device = [self.apple.holds(each) for each in tensors]
        made = func(*args, **(kwargs or {}))
        if not any(on_device):
            return made
        name = func._schema.name
        self.apple.operations.add(name)
        if name in MISSING:
            raise NotImplementedError(f"The operator '{name}' is not implemented for MPS")
        if name not in MIXED:
            for tensor, here in zip(tensors, on_device, strict=True):
                if not here and tensor.dim() > 0:
                    raise RuntimeError(f"{name}: expected all tensors on one device, found mps and cpu")
        if name == "aten::copy_" and not on_device[0]:
            return made
        for each in tree_leaves(made):
            if isinstance(each, Tensor):
                self.apple.take(each)
        return made


def _is_mps(device: Any) -> bool:
    return device is not None and torch.device(device).type == "mps"


@contextlib.contextmanager
def apple_gpu() -> Iterator[Apple]:
    """Inside, ``device=mps`` is there."""
    apple = Apple()
    with (
        patch.object(torch.backends.mps, "is_available", lambda: True),
        _Transfers(apple),
        _Operations(apple),
    ):
        yield apple

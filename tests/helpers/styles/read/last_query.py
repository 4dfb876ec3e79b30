"""The query of the last position alone, in a plain class; digits as numbers, not as rows of a table."""

import torch
from torch import Tensor
from torch.nn import functional


class Net:
    def __init__(self) -> None:
        g = torch.Generator().manual_seed(1)
        self.d = 4
        self.digit = torch.randn(self.d, generator=g)
        self.kind = torch.randn(2, self.d, generator=g)
        self.pos = torch.randn(40, self.d, generator=g)
        self.wq, self.wk, self.wv = (torch.randn(self.d, self.d, generator=g) for _ in range(3))
        self.w_in, self.w_gate = torch.randn(2, self.d, 6, generator=g)
        self.w_out = torch.randn(6, self.d, generator=g)
        self.scale = torch.ones(self.d)
        self.read = torch.randn(self.d, generator=g)
        for tensor in (
            self.digit,
            self.kind,
            self.pos,
            self.wq,
            self.wk,
            self.wv,
            self.w_out,
            self.read,
        ):
            tensor.requires_grad_()

    def step(self, ids: Tensor) -> Tensor:
        is_digit = ids < 10
        value = torch.where(is_digit, ids, 0).float() / 9.0
        x = value[:, None] * self.digit + self.kind[is_digit.long()] + self.pos[: ids.numel()]
        q, k, v = x[-1] @ self.wq, x @ self.wk, x @ self.wv
        p = functional.softmax((k @ q).div(self.d**0.5), dim=0)
        h = x[-1] + p @ v
        n = functional.rms_norm(h, (self.d,), self.scale, 1e-5)
        h = h + (functional.silu(n @ self.w_gate) * (n @ self.w_in)) @ self.w_out
        guess = h @ self.read
        return -(guess - torch.arange(12)).square()


def build_model() -> Net:
    return Net()


def add(model: Net, a: int, b: int) -> int:
    ids = [*map(int, f"{b:010d}"), 10, *map(int, f"{a:010d}"), 11]
    out = []
    for _ in range(11):
        out.append(int(model.step(torch.tensor(ids + out)).argmax()))
    return sum(d * 10**i for i, d in enumerate(out))

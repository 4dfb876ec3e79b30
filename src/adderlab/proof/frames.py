"""Frames: coordinates of the attention output in which a leaf's box is a thin rod.

What a leaf leaves free moves y nearly along one line, because the values of the ten digits lie
nearly on a curve. A frame keeps all functionals but one constant along that line.

Shapes: Z query tokens, H heads, E bottleneck, D width, L slots, T digits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adderlab.proof.columns import Rest
from adderlab.proof.problem import Array, Step


@dataclass(frozen=True, kw_only=True)
class Frame:
    """For every query token and head, E functionals that are narrow across one direction.

    With p the pivot and shear[p] = 1: f_p.y = y_p, and f_k.y = y_k - shear[k] y_p otherwise. Points
    spread along ``shear`` differ in f_p only. The inverse is exact: y_p = u_p, y_k = u_k + shear[k] u_p.
    """

    pivot_ZH: NDArray[np.int64]
    shear_ZHE: Array

    @classmethod
    def axes(cls, Z: int, H: int, E: int) -> Frame:
        shear_ZHE = np.zeros((Z, H, E))
        shear_ZHE[:, :, 0] = 1.0
        return cls(pivot_ZH=np.zeros((Z, H), dtype=np.int64), shear_ZHE=shear_ZHE)

    @classmethod
    def along(cls, direction_ZHE: Array) -> Frame:
        """The frame of a given direction; its largest coordinate is the pivot."""
        pivot_ZH = np.abs(direction_ZHE).argmax(2)
        largest_ZH1 = np.take_along_axis(direction_ZHE, pivot_ZH[..., None], 2)
        largest_ZH1 = np.where(largest_ZH1 == 0, 1.0, largest_ZH1)
        shear_ZHE = direction_ZHE / largest_ZH1
        np.put_along_axis(shear_ZHE, pivot_ZH[..., None], 1.0, 2)
        return cls(pivot_ZH=pivot_ZH, shear_ZHE=shear_ZHE)

    def functionals(self) -> Array:
        """Rows f_k: (Z, H, E, E)."""
        Z, H, E = self.shear_ZHE.shape
        rows = np.broadcast_to(np.eye(E), (Z, H, E, E)).copy()
        pivot = self.pivot_ZH[:, :, None]
        column = -self.shear_ZHE
        np.put_along_axis(column, pivot, 1.0, 2)
        np.put_along_axis(rows, pivot[..., None], column[..., None], 3)
        return rows

    def attn_out(self, attn_out_HED: Array) -> Array:
        """The output projection in the coordinates u: (Z, H, E, D)."""
        Z = len(self.pivot_ZH)
        out_ZHED = np.broadcast_to(attn_out_HED, (Z, *attn_out_HED.shape)).copy()
        along_ZHD = np.einsum("zhe,hed->zhd", self.shear_ZHE, attn_out_HED)
        np.put_along_axis(out_ZHED, self.pivot_ZH[:, :, None, None], along_ZHD[:, :, None], 2)
        return out_ZHED


def rod_frame(step: Step, rest: Rest) -> Frame:
    """The frame along the main direction in which the rest moves y, for every query token.

    A slot that holds digit t with weight W and value U moves y by about W (U - y) / D. The frame is
    a guess that makes boxes small; bounds are sound in any frame.
    """
    total_ZH = step.weight_ZH + step.weight_ZHLT.mean(-1).sum(-1)
    y_ZHE = (step.mass_ZHE + step.mass_ZHLTE.mean(3).sum(2)) / total_ZH[..., None]
    slots = list(rest.slots())
    weight_ZHST = step.weight_ZHLT[:, :, slots]
    move_ZHSTE = step.mass_ZHLTE[:, :, slots] - weight_ZHST[..., None] * y_ZHE[:, :, None, None]
    move_ZHSTE = move_ZHSTE - move_ZHSTE.mean(3, keepdims=True)
    spread_ZHEE = np.einsum("zhste,zhstf->zhef", move_ZHSTE, move_ZHSTE)
    # A scale keeps the directions of very small moves meaningful.
    size_ZH11 = np.abs(spread_ZHEE).max((2, 3), keepdims=True)
    spread_ZHEE = spread_ZHEE / np.where(size_ZH11 > 0, size_ZH11, 1.0)
    return Frame.along(np.linalg.eigh(spread_ZHEE)[1][..., -1])

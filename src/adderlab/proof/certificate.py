"""Certificate files: everything the independent checker needs, and nothing it has to believe.

The format is defined in docs/proof.md, sections 3 and 4. The same proof gives the same bytes.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import adderlab
from adderlab.files.atomic import write_bytes
from adderlab.models.tables import plain_form
from adderlab.proof.head import OPEN, RIGHT
from adderlab.proof.problem import tables_sha256
from adderlab.proof.prove import Count, Proof
from adderlab.proof.search import Group, StepResult

FORMAT, VERSION, SUMMED_VERSION, TRACED_VERSION = "adderlab-certificate", 2, 3, 4
"""Version 3 is about the sum of heads that share their coordinates; of one head it stays version 2.
Version 4 is about a model read from a file, with any number of heads."""
TERMINAL, EMPTY = -1, -2


def certificate(proof: Proof) -> dict[str, Any]:
    """The certificate of a proof about tables, digest included."""
    margin, tables = proof.margin, proof.problem.tables
    assert tables is not None
    body: dict[str, Any] = {
        "format": FORMAT,
        "version": _version(proof),
        "adderlab": adderlab.__version__,
        "weights_sha256": proof.weights_sha256,
        "config": proof.config,
        "config_sha256": hashlib.sha256(_dump(proof.config)).hexdigest(),
        "tables_sha256": tables_sha256(tables),
        "form": plain_form(tables.form),
        "bottleneck": proof.problem.bottleneck,
        "verdict": proof.verdict,
        "failing_pairs": _count(proof.failing_pairs),
        "failing_by_step": [_count(count) for count in proof.failing_by_step],
        "counterexample": None if proof.counterexample is None else list(proof.counterexample),
        "margin": {"bound": margin.bound, "witness": margin.witness, "pair": list(margin.pair)},
        "leaves": proof.leaves,
        "cells": sum(len(part.margin_N) for group in proof.groups for part in group.decided),
        "steps": None,
    }
    if proof.verdict == "proved":
        body["steps"] = [_step(result, proof) for result in proof.results]
    return {**body, "digest": digest(body)}


def _version(proof: Proof) -> int:
    if proof.config is not None and "trace_sha256" in proof.config:
        return TRACED_VERSION
    return SUMMED_VERSION if proof.problem.summed else VERSION


def digest(body: dict[str, Any]) -> str:
    """sha256 of a certificate without its digest."""
    rest = {key: value for key, value in body.items() if key != "digest"}
    return hashlib.sha256(_dump(rest)).hexdigest()


def write_certificate(path: Path, content: dict[str, Any]) -> None:
    """Write a certificate, all or nothing, compressed if the name ends in .gz. Raises ``Failure``."""
    data = _dump(content)
    if path.suffix == ".gz":
        data = gzip.compress(data, compresslevel=6, mtime=0)
    write_bytes(path, data)


def write_beside(checkpoint: Path, proof: Proof) -> Path:
    """Write the certificate of a checkpoint beside it, as NAME.cert.json.gz; its path."""
    return proof.save(checkpoint.with_suffix(".cert.json.gz"))


def encode_array(array: NDArray, dtype: str) -> dict[str, Any]:
    data = np.ascontiguousarray(array, dtype=dtype)
    return {
        "dtype": dtype,
        "shape": list(data.shape),
        "data": base64.b64encode(data.tobytes()).decode("ascii"),
    }


def _dump(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode("ascii")


def _count(count: Count) -> int | list[int]:
    return count if isinstance(count, int) else list(count)


def _step(result: StepResult, proof: Proof) -> dict[str, Any]:
    decision, nodes = result.decision, result.ranges.nodes_ZHE2M
    summed = proof.problem.summed
    split_N = decision.status_N == OPEN
    margin_N = decision.margin_N.copy()
    splits = []
    for group in proof.groups:
        if group.step.index == result.step.index:
            for leaf in range(len(group.leaf_rows)):
                entry, margin = _split(group, leaf)
                splits.append(entry)
                margin_N[group.leaf_rows[leaf]] = margin
    # In canonical order; leaves outside a window have no claims, and nothing reads what stands there.
    bounds_NHE2 = np.zeros((result.step.num_leaves, *result.ranges.bounds_NHE2.shape[1:]))
    bounds_NHE2[result.leaves.number_N] = result.ranges.bounds_NHE2
    # One frame, and one way to cut, for all heads that share their coordinates.
    frames = slice(0, 1 if summed else None)
    pivot_ZH, shear_ZHE = result.frame.pivot_ZH[:, frames], result.frame.shear_ZHE[:, frames]
    parts_NH = np.ones((len(bounds_NHE2), pivot_ZH.shape[1]), dtype=np.int64)
    parts_NH[result.leaves.number_N] = np.where(split_N, 0, decision.parts_N)[:, None]
    joint = {}
    if summed:
        joint_NE2 = np.zeros((len(bounds_NHE2), *bounds_NHE2.shape[2:]))
        joint_NE2[result.leaves.number_N] = np.stack([result.boxes.low_NK, result.boxes.high_NK], -1)
        joint["joint"] = encode_array(joint_NE2, "<f4")
    return {
        **joint,
        "step": result.step.index,
        "pivot": encode_array(pivot_ZH, "<i4"),
        "shear": encode_array(shear_ZHE, "<f8"),
        "nodes_low": encode_array(nodes[:, :, :, 0], "<f8"),
        "nodes_high": encode_array(nodes[:, :, :, 1], "<f8"),
        "bounds": encode_array(bounds_NHE2, "<f4"),
        "parts": encode_array(parts_NH, "<i4"),
        "inputs": sum(result.leaves.inputs_N.tolist()),
        "margin_bound": float(margin_N.min()),
        "splits": sorted(splits, key=lambda entry: entry["leaf"]),
    }


def _split(group: Group, leaf: int) -> tuple[dict[str, Any], float]:
    """The split tree of one leaf of a group, and its smallest margin bound."""
    cells = _Cells(group, leaf)
    tree: list[int] = []
    order: list[int] = []
    cells.walk(0, np.arange(len(cells.level_N)), tree, order)
    H, E = group.frame.shear_ZHE.shape[1:]
    frames = slice(0, 1 if group.problem.summed else None)
    pivot_H, shear_HE = group.frame.pivot_ZH[0, frames], group.frame.shear_ZHE[0, frames]
    joint = {}
    if cells.joint_NE2 is not None:
        joint["joint"] = encode_array(cells.joint_NE2[order].reshape(-1, E, 2), "<f8")
    entry = {
        **joint,
        "leaf": int(group.leaves.number_N[leaf]),
        "pivot": encode_array(pivot_H, "<i4"),
        "shear": encode_array(shear_HE, "<f8"),
        "tree": encode_array(np.array(tree), "|i1"),
        "bounds": encode_array(cells.bounds_NK2[order].reshape(-1, H, E, 2), "<f8"),
        "parts": encode_array(np.repeat(cells.parts_N[order][:, None], len(pivot_H), 1), "<i4"),
    }
    return entry, float(cells.margin_N.min())


class _Cells:
    """The terminal cells of one leaf, all right, as a tree in the order of the group's moves."""

    def __init__(self, group: Group, leaf: int) -> None:
        parts = [(part, np.flatnonzero(part.cells.leaf_N == leaf)) for part in group.decided]
        parts = [(part, rows) for part, rows in parts if len(rows)]
        assert all(part.status == RIGHT for part, _ in parts), "only a proved leaf has a tree"
        self.pairs, self.base = group.step.pairs, group.step.base
        self.moves, self.rests, self.n = group.moves, group.rests, group.step.columns
        self.level_N = np.concatenate([np.full(len(rows), part.level) for part, rows in parts])
        self.digits_NS = np.concatenate([part.cells.digits_NS[rows] for part, rows in parts])
        self.carry_NC = np.concatenate([part.cells.carry_NC[rows] for part, rows in parts])
        self.bounds_NK2 = np.concatenate([part.bounds_NK2[rows] for part, rows in parts])
        joint = [part.joint_NE2[rows] for part, rows in parts if part.joint_NE2 is not None]
        self.joint_NE2 = np.concatenate(joint) if joint else None
        self.parts_N = np.concatenate([part.parts_N[rows] for part, rows in parts])
        self.margin_N = np.concatenate([part.margin_N[rows] for part, rows in parts])

    def walk(self, level: int, rows: NDArray, tree: list[int], order: list[int]) -> None:
        """Append the subtree of cells ``rows`` in pre-order."""
        if not len(rows):
            tree.append(EMPTY)
        elif self.level_N[rows[0]] == level:
            assert len(rows) == 1
            tree.append(TERMINAL)
            order.append(int(rows[0]))
        else:
            slot = self.moves[level]
            if slot in self.rests[level].free:
                variables = [(slot, self.digits_NS[:, slot], self.base)]
                if self.pairs:
                    variables.append((self.n + slot, self.digits_NS[:, self.n + slot], self.base))
            else:
                other = self.n + slot
                variables = [
                    (slot, self.digits_NS[:, slot], self.base),
                    (other, self.digits_NS[:, other], self.base),
                ]
                if slot > 0:
                    variables.append((2 * self.n + slot, self.carry_NC[:, slot], 2))
            self._branch(variables, level, rows, tree, order)

    def _branch(
        self, variables: list, level: int, rows: NDArray, tree: list[int], order: list[int]
    ) -> None:
        if not len(rows):
            tree.append(EMPTY)
        elif not variables:
            self.walk(level + 1, rows, tree, order)
        else:
            code, value_N, values = variables[0]
            tree.append(code)
            for value in range(values):
                self._branch(variables[1:], level, rows[value_N[rows] == value], tree, order)

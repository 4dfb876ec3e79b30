"""Certificate files: the documented fields, the same bytes every time, trees that partition leaves."""

import base64
import dataclasses
import gzip
import hashlib
import json

import numpy as np
import pytest
import torch

from adderlab.errors import Failure
from adderlab.proof import count as union
from adderlab.proof.carries import leaves
from adderlab.proof.certificate import (
    certificate,
    digest,
    encode_array,
    write_certificate,
)
from adderlab.proof.problem import tables_sha256
from adderlab.proof.prove import prove_checkpoint
from adderlab.proof.search import Limits
from adderlab.proof.witnesses import pair_margins
from adderlab.runs.checkpoints import load_checkpoint
from helpers.reference import reference_checkpoint
from oracle.proof_twin import attention, tokens_of

N = 10


def decode(value: dict) -> np.ndarray:
    raw = base64.b64decode(value["data"])
    return np.frombuffer(raw, dtype=value["dtype"]).reshape(value["shape"])


@pytest.fixture(scope="module")
def barely_right():
    """456p moved towards one of its wrong neighbours until a few leaves need splitting."""
    checkpoint = load_checkpoint(reference_checkpoint("lowrank_456p_s43.pt"))
    generator = torch.Generator().manual_seed(0)
    params = {
        name: tensor * (1 + 0.00112792968 * torch.randn(tensor.shape, generator=generator))
        for name, tensor in checkpoint.params.items()
    }
    checkpoint = dataclasses.replace(checkpoint, params=params)
    proof = prove_checkpoint(checkpoint, limits=Limits(parts=1))
    assert proof.verdict == "proved" and proof.split_leaves > 0
    return proof, proof.problem.tables, certificate(proof)


def test_fields_and_digest(barely_right) -> None:
    proof, tables, content = barely_right
    assert content["format"] == "adderlab-certificate" and content["version"] == 2
    assert content["config"]["tie_qkv"] == "shareA_tieKV" and "init" not in content["config"]
    text = json.dumps(content["config"], sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    assert content["config_sha256"] == hashlib.sha256(text.encode()).hexdigest()
    assert content["verdict"] == "proved" and content["failing_pairs"] == 0
    assert content["bottleneck"] == 2 and content["form"]["layout_name"] == "P"
    assert content["tables_sha256"] == tables_sha256(tables)
    assert content["leaves"] == 170_300
    body = {key: value for key, value in content.items() if key != "digest"}
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    assert content["digest"] == hashlib.sha256(text.encode()).hexdigest() == digest(content)
    for i, step in enumerate(content["steps"]):
        Z = 10 if i else 1
        size = proof.results[i].step.num_leaves
        assert step["step"] == i and step["inputs"] == 10**20
        assert decode(step["pivot"]).shape == (Z, 1) and decode(step["shear"]).shape == (Z, 1, 2)
        assert decode(step["bounds"]).shape == (size, 1, 2, 2)
        parts = decode(step["parts"])[:, 0]
        assert np.flatnonzero(parts == 0).tolist() == [entry["leaf"] for entry in step["splits"]]
        for side, name in enumerate(("nodes_low", "nodes_high")):
            nodes = decode(step[name])
            assert (np.diff(nodes, axis=-1) > 0).all()
            reach = decode(step["bounds"])[..., side].astype(float)
            rows = proof.results[i].leaves.row_N
            assert (nodes[rows, ..., 0] <= reach).all() and (reach <= nodes[rows, ..., -1]).all()
        assert decode(step["shear"])[np.arange(Z), 0, decode(step["pivot"])[:, 0]].tolist() == [1.0] * Z


def test_random_pairs_lie_in_their_leafs_box(barely_right) -> None:
    """By the slow twin's attention, and the frame as docs/proof.md 4.2 states it."""
    proof, _, content = barely_right
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 10, (2, 400, N))
    tokens, _ = tokens_of(proof.problem, a, b)
    carry = np.zeros((400, N + 1), dtype=np.int64)
    for j in range(N):
        carry[:, j + 1] = (a[:, j] + b[:, j] + carry[:, j]) // 10
    for i, step in enumerate(content["steps"]):
        index = np.zeros(400, dtype=np.int64)
        if i:
            index = carry[:, i - 1] * 100 + a[:, i - 1] * 10 + b[:, i - 1]
        if i < N:
            index = index * 100 + a[:, i] * 10 + b[:, i]
        z = tokens[:, proof.problem.geometry.query_positions[i]] if i else 0 * index
        y = attention(proof.problem, i, tokens)[:, 0]
        pivot = decode(step["pivot"])[z, 0]
        along = np.take_along_axis(y, pivot[:, None], 1)
        u = y - decode(step["shear"])[z, 0] * along
        np.put_along_axis(u, pivot[:, None], along, 1)
        bounds = decode(step["bounds"])[index, 0]
        assert (bounds[..., 0] <= u).all() and (u <= bounds[..., 1]).all()


def terminals(tree: list[int], fixed: dict[int, int], out: list[tuple[bool, dict[int, int]]]) -> None:
    """Walk a pre-order tree; append (is it empty, what it fixes) for every terminal or empty cell."""
    code = tree.pop(0)
    if code < 0:
        out.append((code == -2, fixed))
        return
    assert code not in fixed
    for value in range(10 if code < 2 * N else 2):
        terminals(tree, fixed | {code: value}, out)


def test_trees_partition_their_leaves_and_cells_are_right(barely_right) -> None:
    proof, _, content = barely_right
    trees = 0
    for i, step in enumerate(content["steps"]):
        leaf = leaves(proof.problem.steps[i])
        for entry in step["splits"]:
            trees += 1
            tree = decode(entry["tree"]).tolist()
            found: list[tuple[bool, dict[int, int]]] = []
            terminals(tree, {}, found)
            assert not tree
            row = entry["leaf"]
            chosen = np.arange(len(leaf.inputs_N)) == row
            base = union.leaf_patterns(proof.problem.steps[i], leaf, chosen)[0]
            cells, empty = [], []
            for is_empty, fixed in found:
                cell = base.copy()
                for code, value in fixed.items():
                    cell[code] &= 1 << value
                (empty if is_empty else cells).append(cell)
            assert len(cells) == len(decode(entry["bounds"])) == len(decode(entry["parts"]))
            counts = [union.count(cell[None]) for cell in cells]
            assert min(counts) > 0 and sum(counts) == leaf.inputs_N[row]
            assert not empty or union.count(np.array(empty)) == 0
    assert trees == proof.split_leaves
    worst = proof.margin
    step = proof.problem.steps[worst.step]
    digits = [[[value // 10**j % 10 for j in range(N)]] for value in worst.pair]
    assert pair_margins(proof.problem, step, *map(np.array, digits))[0] == pytest.approx(worst.witness)


def test_the_same_proof_gives_the_same_bytes(barely_right, tmp_path) -> None:
    proof, _, content = barely_right
    write_certificate(tmp_path / "a.json.gz", content)
    write_certificate(tmp_path / "b.json.gz", certificate(proof))
    assert (tmp_path / "a.json.gz").read_bytes() == (tmp_path / "b.json.gz").read_bytes()
    write_certificate(tmp_path / "a.json", content)
    plain = (tmp_path / "a.json").read_bytes()
    assert gzip.decompress((tmp_path / "a.json.gz").read_bytes()) == plain
    assert json.loads(plain) == content
    assert len(list(tmp_path.iterdir())) == 3


def test_a_certificate_that_cannot_be_written_is_a_failure(barely_right, tmp_path) -> None:
    with pytest.raises(Failure, match="nowhere"):
        write_certificate(tmp_path / "nowhere" / "a.json", barely_right[2])


def test_arrays_are_little_endian_base64() -> None:
    value = encode_array(np.array([[1.5, -2.0]]), "<f4")
    assert value == {"dtype": "<f4", "shape": [1, 2], "data": "AADAPwAAAMA="}

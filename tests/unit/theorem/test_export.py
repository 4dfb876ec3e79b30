"""The folder for Coq: exact weights, no gaps in the development, one line for what it is not about."""

import dataclasses
import re
from fractions import Fraction
from pathlib import Path

import pytest
import torch

import adderlab as al
from adderlab.errors import UsageError
from adderlab.models.config import resized
from adderlab.models.transformer import ColumnPositions, Transformer
from adderlab.models.zoo import get_preset
from adderlab.theorem import FILES, SCRIPT, THEOREM, require_shape
from helpers.paths import ROOT


def record(name: str) -> al.Model:
    return al.load(ROOT / "records" / "best" / name / "model.pt")


def written_weights(folder: Path) -> list[Fraction]:
    """The numbers in ``Theorem.v``, in the order of the record ``model``."""
    found = re.findall(r":= Dyadic \((-?\d+)\) (\d+)", (folder / THEOREM).read_text())
    return [Fraction(int(numerator), 2 ** int(places)) for numerator, places in found]


@pytest.mark.parametrize("name", ["7p", "8p"])
def test_the_weights_are_exact(name: str, tmp_path: Path) -> None:
    model = record(name)
    assert al.export_theorem(model, tmp_path / "theorem") == f"adder_{name}_correct"
    p = {key.removeprefix("blocks.0."): value.flatten().tolist() for key, value in model.params.items()}
    stride, out, head = p["token_emb.stride"], p["attn.proj.column.weight"], p.get("head_proj.scale")
    wanted = [
        *(*stride, *p["attn.q_proj.scale"], *p["attn.q_proj.angle"]),
        *(*out, *p["mlp.fc1.pairs.weight"], *p["mlp.fc2.pairs.weight"], *(head or [-300.0])),
    ]
    assert written_weights(tmp_path / "theorem") == [Fraction(value) for value in wanted]
    assert len(wanted) == 8


def test_the_folder_holds_all_that_coq_needs(tmp_path: Path) -> None:
    al.export_theorem(record("7p"), tmp_path)  # an empty folder is as good as none
    assert {path.name for path in tmp_path.iterdir()} == {*FILES, THEOREM, SCRIPT}
    script = (tmp_path / SCRIPT).read_text()
    assert all(name in script for name in (*FILES, THEOREM))


def test_nothing_is_assumed_in_the_development(tmp_path: Path) -> None:
    al.export_theorem(record("7p"), tmp_path)
    text = "\n".join((tmp_path / name).read_text() for name in (*FILES, THEOREM))
    proofs, ends = re.findall(r"\bProof\.", text), re.findall(r"\b(?:Qed|Defined)\.", text)
    assert len(proofs) == len(ends) > 50
    assert not re.search(r"\b(Admitted|admit|Axiom|Parameter|Conjecture|bypass_check)\b", text)


@pytest.mark.parametrize("name", ["11p", "57p"])
def test_other_shapes_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="shapes 7p and 8p"):
        al.export_theorem(record(name), tmp_path / "theorem")
    assert not (tmp_path / "theorem").exists()


def test_other_sizes_are_refused() -> None:
    with pytest.raises(UsageError, match="shapes 7p and 8p"):
        require_shape(resized(get_preset("7p").config, columns=3))


def test_a_folder_that_holds_something_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / THEOREM).write_text("mine")
    with pytest.raises(UsageError, match="already exists"):
        al.export_theorem(record("7p"), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [THEOREM]
    assert (tmp_path / THEOREM).read_text() == "mine"


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    model = record("7p")
    params = {**model.params, "token_emb.stride": torch.tensor(float("nan"))}
    with pytest.raises(UsageError, match="stride is nan"):
        al.export_theorem(dataclasses.replace(model, params=params), tmp_path / "theorem")


def test_positions_and_prompt_are_those_of_the_development() -> None:
    """``position_angle`` and ``prompt`` in ``Transformer.v``."""
    model = record("7p").module()
    assert isinstance(model, Transformer) and isinstance(model.pos_emb, ColumnPositions)
    positions = torch.arange(35)
    angle = 2 * torch.pi * (positions.double() - 1) / 12
    wanted = torch.stack([angle.cos(), angle.sin()], 1)
    torch.testing.assert_close(model.pos_emb(positions).double(), wanted, rtol=0, atol=1e-6)
    a, b = torch.arange(1, 11).to(torch.uint8), torch.arange(11, 21).to(torch.uint8)
    prompt = [0, *a.tolist(), 0, 0, *b.tolist(), 0, 0]
    assert model.layout.encode_prompt(a[None], b[None])[0].tolist() == prompt

"""A model's correctness as a theorem of the Coq proof assistant (docs/theorem.md): a folder in which
Coq proves that a trained model adds, the development and the model's weights.

``coq`` holds the development: what the transformer is (``Transformer.v``), a program that decides
whether one adds (``Checker.v``), and the proof that what it accepts adds (``Soundness.v``).

Coq is trusted, and the definitions in ``coq/Transformer.v``; nothing that is computed here is. A number
that this module wrote wrongly would be the weight of another model, in plain sight in ``Theorem.v``.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

from torch import Tensor

from adderlab.errors import UsageError
from adderlab.files.atomic import make_folder, write_text
from adderlab.models.config import ModelConfig
from adderlab.models.transformer import Architecture
from adderlab.models.zoo import get_preset

DEVELOPMENT = Path(__file__).with_name("coq")

FILES = ("Transformer.v", "Digits.v", "Reduction.v", "Enclosure.v", "Checker.v", "Soundness.v")
"""The development, each file after those it needs."""

THEOREM, SCRIPT = "Theorem.v", "check.sh"

SHAPES = ("7p", "8p")
"""Presets whose transformer ``Transformer.v`` is; they differ in where the head's number comes from."""

WEIGHTS = {
    "stride": ("token_emb.stride", 0),
    "query_scale": ("blocks.0.attn.q_proj.scale", 0),
    "query_angle": ("blocks.0.attn.q_proj.angle", 0),
    "out": ("blocks.0.attn.proj.column.weight", 0),
    "up": ("blocks.0.mlp.fc1.pairs.weight", 0),
    "down_0": ("blocks.0.mlp.fc2.pairs.weight", 0),
    "down_1": ("blocks.0.mlp.fc2.pairs.weight", 1),
}
"""Field of the record ``model`` in Coq -> parameter and place in it. The last field is ``head``."""

HEAD = "head_proj.scale"
"""The 8p learns it; the 7p has minus the factor of its logits."""


def require_shape(config: Architecture) -> None:
    """Raises ``UsageError`` unless ``Transformer.v`` says what a model of this architecture computes."""
    if isinstance(config, ModelConfig) and any(
        _shape(config) == _shape(get_preset(name).config) for name in SHAPES
    ):
        return
    raise UsageError(
        f"the theorem is about models of the shapes {' and '.join(SHAPES)}, and this one has another; "
        "adderlab prove and adderlab check decide it without a proof assistant"
    )


def write_theorem(config: Architecture, params: Mapping[str, Tensor], folder: Path) -> str:
    """Write the development, the model's theorem and a script that has Coq check both.

    ``params``: by name, without a seed axis. Returns the theorem's name.

    Raises ``UsageError`` for a model of another shape, for weights that are not finite and for a folder
    that already holds something, ``Failure`` where the disk does not take it.
    """
    require_shape(config)
    assert isinstance(config, ModelConfig)
    weights = _weights(config, params)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} already exists; name a new folder for the theorem")
    name = f"adder_{sum(tensor.numel() for tensor in params.values())}p"
    make_folder(folder)
    for file in FILES:
        write_text(folder / file, (DEVELOPMENT / file).read_text())
    write_text(folder / THEOREM, _theorem(name, weights))
    write_text(folder / SCRIPT, _script())
    return f"{name}_correct"


def _shape(config: ModelConfig) -> ModelConfig:
    """The configuration without what only says where training starts, and without the factor of the
    logits, which becomes part of the head's number."""
    return dataclasses.replace(config, arc=(1.0, 0.0, 0.0), init="xavier", logit_scale=1.0)


def _weights(config: ModelConfig, params: Mapping[str, Tensor]) -> dict[str, Fraction]:
    """Every field of ``model``, exactly."""
    values = {field: float(params[name].reshape(-1)[place]) for field, (name, place) in WEIGHTS.items()}
    values["head"] = float(params[HEAD].reshape(-1)[0]) if HEAD in params else -1.0
    for field, value in values.items():
        if not math.isfinite(value):
            raise UsageError(f"{field} is {value}; a theorem needs finite weights")
    exact = {field: Fraction(value) for field, value in values.items()}
    exact["head"] *= Fraction(config.logit_scale)
    return exact


def _theorem(name: str, weights: Mapping[str, Fraction]) -> str:
    fields = ";\n".join(
        f"  {field} := Dyadic ({value.numerator}) {value.denominator.bit_length() - 1}"
        for field, value in weights.items()
    )
    return f"""\
(** This trained transformer adds. [Dyadic n k] is n / 2^k: the numbers of the checkpoint, exactly. *)

Require Import ZArith.
From Adder Require Import Transformer Checker Soundness.
Open Scope Z_scope.

Definition {name} : model := {{|
{fields}
|}}.

Lemma {name}_accepted : check {name} = true.
Proof. vm_compute. reflexivity. Qed.

Theorem {name}_correct :
  forall a b : Z, 0 <= a < 10 ^ 10 -> 0 <= b < 10 ^ 10 -> decode {name} a b = a + b.
Proof. intros a b. apply addition_correct. exact {name}_accepted. Qed.

Print Assumptions {name}_correct.
"""


def _script() -> str:
    return f"""\
#!/bin/sh
# Has Coq check the theorem, and print what it rests on. Exit code 0: proved.
# Needs Coq 8.16 with the library Interval: apt-get install coq libcoq-interval
cd "$(dirname "$0")" || exit 2
if ! command -v coqc > /dev/null; then
  echo "no coqc here: apt-get install coq libcoq-interval" >&2
  exit 2
fi
for file in {" ".join(FILES)} {THEOREM}; do
  coqc -q -Q . Adder "$file" || exit 1
done
"""

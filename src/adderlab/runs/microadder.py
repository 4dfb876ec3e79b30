"""Checkpoints of MicroAdder (evindor/MicroAdder), of every published size from 57 to 226 parameters.

Two generations of programs are read: the one that trained the published models down to 67p
(``blocks.0.attn...``) and the later package (57p; flat names), which its submission files share.

Where a model of ours has the same parts, a file is read number by number. Some parts have no
counterpart: a spiral whose columns are stretched, a rotation with an angle for each head, a norm of one
number, a low-rank or Toeplitz query map. What such a part computes is written out as the plain table or
map that it stands for, rounded to float32: the same function with more numbers, and
``Foreign.trained`` says how many the file's own program has.

Shapes: P position channels, W token channels, V vocabulary, H heads, K width of a query.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adderlab.errors import Failure, UsageError
from adderlab.files.weights import read_torch, read_weight_file
from adderlab.models.config import SPECIALS, ModelConfig
from adderlab.models.maps import rotate_neighbours
from adderlab.runs.foreign import Foreign, unwrapped

SPIRAL = ("amp", "phase", "slope", "offset")
ARC = ("A", "B", "start", "stride")
COLUMNS = 10

_RENAMED = {
    "ln1.weight": "norm1.weight",
    "ln2.weight": "norm2.weight",
    "ln_f.weight": "norm_f.weight",
    "ln1.scale": "norm1.scale",
    "ln2.scale": "norm2.scale",
    "ln_f.scale": "norm_f.scale",
    "norm_weight": "norm1.weight",
    "ffn_fc1.weight": "fc1.weight",
    "ffn_fc1.bias": "fc1.bias",
    "ffn_fc2.weight": "fc2.weight",
    "ffn_fc2.bias": "fc2.bias",
}
"""Names of the first program and of its submissions, without their module's -> the later package's."""

_UNREAD = (
    *("causal_mask", "_pos_sources", "_pos_indices", "_alibi_rel_pos"),
    *("pos_corr_slope", "pos_corr_intercept", "v_proj.weight", "tok_arc_B"),
    *("_plus_pos", "_eos_pos", "_frozen_special", "_pad_emb"),
    *(f"spiral_{name}" for name in SPIRAL),
    *(f"norm{which}.{kind}" for which in ("2", "_f") for kind in ("weight", "scale")),
)
"""What a file may hold beside what its settings use: masks, constants, copies, and weights that an
option has put out of use."""

_ONLY: dict[str, tuple[Any, ...]] = {
    "n_layers": (1,),
    "vocab_size": (10, 14),
    "max_seq_len": (34,),
    "alibi": (False,),
    "softmax1": (False,),
    "norm_mode": ("full", "shared", "weighted", "fixed", "scalar"),
    "qk_source": ("pos",),
    "qk_input": ("pos",),
    "attn_mode": ("split",),
    "q_proj_mode": ("full", "toeplitz"),
    "tok_emb_mode": ("learned", "parametric"),
    "pos_mode": ("learned", "spiral", "spiral_correct"),
    "pos_correction_mode": ("none", "linear", "full"),
    "freeze_special": ("none", "eos", "plus_eos", "plus_eos_equals", "all"),
    "equals_spiral_idx": (-1.0,),
}
"""Settings of either generation that choose a component, and the values that are known here."""

_START = {"amp": 1.0, "phase": 0.0, "slope": 1 / 9, "offset": 0.0}
"""Where the first program's spiral starts when its file does not say."""


def is_microadder(names: Mapping[str, Any]) -> bool:
    """Whether weights have MicroAdder's names."""
    flat = {_flat(name) for name in names}
    return {"head_proj.weight", "fc1.weight"} <= flat and any(n.startswith("q_proj.") for n in flat)


def read_microadder(path: Path | str) -> Foreign:
    """The model in a MicroAdder checkpoint.

    Raises ``UsageError`` if there is no such file, ``Failure`` for a damaged one, one with code in
    it, or one of a variant that is not known here.
    """
    path = Path(path)
    payload = read_torch(read_weight_file(path), path)
    settings = _table(payload, "config", path)
    return from_state(settings, _table(payload, "model_state_dict", path), path)


def from_state(settings: Mapping[str, Any], state: Mapping[str, Any], path: Path) -> Foreign:
    """The model of these settings and weights; ``path`` is named in complaints. Raises ``Failure``."""
    wrong = [
        f"{name} {settings[name]!r} (read: {', '.join(map(repr, known))})"
        for name, known in _ONLY.items()
        if name in settings and settings[name] not in known
    ]
    if wrong:
        raise Failure(f"{path} is a MicroAdder with {'; '.join(wrong)}, which adderlab has no part for")
    try:
        return _Reading(settings, state, path).model()
    except Failure:
        raise
    except KeyError as error:
        raise Failure(f"{path} lacks {error.args[0]!r}; it is no MicroAdder checkpoint") from error
    except (AttributeError, IndexError, TypeError, UsageError, ValueError) as error:
        raise Failure(f"{path} holds settings that make no model: {error}") from error


def settings_of(state: Mapping[str, Any], like: ModelConfig, path: Path) -> dict[str, Any]:
    """The settings of weights that have none: what their names and shapes show, and of what they do not
    (whether a spiral was learned, where it starts) what the model named has. Raises ``Failure``."""
    shapes = {_flat(name): tuple(t.shape) for name, t in unwrapped(state).items()}
    try:
        tokens, width = shapes["head_proj.weight"]
        hidden, _ = shapes["fc1.weight"]
        query, _ = shapes["q_proj.weight"]
        value = shapes["out_proj.A"][0] if "out_proj.A" in shapes else shapes["out_proj.weight"][1]
        (heads,) = shapes.get("q_phase_angle", (1,))
    except (KeyError, ValueError) as error:
        raise Failure(f"{path} does not show the sizes of its MicroAdder: {error}") from error
    copies = {"norm2.weight", "norm_f.weight"} & shapes.keys()
    same = all(torch.equal(_named(state, copy), _named(state, "norm1.weight")) for copy in copies)
    return {
        "d_model": width,
        "tok_dim": tokens,
        "n_heads": heads,
        "head_dim": value // heads,
        "qk_dim": query // heads,
        "ffn_dim": hidden,
        "vocab_size": shapes.get("tok_emb.weight", (10,))[0],
        "norm_mode": "shared" if same else "full",
        "tie_qk": "k_proj.weight" not in shapes,
        **({"tie_tok_arc_ab": False} if like.tokens == "ellipse" else {}),
        "pos_correction_mode": _correction(shapes),
        "freeze_spiral": ",".join(SPIRAL) if like.positions == "fixed_spiral" else "",
        **{f"spiral_init_{name}": at for name, at in zip(SPIRAL, like.spiral, strict=True)},
    }


def _correction(names: Mapping[str, Any]) -> str:
    if "pos_correction" in names:
        return "full"
    return "linear" if "pos_corr_slope" in names else "none"


def _named(state: Mapping[str, Any], flat: str) -> Tensor:
    """The weight whose flat name that is."""
    return next(tensor for name, tensor in unwrapped(state).items() if _flat(name) == flat)


def _flat(name: str) -> str:
    """The later package's name of a weight."""
    for module in ("blocks.0.", "_shared_block.", "attn.", "ffn."):
        name = name.removeprefix(module)
    return _RENAMED.get(name, name)


def _table(payload: Mapping[str, Any], key: str, path: Path) -> dict[str, Any]:
    value = payload.get(key)
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise Failure(f"{path} has no table {key!r}; it is no MicroAdder checkpoint")
    return value


def _written_out(tensor: Tensor) -> Tensor:
    """What a part of several numbers computes, as weights."""
    return tensor.to(torch.float32)


class _Reading:
    """One file, part by part: each gives fields of ``ModelConfig`` and weights under our names."""

    def __init__(self, settings: Mapping[str, Any], state: Mapping[str, Any], path: Path) -> None:
        self.settings, self.path = settings, path
        self.state = {_flat(name): tensor for name, tensor in unwrapped(state).items()}
        self.trained = 0
        self.fields: dict[str, Any] = {}
        self.params: dict[str, Tensor] = {}
        self._used: set[str] = set()

    def model(self) -> Foreign:
        self._sizes()
        self._tokens()
        self._positions()
        self._specials()
        self._queries_and_keys()
        self._values_and_output()
        self._mlp()
        self._norms()
        unknown = [name for name in self.state if name not in self._used and name not in _UNREAD]
        if unknown:
            raise Failure(f"{self.path} has an unknown weight {unknown[0]} for a model of its settings")
        return Foreign(config=ModelConfig(**self.fields), params=self.params, trained=self.trained)

    def _take(self, name: str, learned: bool = True) -> Tensor:
        tensor = self.state.get(name)
        if not isinstance(tensor, Tensor):
            raise Failure(f"{self.path} lacks the weight {name} for a model of its settings")
        self._used.add(name)
        self.trained += tensor.numel() if learned else 0
        return tensor.detach()

    def _frozen(self, setting: str, known: tuple[str, ...]) -> set[str]:
        """The parts of a component that a setting, a list in one text, holds fixed."""
        frozen = {name for name in str(self.settings.get(setting, "")).split(",") if name}
        if not frozen <= set(known):
            raise Failure(f"{self.path} freezes {', '.join(sorted(frozen))}; known: {', '.join(known)}")
        return frozen

    def _zero(self, name: str) -> None:
        """A position that is held at zero must be there."""
        stored = self.state.get(name)
        if stored is not None and bool(stored.abs().max() > 0):
            raise Failure(f"{self.path}: {name} is not zero, though its settings freeze it at zero")
        self._used.add(name)

    def _sizes(self) -> None:
        settings = self.settings
        self.width, self.heads = int(settings["d_model"]), int(settings.get("n_heads", 1))
        self.token_width = int(settings["tok_dim"])
        self.value_width = int(settings["head_dim"])
        self.key_width = int(settings.get("qk_dim") or self.value_width)
        self.kv_heads = int(settings.get("num_kv_heads") or self.heads)
        self.fields |= {
            "d_model": self.width,
            "d_ff": int(settings["ffn_dim"]),
            "token_dim": self.token_width,
            "n_head": self.heads,
            "n_kv_head": None if self.kv_heads == self.heads else self.kv_heads,
            "head_dim": self.key_width,
            "value_dim": self.value_width,
            "qk_input": "positions",
            "value_input": "tokens",
            "head": "projected",
            "norm": "rms",
            "norm_eps": 1e-5,
            "init": "xavier",
        }
        self.params["head_proj.weight"] = self._take("head_proj.weight")

    def _tokens(self) -> None:
        wide = self.settings.get("vocab_size", 10) == 14
        self.fields["layout"] = "M14" if wide else "M"
        if "tok_emb.weight" in self.state:
            table = self._take("tok_emb.weight")
            if self.settings.get("freeze_pad"):
                table = torch.cat([table, table.new_zeros(1, table.shape[1])])
                self._zero("_pad_emb")
            if wide:  # there <EOS> is token 12 and <PAD> 13, here the other way round
                table = table[[*range(12), 13, 12]]
            self.params["token_emb.weight"] = table
            return
        if wide:
            raise Failure(f"{self.path} has 14 tokens on an arc; only tables of 14 tokens are read")
        frozen = self._frozen("freeze_tok_arc", ARC)
        radius = self._take("tok_arc_A", "A" not in frozen)
        two_radii = self._two_radii(radius)
        self.fields["tokens"] = "ellipse" if two_radii else "arc"
        self.params["token_emb.radius"] = radius
        if two_radii:
            self.params["token_emb.sine_radius"] = self._take("tok_arc_B", "B" not in frozen)
        for name in ("start", "stride"):
            self.params[f"token_emb.{name}"] = self._take(f"tok_arc_{name}", name not in frozen)

    def _two_radii(self, radius: Tensor) -> bool:
        """Whether cosine and sine of the digits have radii of their own. The first program has no
        setting for it: its radii are two, and equal only by chance (16.03 and 15.95 in the published
        75p)."""
        other = self.state.get("tok_arc_B")
        differ = isinstance(other, Tensor) and not torch.equal(other.float(), radius.float())
        tied = self.settings.get("tie_tok_arc_ab")
        if tied and differ:
            raise Failure(f"{self.path}: tok_arc_B differs from tok_arc_A, though its settings tie them")
        return differ if tied is None else tied is False

    def _positions(self) -> None:
        width = self.width - self.token_width
        if "digit_pos" in self.state:
            self.fields["positions"] = "columns"
            self.params["pos_emb.columns.weight"] = self._take("digit_pos")
            return
        frozen, start = self._frozen("freeze_spiral", SPIRAL), self._spiral_start()
        self.fields["spiral"] = tuple(start.values())
        stretched = self._stretch()
        if width == 3 and stretched is None and frozen == set(SPIRAL):
            self.fields["positions"] = "fixed_spiral"
            self._check_fixed(start)
            return
        values = {
            name: self._take(f"spiral_{name}", learned=False)
            if name in frozen and f"spiral_{name}" in self.state
            else torch.tensor(start[name])
            if name in frozen
            else self._take(f"spiral_{name}")
            for name in SPIRAL
        }
        if width == 3 and stretched is None:
            self.fields["positions"] = "spiral"
            ours = ("amplitude", "phase", "slope", "offset")
            self.params |= {
                f"pos_emb.columns.{name}": tensor
                for name, tensor in zip(ours, values.values(), strict=True)
            }
            return
        self.fields["positions"] = "columns"
        rows = _spiral_rows([values[name].double() for name in SPIRAL], width)
        if stretched is not None:
            rows = rows * (1 + stretched.double())[:, None]
        self.params["pos_emb.columns.weight"] = _written_out(rows)

    def _spiral_start(self) -> dict[str, float]:
        """Where the spiral starts, or stays: as the settings say, else as it is stored where frozen."""
        frozen = self._frozen("freeze_spiral", SPIRAL)
        start = {}
        for name in SPIRAL:
            stored = self.state.get(f"spiral_{name}")
            default = float(stored) if name in frozen and isinstance(stored, Tensor) else _START[name]
            start[name] = float(self.settings.get(f"spiral_init_{name}", default))
        return start

    def _check_fixed(self, start: Mapping[str, float]) -> None:
        for name, value in start.items():
            stored = self.state.get(f"spiral_{name}")
            if isinstance(stored, Tensor) and not torch.equal(stored.float(), torch.tensor(value)):
                raise Failure(f"{self.path}: spiral_{name} is not the {value} of its settings")

    def _stretch(self) -> Tensor | None:
        """What the rows of the columns are multiplied by, less 1 (10,); None where by nothing."""
        mode = self.settings.get("pos_correction_mode")
        if mode is None:
            mode = "full" if "pos_correction" in self.state else "none"
        if mode == "full":
            return self._take("pos_correction")
        if mode == "linear":
            slope = self._take("pos_corr_slope").double()
            return self._take("pos_corr_intercept").double() + slope * torch.arange(COLUMNS)
        return None

    def _specials(self) -> None:
        learned: dict[str, Tensor] = {}
        fixed = self.settings.get("freeze_special") in ("plus_eos_equals", "all")
        if "special_pos" in self.state:
            rows = self._take("special_pos")
            learned = dict(zip(("plus", "equals", "end"), rows.split(1), strict=True))
        elif "special_pos_learned" in self.state:
            rows = self._take("special_pos_learned")
            learned = dict(zip(("plus", "equals"), rows.split(1), strict=True))
        elif fixed:
            for name in ("special_pos_equals", "_frozen_special"):
                self._zero(name)
        else:
            learned["equals"] = self._take("special_pos_equals")
        for name in ("_plus_pos", "_eos_pos"):
            self._zero(name)
        if self.settings.get("freeze_z_hi"):
            self._zero("z_hi_pos")
        else:
            learned["top"] = self._take("z_hi_pos")
        names = tuple(name for name in SPECIALS if name in learned)
        self.fields["learned_specials"] = names
        if names:
            self.params["pos_emb.special"] = torch.cat([learned[name] for name in names])

    def _queries_and_keys(self) -> None:
        attn = "blocks.0.attn"
        query = self._query_map()
        tied = self.settings.get("tie_qk", True)
        rotated = self.settings.get("q_phase", "q_phase_angle" in self.state)
        angles = self._take("q_phase_angle") if rotated else None
        if angles is not None and angles.numel() != self.heads:
            raise Failure(
                f"{self.path}: q_phase_angle has {angles.numel()} angles, not one for each head"
            )
        one_angle = angles is not None and self.heads == 1
        if one_angle:
            self.fields["query_rotation"] = True
            self.params[f"{attn}.query.angle"] = angles.reshape(())
        if tied and self.kv_heads == self.heads and (angles is None or one_angle):
            self.fields["tie_qkv"] = "qk"
            self.params[f"{attn}.qk_shared.weight"] = query
            return
        self.fields["tie_qkv"] = "separate"
        key = query[: self.kv_heads * self.key_width] if tied else self._take("k_proj.weight")
        if angles is not None and not one_angle:
            by_head_HPK = query.double().unflatten(0, (self.heads, -1)).transpose(1, 2)
            cos, sin = (f(angles.double())[:, None, None] for f in (torch.cos, torch.sin))
            query = _written_out(rotate_neighbours(by_head_HPK, cos, sin).transpose(1, 2).flatten(0, 1))
        self.params[f"{attn}.q_proj.weight"] = query
        self.params[f"{attn}.k_proj.weight"] = key.clone()

    def _query_map(self) -> Tensor:
        """(H K, P), whatever it is made of."""
        if self.settings.get("q_proj_rank"):
            first, second = self._take("q_proj.A").double(), self._take("q_proj.B").double()
            return _written_out((first @ second).T)
        if self.settings.get("q_proj_mode") == "toeplitz":
            values = self._take("q_proj.vals")
            rows, columns = self.heads * self.key_width, self.width - self.token_width
            index = torch.arange(rows - 1, -1, -1)[:, None] + torch.arange(columns)
            return values[index]
        return self._take("q_proj.weight")

    def _values_and_output(self) -> None:
        attn = "blocks.0.attn"
        if self.settings.get("tie_vo", "v_proj.weight" not in self.state):
            self.fields["values"] = "head"
        else:
            self.params[f"{attn}.v_proj.weight"] = self._take("v_proj.weight")
        if "out_proj.A" in self.state:
            first = self._take("out_proj.A")
            self.fields["attn_out_rank"] = first.shape[1]
            self.params[f"{attn}.proj.A"] = first
            self.params[f"{attn}.proj.B"] = self._take("out_proj.B")
        else:
            self.params[f"{attn}.proj.weight"] = self._take("out_proj.weight")

    def _mlp(self) -> None:
        biased = "fc1.bias" in self.state
        names = ["fc1.weight"]
        if "fc2.weight" in self.state:
            names.append("fc2.weight")
        else:
            self.fields["fc2"] = "head"
        if biased:
            self.fields["bias"] = "mlp"
            names += ["fc1.bias", "fc2.bias"]
        self.params |= {f"blocks.0.mlp.{name}": self._take(name) for name in names}

    def _norms(self) -> None:
        mode = self.settings.get("norm_mode", "weighted")
        ours = ("blocks.0.ln1.weight", "blocks.0.ln2.weight", "ln_f.weight")
        if mode == "fixed":
            self.fields["norm_weight"] = False
        elif mode == "full":
            theirs = ("norm1.weight", "norm2.weight", "norm_f.weight")
            self.params |= {name: self._take(their) for name, their in zip(ours, theirs, strict=True)}
        else:
            kind = "scale" if mode == "scalar" else "weight"
            first = self._take(f"norm1.{kind}")
            for copy in (f"norm2.{kind}", f"norm_f.{kind}"):
                stored = self.state.get(copy)
                if stored is not None and not torch.equal(stored, first):
                    raise Failure(
                        f"{self.path}: {copy} differs from norm1.{kind}, though its settings share one"
                    )
            self.fields["share_norms"] = "all"
            self.params[ours[0]] = first.expand(self.width).clone() if mode == "scalar" else first


def _spiral_rows(numbers: Sequence[Tensor], width: int) -> Tensor:
    """Columns on the spiral (10, P). Two channels are an ellipse: the last two numbers are then the
    second channel's amplitude and phase. Channels after the third are zero."""
    amplitude, phase, slope, offset = numbers
    column = torch.arange(COLUMNS, dtype=torch.float64)
    turn = column * (2 * math.pi / COLUMNS)
    rows = torch.zeros(COLUMNS, max(width, 3), dtype=torch.float64)
    rows[:, 0] = amplitude * (turn + phase).cos()
    rows[:, 1] = amplitude * (turn + phase).sin()
    rows[:, 2] = slope * column + offset
    if width == 2:
        rows[:, 1] = slope * (turn + offset).sin()
    return rows[:, :width]

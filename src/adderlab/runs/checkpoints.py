"""Checkpoints: one model's weights, its settings and where they come from.

Read: ours, the published 456-parameter program's (R456) ``.pt`` and its forks', MicroAdder's ``.pt``,
MLX-named ``.npz``, our ``.safetensors``, and bare state dicts: weights in a file that does not say of
what model, read as the preset that the user names, or as the model of their Python file.
Written: a ``.pt`` that R456's own program reads as well (its keys,
its names, the tied head included; ours beside them under ``adderlab``), and ``.safetensors``.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from adderlab import __version__
from adderlab.errors import Failure, UsageError
from adderlab.files import schema
from adderlab.files.atomic import write_bytes, write_torch
from adderlab.files.schema import upgraded_recipe
from adderlab.files.weights import (
    check_npz,
    container_of,
    read_safetensors,
    read_torch,
    read_weight_file,
)
from adderlab.models.config import ModelConfig
from adderlab.models.transformer import Adder, Transformer, build_model
from adderlab.reading.file_model import FileModel
from adderlab.runs import foreign, microadder
from adderlab.runs.foreign import Foreign, from_mlx, is_mlx, unwrapped

# Whether the weights in a file are those its settings ask for, to the last name and number.


def parameter_shapes(config: ModelConfig | FileModel) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every parameter, tied ones once, in the module's order."""
    if isinstance(config, FileModel):
        return config.parameter_shapes()
    return {name: tuple(p.shape) for name, p in _skeleton(config).named_parameters()}


def check_parameters(config: ModelConfig | FileModel, params: Mapping[str, Any], path: Path) -> None:
    """Raises ``Failure`` unless ``params`` has exactly the config's parameters, all finite."""
    if isinstance(config, ModelConfig):
        _not_too_deep(config, params, path)
    shapes, double = parameter_shapes(config), isinstance(config, FileModel) and config.double
    _same_names(params, tuple(shapes), path)
    for name, shape in shapes.items():
        _check_tensor(name, params[name], shape, path, double)


def untied(config: ModelConfig, state: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    """A module's state -> its parameters, once each; the copies of tied ones must agree."""
    _not_too_deep(config, state, path)
    aliases, shapes = _state_names(config), parameter_shapes(config)
    _same_names(state, tuple(aliases), path)
    for name, parameter in aliases.items():
        if parameter is not None:
            _check_tensor(name, state[name], shapes[parameter], path)
            if not torch.equal(state[name].float(), state[parameter].float()):
                raise Failure(f"{path}: {name} and {parameter} must be the same tensor, but differ")
    return {name: state[name] for name in shapes}


def _not_too_deep(config: ModelConfig, found: Mapping[str, Any], path: Path) -> None:
    """Before the model is built from settings that a file made up."""
    if config.n_layer > len(found):
        raise Failure(
            f"{path} has {len(found)} weights, too few for the {config.n_layer} layers of its settings"
        )


def _same_names(found: Mapping[str, Any], wanted: tuple[str, ...], path: Path) -> None:
    missing = [name for name in wanted if name not in found]
    unknown = [name for name in found if name not in wanted]
    if missing or unknown:
        what = f"lacks the weight {missing[0]}" if missing else f"has an unknown weight {unknown[0]}"
        raise Failure(f"{path} {what} for a model of its settings; fetch or save it again")


def _check_tensor(
    name: str, tensor: Any, shape: tuple[int, ...], path: Path, double: bool = False
) -> None:
    if not isinstance(tensor, Tensor) or tensor.layout != torch.strided or tensor.is_quantized:
        raise Failure(f"{path}: {name} is not a plain tensor; fetch or save it again")
    if tuple(tensor.shape) != shape:
        raise Failure(
            f"{path}: {name} has the shape {tuple(tensor.shape)}, its settings ask for {shape}; "
            "fetch or save it again"
        )
    if tensor.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        exact = tensor.dtype == torch.float64 and torch.equal(tensor.float().double(), tensor)
        if not exact and not (double and tensor.dtype == torch.float64):
            raise Failure(f"{path}: {name} is {tensor.dtype}, not float32; save it again as float32")
    if not torch.isfinite(tensor).all():
        raise Failure(
            f"{path}: the weight {name} is not finite (the training diverged, or the file is damaged); "
            "use another checkpoint"
        )


class _Undrawn(TorchFunctionMode):
    """Draws no starting values: on the meta device that would load torch's compiler, for seconds."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in ("normal_", "uniform_", "kaiming_uniform_"):
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


@functools.lru_cache(maxsize=64)
def _skeleton(config: ModelConfig) -> Transformer:
    with torch.device("meta"), _Undrawn():
        return Transformer(config)


def _state_names(config: ModelConfig) -> dict[str, str | None]:
    """Every name of the module's state -> the parameter it is; None for a constant."""
    skeleton = _skeleton(config)
    names = {id(parameter): name for name, parameter in skeleton.named_parameters()}
    return {name: names.get(id(t)) for name, t in skeleton.state_dict(keep_vars=True).items()}


SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True, eq=False)
class Checkpoint:
    """A snapshot of one model. ``params`` is copied, on the CPU, as float32 (as float64 where a file's
    model has such parameters).

    ``params`` has no seed axis and holds tied parameters once, under the first of their names.
    ``val_exact`` is NaN where the file does not say. ``origin`` is the program that trained the
    weights: adderlab, r456, microadder or mlx.
    """

    config: ModelConfig | FileModel
    params: dict[str, Tensor]
    """Name -> stored tensor."""
    recipe: dict[str, Any]
    """Plain JSON values: ours, or the foreign program's settings under its own names."""
    step: int
    val_exact: float
    seed: int | None = None
    origin: str = "adderlab"
    path: Path | None = None
    trained: int | None = None
    """Numbers that the file's own program trained, where it has parts that are written out here as more;
    None: as many as there are."""

    def __post_init__(self) -> None:
        shapes = parameter_shapes(self.config)
        assert {name: tuple(t.shape) for name, t in self.params.items()} == shapes
        dtype = self.config.dtype if isinstance(self.config, FileModel) else torch.float32
        copies = {
            name: self.params[name].detach().to("cpu", dtype, copy=True).contiguous() for name in shapes
        }
        object.__setattr__(self, "params", copies)

    @property
    def num_parameters(self) -> int:
        return sum(tensor.numel() for tensor in self.params.values())

    @property
    def weights_sha256(self) -> str:
        """SHA-256 over, for each name in sorted order: ``NAME:ROWSxCOLUMNS`` and a newline in
        ASCII, then the numbers in row-major order as little-endian float32 (float64 where they are)."""
        digest = hashlib.sha256()
        for name in sorted(self.params):
            tensor = self.params[name]
            digest.update(f"{name}:{'x'.join(map(str, tensor.shape))}\n".encode())
            digest.update(
                tensor.numpy().astype("<f8" if tensor.dtype == torch.float64 else "<f4").tobytes()
            )
        return digest.hexdigest()

    def need_code(self) -> None:
        """Raises ``UsageError`` for the weights of a file that was not named: nothing else runs it."""
        config = self.config
        if isinstance(config, FileModel) and not config.at_hand and not config.in_memory:
            raise UsageError(
                f"{self.path or 'this checkpoint'} belongs to {config.file} (sha256 "
                f"{config.sha256[:12]}...), which is run only when it is named: name it too, as in "
                f"adderlab prove {config.file} --weights {self.path or 'CKPT'}"
            )

    def stacked(self) -> dict[str, Tensor]:
        """The parameters of a population of one: every tensor with the seed axis in front."""
        return {name: tensor[None] for name, tensor in self.params.items()}

    def module(self) -> Adder:
        """The readable PyTorch model: tokens (B, T) -> logits (B, T, V). A new one for each call.

        Raises ``UsageError`` for the weights of a file that was not named."""
        self.need_code()
        model = build_model(self.config, seed=0)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(self.params[name])
        return model.eval()


def load_checkpoint(
    path: Path | str, config: ModelConfig | FileModel | None = None, *, must_agree: bool = True
) -> Checkpoint:
    """Read a checkpoint of any known program; the format is found from the content.

    ``config`` says of what model a file of weights alone is; a file that says so itself ``must_agree``.

    Raises ``UsageError`` if there is no such file, or it holds another model than ``config``;
    ``Failure`` for a file that is damaged, holds code, does not fit its own settings or ``config``, or
    does not say what model it holds where ``config`` does not either.
    """
    path = Path(path)
    data = read_weight_file(path)
    try:
        found = _load_whole(data, path)
    except UsageError as error:
        # Settings that come from a file are the file's trouble, not the command's.
        raise Failure(f"{path} does not fit: {error}; fetch or save it again") from error
    if isinstance(found, Checkpoint):
        if must_agree and config is not None and found.config != config:
            raise UsageError(f"{path} says itself what model it holds, and it is another: name no model")
        return found
    state = bare_state(found)
    if state is None:
        entries = ", ".join(found)[:200] or "none"
        raise Failure(
            f"{path} is no checkpoint this program knows: it has the entries {entries}, "
            "but neither model_state nor model_state_dict"
        )
    if config is None:
        raise Failure(
            f"{path} holds {len(state)} weights and does not say of what model: name its preset, as in "
            f"adderlab prove {path} --as 456p (in Python load(..., preset=...)), or its Python file"
        )
    params = bare_parameters(config, state, path)
    about = _About(config=config, recipe={}, seed=None, origin="a bare state dict")
    return _checked(about, params, path, step=0, val_exact=math.nan)


def _load_whole(data: bytes, path: Path) -> Checkpoint | dict[str, Any]:
    """The checkpoint in a file, or the file's table where it does not say what model it holds."""
    container = container_of(data, path)
    if container == "npz":
        check_npz(data, path)
        return _of_foreign(foreign.read_mlx(path), path, origin="mlx")
    if container == "safetensors":
        tensors, metadata = read_safetensors(data, path)
        return _load_safetensors(tensors, metadata, path) if "adderlab" in metadata else dict(tensors)
    payload = read_torch(data, path)
    if "model_state_dict" in payload and "config" in payload:
        return _load_microadder(payload, path)
    if _is_of_a_file(payload):
        return _load_file_model(payload, path)
    if "model_state" in payload and ("model_config" in payload or "adderlab" in payload):
        return _load_r456(payload, path)
    return payload


def save_checkpoint(path: Path | str, checkpoint: Checkpoint) -> None:
    """Write a ``.pt``, atomically. R456's program reads it if the model is of its family; that of a
    user's file has its parameters by the file's own names.

    Weights that are not finite are written as they are (a diverged run can be looked at elsewhere);
    ``load_checkpoint`` refuses them. Raises ``Failure``.
    """
    config = checkpoint.config
    if isinstance(config, FileModel):
        payload = {
            "model_state": checkpoint.params,
            "step": checkpoint.step,
            "val_exact": checkpoint.val_exact,
            "adderlab": _our_entry(checkpoint),
        }
        write_torch(path, payload)
        return
    payload = {
        "model_state": dict(checkpoint.module().state_dict()),
        "model_config": foreign.model_to_dict(config),
        "train_config": foreign.train_config(checkpoint.recipe, checkpoint.seed),
        "step": checkpoint.step,
        "val_exact": checkpoint.val_exact,
        "params": checkpoint.num_parameters,
        "adderlab": _our_entry(checkpoint),
    }
    write_torch(path, payload)


def save_safetensors(path: Path | str, checkpoint: Checkpoint) -> None:
    """Write a ``.safetensors``, atomically: the parameters once each, all else in its metadata
    under ``adderlab``. Raises ``Failure``."""
    entry = _our_entry(checkpoint) | {
        "step": checkpoint.step,
        "val_exact": None if math.isnan(checkpoint.val_exact) else checkpoint.val_exact,
    }
    metadata = {"format": "pt", "adderlab": json.dumps(entry, sort_keys=True)}
    write_bytes(path, safetensors.torch.save(checkpoint.params, metadata))


def _our_entry(checkpoint: Checkpoint) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "version": __version__,
        "config": schema.to_dict(checkpoint.config),
        "recipe": _plain(checkpoint.recipe),
        "seed": checkpoint.seed,
        "origin": checkpoint.origin,
        "weights_sha256": checkpoint.weights_sha256,
    }


def _plain(recipe: dict[str, Any]) -> dict[str, Any]:
    """Through JSON, so that only what every format can hold gets in."""
    return json.loads(json.dumps(recipe, default=str, skipkeys=True))


_OUR_KEYS = ("schema_version", "version", "config", "recipe", "seed", "origin", "weights_sha256")
_R456_KEYS = ("model_state", "model_config", "train_config", "step", "val_exact", "params")


def _load_r456(payload: dict[str, Any], path: Path) -> Checkpoint:
    """R456's own files, and ours, which are a superset."""
    # Forks of R456's program publish files without what they were trained by, and what they scored.
    if "adderlab" not in payload:
        unknown: dict[str, Any] = {"step": 0, "val_exact": math.nan, "params": None}
        payload = unknown | payload
    payload = {"train_config": {}} | payload
    _require(payload, _R456_KEYS, path)
    trained = None
    if foreign.is_fixed_terms(payload["model_config"], payload["model_state"]):
        flat, weights, trained = foreign.as_r456(
            payload["model_config"], foreign.unwrapped(payload["model_state"]), path
        )
        payload |= {"model_config": flat, "model_state": weights}
    config = foreign.model_from_dict(payload["model_config"])
    recipe = _plain(_typed(payload, "train_config", dict, path))
    about = _About(config=config, recipe=recipe, seed=_seed(recipe), origin="r456")
    if "adderlab" in payload:
        about = _read_our_entry(_typed(payload, "adderlab", dict, path), path)
        own = about.config
        if isinstance(own, FileModel) or foreign.model_to_dict(own) != foreign.model_to_dict(config):
            raise Failure(f"{path}: model_config and adderlab.config disagree; fetch or save it again")
    assert isinstance(about.config, ModelConfig)
    return _checked(
        about,
        untied(about.config, foreign.unwrapped(_typed(payload, "model_state", dict, path)), path),
        path,
        step=_typed(payload, "step", int, path),
        val_exact=float(_typed(payload, "val_exact", (int, float), path)),
        trained=trained,
    )


def _is_of_a_file(payload: dict[str, Any]) -> bool:
    entry = payload.get("adderlab")
    config = entry.get("config") if isinstance(entry, dict) else None
    return isinstance(config, dict) and "sha256" in config


def _load_file_model(payload: dict[str, Any], path: Path) -> Checkpoint:
    """The weights of a user's file. Nothing of the file is needed, or run."""
    _require(payload, ("model_state", "step", "val_exact"), path)
    return _checked(
        _read_our_entry(_typed(payload, "adderlab", dict, path), path),
        _typed(payload, "model_state", dict, path),
        path,
        step=_typed(payload, "step", int, path),
        val_exact=float(_typed(payload, "val_exact", (int, float), path)),
    )


def _load_safetensors(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str], path: Path
) -> Checkpoint:
    try:
        entry = json.loads(metadata["adderlab"])
    except (ValueError, RecursionError) as error:
        raise Failure(f"{path}: its adderlab metadata is not JSON; fetch or save it again") from error
    if not isinstance(entry, dict):
        raise Failure(f"{path}: its adderlab metadata is no table; fetch or save it again")
    _require(entry, ("step", "val_exact"), path)
    about = _read_our_entry(entry, path, also=("step", "val_exact"))
    exact = entry["val_exact"]
    return _checked(
        about,
        tensors,
        path,
        step=_typed(entry, "step", int, path),
        val_exact=math.nan if exact is None else float(_typed(entry, "val_exact", (int, float), path)),
    )


def _load_microadder(payload: dict[str, Any], path: Path) -> Checkpoint:
    try:
        found = microadder.read_microadder(path)
    except RuntimeError as error:  # PyTorch's word for tensors whose shapes do not go together
        raise Failure(f"{path} holds weights of the wrong shape; fetch or save it again") from error
    metrics, args = payload.get("metrics"), payload.get("args")
    exact = metrics.get("exact_match") if isinstance(metrics, dict) else None
    return _of_foreign(
        found,
        path,
        origin="microadder",
        recipe=_plain(args) if isinstance(args, dict) else {},
        step=_typed(payload, "step", int, path) if "step" in payload else 0,
        val_exact=float(exact) if isinstance(exact, (int, float)) else math.nan,
    )


def _of_foreign(
    found: foreign.Foreign,
    path: Path,
    *,
    origin: str,
    recipe: dict[str, Any] | None = None,
    step: int = 0,
    val_exact: float = math.nan,
) -> Checkpoint:
    recipe = recipe or {}
    about = _About(config=found.config, recipe=recipe, seed=_seed(recipe), origin=origin)
    return _checked(about, found.params, path, step=step, val_exact=val_exact, trained=found.trained)


@dataclass(frozen=True, kw_only=True)
class _About:
    """What a file says about its weights."""

    config: ModelConfig | FileModel
    recipe: dict[str, Any]
    seed: int | None
    origin: str
    weights_sha256: str | None = None
    """None where the file's program records none."""


def _read_our_entry(entry: Mapping[str, Any], path: Path, also: tuple[str, ...] = ()) -> _About:
    version = entry.get("schema_version")
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise Failure(
            f"{path} was written by a newer adderlab (schema {version}, this one reads up to "
            f"{SCHEMA_VERSION}); upgrade with pip install -U adderlab"
        )
    _require(entry, _OUR_KEYS, path)
    unknown = [key for key in entry if key not in (*_OUR_KEYS, *also)]
    if unknown:
        raise Failure(f"{path}: adderlab has no entry {unknown[0]!r}; fetch or save it again")
    return _About(
        config=_architecture(entry["config"]),
        recipe=upgraded_recipe(_typed(entry, "recipe", dict, path)),
        seed=None if entry["seed"] is None else _typed(entry, "seed", int, path),
        origin=_typed(entry, "origin", str, path),
        weights_sha256=_typed(entry, "weights_sha256", str, path),
    )


def _architecture(data: Any) -> ModelConfig | FileModel:
    kind = FileModel if isinstance(data, dict) and "sha256" in data else ModelConfig
    return schema.from_dict(kind, data, "adderlab.config")


def _seed(recipe: Mapping[str, Any]) -> int | None:
    seed = recipe.get("seed")
    return seed if isinstance(seed, int) else None


def _require(table: Mapping[str, Any], keys: tuple[str, ...], path: Path) -> None:
    missing = [key for key in keys if key not in table]
    if missing:
        raise Failure(f"{path} lacks the entry {missing[0]!r}; fetch or save it again")


def _typed(table: Mapping[str, Any], key: str, kind: type | tuple[type, ...], path: Path) -> Any:
    value = table[key]
    if not isinstance(value, kind) or isinstance(value, bool):
        shown = repr(value)[:60]
        raise Failure(f"{path}: the entry {key!r} has the wrong type ({shown}); fetch or save it again")
    return value


def _checked(
    about: _About,
    params: Mapping[str, Any],
    path: Path,
    *,
    step: int,
    val_exact: float,
    trained: int | None = None,
) -> Checkpoint:
    """A ``Checkpoint`` whose parameters are exactly those of the config, all finite."""
    check_parameters(about.config, params, path)
    checkpoint = Checkpoint(
        config=about.config,
        params=dict(params),
        recipe=about.recipe,
        seed=about.seed,
        step=step,
        val_exact=val_exact,
        origin=about.origin,
        path=path,
        trained=None if trained == sum(t.numel() for t in params.values()) else trained,
    )
    if about.weights_sha256 not in (None, checkpoint.weights_sha256):
        raise Failure(f"{path}: the weights do not match their checksum; fetch or save it again")
    return checkpoint


# Bare state dicts: weights in a file that does not say of what model.


_WITHIN = ("model_state", "model_state_dict", "state_dict", "model", "weights", "params")
"""Where programs put a state dict, when it is not the whole file."""

_SHOWN = 3
"""Names of weights in one complaint."""


def bare_state(payload: Mapping[str, Any]) -> dict[str, Tensor] | None:
    """The named tensors in a file's table, or in the part of it that usually holds them; None if there
    are none."""
    for table in (payload, *(payload.get(key) for key in _WITHIN)):
        if isinstance(table, Mapping) and table:
            tensors = {name: tensor for name, tensor in table.items() if isinstance(tensor, Tensor)}
            if tensors and (table is not payload or len(tensors) == len(payload)):
                return unwrapped(tensors)
    return None


def bare_parameters(
    config: ModelConfig | FileModel, state: Mapping[str, Tensor], path: Path
) -> dict[str, Tensor]:
    """The weights as parameters of this architecture, out of its own names, MicroAdder's or MLX's.

    A tied tensor may be there once or under each of its names, and masks may be there. Raises
    ``Failure`` naming the weights that are missing, that have no place, or are of another shape.
    """
    if isinstance(config, ModelConfig):
        found = _known(config, state, path)
        if found is not None:
            if found.config != config:
                raise Failure(
                    f"{path} holds weights of another model than the one named: {found.trained} "
                    f"trained numbers, not {_count(config)}; name their preset"
                )
            return found.params
    return _fitted(config, state, path)


def _known(config: ModelConfig, state: Mapping[str, Tensor], path: Path) -> Foreign | None:
    """The model of weights under another program's names; None where they have none of those."""
    if microadder.is_microadder(state):
        return microadder.from_state(microadder.settings_of(state, config, path), state, path)
    return from_mlx(state, path) if is_mlx(state) else None


def _count(config: ModelConfig) -> int:
    return sum(p.numel() for p in build_model(config, 0).parameters())


def _fitted(
    config: ModelConfig | FileModel, state: Mapping[str, Tensor], path: Path
) -> dict[str, Tensor]:
    """The parameters, each once."""
    model = build_model(config, 0)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    within = getattr(model, "own", model)  # of a Python file, what its build_model made
    own = dict(model.named_parameters())
    if isinstance(within, nn.Module):
        own = within.state_dict(keep_vars=True)
    every: dict[str, list[str]] = {name: [] for name in names.values()}
    for alias, tensor in own.items():
        if id(tensor) in names:
            every[names[id(tensor)]].append(alias)
    found = {name: [a for a in aliases if a in state] for name, aliases in every.items()}
    missing = [name for name, aliases in found.items() if not aliases]
    unknown = [name for name in state if name not in own and not name.endswith("mask")]
    misshapen = [
        f"{alias} is {tuple(state[alias].shape)}, not {tuple(own[alias].shape)}"
        for aliases in found.values()
        for alias in aliases
        if state[alias].shape != own[alias].shape
    ]
    complaints = (("missing: ", missing), ("without a place: ", unknown), ("", misshapen))
    wrong = [f"{what}{_list(names)}" for what, names in complaints if names]
    if wrong:
        raise Failure(f"{path} does not fit the model named; {'; '.join(wrong)}")
    for aliases in found.values():
        if any(not torch.equal(state[a], state[aliases[0]]) for a in aliases):
            raise Failure(f"{path}: {' and '.join(aliases)} are one tensor in the model, but differ")
    buffers = [a for a, t in own.items() if id(t) not in names and a in state]
    for name in buffers:
        if not torch.equal(state[name].to(own[name]), own[name]):
            raise Failure(f"{path}: the buffer {name} is not what the model makes it; it cannot be read")
    return {name: state[aliases[0]].detach() for name, aliases in found.items()}


def _list(names: list[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")

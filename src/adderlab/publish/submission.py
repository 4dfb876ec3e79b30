"""An AdderBoard submission: one Python file that needs torch and nothing else.

The file holds the weights as hexadecimal floats, which are exact, the model's forward pass written for
this one configuration, and ``build_model`` and ``add`` as the board asks for them. Its last line says
in JSON which configuration it is, so that ``read_submission`` can take it apart again: a file whose
code is exactly what ``submission_source`` writes for the weights in it *is* that model.
"""

from __future__ import annotations

import ast
import json
import re
import textwrap
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from adderlab import __version__
from adderlab.errors import Failure, UsageError
from adderlab.files import schema
from adderlab.models.config import ModelConfig
from adderlab.models.transformer import skeleton
from adderlab.publish.forward import Code, Place, adder_class, places
from adderlab.publish.model_card import Credits, architecture, numbers, tricks
from adderlab.reading.file_model import FileModel
from adderlab.runs.checkpoints import Checkpoint, parameter_shapes
from adderlab.task.addition import PUBLISHED, Layout

MARK = "# adderlab model "
_WIDTH = 100
_BROKEN = (ValueError, LookupError, TypeError, SyntaxError, RuntimeError, MemoryError)
"""What reading a damaged or malicious file may raise (a RecursionError is a RuntimeError)."""

_MODEL = '''
def parameter(shape, numbers):
    """Hexadecimal floats, which are exact, as a parameter of this shape."""
    values = [float.fromhex(number) for number in numbers.split()]
    return nn.Parameter(torch.tensor(values, dtype=torch.float32).reshape(shape))
'''

_ONE_LAYER = """
class Adder(nn.Module):
    def __init__(self):
        super().__init__()
        for name, (shape, numbers) in WEIGHTS.items():
            self.register_parameter(name, parameter(shape, numbers))
"""

_MORE_LAYERS = """
class Weights(nn.Module):
    def __init__(self, table):
        super().__init__()
        for name, (shape, numbers) in table.items():
            self.register_parameter(name, parameter(shape, numbers))


class Adder(Weights):
    def __init__(self):
        super().__init__(WEIGHTS)
        self.layers = nn.ModuleList(Weights(table) for table in LAYERS)
"""

_GREEDY = '''
@torch.no_grad()
def generate(model, tokens, steps):
    """Greedy decoding: tokens (batch, length) -> the next ones (batch, steps)."""
    for _ in range(steps):
        following = model(tokens)[:, -1].argmax(-1, keepdim=True)
        tokens = torch.cat([tokens, following], 1)
    return tokens[:, -steps:]
'''


def submission_source(
    config: ModelConfig, params: dict[str, Tensor], credits: Credits, start: str | None = None
) -> str:
    """The submission file. ``params`` has no seed axis. The same arguments give the same text.
    ``start``: what training began with, for the metadata.

    Raises ``UsageError`` for a model with a part that cannot be written.
    """
    methods, code = adder_class(skeleton(config))
    layout = config.token_layout
    weights, layers = _tables_of_weights(config, params)
    top = _ONE_LAYER if not layers else _MORE_LAYERS
    sections = [
        _header(config, credits, code),
        *code.helpers.values(),
        _MODEL,
        top.rstrip("\n") + "\n" + "\n".join(methods) + "\n",
        _build_model(config, credits, start),
        _encode(layout),
        _GREEDY,
        _add(layout),
        _literal("WEIGHTS", weights),
        *([_literal("LAYERS", layers)] if layers else []),
        f"{MARK}{_description(config)}\n",
    ]
    return "\n\n\n".join(section.strip("\n") for section in sections) + "\n"


_TRAINED = '''
# The weights, as hexadecimal floats, which are exact, and what puts them into the model above.

_inlined_build_model = build_model


def build_model():
    """The model above with its trained weights."""
    import torch

    built = _inlined_build_model()
    model, metadata = built if isinstance(built, tuple) else (built, {})
    with torch.no_grad():
        for name, (shape, numbers) in _INLINED_WEIGHTS.items():
            values = [float.fromhex(number) for number in numbers.split()]
            tensor = _inlined_tensor(model, name)
            tensor.copy_(torch.tensor(values, dtype=torch.float64).reshape(shape))
    if hasattr(model, "eval"):
        model.eval()
    return model, {**dict(metadata), **_INLINED_FACTS}


def _inlined_tensor(thing, name):
    """The tensor that the dotted name leads to."""
    for part in name.split("."):
        if isinstance(thing, dict):
            thing = thing[part]
        elif isinstance(thing, (list, tuple)):
            thing = thing[int(part)]
        else:
            thing = getattr(thing, part)
    return thing
'''


def inlined_source(
    config: FileModel, params: dict[str, Tensor], credits: Credits, start: str | None = None
) -> str:
    """The user's own file with the weights in it, and ``add`` if it had none. ``start``: what training
    began with, for the metadata.

    Raises ``UsageError`` for a file that was not named, or a module in memory.
    """
    live = config.live
    if live.source is None:
        raise UsageError("a module in memory has no source: export to adderboard takes a Python file")
    count = sum(tensor.numel() for tensor in params.values())
    layout = config.token_layout
    facts = {"name": credits.name, "author": credits.author, "params": count, **_size(layout)}
    facts |= {} if start is None else {"start": start}
    # Names that the user's file is unlikely to have.
    sections = [
        live.source,
        _TRAINED,
        f"_INLINED_FACTS = {json.dumps(facts, ensure_ascii=False)}",
        _literal("_INLINED_WEIGHTS", dict(params)),
    ]
    if live.foreign.stated:
        asking = "\n\n\n".join(part.strip("\n") for part in (_encode(layout), _GREEDY, _add(layout)))
        for name in ("encode", "generate"):
            asking = asking.replace(f"{name}(", f"_inlined_{name}(")
        sections += ["import torch", asking]
    return "\n\n\n".join(section.strip("\n") for section in sections) + "\n"


def _description(config: ModelConfig) -> str:
    """The settings that differ from the defaults, as JSON."""
    plain, default = schema.to_dict(config), schema.to_dict(ModelConfig())
    changed = {name: value for name, value in plain.items() if value != default.get(name)}
    return json.dumps({"adderlab": __version__, "config": changed}, sort_keys=True)


def _size(layout: Layout) -> dict[str, int]:
    """What a file's metadata says of the size of its task; nothing of the published one, as every
    submission has it."""
    task = layout.addition
    return {} if task == PUBLISHED else {"columns": task.columns, "base": task.base}


def _header(config: ModelConfig, credits: Credits, code: Code) -> str:
    count = sum(skeleton(config).get_parameter(name).numel() for name in places(config))
    about = f"{credits.name}: a transformer of {count:,} parameters that adds {numbers(config)}."
    shape = textwrap.fill(architecture(config)[0].upper() + architecture(config)[1:] + ".", _WIDTH)
    lines = [f'"""{_safe(about)}', "", *shape.splitlines(), ""]
    lines += ["Needs torch and nothing else. Weights and code were written by adderlab.", '"""', ""]
    if code.needs_math:
        lines += ["import math", ""]
    lines += ["import torch", "from torch import nn"]
    if code.functions:
        lines.append(f"from torch.nn.functional import {', '.join(sorted(code.functions))}")
    return "\n".join(lines)


def _quoted(text: str) -> str:
    """A Python string in double quotes."""
    return json.dumps(text, ensure_ascii=False)


def _safe(text: str) -> str:
    """Text that cannot end a docstring."""
    return text.replace("\\", "/").replace('"', "'")


def _tables_of_weights(
    config: ModelConfig, params: dict[str, Tensor]
) -> tuple[dict[str, Tensor], list[dict[str, Tensor]]]:
    """(the model's own weights, those of each layer), by attribute."""
    own: dict[str, Tensor] = {}
    layers: list[dict[str, Tensor]] = [{} for _ in range(config.n_layer)]
    for name, place in places(config).items():
        table = own if place.layer is None else layers[place.layer]
        table[place.attribute] = params[name]
    return own, [] if config.n_layer == 1 else layers


def _literal(name: str, tables: dict[str, Tensor] | list[dict[str, Tensor]]) -> str:
    if isinstance(tables, dict):
        return "\n".join([f"{name} = {{", *_entries(tables, "    "), "}"])
    parts = [f"{name} = ["]
    for table in tables:
        parts += ["    {", *_entries(table, "        "), "    },"]
    return "\n".join([*parts, "]"])


def _entries(table: dict[str, Tensor], indent: str) -> list[str]:
    lines = []
    for name, tensor in table.items():
        shape = tuple(tensor.shape)
        if tensor.numel() == 1:
            lines.append(f'{indent}"{name}": ({shape}, "{_hexadecimal(tensor.reshape(()))}"),')
            continue
        rows = tensor.reshape(-1, shape[-1]).unbind(0)
        inner = indent + "    "
        lines.append(f'{indent}"{name}": ({shape}, """')
        for row in rows:
            numbers = " ".join(map(_hexadecimal, row))
            lines += textwrap.wrap(numbers, 120, initial_indent=inner, subsequent_indent=inner + "  ")
        lines.append(f'{indent}"""),')
    return lines


def _hexadecimal(number: Tensor) -> str:
    """``0x1.8p-3``: exact, without the zeros that Python writes at the end."""
    mantissa, power, exponent = float(number).hex().partition("p")
    return (mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa) + power + exponent


def _build_model(config: ModelConfig, credits: Credits, start: str | None) -> str:
    facts = tricks(config) + ([] if start is None else [f"start of training: {start}"])
    lines = [
        "def build_model():",
        "    model = Adder().eval()",
        "    metadata = {",
        f'        "name": {_quoted(credits.name)},',
        f'        "author": {_quoted(credits.author)},',
        '        "params": sum(p.numel() for p in model.parameters()),',
        *_wrapped_string('        "architecture": ', architecture(config)),
        '        "tricks": [',
        *(f"            {_quoted(fact)}," for fact in facts),
        "        ],",
        *(f'        "{name}": {value},' for name, value in _size(config.token_layout).items()),
        "    }",
        "    return model, metadata",
    ]
    return "\n".join(lines)


def _wrapped_string(start: str, text: str) -> list[str]:
    pieces = textwrap.wrap(text, _WIDTH - 20, drop_whitespace=False)
    return [f"{start}(", *(f"            {_quoted(piece)}" for piece in pieces), "        ),"]


def _encode(layout: Layout) -> str:
    """Source of ``encode``: the prompt's tokens, read off the layout's positions."""
    B, J = layout.base, layout.columns
    if layout.pairs:
        digits = f"[{B} + {B} * (a // {B}**j % {B}) + b // {B}**j % {B} for j in range({J})]"
        body, runs = [f"pairs = {digits}"], {layout.a_positions: "pairs"}
        kind = "One token for both digits of a column"
    else:
        body = [f"{n}_digits = [{n} // {B}**j % {B} for j in range({J})]" for n in "ab"]
        runs = {layout.a_positions: "a_digits", layout.b_positions: "b_digits"}
        kind = f"{J} digits of each number"
    tokens, up = _tokens(layout, runs)
    order = "units first" if up else "units last"
    names = {token: layout.vocabulary[token] for _, token in layout.separators}
    legend = ", ".join(f"{token} is {name}" for token, name in names.items() if name != str(token))
    docstring = f"{kind}, {order}" + (f"; {legend}." if legend else ".")
    lines = ["def encode(a, b):", f'    """{docstring}"""', *(f"    {line}" for line in body)]
    return "\n".join([*lines, f"    return [{', '.join(tokens)}]"])


def _tokens(layout: Layout, runs: dict[tuple[int, ...], str]) -> tuple[list[str], bool]:
    separators, tokens, ascending, position = dict(layout.separators), [], False, 0
    starts, J = {min(places): (places, name) for places, name in runs.items()}, layout.columns
    while position < layout.num_prompt:
        if position in separators:
            tokens.append(str(separators[position]))
            position += 1
            continue
        columns, name = starts.get(position, ((), ""))
        ascending = columns == tuple(range(position, position + J))
        if not ascending and columns[::-1] != tuple(range(position, position + J)):
            raise UsageError(f"export to adderboard cannot write the prompt of layout {layout.name}")
        tokens.append(f"*{name}" if ascending else f"*reversed({name})")
        position += J
    return tokens, ascending


def _add(layout: Layout) -> str:
    digits, base = layout.sum_digits, layout.base
    lines = [
        "def add(model, a, b):",
        f'    """The model\'s answer: {digits} digits, units first."""',
        f"    answer = generate(model, torch.tensor([encode(a, b)]), {digits})[0].tolist()",
    ]
    if layout.vocab_size > base:
        lines += [
            f"    if max(answer) > {base - 1}:",
            "        return -1  # a token that is no digit",
        ]
    if base == 10:
        number = 'int("".join(str(token) for token in reversed(answer)))'
    else:
        number = f"sum(token * {base}**i for i, token in enumerate(answer))"
    return "\n".join([*lines, f"    return {number}"])


@dataclass(frozen=True, kw_only=True, eq=False)
class Submission:
    """A submission file taken apart, none of its code run."""

    config: ModelConfig
    params: dict[str, Tensor]
    credits: Credits

    def checkpoint(self) -> Checkpoint:
        return Checkpoint(
            config=self.config, params=self.params, recipe={}, step=0, val_exact=float("nan")
        )


def read_submission(text: str) -> Submission | None:
    """The model in a submission that adderlab wrote; None for a file without its mark.

    Raises ``Failure`` if the file has the mark, but its code is not what adderlab writes for the
    weights in it: then nothing is known about what the code does.
    """
    match = re.search(rf"^{re.escape(MARK)}(.*)$", text, re.MULTILINE)
    if not match:
        return None
    try:
        tree = ast.parse(text)
        config = schema.from_dict(ModelConfig, json.loads(match[1])["config"])
        tables = _read_tables(tree)
        params = _read_params(config, tables)
        credits = Credits(**{key: _metadata(tree, key) for key in ("name", "author")})
        same = _code(tree) == _code(ast.parse(submission_source(config, params, credits)))
    except _BROKEN as error:
        raise Failure(f"it has adderlab's mark but cannot be taken apart: {error}") from error
    if not same:
        raise Failure(
            "it has adderlab's mark but not the code that this adderlab writes for its weights"
        )
    return Submission(config=config, params=params, credits=credits)


def _code(tree: ast.Module) -> str:
    """What the file does: its syntax tree without its prose.

    Docstrings and the metadata's descriptions do nothing, and later versions of adderlab word them
    better: files of older versions are to be recognised all the same.
    """
    return ast.dump(_WithoutProse().visit(tree))


class _WithoutProse(ast.NodeTransformer):
    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node):
            node.body = node.body[1:]
        return node

    def visit_Dict(self, node: ast.Dict) -> ast.AST:
        for i, (key, value) in enumerate(zip(node.keys, node.values, strict=True)):
            if isinstance(key, ast.Constant) and key.value in ("architecture", "tricks"):
                ast.literal_eval(value)  # or else it is code, and ``read_submission`` refuses the file
                node.values[i] = ast.Constant(None)
        return self.generic_visit(node)


def _read_tables(tree: ast.Module) -> dict[str, Any]:
    tables: dict[str, Any] = {"LAYERS": []}
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            tables[node.targets[0].id] = ast.literal_eval(node.value)
    return tables


def _read_params(config: ModelConfig, tables: dict[str, Any]) -> dict[str, Tensor]:
    shapes = parameter_shapes(config)
    return {
        name: _read_weight(place, tables).reshape(shapes[name]) for name, place in places(config).items()
    }


def _read_weight(place: Place, tables: dict[str, Any]) -> Tensor:
    table = tables["WEIGHTS"] if place.layer is None else tables["LAYERS"][place.layer]
    _, numbers = table[place.attribute]
    return torch.tensor([float.fromhex(number) for number in numbers.split()], dtype=torch.float32)


def _metadata(tree: ast.Module, key: str) -> str:
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):
            for name, value in zip(node.keys, node.values, strict=True):
                if isinstance(name, ast.Constant) and name.value == key:
                    return str(ast.literal_eval(value))
    raise ValueError(f"no {key} in its metadata")

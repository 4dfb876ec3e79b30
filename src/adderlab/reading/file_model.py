"""A model of a user's file as an architecture: trained, proved, stored and described as a preset is.

``FileModel`` is what a checkpoint keeps of it: plain data, enough to read the weights without running
anything. Whatever computes needs the file itself, which is run only where the user names it
(``read_file``, ``read_module``); from then on the code stays at hand for every ``FileModel`` of the same
source.

Shapes: S seeds, B batch, T positions read so far, P positions, A answer steps, V vocabulary.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import itertools
import json
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from adderlab.errors import Failure, UsageError
from adderlab.files.schema import to_dict
from adderlab.models.head_program import HeadProgram
from adderlab.models.tables import Tables
from adderlab.models.transformer import Adder
from adderlab.reading.agreement import (
    Agreement,
    NoTables,
    canonical_trace,
    compare,
    read_foreign,
    running,
    takes_rows_together,
)
from adderlab.reading.driving import (
    Foreign,
    answer_logits,
    asked_alike,
    foreign_module,
    stated,
)
from adderlab.reading.reading import Reading, Tokens
from adderlab.reading.running import (
    built,
    built_with_metadata,
    load_file,
    parameters_of,
    reachable,
    stated_size,
)
from adderlab.task.addition import PUBLISHED, Addition, Layout, named_layout


@dataclass(frozen=True, kw_only=True)
class ParameterShape:
    """One parameter by the file's own name."""

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class FileModel:
    """A model of a Python file: which file, which parameters, how it is asked. Hashable plain data.

    An architecture as ``ModelConfig`` is one (``models.transformer``).
    """

    sha256: str
    """Of the file's source; of a module that was read in memory, of its recorded operations."""
    parameters: tuple[ParameterShape, ...]
    """Tied ones once, in the module's order."""
    token_layout: Layout
    """Where digits stand, learned from the file's ``add`` or named by its ``layout``."""
    ids: tuple[tuple[int, ...], ...]
    """The model's own token for every position and token of the layout."""
    order: tuple[int, ...]
    """The model's own token for every logit of the layout."""
    double: bool = False
    """Whether its parameters are float64."""
    file: str = field(compare=False)
    """The file's name when it was read, or the class of a module in memory."""
    no_tables: str | None = field(default=None, compare=False)
    """Why it has no table form."""

    @property
    def layout(self) -> str:
        """The layout's name."""
        return self.token_layout.name

    @property
    def in_memory(self) -> bool:
        """Whether it was a module given to ``read``: there is no file to name again."""
        return not self.file.endswith(".py")

    @property
    def dtype(self) -> torch.dtype:
        """Of the stored parameters."""
        return torch.float64 if self.double else torch.float32

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of every parameter, in the module's order."""
        return {each.name: each.shape for each in self.parameters}

    def build(self, seed: int) -> FileModule:
        """A new model: what the file's ``build_model`` makes with the generators at ``seed``, or a copy
        of a module in memory. Raises ``UsageError`` where the file was not named."""
        live = self.live
        return FileModule(self, live, live.make(seed))

    def tables(self, params: Mapping[str, Tensor], *, exact: bool = False) -> Tables:
        """Tables of S models, on the parameters' device, differentiable; ``exact`` as of
        ``Reading.tables``. Raises ``UsageError`` where the file was not named."""
        reading = self.live.reading
        assert reading is not None, self.no_tables
        device = next(iter(params.values())).device
        # What the recording holds is on the CPU, and its few numbers are computed no slower there.
        here = {name: tensor.cpu() for name, tensor in params.items()}
        return reading.tables(here, exact=exact, narrow=not exact).to(device=device)

    def why_no_tables(self) -> str | None:
        """None if it has a table form, otherwise the reason."""
        return self.no_tables

    def bound(self) -> dict[str, Any]:
        """What a certificate binds: the source, how the model is asked, and every recorded operation
        and constant, by the SHA-256 of ``Live.trace``. Raises ``UsageError`` where the file was not
        named."""
        plain = to_dict(self)
        del plain["file"], plain["no_tables"]
        return {**plain, "trace_sha256": _digest(self.live.trace)}

    @property
    def at_hand(self) -> bool:
        """Whether the file was named in this process."""
        return self in _LIVE

    @property
    def live(self) -> Live:
        """The code. Raises ``UsageError`` where the file was not named in this process."""
        if self not in _LIVE:
            if self.in_memory:
                raise UsageError(
                    f"these weights belong to a module that was in memory ({self.file}): read it again "
                    "with adderlab.read(module, layout=..., weights=FILE)"
                )
            raise UsageError(
                f"these weights belong to {self.file} (sha256 {self.sha256[:12]}...), which is run only "
                f"when it is named: give {self.file} as the model, and the weights with --weights CKPT"
            )
        return _LIVE[self]


@dataclass(frozen=True, kw_only=True, eq=False)
class Live:
    """The code of a ``FileModel``, and what was read of it."""

    foreign: Foreign
    reading: Reading | None
    """None where there is no table form."""
    agreement: Agreement | None
    batched: bool
    """Whether the model takes several sequences at once."""
    make: Callable[[int], Any]
    """Seed -> another model of the file's own kind."""
    module: types.ModuleType | None
    """The file, run; None for a module in memory."""
    source: str | None
    path: Path | None

    @cached_property
    def trace(self) -> dict[str, Any]:
        """Operations and constants as JSON values (``canonical_trace``). Of what has tables."""
        assert self.reading is not None
        return canonical_trace(self.reading)


_LIVE: dict[FileModel, Live] = {}


def _digest(value: Any) -> str:
    """Of canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


class FileModule(Adder):
    """A file's model behind the layout's tokens: (B, T) -> logits (B, T, V).

    Its parameters are the model's own tensors, by the model's own names.
    """

    def __init__(self, config: FileModel, live: Live, model: Any) -> None:
        super().__init__()
        self.config = config
        self._live = live
        # In a tuple it is no submodule: a name of a parameter must stay what it is in the file.
        self._held = (model,)
        self._params = parameters_of(model)
        self._foreign: Foreign | None = None
        found = {name: tuple(tensor.shape) for name, tensor in self._params.items()}
        if found != config.parameter_shapes():
            raise Failure(
                f"{config.file}: build_model makes other parameters each time it is called "
                f"({_first_difference(found, config.parameter_shapes())})"
            )

    @property
    def foreign(self) -> Foreign:
        """The model and how it is asked."""
        if self._foreign is None:
            live = self._live
            self._foreign = asked_alike(live.foreign, live.module, self.own)
        return self._foreign

    @property
    def takes_rows_together(self) -> bool:
        """Whether it is asked for several sequences at once."""
        return self._live.batched

    @property
    def own(self) -> Any:
        """What the file's ``build_model`` made."""
        return self._held[0]

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Logits (B, T, V) at every position: all rows at once where the model takes them so."""

        def every(call: Callable[[Tensor], Tensor], own_BT: Tensor) -> Tensor:
            logits = call(own_BT)
            if logits.shape[1] == (T := own_BT.shape[1]):
                return logits
            return torch.cat([*(call(own_BT[:, :length]) for length in range(1, T)), logits], 1)

        return self._asked(every, tokens_BT)

    def next_logits(self, tokens_BT: Tensor) -> Tensor:
        """Logits (B, V) of the token that follows."""
        return self._asked(lambda call, own_BT: call(own_BT)[:, -1], tokens_BT)

    def answer_logits(self, tokens_BP: Tensor) -> Tensor:
        """Logits (B, A, V) of the answer steps, teacher-forced. Of a model that takes one sequence at a
        time, its recorded operations, batched."""
        reading = self._live.reading
        if reading is not None and not self._live.batched and len(tokens_BP) > 1:
            return reading.logits(self._params, tokens_BP)
        return self._asked(lambda call, own_BP: answer_logits(call, self.layout, own_BP), tokens_BP)

    def _asked(
        self, ask: Callable[[Callable[[Tensor], Tensor], Tensor], Tensor], tokens_BT: Tensor
    ) -> Tensor:
        """What ``ask`` gets of the model on its own tokens, in the layout's order."""
        foreign, order = self.foreign, list(self.config.order)
        own_BT = foreign.tokens.of(tokens_BT.long())
        with _default_dtype(next(iter(self._params.values())).dtype):
            groups = own_BT.split(max(1, len(own_BT)) if self._live.batched else 1)
            return torch.cat([ask(foreign.call, group) for group in groups])[..., order]

    def own_sum(self, a: int, b: int) -> int | None:
        """What the file's ``add`` answers."""
        return self.foreign.add(a, b)

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        """By the file's own names; of a plain class, its tensors."""
        yield from ((prefix + name, tensor) for name, tensor in self._params.items())  # type: ignore

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FileModule:
        # As nn.Module's: it is what ``to``, ``double`` and their like call.
        for tensor in _tensors(self.own):
            tensor.data = fn(tensor.data)
        return self

    def train(self, mode: bool = True) -> FileModule:
        """Also of the model itself."""
        super().train(mode)
        if isinstance(self.own, nn.Module):
            self.own.train(mode)
        return self


def _tensors(model: Any) -> list[Tensor]:
    found: dict[int, Tensor] = {}
    for _, thing in reachable(model):
        if isinstance(thing, nn.Module):
            found |= {id(tensor): tensor for tensor in (*thing.parameters(), *thing.buffers())}
        elif isinstance(thing, Tensor):
            found[id(thing)] = thing
    return list(found.values())


@contextlib.contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """New tensors of a float64 model are float64 too."""
    before = torch.get_default_dtype()
    if dtype == before or dtype != torch.float64:
        yield
        return
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _first_difference(
    found: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]]
) -> str:
    for name in (*wanted, *found):
        if found.get(name) != wanted.get(name):
            return f"{name}: {wanted.get(name)}, then {found.get(name)}"
    return "in another order"


# Reading.


def read_file(path: Path, layout: str | Layout | None = None) -> tuple[FileModel, dict[str, Tensor]]:
    """Run a file that the user named, and read its model: (what it is, its parameters as built).

    ``layout``: how the model is asked, instead of what the file says.

    A model without a table form is read too (``FileModel.no_tables``). Raises ``UsageError`` where there
    is no such file, ``Failure`` with one line for what cannot be asked, or does not answer alike twice.
    """
    if not path.is_file():
        raise UsageError(f"there is no file {path}")
    source = path.read_text()
    module = load_file(path)
    model, metadata = built_with_metadata(module, 0)
    task = stated_size(metadata)
    if layout is None:
        foreign = foreign_module(module, model, task, path)
    else:
        foreign = stated(model, _named(layout, task), path.name)

    def make(seed: int) -> Any:
        return built(module, seed)

    digest = hashlib.sha256(source.encode()).hexdigest()
    return _attached(foreign, digest, path.name, make, module, source, path)


def read_module(model: Any, layout: str | Layout) -> tuple[FileModel, dict[str, Tensor]]:
    """Read a module in memory that maps the tokens of ``layout`` to logits. Raises as ``read_file``."""
    layout = _named(layout, PUBLISHED)
    kept = copy.deepcopy(model)
    if isinstance(kept, nn.Module):
        kept.eval()
    foreign = stated(kept, layout, type(model).__name__)
    return _attached(foreign, None, foreign.name, lambda _: copy.deepcopy(kept), None, None, None)


def _named(layout: str | Layout, task: Addition) -> Layout:
    return named_layout(layout, task) if isinstance(layout, str) else layout


def _attached(
    foreign: Foreign,
    digest: str | None,
    name: str,
    make: Callable[[int], Any],
    module: types.ModuleType | None,
    source: str | None,
    path: Path | None,
) -> tuple[FileModel, dict[str, Tensor]]:
    reading, agreement, reason = None, None, None
    try:
        reading, agreement = read_foreign(foreign)
        batched = agreement.batched
    except NoTables as failure:
        reason = str(failure)
        batched = takes_rows_together(foreign)
    live = Live(
        foreign=foreign,
        reading=reading,
        agreement=agreement,
        batched=batched,
        make=make,
        module=module,
        source=source,
        path=path,
    )
    params = {name: tensor.detach().clone() for name, tensor in foreign.params.items()}
    shapes = {name: tuple(tensor.shape) for name, tensor in params.items()}
    config = FileModel(
        sha256=digest or (_digest(live.trace) if reading else _digest([name, sorted(shapes.items())])),
        parameters=tuple(ParameterShape(name=name, shape=shape) for name, shape in shapes.items()),
        token_layout=foreign.layout,
        ids=_rows(foreign.tokens),
        order=foreign.tokens.order,
        double=any(_is_double(tensor) for tensor in params.values()),
        file=name,
        no_tables=reason,
    )
    if module is not None:
        _judge_constructor(config, live)
    _LIVE[config] = live
    return config, params


def _rows(tokens: Tokens) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(row) for row in tokens.ids_PV.tolist())


def _is_double(tensor: Tensor) -> bool:
    """Whether float32 would round it."""
    return tensor.dtype == torch.float64 and not torch.equal(tensor.float().double(), tensor)


@torch.no_grad()
def _judge_constructor(config: FileModel, live: Live) -> None:
    """Models of other seeds differ in their parameters alone, and what was recorded says how: asked of
    another model, with the first one's parameters, and with parameters a little away from them."""
    first, second = live.foreign, FileModule(config, live, live.make(1))
    for name, tensor in second.named_parameters():
        tensor.copy_(first.params[name])
    rows = [tokens for tokens, _ in first.asked[:3]] or [tuple(row[0] for row in config.ids)]
    for row in rows:
        tokens = torch.tensor([row])
        if not torch.equal(_answers(first, tokens), _answers(first, tokens)):
            raise Failure(
                f"{config.file}: the model answers the same tokens differently each time: is dropout "
                "left on?"
            )
        if not torch.equal(_answers(first, tokens), _answers(second.foreign, tokens)):
            raise Failure(
                f"{config.file}: build_model draws numbers that are no parameters (two models with the "
                "same parameters answer differently); make them parameters, or constants"
            )
    if live.reading is None or live.agreement is None:
        return
    generator = torch.Generator().manual_seed(0)
    for _, tensor in second.named_parameters():
        times, plus = 1e-3 * torch.randn((2, *tensor.shape), generator=generator).to(tensor.dtype)
        tensor.mul_(1 + times).add_(plus)  # added too: what starts at zero plays a part later
    precision = live.agreement.precision
    try:
        with running(second.own, precision):
            compare(second.foreign, live.reading, precision, 2)
    except Failure as failure:
        raise Failure(
            f"{config.file}: with other parameters the model does not compute what was recorded "
            f"({failure}): numbers of its parameters are used outside tensor operations"
        ) from failure


def _answers(foreign: Foreign, tokens: Tensor) -> Tensor:
    return torch.nan_to_num(foreign.call(tokens))


# What was read of a file's model, in a few plain lines.


def reading_lines(config: FileModel) -> tuple[str, ...]:
    """The layout; of a file that was named also heads, operations and agreement with the model."""
    lines = [f"file: {config.file}, sha256 {config.sha256}", *layout_lines(config.token_layout)]
    if config.at_hand:
        lines += _computed(config, config.live)
    else:
        lines.append("nothing of the file was run; name it to see what it computes")
    return tuple(lines)


def layout_lines(layout: Layout) -> list[str]:
    """How the model is asked."""
    names = [f"[{name}]" for name in ["?"] * layout.num_prompt]
    for position, token in layout.separators:
        names[position] = layout.vocabulary[token]
    for operand, positions in (("a", layout.a_positions), ("b", layout.b_positions)):
        for column, position in enumerate(positions):
            names[position] = f"{operand}{column}"
    steps = f"{layout.sum_digits} digits of the sum, units first"
    if layout.end_token is not None:
        end = layout.vocabulary[layout.end_token]
        steps += f", then {end}" + (", without which an answer is wrong" if layout.end_decided else "")
    return [
        f"prompt: {' '.join(names)} (a0 is the units; {layout.vocab_size} tokens)",
        f"answer: {steps}",
    ]


def operations_line(program: HeadProgram) -> str:
    """The operations after attention, repeated ones once: ``linear 8, relu, square``."""
    names = [
        f"{each.name} {each.width}" if each.name in ("linear", "take", "concat") else each.name
        for each in program.operations
    ]
    runs = [(name, len(list(group))) for name, group in itertools.groupby(names)]
    return ", ".join(name if count == 1 else f"{count} x {name}" for name, count in runs)


def computed_line(config: FileModel) -> str:
    """One line: heads, operations, layout."""
    layout = config.token_layout
    where = f"{layout.vocab_size} tokens, {layout.num_positions} positions"
    if not config.at_hand or config.live.reading is None:
        return f"{config.file}, {where}"
    form = config.live.reading.form
    heads = "1 head" if form.heads == 1 else f"{form.heads} heads"
    return (
        f"one attention of {heads} with values of width {form.value_dim}; after it: "
        f"{operations_line(form.program)}; {where}"
    )


def _computed(config: FileModel, live: Live) -> list[str]:
    if live.reading is None:
        return []
    form = live.reading.form
    heads = "1 head" if form.heads == 1 else f"{form.heads} heads"
    keys = f"keys of width {form.key_dim}" if form.key_dim else "scores of any kind"
    lines = [
        f"attention: {heads}, {keys}, values of width {form.value_dim}",
        f"after attention: {operations_line(form.program)}",
        f"agreement: {live.agreement}",
    ]
    if live.foreign.never:
        lines.append(f"add never chooses: {', '.join(map(str, live.foreign.never))}")
    unread = sorted(set(config.parameter_shapes()) - set(live.reading.trace.parameters.values()))
    if unread:
        lines.append(f"no logit depends on: {', '.join(unread)}")
    return lines

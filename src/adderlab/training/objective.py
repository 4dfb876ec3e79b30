"""What computes loss and gradient: device, engine and threads as asked for, and the way from parameters
to the engine, through the tables where a model has them, else the oracle.

The oracle is the model itself. Several models of a user's file are computed at once where that works:
``torch.func`` runs the file's own module on stacked parameters (``functional_call``,
``grad_and_value``, ``vmap``): the same operations as seed by seed, each on all seeds. That saves calls,
which are most of the time of small batches; on a CPU a batch of 512 pairs takes as long either way.
Whether a module can be run so is found out by trying. What cannot: control flow or numbers that tokens
decide, tensors that are written to during a call, tokens taken as a list, parameters outside of a
module.

Shapes: S seeds, B pairs, P input positions, A answer steps, V vocabulary.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap
from torch.nn.functional import cross_entropy

from adderlab.engine.base import Descent, Engine, Sampler, Stepper, choose_device, select_engine
from adderlab.models.config import ModelConfig
from adderlab.models.head_program import Operation
from adderlab.models.tables import Tables, stack_parameters, tables, vjp, why_not_trained_by_tables
from adderlab.models.transformer import Adder, Architecture, build_model
from adderlab.reading.file_model import FileModule
from adderlab.task.addition import Layout
from adderlab.task.sampling import DataConfig, sample_pairs
from adderlab.workers import check_threads, usable_cores

Params = Mapping[str, Tensor]


def torch_sampler(data: DataConfig, layout: Layout) -> Sampler:
    """Training pairs as tokens, on any device."""
    task = layout.addition
    return lambda seeds_S, step, batch: layout.encode(*sample_pairs(data, seeds_S, step, batch, task))


class Objective(Protocol):
    """What a population needs to know of its model: gradients, margins, answers."""

    config: Architecture
    engine_name: str
    """What computes it."""
    sharpness: float
    """What logits are multiplied by, besides the configuration's own setting."""

    def sharpened(self, factor: float) -> "Objective":
        """Of the model whose logits are ``factor`` times as large; one object for each factor."""
        ...

    def loss_and_grad(
        self, params: Params, tokens_SBP: Tensor, targets_SBA: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss_S and the gradient of every parameter."""
        ...

    def margins(self, params: Params, tokens_SBP: Tensor, targets_SBA: Tensor) -> Tensor:
        """Teacher-forced margin_SBA."""
        ...

    def decode(self, params: Params, prompt_SBT: Tensor) -> Tensor:
        """Greedy answers_SBA."""
        ...

    def descent(self) -> Descent | None:
        """A faster twin of the optimiser's step, if there is one."""
        ...

    def sampler(self, data: DataConfig, layout: Layout) -> Sampler:
        """The fastest source of training batches; all give the same ones."""
        ...

    def stepper(self, data: DataConfig, layout: Layout) -> Stepper | None:
        """Many steps in one call, if there is a way; bit for bit those taken one by one."""
        ...


class _Sharpened:
    """The objectives of one model that differ in the size of its logits, each built once; threads
    share them.

    A configuration has a setting for the size; logits of a file's model are multiplied.
    """

    def __init__(self, plain: Objective, build: Callable[[Architecture, float], Objective]) -> None:
        self._config, self._build, self._lock = plain.config, build, threading.Lock()
        self._built = {1.0: plain}

    def of(self, factor: float) -> Objective:
        with self._lock:
            if factor not in self._built:
                config, left = self._config, factor
                if isinstance(config, ModelConfig):
                    config, left = replace(config, logit_scale=config.logit_scale * factor), 1.0
                self._built[factor] = self._build(config, left)
            return self._built[factor]


def _multiplied(built: Tables, factor: float) -> Tables:
    """Tables of the model whose logits are ``factor`` times as large."""
    program = built.form.program
    last = program.operations[-1]
    constants = [operand for operand in last.operands if isinstance(operand, str)]
    used = [operand for operation in program.operations for operand in operation.operands]
    if last.name == "linear" and all(used.count(name) == 1 for name in constants):
        scaled = {name: built.head[name] * factor for name in constants}
        return replace(built, head={**built.head, **scaled})
    name = "logit_scale"
    times = Operation(
        name="multiply", operands=(len(program.operations) + 1, name), width=program.vocab_size
    )
    longer = replace(
        program,
        operations=(*program.operations, times),
        constants=(*program.constants, (name, (1,))),
    )
    own = built.residual.new_full((built.num_seeds, 1), factor)
    return replace(built, form=replace(built.form, program=longer), head={**built.head, name: own})


class TableObjective:
    """Parameters -> tables -> engine, and the gradient back: compiled where the engine can."""

    def __init__(self, config: Architecture, engine: Engine, sharpness: float = 1.0) -> None:
        self.config, self.engine, self.engine_name = config, engine, engine.name
        self.sharpness = sharpness
        self._sharpened = _Sharpened(self, lambda config, factor: TableObjective(config, engine, factor))
        example = stacked_float32([build_model(config, 0)])
        self._names = tuple(example)
        with torch.no_grad():
            self._form = self._built(example)
        examples = list(example.values())
        cotangents = [torch.zeros_like(table) for _, table in self._form.items()]
        key, lean = str(config), not isinstance(config, ModelConfig)
        if not isinstance(config, ModelConfig):
            # Of the file's source alone, what it imports would be left out.
            key = f"{key} {config.bound()} {sharpness}"
        self._map = engine.compile(self._table_tuple, examples, f"tables of {key}", lean=lean)
        self._vjp = engine.compile(
            vjp(self._table_tuple, len(examples)),
            [*examples, *cotangents],
            f"derivative of the tables of {key}",
            lean=lean,
        )

    def sharpened(self, factor: float) -> Objective:
        return self._sharpened.of(factor)

    def _built(self, params: Params) -> Tables:
        built = tables(self.config, params)
        return built if self.sharpness == 1.0 else _multiplied(built, self.sharpness)

    def _table_tuple(self, *values: Tensor) -> tuple[Tensor, ...]:
        built = self._built(dict(zip(self._names, values, strict=True)))
        return tuple(table for _, table in built.items())

    def loss_and_grad(
        self, params: Params, tokens_SBP: Tensor, targets_SBA: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        values = [params[name] for name in self._names]
        if self._map is None or self._vjp is None:
            values = [value.detach().requires_grad_() for value in values]
            built = self._table_tuple(*values)
        else:
            built = self._map(values)
        loss_S, table_grads = self.engine.loss_and_grad(
            self._tables([table.detach() for table in built]), tokens_SBP, targets_SBA
        )
        cotangents = [grad for _, grad in table_grads.items()]
        if self._map is None or self._vjp is None:
            pairs = [
                (own, grad) for own, grad in zip(built, cotangents, strict=True) if own.requires_grad
            ]
            moved, cotangents = zip(*pairs, strict=True)
            grads = torch.autograd.grad(
                moved, values, cotangents, allow_unused=True, materialize_grads=True
            )
        else:
            grads = self._vjp([*values, *cotangents])
        return loss_S, dict(zip(self._names, grads, strict=True))

    def _tables(self, values: Sequence[Tensor]) -> Tables:
        given = iter(values)
        return self._form.map(lambda _: next(given))

    def _current(self, params: Params) -> Tables:
        values = [params[name] for name in self._names]
        return self._tables(self._map(values) if self._map else self._table_tuple(*values))

    @torch.no_grad()
    def margins(self, params: Params, tokens_SBP: Tensor, targets_SBA: Tensor) -> Tensor:
        return self.engine.margins(self._current(params), tokens_SBP, targets_SBA)

    @torch.no_grad()
    def decode(self, params: Params, prompt_SBT: Tensor) -> Tensor:
        return self.engine.decode(self._current(params), prompt_SBT)

    def descent(self) -> Descent | None:
        return self.engine.descent()

    def sampler(self, data: DataConfig, layout: Layout) -> Sampler:
        return self.engine.sampler(data, layout) or torch_sampler(data, layout)

    def stepper(self, data: DataConfig, layout: Layout) -> Stepper | None:
        if self._map is None or self._vjp is None:
            return None
        return self.engine.stepper(self._map, self._vjp, self._form, data, layout)


class OracleObjective:
    """The full-sequence module, slow, for models outside the table form.

    Gradients of a user's file are computed for several seeds at once where ``torch.func`` can run its
    module (``together``), those of presets one seed after another, whose bits then are those of a seed
    alone.
    """

    def __init__(self, config: Architecture, device: torch.device, sharpness: float = 1.0) -> None:
        self.model = build_model(config, 0).to(device)
        for _, tensor in self.model.named_parameters():
            tensor.requires_grad_()  # a plain class may have tensors that do not ask for it
        self.config, self.engine_name = config, "module"
        self.sharpness = sharpness
        self._together: LossAndGrad | None = None
        self.why_alone: str | None = None
        """Why a file's seeds are computed one after another; None where they are not."""
        if isinstance(self.model, FileModule):
            self._together, self.why_alone = together(self.model, sharpness, self._alone)
        self._sharpened = _Sharpened(
            self, lambda config, factor: OracleObjective(config, device, factor)
        )

    def sharpened(self, factor: float) -> Objective:
        return self._sharpened.of(factor)

    def _with(self, params: Params, s: int) -> Adder:
        with torch.no_grad():
            for name, tensor in self.model.named_parameters():
                tensor.copy_(params[name][s])
        return self.model

    def loss_and_grad(
        self, params: Params, tokens_SBP: Tensor, targets_SBA: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        return (self._together or self._alone)(params, tokens_SBP, targets_SBA)

    def _alone(
        self, params: Params, tokens_SBP: Tensor, targets_SBA: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Seed by seed."""
        losses, rows = [], []
        names, own = zip(*self.model.named_parameters(), strict=True)
        for s, (tokens_BP, targets_BA) in enumerate(zip(tokens_SBP, targets_SBA, strict=True)):
            model = self._with(params, s)
            if self.sharpness == 1.0:
                loss = model.loss(tokens_BP, targets_BA)
            else:
                logits_BAV = model.answer_logits(tokens_BP) * self.sharpness
                loss = cross_entropy(logits_BAV.flatten(0, 1), targets_BA.flatten().long())
            losses.append(loss.detach())
            rows.append(torch.autograd.grad(loss, own, allow_unused=True, materialize_grads=True))
        columns = zip(names, zip(*rows, strict=True), strict=True)
        return torch.stack(losses), {name: torch.stack(column) for name, column in columns}

    @torch.no_grad()
    def margins(self, params: Params, tokens_SBP: Tensor, targets_SBA: Tensor) -> Tensor:
        rows = []
        for s in range(_count(params)):
            logits_BAV = self._with(params, s).answer_logits(tokens_SBP[s])
            target_BA1 = targets_SBA[s].long()[..., None]
            right_BA = logits_BAV.gather(2, target_BA1)[..., 0]
            rows.append(right_BA - logits_BAV.scatter(2, target_BA1, float("-inf")).amax(2))
        return torch.stack(rows)

    @torch.no_grad()
    def decode(self, params: Params, prompt_SBT: Tensor) -> Tensor:
        return torch.stack(
            [self._with(params, s).generate(prompt_SBT[s]) for s in range(_count(params))]
        )

    def descent(self) -> Descent | None:
        return None

    def sampler(self, data: DataConfig, layout: Layout) -> Sampler:
        return torch_sampler(data, layout)

    def stepper(self, data: DataConfig, layout: Layout) -> Stepper | None:
        return None


def _count(params: Params) -> int:
    return next(iter(params.values())).shape[0]


def stacked_float32(models: Sequence[Adder]) -> dict[str, Tensor]:
    """``stack_parameters``, in the precision of training."""
    return {name: tensor.float() for name, tensor in stack_parameters(models).items()}


def objective_for(config: Architecture, engine: Engine, device: torch.device) -> Objective:
    """The table path where the model has one, otherwise the oracle."""
    if why_not_trained_by_tables(config) is None:
        return TableObjective(config, engine)
    return OracleObjective(config, device)


# Device, engine and threads.


@dataclass(frozen=True, kw_only=True)
class Compute:
    """What to compute with, as asked for. Plain values, so that it can go to another machine."""

    device: str = "auto"
    """auto, cpu, cuda or mps."""
    engine: str = "auto"
    """auto, native, triton or torch."""
    threads: int | None = None
    """Seeds trained at once on a CPU; None: every core. No effect on any seed's results."""

    def __post_init__(self) -> None:
        check_threads(self.threads)

    def options(self) -> list[str]:
        """What a run folder does not say and its last bits depend on, as options of a command."""
        named = [("--device", self.device), ("--engine", self.engine)]
        return [word for name, value in named if value != "auto" for word in (name, value)]


@dataclass(frozen=True, kw_only=True)
class Backend:
    """Device and engine, chosen and ready for one model."""

    objective: Objective
    device: torch.device
    device_reason: str
    """Why this device, in a few words."""
    threads: int

    @property
    def engine(self) -> str:
        return self.objective.engine_name

    @property
    def on_cpu(self) -> bool:
        return self.device.type == "cpu"


def open_backend(
    config: Architecture,
    compute: Compute,
    log: Callable[[str], None] = lambda line: None,
    *,
    engine_threads: int | None = None,
) -> Backend:
    """Choose and compile. ``log`` gets a line when something is compiled or is not the fastest.
    ``engine_threads``: threads of the engine, where not all of them are to train one population.

    Raises ``UsageError`` for what this machine does not have.
    """
    torch.set_num_threads(1)  # seeds are spread over threads; a sum is never split among them
    device, why = choose_device(compute.device)
    threads = compute.threads or usable_cores()
    reason = why_not_trained_by_tables(config)
    engine = select_engine(compute.engine, config, device, threads=engine_threads or threads, log=log)
    objective = objective_for(config, engine, device)
    if reason:
        how = ""
        if isinstance(objective, OracleObjective) and isinstance(objective.model, FileModule):
            alone = objective.why_alone
            how = f", seed by seed ({alone})" if alone else f", {GROUP} seeds at once (torch.func.vmap)"
        log(
            f"there is no table form to train by ({reason}): it trains on the full sequence, slowly{how}"
        )
    return Backend(
        objective=objective,
        device=device,
        device_reason=why,
        threads=threads,
    )


cached_backend = functools.lru_cache(maxsize=8)(open_backend)
"""For a worker that is given shard after shard of one run."""


LossAndGrad = Callable[[Params, Tensor, Tensor], tuple[Tensor, dict[str, Tensor]]]


# Several models of a user's file at once.


GROUP = 8
"""Seeds at once: what lies between two operations is in memory for all of them."""
TRIED = 1e-4
"""Largest difference of a gradient from that of the module alone, of its largest number."""


class _Call(nn.Module):
    """The file's module where ``functional_call`` puts parameters in, asked for the answer's logits."""

    def __init__(self, model: FileModule) -> None:
        super().__init__()
        self.own = model.own
        self._asked = (model,)  # in a tuple it is no submodule: its parameters are ``own``'s

    def forward(self, tokens_BP: Tensor) -> Tensor:
        (model,) = self._asked
        if model.takes_rows_together:
            return model.answer_logits(tokens_BP)
        return vmap(lambda row_P: model.answer_logits(row_P[None])[0])(tokens_BP)


def together(
    model: FileModule, sharpness: float, alone: LossAndGrad
) -> tuple[LossAndGrad | None, str | None]:
    """(loss_S and gradients of stacked parameters, None), or (None, why there is no such function).

    ``alone``: the same seed by seed, with which it is compared. Logits are multiplied by ``sharpness``.
    """
    names = [name for name, _ in model.named_parameters()]
    if not isinstance(model.own, nn.Module):
        return None, "it is no nn.Module"
    outside = sorted(set(names) - {name for name, _ in model.own.named_parameters()})
    if outside:
        return None, f"its parameter {outside[0]} is outside of its module"
    model.foreign  # noqa: B018  How it is asked is found out by asking it, with its own parameters.
    call = _Call(model)

    def loss(params: Params, tokens_BP: Tensor, targets_BA: Tensor) -> Tensor:
        given = {f"own.{name}": tensor for name, tensor in params.items()}
        logits_BAV = functional_call(call, given, (tokens_BP,)) * sharpness
        return cross_entropy(logits_BAV.flatten(0, 1), targets_BA.flatten().long())

    every = vmap(grad_and_value(loss), chunk_size=GROUP)

    def loss_and_grad(
        params: Params, tokens_SBP: Tensor, targets_SBA: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        grads, loss_S = every({name: params[name] for name in names}, tokens_SBP, targets_SBA)
        return loss_S, grads

    try:
        differs = _difference(model, loss_and_grad, alone)
    except Exception as error:  # whatever a stranger's module raises, seed by seed it runs
        lines = str(error).strip().splitlines()
        return None, f"torch.func cannot run it: {lines[0] if lines else type(error).__name__}"
    if differs is not None:
        return None, differs
    return loss_and_grad, None


def _difference(model: FileModule, found: LossAndGrad, wanted: LossAndGrad) -> str | None:
    """Of two models whose parameters differ, on two sequences; None where they agree."""
    generator = torch.Generator().manual_seed(0)
    params = {}
    for name, tensor in model.named_parameters():
        noise = torch.randn((2, *tensor.shape), generator=generator).to(tensor)
        params[name] = tensor.detach() * (1 + 0.01 * noise)
    layout = model.layout
    digits = torch.randint(
        0, 10, (2, 4, len(layout.a_positions)), generator=generator, dtype=torch.uint8
    )
    tokens, targets = layout.encode(*digits)
    device = next(iter(params.values())).device
    batch = [each.unflatten(0, (2, 2)).to(device) for each in (tokens, targets)]
    (loss_S, grads), (want_S, exact) = found(params, *batch), wanted(params, *batch)
    pairs = [(loss_S, want_S), *((grads[name], exact[name]) for name in params)]
    largest = max(float(want.abs().max()) for _, want in pairs)
    error = max(float((own - want).abs().max()) for own, want in pairs)
    if not error <= TRIED * max(largest, 1e-6):
        return f"through torch.func its gradients differ by {error:.1e}"
    return None

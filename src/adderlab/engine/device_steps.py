"""Whole training steps on the device: sample, map, loss and gradient, the map's derivative, AdamW.

A step is some hundreds of tiny kernels. Started one by one from Python they would take ten times as
long as they run, so on a CUDA device they are recorded once as a CUDA graph and replayed. Replaying
means the same kernels on the same memory: everything a step reads lies in buffers that stay where they
are, and what differs from step to step (learning rates, curriculum, the step's own number) stands in
tables that the step reads at a cursor it advances itself. Nothing in a step waits for the host or
asks the device for a number.

The same function runs without a graph on other devices, where the tests compare it with the steps of
``training``.

Shapes: C steps of a call, S seeds, N parameters of one model, flat; B pairs, J = 10 columns, units
first; o = 2 operands; P input positions, A answer steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from adderlab.engine.base import Compiled, Engine, Function
from adderlab.engine.step_batch import CONSTANTS, RATES, StepBatch, descend
from adderlab.models.tables import Tables
from adderlab.task import sampling
from adderlab.task.addition import OPERAND_DIGITS, Layout
from adderlab.task.sampling import (
    DataConfig,
    Stream,
    carry_pairs,
    columns,
    num_draws,
    operand_digits,
    pick,
    row_words,
)

MOST_STEPS = 1024
"""Steps whose numbers are on the device at a time."""

WARM_UP = 3
"""Steps before the recording, in which libraries and compilers set themselves up."""

Run = Callable[..., Sequence[Tensor]]
"""A traced function."""


def step_numbers(data: DataConfig, steps: Iterable[int], columns: int = OPERAND_DIGITS) -> Tensor:
    """number_C3 of the steps, int64 on the CPU: a step's site (``task.sampling``), its longest operand,
    and the word below which a row is a carry pattern."""
    mix = data.carry_mix
    rows = [
        (
            sampling.site(Stream.TRAIN, step),
            data.curriculum.max_digits(step, columns),
            int((mix.share_at(step) if mix else 0.0) * (1 << sampling.WORD_BITS)),
        )
        for step in steps
    ]
    return torch.tensor(rows, dtype=torch.int64)


def sample(
    data: DataConfig, layout: Layout, seeds_S: Tensor, number_3: Tensor, batch_size: int
) -> tuple[Tensor, Tensor]:
    """(tokens_SBP, targets_SBA), uint8, of the step with these numbers: equal bit for bit to
    ``task.sampling``. The device reads the step from its memory, the host need not name it, so the same
    recorded kernels draw every step."""
    mix, uniform_lengths = data.carry_mix, data.curriculum.lengths == "uniform"
    site, max_digits, threshold = number_3.unbind()
    key_S = sampling.keys_at(seeds_S, site)
    J = layout.columns
    draws = num_draws(J, mixed=mix is not None, uniform_lengths=uniform_lengths)
    word_NSB = row_words(data, seeds_S, key_S, batch_size, draws)
    digit_JoSB = operand_digits(word_NSB, layout.addition)
    length_SB = max_digits.expand(word_NSB.shape[1:])
    if uniform_lengths:
        length_SB = sampling.take(word_NSB[2], max_digits, J)[0] + 1
    digit_oJSB = (digit_JoSB * (columns(length_SB, J) < length_SB)[:, None]).transpose(0, 1)
    if mix:
        patterned_oJSB = carry_pairs(mix.patterns, digit_JoSB, word_NSB[4], max_digits, layout.base)
        mixed_SB = (word_NSB[3] < threshold).to(torch.uint8)
        digit_oJSB = pick(mixed_SB, patterned_oJSB, digit_oJSB)
    a_SBJ, b_SBJ = digit_oJSB.movedim(1, -1).contiguous()
    return layout.encode(a_SBJ, b_SBJ)


class Eager:
    """A function of stacked tensors as it is, behind the interface of a compiled one."""

    def __init__(self, function: Function, examples: Sequence[Tensor]) -> None:
        self.function = function
        self.shapes = [tuple(example.shape[1:]) for example in examples]

    def __call__(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        return list(self.function(*inputs))


class _Buffers:
    """All that a step reads and writes, at addresses that stay."""

    def __init__(self, step_batch: StepBatch) -> None:
        device, params_SN = step_batch.params_SN.device, step_batch.params_SN
        self.batch_size = step_batch.batch_size
        S, settings = len(params_SN), len(step_batch.settings)
        self.seeds_S = torch.empty_like(step_batch.seeds_S)
        self.setting_S = torch.zeros(S, dtype=torch.int32, device=device)
        self.params_SN = torch.empty_like(params_SN)
        self.mean_SN, self.square_SN = torch.empty_like(params_SN), torch.empty_like(params_SN)
        self.slow_SN = None if step_batch.slow_SN is None else torch.empty_like(params_SN)
        self.average_SN = None if step_batch.average_SN is None else torch.empty_like(params_SN)
        self.weight_decay_S = torch.empty_like(step_batch.weight_decay_S)
        self.lr_scale_SN = None if step_batch.lr_scale_GN() is None else torch.empty_like(params_SN)
        self.constants_SX = params_SN.new_ones(S, len(CONSTANTS))
        self.loss_S = params_SN.new_zeros(S)
        self.cursor = torch.zeros(1, dtype=torch.int64, device=device)
        self.rates_CGR = params_SN.new_ones(MOST_STEPS, settings, len(RATES))
        self.number_C3 = torch.ones(MOST_STEPS, 3, dtype=torch.int64, device=device)
        """See ``step_numbers``."""

    def exchange(self, step_batch: StepBatch, copy: Callable[[Tensor, Tensor], Tensor]) -> None:
        """copy(of the buffers, of the step_batch) for everything a step changes."""
        copy(self.params_SN, step_batch.params_SN)
        copy(self.mean_SN, step_batch.mean_SN)
        copy(self.square_SN, step_batch.square_SN)
        if self.slow_SN is not None and step_batch.slow_SN is not None:
            copy(self.slow_SN, step_batch.slow_SN)
        if self.average_SN is not None and step_batch.average_SN is not None:
            copy(self.average_SN, step_batch.average_SN)

    def load(self, step_batch: StepBatch) -> None:
        self.exchange(step_batch, Tensor.copy_)
        self.seeds_S.copy_(step_batch.seeds_S)
        self.weight_decay_S.copy_(step_batch.weight_decay_S)
        self.setting_S.copy_(step_batch.setting_S)
        self.constants_SX.copy_(
            step_batch.constants_GX().to(self.setting_S.device)[step_batch.setting_S]
        )
        scale_GN = step_batch.lr_scale_GN()
        if self.lr_scale_SN is not None and scale_GN is not None:
            self.lr_scale_SN.copy_(scale_GN[step_batch.setting_S])

    def store(self, step_batch: StepBatch) -> None:
        self.exchange(step_batch, lambda own, given: given.copy_(own))


class DeviceStepper:
    """See ``engine.base.Stepper``: steps of one model on the data of one configuration."""

    def __init__(
        self,
        engine: Engine,
        map: Compiled,
        vjp: Compiled,
        form: Tables,
        data: DataConfig,
        layout: Layout,
    ) -> None:
        assert isinstance(map, Eager) and isinstance(vjp, Eager)
        self._engine, self._map, self._vjp, self._form = engine, map, vjp, form
        self._data, self._layout = data, layout
        self._run: tuple[Run, Run] | None = None
        self._kind: Hashable = None
        self._buffers: _Buffers | None = None
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, step_batch: StepBatch) -> Tensor:
        """Take the steps; loss_S before the last one."""
        buffers = self._ready(step_batch)
        buffers.load(step_batch)
        first, C = step_batch.first, step_batch.count
        for start in range(0, C, MOST_STEPS):
            stop = min(C, start + MOST_STEPS)
            buffers.rates_CGR[: stop - start].copy_(step_batch.rates_CGR(start, stop))
            numbers = step_numbers(self._data, range(first + start, first + stop), self._layout.columns)
            buffers.number_C3[: stop - start].copy_(numbers)
            buffers.cursor.zero_()
            for _ in range(start, stop):
                if self._graph:
                    self._graph.replay()
                else:
                    self.step(buffers)
        buffers.store(step_batch)
        return buffers.loss_S.clone()

    def _ready(self, step_batch: StepBatch) -> _Buffers:
        """Buffers for steps of this kind, with a recorded graph where the device has such."""
        kind = (
            *(step_batch.params_SN.shape, step_batch.batch_size, len(step_batch.settings)),
            step_batch.lr_scale_GN() is None,
            *(step_batch.slow_SN is None, step_batch.average_SN is None),
        )
        if self._buffers is None or kind != self._kind:
            self._graph = None  # first: its memory is free for the next one
            self._kind, self._buffers = kind, _Buffers(step_batch)
            self.prepare(len(step_batch.params_SN), step_batch.params_SN.device)
            if step_batch.params_SN.is_cuda:
                self._buffers.load(step_batch)
                self._graph = self._record(self._buffers)
        return self._buffers

    def prepare(self, S: int, device: torch.device) -> None:
        """The map and its derivative for so many seeds: what they compute from nothing but the model
        (rotary angles, fixed positions) is put on the device now, for a step may not copy there."""
        maps = []
        for each in (self._map, self._vjp):
            maps.append(trace(each.function, [(S, *shape) for shape in each.shapes], device))
        self._run = (maps[0], maps[1])

    def _record(self, buffers: _Buffers) -> torch.cuda.CUDAGraph:
        """The graph of one step. What the warm-up does to the buffers is for the caller to undo."""
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(WARM_UP):
                self.step(buffers)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.step(buffers)
        return graph

    def step(self, buffers: _Buffers) -> None:
        """One step at the cursor."""
        rates_GR = buffers.rates_CGR.index_select(0, buffers.cursor)[0]
        rates_SR = rates_GR.index_select(0, buffers.setting_S)
        number_3 = buffers.number_C3.index_select(0, buffers.cursor)[0]
        buffers.cursor += 1
        batch_size = buffers.batch_size
        tokens, targets = sample(self._data, self._layout, buffers.seeds_S, number_3, batch_size)
        assert self._run is not None
        forward, back = self._run
        S, shapes = len(buffers.params_SN), self._map.shapes
        columns = buffers.params_SN.split([math.prod(shape) for shape in shapes], 1)
        values = [column.reshape(S, *shape) for column, shape in zip(columns, shapes, strict=True)]
        built = iter(forward(*values))
        tables = self._form.map(lambda _: next(built))
        loss_S, table_grads = self._engine.loss_and_grad(tables, tokens, targets)
        grads = back(*values, *(grad for _, grad in table_grads.items()))
        grad_SN = torch.cat([grad.reshape(S, -1) for grad in grads], 1)
        descend(buffers, grad_SN, rates_SR, buffers.constants_SX, buffers.lr_scale_SN)
        buffers.loss_S.copy_(loss_S)


def trace(function: Function, shapes: Sequence[tuple[int, ...]], device: torch.device) -> Run:
    """The bare list of operations that a function comes down to on float32 inputs of these shapes.

    What depends on no input (rotary angles, fixed positions, lists of rows) is computed once, on the CPU
    as ever, and put on the device, so that running the list copies nothing there. Its operations are
    those of the function, in the same order; a derivative loses the forward operations that it does not
    need. The shapes must not depend on the values.
    """
    # Importing what traces takes a second, and is needed only here.
    from torch.fx import Node
    from torch.fx.experimental.proxy_tensor import make_fx
    from torch.fx.node import map_arg

    examples = [torch.ones(shape) for shape in shapes]
    function(*examples)  # what it keeps for later calls must not become part of the trace
    module = make_fx(function)(*examples)
    graph, known = module.graph, dict[Node, Any]()
    for node in list(graph.nodes):
        if node.op == "get_attr":
            known[node] = getattr(module, str(node.target))
        elif node.op == "call_function":
            if all(source in known for source in node.all_input_nodes):
                arguments = map_arg((node.args, node.kwargs), known.__getitem__)
                known[node] = node.target(*arguments[0], **arguments[1])
                continue
            schema = getattr(node.target, "_schema", None)  # taking one of several results has none
            changes = schema is not None and schema.is_mutable
            assert not (changes and node.args[0] in known), f"{node} writes into a constant"
            if "device" in node.kwargs:
                node.kwargs = {**node.kwargs, "device": device}

    constants = {
        node: value
        for node, value in known.items()
        if isinstance(value, Tensor) and any(user not in known for user in node.users)
    }
    for number, (node, value) in enumerate(constants.items()):
        name = f"constant_{number}"
        module.register_buffer(name, value.detach().to(device))
        with graph.inserting_before(node):
            place = graph.get_attr(name)
        node.replace_all_uses_with(place, delete_user_cb=lambda user: user not in known)
    graph.eliminate_dead_code()
    module.recompile()
    return module

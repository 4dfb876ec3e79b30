"""The operations recorded of a user's file, run with rounding errors instead of rounded numbers.

As ``ReadableArithmetic`` is the code of a configuration's module, this is the recording of a file's
(``adderlab.reading.trace``), taken apart where the certificate takes the model apart:

* what depends on the token at one position alone is run once for every token that may stand there;
* scores, for every token of the query and every token of the keys;
* from the mixture to the *stream*, the last tensor that is an affine function of the mixture and that
  everything after the attention passes through;
* from the stream to the logits, with the boxes of a batch in the place of the positions.

How the pieces are cut is not trusted: put together again they have to give the recording's own numbers,
in float64, on random pairs (``_taken_apart``). What has another shape (tables of scores, a sink, one
call for each position, float64 or half precision inside) is not covered, and said so.

Shapes: N boxes, P positions, V tokens of the layout, H heads, E value width, D width, Z query tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._pytree import tree_flatten

from adderlab.checker import primitives, rounding
from adderlab.checker.fp32 import Row, StepError
from adderlab.checker.intervals import Array, Interval, up
from adderlab.checker.mean_value import Real
from adderlab.checker.model import Model, Step
from adderlab.checker.rounding import FP32, Rounded
from adderlab.checker.tracing import Logits, Noisy, interpret, value_of
from adderlab.errors import Failure
from adderlab.reading.attention import Attention
from adderlab.reading.dependence import BURIED, CASTS, CREATORS, MOVES, PRODUCTS, Dependence
from adderlab.reading.reading import Reading
from adderlab.reading.trace import VIEWS, Node, Ref, needed_nodes, rebuild, run

aten = torch.ops.aten
PAIRS_TRIED = 4
AGREE = 1e-9
"""Pieces put together may differ from the recording by this much, relative to the largest number."""
MASKING = {"where", "masked_fill", "tril", "triu"}
"""Operations that choose between numbers by a mask, exactly."""
AFFINE = {"add", "sub", "neg", "mul", "div", "mm", "bmm", "addmm", "baddbmm"}
MEASURED = {
    "gelu": "gelu",
    "silu": "silu",
    "sigmoid": "sigmoid",
    "tanh": "tanh",
    "exp": "exp",
    "softplus": "softplus",
    "sin": "sine",
    "cos": "cosine",
    "rsqrt": "rsqrt",
}
"""Operations whose accuracy is measured (``primitives``) only if a model has them."""


class RecordedArithmetic:
    """Of a model read from a file. Raises ``Failure`` where its recording cannot be taken apart."""

    what = "the operations recorded of the file's model"

    def __init__(self, reading: Reading, parameters: Mapping[str, Tensor], model: Model) -> None:
        self._reading, self._trace, self._model = reading, reading.trace, model
        trace, last = self._trace, reading.steps[-1]
        if len(trace.outputs) != 1 or last.last != "logits" or last.offset:
            raise Failure("fp32 is followed where one call gives the logits of every position")
        own = {name: parameters[name].detach() for name in set(trace.parameters.values())}
        if any(tensor.dtype != torch.float32 for tensor in own.values()):
            raise Failure("its parameters are float64: how it would round in fp32 is not recorded")
        self._parameters = own
        self._bits = Dependence(trace, own)
        self._needed = needed_nodes(trace, {trace.outputs[0].number})
        self._free: dict[int, Any] = {}
        """Tensors that no token decides."""
        self._own: list[dict[int, Any]] = []
        """Those that depend on one token each: for every token, of a sequence that is nothing else."""
        self._run_alone()
        self._heads = reading.attentions[-1]
        if trace.shapes[self._heads[0].source][-1] != trace.length:
            raise Failure("fp32 is not followed through an attention sink")
        self._products = {each.softmax: self._mixing(each.softmax) for each in self._heads}
        widths = {trace.shapes[value][-1] for _, value in self._products.values()}
        if len(widths) > 1:
            raise Failure("fp32 is followed where all heads are equally wide")
        (self._value_width,) = widths
        self._width = model.head.program.mixed_width
        """What the head starts from; the row beside it comes from the recording."""
        self._after: dict[int, Array] = {}
        """Of every step, the error of the stream: (Z, W)."""
        self._scores_of = cache(self._scores)
        self._stream = self._taken_apart()

    def relies_on(self, primitive: str) -> bool:
        """See ``fp32.Arithmetic``."""
        if primitive not in (*MEASURED.values(), *primitives.OTHERS):
            return True
        names = {MEASURED.get(node.operation) for node in self._nodes()}
        if any(node.kwargs.get("approximate") == "tanh" for node in self._nodes()):
            names.add("gelu by tanh")
        return primitive in names

    # Before the attention.

    def _run_alone(self) -> None:
        trace = self._trace
        for number, name in trace.parameters.items():
            self._free[number] = Noisy(rounding.exact(self._parameters[name].double().numpy()))
        for number, tensor in trace.constants.items():
            self._free[number] = _constant(tensor)
        ids_PV = self._reading.tokens.ids_PV
        self._own = [{0: ids.reshape(trace.tokens.shape)} for ids in ids_PV.T]
        for node in self._nodes():
            numbers = [ref.number for ref in node.outputs if ref is not None]
            if all(map(self._is_free, numbers)):
                if all(ref.number in self._free for ref in node.inputs()):
                    self._put(self._free, node, self._free.__getitem__)
                else:  # as zeros of the shape of something
                    self._free |= {number: self._fixed(number) for number in numbers}
            elif all(map(self._is_alone, numbers)):
                for own in self._own:
                    self._put(own, node, self._getter({}, own))

    def _fixed(self, number: int) -> Any:
        """A number that neither tokens nor parameters decide, made from what they do."""
        value = self._bits.fixed[number]
        if not self._bits.is_fixed(number):
            raise Failure("fp32 is not followed through numbers that cancel")
        if value.is_floating_point() and not bool((value.float().double() == value).all()):
            raise Failure("fp32 is not followed through constants computed from tokens")
        return value.float() if value.is_floating_point() else value

    def _nodes(self) -> list[Node]:
        return [node for node, use in zip(self._trace.nodes, self._needed, strict=True) if use]

    def _is_free(self, number: int) -> bool:
        return not bool(self._bits.positions(number).any())

    def _is_alone(self, number: int) -> bool:
        """Whether every number of a tensor depends on one token at most."""
        bits = self._bits.positions(number)
        return not bool((bits & (bits - 1)).any())

    def _put(self, values: dict[int, Any], node: Node, get: Callable[[int], Any]) -> None:
        args, kwargs = rebuild(node, lambda ref: get(ref.number))
        try:
            results = _perform(node, args, kwargs)
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            raise Failure(f"the rounding of {node.name} could not be followed") from error
        for ref, result in zip(node.outputs, [results] if node.single else results, strict=True):
            if ref is not None:
                values[ref.number] = result

    # The attention.

    def _between(self, start: set[int], end: int) -> list[Node]:
        """The nodes from ``start`` to the tensor ``end`` whose results depend on several tokens."""
        needed = needed_nodes(self._trace, {end}, start)
        return [
            node
            for node, use in zip(self._trace.nodes, needed, strict=True)
            if use and not all(self._is_alone(ref.number) for ref in node.outputs if ref is not None)
        ]

    def _scores(self, source: int, z: int, t: int) -> Rounded:
        """(heads, queries, keys) of queries that all have the token z and keys that all have t."""
        values: dict[int, Any] = {}
        for node in self._between(set(), source):
            sides = {
                ref.number: self._own[z if place == 0 else t]
                for place, ref in enumerate(_factors(node))
                if not self._is_free(ref.number)
            }

            def get(number: int, sides: dict[int, dict[int, Any]] = sides) -> Any:
                if number in values or number in self._free:
                    return values.get(number, self._free.get(number))
                if number not in sides:
                    raise Failure(
                        "fp32 is followed through scores that are products of queries and keys"
                    )
                return sides[number][number]

            masked = self._unmasked(node, get)
            if masked is None:
                self._put(values, node, get)
            else:
                values[_made(node)] = masked
        found = value_of(values[source])
        P = self._trace.length
        return found.moved(lambda x: x.reshape(-1, P, P))

    def _unmasked(self, node: Node, get: Callable[[int], Any]) -> Any:
        """Scores before keys are hidden by a mask: what hidden keys have does not matter, for their
        weight is zero in any arithmetic (``Reading.hidden_HAJ``). None where the node hides none."""
        if node.operation not in ("masked_fill", "where", "add", "sub"):
            return None
        refs = node.inputs()
        scores = [ref for ref in refs if not self._bits.is_fixed(ref.number)]
        if len(scores) != 1:
            return None
        fixed = [self._bits.fixed[ref.number] for ref in refs if self._bits.is_fixed(ref.number)]
        if node.operation in ("masked_fill", "where"):
            return get(scores[0].number)
        if all(bool(((x == 0) | (x <= BURIED)).all()) for x in fixed):
            return get(scores[0].number)
        if any(bool((x <= BURIED).any()) for x in fixed):
            raise Failure("fp32 is not followed through a mask that also shifts scores")
        return None

    def scores(self, query: Row, keys: Sequence[Row]) -> Rounded:
        """See ``fp32.Arithmetic``."""
        (at, z), places = query, list(range(len(keys)))
        low, high, err = np.zeros((3, len(self._heads), len(keys)))
        for t in {t for _, t in keys}:
            chosen = [m for m in places if keys[m][1] == t]
            positions = [keys[m][0] for m in chosen]
            for h, head in enumerate(self._heads):
                found = self._scores_of(head.source, z, t)
                low[h, chosen] = found.known.low[head.head, at, positions]
                high[h, chosen] = found.known.high[head.head, at, positions]
                err[h, chosen] = found.err[head.head, at, positions]
        return Rounded(Interval(low, high), err)

    def _mixing(self, softmax: int) -> tuple[int, int]:
        """(the mixture, the values): the tensors that the product with these weights makes and takes."""
        weights = {ref.number for ref in self._trace.nodes[softmax].outputs if ref is not None}
        found = []
        for node in self._nodes():
            taken = [ref.number for ref in node.inputs() if ref.number in weights]
            if not taken:
                continue
            factors = _factors(node)
            if node.function in MOVES | CASTS:
                weights |= {ref.number for ref in node.outputs if ref is not None}
            elif factors and factors[0].number in weights and self._is_alone(factors[1].number):
                found.append((_made(node), factors[1].number))
            else:
                raise Failure("fp32 is followed where one product mixes the values")
        if len(found) != 1:
            raise Failure("fp32 is followed where one product mixes the values")
        return found[0]

    def values(self, rows: Sequence[Row]) -> Rounded:
        """See ``fp32.Arithmetic``."""
        tokens, positions = [t for _, t in rows], [p for p, _ in rows]
        low, high, err = np.zeros((3, len(rows), len(self._heads), self._value_width))
        for h, head in enumerate(self._heads):
            _, number = self._products[head.softmax]
            each = [value_of(own[number]) for own in self._own]

            def chosen(end_VHPE: Sequence[Array], head: Attention = head) -> Array:
                P = self._trace.length
                return np.stack([x.reshape(-1, P, x.shape[-1])[head.head] for x in end_VHPE])[
                    tokens, positions
                ]

            low[:, h] = chosen([x.known.low for x in each])
            high[:, h] = chosen([x.known.high for x in each])
            err[:, h] = chosen([x.err for x in each])
        return Rounded(Interval(low[:, :, None], high[:, :, None]), err[:, :, None])

    # From the mixture to the stream.

    def _streams(self) -> list[int]:
        """Tensors that are affine in the mixture, that all later ones pass through, and that are as wide
        as what the head of the certificate starts from; the last first."""
        mixtures = {mixture for mixture, _ in self._products.values()}
        nodes = self._between(mixtures, self._trace.outputs[0].number)
        last_use = {ref.number: k for k, node in enumerate(nodes) for ref in node.inputs()}
        affine, live = set(mixtures), set(mixtures)
        found = [number for number in mixtures if len(mixtures) == 1]
        for k, node in enumerate(nodes):
            derived = [ref.number for ref in node.inputs() if ref.number in live]
            made = [ref.number for ref in node.outputs if ref is not None]
            if set(derived) <= affine and _is_affine(node, derived):
                affine |= set(made)
            live = {number for number in live | set(made) if last_use.get(number, -1) > k}
            if live == set(made[:1]) <= affine:
                found.append(made[0])
        return [
            number
            for number in reversed(found)
            if math.prod(self._trace.shapes[number]) == self._trace.length * self._width
        ]

    def stream(self, step: Step, error: StepError, z_N: NDArray[np.intp], real: Real) -> Rounded:
        """See ``fp32.Arithmetic``."""
        if step.index not in self._after:
            self._after[step.index] = self._stream_error(step, error.mixed)
        err = np.zeros(real.shape)
        err[:, : self._width] = self._after[step.index][z_N]
        return Rounded(real, err, FP32, True, err)

    def _stream_error(self, step: Step, mixed: Rounded) -> Array:
        """(Z, D), whatever the mixture within its range."""
        at = self._model.geometry.query_positions[step.index]
        rows = []
        for z, token in enumerate(step.tokens):
            values = self._mixtures(mixed, z, at)
            for node in self._between(set(values), self._stream):
                self._put(values, node, self._getter(values, self._own[token]))
            rows.append(value_of(values[self._stream]).err.reshape(self._trace.length, -1)[at])
        return np.stack(rows)

    def _mixtures(self, mixed: Rounded, z: int, at: int) -> dict[int, Any]:
        """The tensors that products with weights make, of one query token; zeros at other positions."""
        E = mixed.shape[1] // len(self._heads)
        ends = (mixed.known.low, mixed.known.high, mixed.err)
        arrays: dict[int, Array] = {}
        for h, head in enumerate(self._heads):
            mixture = self._products[head.softmax][0]
            shape = self._trace.shapes[mixture]
            if mixture not in arrays:
                arrays[mixture] = np.zeros((3, *shape))
            for end, whole in zip(arrays[mixture], ends, strict=True):
                end.reshape(-1, shape[-2], E)[head.head, at] = whole[z, h * E : (h + 1) * E]
        return {
            mixture: Noisy(Rounded(Interval(low, high), err, FP32))
            for mixture, (low, high, err) in arrays.items()
        }

    def _getter(self, values: dict[int, Any], own: dict[int, Any]) -> Callable[[int], Any]:
        def get(number: int) -> Any:
            for each in (values, self._free, own):
                if number in each:
                    return each[number]
            raise Failure("fp32 is not followed through this mixture of positions")

        return get

    # From the stream to the logits, N boxes in the place of P positions.

    def logits(self, step: Step, z_N: NDArray[np.intp], x_ND: Rounded) -> Rounded:
        """See ``fp32.Arithmetic``."""
        at = self._model.geometry.query_positions[step.index]
        token_N, N = np.array(step.tokens)[z_N], len(z_N)
        output = self._trace.outputs[0].number
        x_NW = x_ND.moved(lambda x: x[:, : self._width])
        values: dict[int, Any] = {self._stream: self._reshaped(x_NW, self._stream, N)}
        for node in self._between({self._stream}, output):

            def get(number: int, node: Node = node) -> Any:
                if number in values:
                    return values[number]
                if number in self._free:
                    return self._free_at_row(number, at, node)
                return self._own_at_row(number, at, token_N)

            if node.function in VIEWS or node.function is aten.expand.default:
                taken, made = node.inputs()[0].number, _made(node)
                values[made] = self._reshaped(value_of(values[taken]), made, N)
                continue
            self._put(values, node, get)
            if tuple(values[_made(node)].shape) != self._with_rows(_made(node), N):
                raise Failure("fp32 is not followed where positions are rearranged after the attention")
        found = value_of(values[output]).moved(lambda x: x.reshape(N, -1))
        order = list(self._reading.tokens.order)
        return found.moved(lambda x: x[:, order])

    def read_out(self, step: Step, z_N: NDArray[np.intp], x_ND: Rounded) -> Logits:
        """Cut off at the stream after the attention."""
        return Logits(stream=x_ND, logits=self.logits(step, z_N, x_ND))

    def _rows_axis(self, shape: Sequence[int]) -> int:
        """Which axis of a tensor after the attention are the positions."""
        P = self._trace.length
        if len(shape) > 1 and shape[0] == 1 and shape[1] == P:
            return 1
        if shape and shape[0] == P:
            return 0
        raise Failure("fp32 is not followed where positions are rearranged after the attention")

    def _with_rows(self, number: int, N: int) -> tuple[int, ...]:
        """The shape of a tensor with boxes in the place of positions: the first axis."""
        shape = self._trace.shapes[number]
        return (N, *shape[1:]) if self._rows_axis(shape) == 0 else (N, 1, *shape[2:])

    def _reshaped(self, x: Rounded, number: int, N: int) -> Noisy:
        shape = self._with_rows(number, N)
        if int(np.prod(x.shape)) != int(np.prod(shape)):
            raise Failure("fp32 is not followed where numbers are repeated after the attention")
        return Noisy(x.moved(lambda array: array.reshape(shape)))

    def _free_at_row(self, number: int, at: int, node: Node) -> Any:
        """What no token decides; where it differs from position to position, at the query's."""
        value, shape = self._free[number], self._trace.shapes[number]
        result = self._trace.shapes[_made(node)]
        axis = self._rows_axis(result) - len(result) + len(shape)
        if axis < 0 or shape[axis] == 1 or node.operation in PRODUCTS or not isinstance(value, Noisy):
            return value
        index = (slice(None),) * axis + (slice(at, at + 1),)
        return Noisy(value.value.moved(lambda x: x[index]))

    def _own_at_row(self, number: int, at: int, token_N: NDArray[np.intp]) -> Noisy:
        """Of every box, the numbers of its token at the query's position."""
        axis = self._rows_axis(self._trace.shapes[number])
        rows = [value_of(own[number]).moved(lambda x: np.take(x, [at], axis)) for own in self._own]

        def chosen(parts: list[Array]) -> Array:
            return np.take(np.concatenate(parts, axis), token_N, axis)

        return self._reshaped(rounding.join(rows, chosen), number, len(token_N))

    # Put together again.

    def _taken_apart(self) -> int:
        """The stream. The pieces have to be the recording's own numbers, in float64, on random pairs."""
        streams = self._streams()
        points = self._points({*streams, *(mixture for mixture, _ in self._products.values())})
        for rows, found in points:
            self._require_mixture(rows, found)
        why = Failure("fp32 is followed where the attention's output joins one stream")
        for self._stream in streams:
            try:
                for rows, found in points:
                    self._require_stream(rows, found)
                    self._require_logits(rows, found)
                return self._stream
            except Failure as failure:
                why = failure
        raise why

    def _points(self, wanted: set[int]) -> list[tuple[list[Row], Mapping[int, Tensor]]]:
        """Random pairs, each as its rows, with the wanted tensors and the output as recorded."""
        layout, task = self._reading.layout, self._reading.layout.addition
        generator = torch.Generator().manual_seed(0)
        digits = torch.randint(
            0, task.base, (2, PAIRS_TRIED, task.columns), generator=generator, dtype=torch.uint8
        )
        tokens_BP, _ = layout.encode(digits[0], digits[1])
        wide = {name: tensor.double() for name, tensor in self._parameters.items()}
        points: list[tuple[list[Row], Mapping[int, Tensor]]] = []
        for tokens_P in tokens_BP.long():
            ids = self._reading.tokens.of(tokens_P[None]).reshape(self._trace.tokens.shape)
            with torch.no_grad():
                found = run(self._trace, wide, ids, {self._trace.outputs[0].number, *wanted})
            points.append(([(p, int(t)) for p, t in enumerate(tokens_P)], found))
        return points

    def _asked(self, rows: Sequence[Row]) -> Iterator[tuple[Step, Row, list[Row]]]:
        """Every step with its query and keys."""
        for step in self._model.steps:
            at = self._model.geometry.query_positions[step.index]
            if rows[at][1] in step.tokens:
                yield step, rows[at], list(rows[: at + 1])

    def _row(self, found: Mapping[int, Tensor], number: int, at: int) -> Array:
        return found[number].reshape(self._trace.length, -1)[at].numpy()

    def _require_mixture(self, rows: Sequence[Row], found: Mapping[int, Tensor]) -> None:
        for step, (at, z), keys in self._asked(rows):
            hidden_HM = self._reading.hidden_HAJ[:, step.index, : at + 1].numpy()
            score_HM = np.where(hidden_HM, -np.inf, _middle(self.scores((at, z), keys)))
            value_MHE = _middle(self.values(keys))[:, :, 0]
            mixed_HE = np.einsum("hm,mhe->he", _softmax(score_HM), value_MHE)
            for h, head in enumerate(self._heads):
                whole = found[self._products[head.softmax][0]]
                own = whole.reshape(-1, whole.shape[-2], whole.shape[-1])[head.head, at].numpy()
                _require_same(mixed_HE[h], own, "attention")

    def _require_stream(self, rows: Sequence[Row], found: Mapping[int, Tensor]) -> None:
        """It is what the certificate's boxes are about."""
        for step, (at, z), keys in self._asked(rows):
            mixed_HE = self._value_mix(step, z, at, keys)
            table_D = np.einsum("he,hed->d", mixed_HE, _mid(self._model.out_HED))
            table_D = table_D + _mid(self._model.residual_AVD[step.index, z])
            _require_same(table_D[: self._width], self._row(found, self._stream, at), "stream")

    def _require_logits(self, rows: Sequence[Row], found: Mapping[int, Tensor]) -> None:
        order, output = list(self._reading.tokens.order), self._trace.outputs[0].number
        for step, (at, z), _ in self._asked(rows):
            z_N = np.array([step.tokens.index(z)])
            stream_NW = self._row(found, self._stream, at)[np.newaxis]
            logits = self.logits(step, z_N, rounding.exact(stream_NW))
            _require_same(_middle(logits)[0], self._row(found, output, at)[order], "logits")

    def _value_mix(self, step: Step, z: int, at: int, keys: Sequence[Row]) -> Array:
        """What the tables mix: (H, E) in the coordinates of the certificate's boxes."""
        positions, tokens = (list(part) for part in zip(*keys, strict=True))
        score_HM = _mid(self._model.scores(step.index, z, at))[:, positions, tokens]
        hidden_HM = self._model.hidden(step.index, z, at)[:, positions, tokens]
        score_HM = np.where(hidden_HM, -np.inf, score_HM)
        value_MHE = _mid(self._model.value_PVHE[positions, tokens])
        return np.einsum("hm,mhe->he", _softmax(score_HM), value_MHE)


def _perform(node: Node, args: Any, kwargs: dict[str, Any]) -> Any:
    """One recorded operation; between whole numbers, and where numbers are only chosen, as PyTorch does
    it."""
    leaves = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, Tensor)]
    noisy = any(isinstance(leaf, Noisy) for leaf in leaves)
    if node.function in CASTS and (noisy or args[0].is_floating_point()):
        target = kwargs.get("dtype") or next((a for a in args[1:] if isinstance(a, torch.dtype)), None)
        if target not in (None, torch.float32):
            raise Failure(f"it computes in {str(target).removeprefix('torch.')} in between")
        return args[0]
    if not noisy:
        whole = not any(leaf.is_floating_point() for leaf in leaves)
        name = node.operation
        if (
            node.function in MOVES
            or name in CREATORS | MASKING
            or (whole and name not in ("div", "pow"))
        ):
            result = node.function(*args, **kwargs)
            floats = isinstance(result, Tensor) and result.is_floating_point()
            if not floats or name in CREATORS | MASKING or node.function in MOVES or _is_whole(result):
                return result
    if node.function in VIEWS and noisy:
        return Noisy(value_of(args[0]).moved(lambda x: x.reshape(tuple(args[1]))))
    return interpret(node.function, args, kwargs)


def _is_whole(x: Tensor) -> bool:
    return bool((x == x.round()).all()) and float(x.abs().max()) < 2**24


def _constant(tensor: Tensor) -> Any:
    """Numbers of the file: exact where fp32 has them."""
    if not tensor.is_floating_point():
        return tensor
    if tensor.dtype not in (torch.float32, torch.float64):
        raise Failure(f"it holds numbers in {str(tensor.dtype).removeprefix('torch.')}")
    if not bool(torch.isfinite(tensor).all()):
        return tensor  # a mask
    exact = tensor.double().numpy()
    found = rounding.exact(exact)
    rounded = exact.astype(np.float32).astype(np.float64) != exact
    err = up(found.err + np.where(rounded, up(2.0 * FP32.unit * np.abs(exact)), 0.0))
    return Noisy(Rounded(found.real, err, FP32))


def _made(node: Node) -> int:
    """Its first result."""
    assert node.outputs[0] is not None
    return node.outputs[0].number


def _factors(node: Node) -> list[Ref]:
    """The two factors of a product."""
    if node.operation not in PRODUCTS:
        return []
    refs = [x for x in node.args if isinstance(x, Ref)]
    return refs[-2:]


def _is_affine(node: Node, derived: Sequence[int]) -> bool:
    if node.function in MOVES | CASTS:
        return True
    if node.operation == "constant_pad_nd":
        return not any(node.args[2:])
    if node.operation not in AFFINE:
        return False
    if node.operation in ("add", "sub", "neg"):
        return True
    if node.operation == "mul":
        return len(derived) == 1
    if node.operation == "div":
        return len(derived) == 1 and isinstance(node.args[0], Ref) and node.args[0].number == derived[0]
    factors = [ref.number for ref in _factors(node)]
    return sum(number in derived for number in factors) == 1


def _softmax(score_HM: Array) -> Array:
    weight_HM = np.exp(score_HM - score_HM.max(1, keepdims=True))
    return weight_HM / weight_HM.sum(1, keepdims=True)


def _mid(x: Interval) -> Array:
    return 0.5 * (x.low + x.high)


def _middle(x: Rounded) -> Array:
    if not np.isfinite(x.err).all():  # then stand-ins are enclosed (``rounding``)
        raise Failure("numbers may overflow in fp32, or what divides them may come out as zero")
    return 0.5 * (x.real.low + x.real.high)


def _require_same(ours: Array, theirs: Array, what: str) -> None:
    if not np.allclose(ours, theirs, rtol=AGREE, atol=AGREE * (1.0 + float(np.abs(theirs).max()))):
        raise Failure(
            f"its recorded operations could not be taken apart (the {what} came out otherwise)"
        )

"""Reads a stranger's model in its own process, and hands out what was read, as data.

The only program here that uses adderlab: the very reading that a user's own file gets
(``adderlab.reading``). Its answers may be forged by the stranger's code like all that is said here; what
the parent does about that is in ``publish/handout.py`` and ``publish/decide.py``.

Requests are ``{"do": ...}``:

read      run the file and read its model: form, sizes, how it is asked; or why it cannot be read
numbers   some entries of one table, as base64 of little-endian float64
logits    what the model itself answers to sequences of tokens
attack    the pair that comes nearest to failing, of the strata and a local search
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import sys
import time
import types
from collections.abc import Callable
from typing import Any

from .worker import adder_of, serve

_NEAR = 3
"""Starts of the local search, for each digit of the sum."""
_ATTACKED = 20
"""Pairs of each stratum that are tried before it."""
_ROWS_OF_A_START = 30_000
"""Sequences that a search from one pair for each digit asks for, about."""


def main(arguments: str) -> None:
    """As ``worker.main``, with ``adderlab``: the folder that holds the package."""
    settings = json.loads(arguments)

    def prepare() -> Callable[[str], Any]:
        # In front, and it holds nothing else: what lies beside the submission may have any name.
        sys.path.insert(0, settings["adderlab"])
        import torch

        import adderlab.proof.trials
        import adderlab.reading.file_model
        import adderlab.runs.checkpoints  # noqa: F401

        torch.set_num_threads(1)
        vars(torch)["set_num_threads"] = lambda count: None
        return lambda path: Reader(path, settings["model"], settings["add"])

    serve(settings, prepare)


class Reader:
    """The stranger's model, read. ``model`` and ``add``: as of ``worker.Submission``."""

    def __init__(self, path: str, model: str = "build_model", add: str = "add") -> None:
        self._path, self._names = path, (model, add)
        self._module: Any = None
        self._config: Any = None
        self._tables: dict[str, Any] = {}

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """The reply to one request."""
        try:
            # A file may print while it is read, thousands of times.
            with contextlib.redirect_stdout(io.StringIO()):
                return getattr(self, request["do"])(request)
        except BaseException as error:
            memory = isinstance(error, MemoryError) or "can't allocate memory" in str(error)
            text = str(error) if type(error).__name__ in ("Failure", "UsageError") else _named(error)
            leaves = isinstance(error, (SystemExit, KeyboardInterrupt))
            return {"error": text[:600], "memory": memory, "exit": leaves}

    def read(self, request: dict[str, Any]) -> dict[str, Any]:
        from pathlib import Path

        import torch

        from adderlab.files.schema import to_dict
        from adderlab.reading import file_model
        from adderlab.runs.checkpoints import Checkpoint

        load = file_model.load_file
        file_model.load_file = lambda path: _renamed(load(path), *self._names)
        try:
            self._config, params = file_model.read_file(Path(self._path))
        finally:
            file_model.load_file = load
        checkpoint = Checkpoint(
            config=self._config, params=params, recipe={}, step=0, val_exact=float("nan")
        )
        self._module = checkpoint.module()
        if self._config.no_tables is not None:
            return {"no_tables": self._config.no_tables[:600]}
        with torch.no_grad():
            stacked = {name: tensor.double() for name, tensor in checkpoint.stacked().items()}
            tables = self._config.tables(stacked, exact=True)
        self._tables = {name: tensor[0].contiguous() for name, tensor in tables.items()}
        form, bound, live = tables.form, self._config.bound(), self._config.live
        assert live.reading is not None and live.agreement is not None
        return {
            "layout": to_dict(form.layout),
            "program": to_dict(form.program),
            "sizes": [form.heads, form.key_dim, form.value_dim],
            "tables": {name: list(tensor.shape) for name, tensor in self._tables.items()},
            "file": {
                "parameters": bound["parameters"],
                "ids": bound["ids"],
                "order": bound["order"],
                "double": bound["double"],
                "trace_sha256": bound["trace_sha256"],
            },
            "weights_sha256": checkpoint.weights_sha256,
            "last": live.reading.steps[0].last,
            "precision": live.agreement.precision,
        }

    def numbers(self, request: dict[str, Any]) -> dict[str, Any]:
        flat = self._tables[request["name"]].reshape(-1)
        part = flat[request["start"] : request["start"] + request["count"]]
        return {"numbers": _packed(part)}

    def logits(self, request: dict[str, Any]) -> dict[str, Any]:
        """Of full sequences of the layout's tokens: at each answer step the model is called with what
        stands before it, in the precision in which it agreed with its tables."""
        import torch

        from adderlab.reading.agreement import running

        config, foreign = self._config, self._module.foreign
        steps = []
        with torch.no_grad(), running(foreign.model, config.live.agreement.precision):
            for row in request["tokens"]:
                own = foreign.tokens.of(torch.tensor([row]))
                for last in config.token_layout.query_positions:
                    found = foreign.call(own[:, : last + 1])[..., list(config.order)]
                    steps.append(found.reshape(-1, len(config.order))[-1].double())
        return {"numbers": _packed(torch.stack(steps))}

    def attack(self, request: dict[str, Any]) -> dict[str, Any]:
        """In about ``budget`` seconds: a slow model is asked about fewer strata, and not searched."""
        from adderlab.evaluation.suites import strata
        from adderlab.proof.trials import attack
        from adderlab.proof.witnesses import model_margins

        task = self._config.token_layout.addition
        suite = strata(_ATTACKED, request["seed"], task)
        began = time.monotonic()
        margin_BI = model_margins(self._module, suite.groups[0].a_BJ, suite.groups[0].b_BJ)
        rows = request["budget"] / (time.monotonic() - began) * len(margin_BI)
        if rows >= _ROWS_OF_A_START:
            starts = min(_NEAR, int(rows / _ROWS_OF_A_START))
            worst = attack(self._module, suite, None, starts=starts).worst
            return {"pair": list(worst.pair), "margin": worst.margin}
        found = []
        for group in suite.groups[: max(1, int(rows / _ATTACKED))]:
            least_B = model_margins(self._module, group.a_BJ, group.b_BJ).min(1).values
            row = int(least_B.argmin())
            pair = [_number(digits[row], task.base) for digits in (group.a_BJ, group.b_BJ)]
            found.append((float(least_B[row]), pair))
        margin, pair = min(found)
        return {"pair": pair, "margin": margin}


def _renamed(module: Any, model: str, add: str) -> Any:
    """The module with ``build_model`` and ``add``, whatever it calls them."""
    if model != "build_model":
        found = getattr(module, model)
        builds = isinstance(found, (types.FunctionType, type))
        module.build_model = found if builds else lambda: found
    if add != "add":
        module.add = lambda own, a, b: _adder(module, own, add)(own, a, b)
    return module


def _adder(module: Any, model: Any, add: str) -> Callable[[Any, int, int], Any]:
    found = adder_of(module, model, add)
    if found is None:
        raise ValueError(f"it has no function {add}")
    return found


def _number(digits: Any, base: int) -> int:
    return sum(int(digit) * base**j for j, digit in enumerate(digits))


def _packed(tensor: Any) -> str:
    return base64.b64encode(tensor.contiguous().numpy().astype("<f8").tobytes()).decode()


def _named(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"

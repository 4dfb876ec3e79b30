"""The model as an ONNX graph: tokens (batch, length) in, logits (batch, length, vocabulary) out.

The greedy loop stays outside, as everywhere. Needs onnx, onnxscript and onnxruntime: the extra
``publish``.
"""

from __future__ import annotations

import importlib
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from adderlab.errors import Failure, UsageError
from adderlab.task.layouts import Layout

TOLERANCE = 5e-4
"""Largest difference of logits, relative to the largest logit. ONNX Runtime's GELU errs more than
PyTorch's, and a norm of small numbers magnifies that: 2e-4 for a freshly drawn 456p on AVX2, where
PyTorch is 2e-6 away from double precision. Trained models stay far below."""


def onnx_bytes(model: nn.Module, layout: Layout, metadata: dict[str, str]) -> bytes:
    """The graph of ``model``, already compared with it. Batch and length are free.

    Raises ``UsageError`` without the extra ``publish``, ``Failure`` if the graph differs.
    """
    _require()
    longest = layout.num_positions
    tokens = torch.zeros(2, longest - 1, dtype=torch.int64)
    free = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length", min=2, max=longest)}
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            model,
            (tokens,),
            dynamo=True,
            input_names=["tokens"],
            output_names=["logits"],
            dynamic_shapes=(free,),
            verbose=False,
        )
    assert program is not None
    graph = program.model_proto
    for key, value in metadata.items():
        entry = graph.metadata_props.add()
        entry.key, entry.value = key, value
    data = graph.SerializeToString()
    _compare(data, model, layout)
    return data


def run_onnx(data: bytes, tokens_BT: Tensor) -> Tensor:
    """Logits of an ONNX graph, by ONNX Runtime on one thread."""
    return torch.from_numpy(_session(data).run(None, {"tokens": tokens_BT.numpy()})[0])


def _session(data: bytes) -> Any:
    onnxruntime: Any = importlib.import_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def _compare(data: bytes, model: nn.Module, layout: Layout) -> None:
    generator = torch.Generator().manual_seed(0)
    for batch, length in ((1, layout.num_prompt), (7, layout.num_positions)):
        tokens_BT = torch.randint(layout.vocab_size, (batch, length), generator=generator)
        with torch.no_grad():
            right_BTV = model(tokens_BT)
        worst = float((run_onnx(data, tokens_BT) - right_BTV).abs().max() / right_BTV.abs().max())
        if not worst <= TOLERANCE:
            raise Failure(f"the ONNX graph differs from the model by {worst:.1e}; nothing was written")


def _require() -> None:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            raise UsageError(
                f"--to onnx needs the package {name}: pip install 'adderlab[publish]'"
            ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter's own notes (torchvision is missing, deprecations inside PyTorch) concern nobody."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)

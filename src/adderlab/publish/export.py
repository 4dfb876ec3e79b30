"""Writing a model out: a board submission, weights, a folder for a model hub, an ONNX graph.

Whatever is written is first compared with the checkpoint's own model.
"""

from __future__ import annotations

import importlib
import json
import logging
import subprocess
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from adderlab.engine.torch_tables import TorchEngine
from adderlab.errors import Failure, UsageError
from adderlab.evaluation.exact import oracle_decoder
from adderlab.files.atomic import make_folder, write_bytes, write_json, write_text
from adderlab.models.tables import why_no_tables
from adderlab.publish.model_card import (
    SUITES,
    Credits,
    Evidence,
    ask_prover,
    config_json,
    issue_form,
    measure,
    model_card,
    read_certificate,
    success_rate,
    title,
)
from adderlab.publish.submission import inlined_source, submission_source
from adderlab.reading.file_model import FileModel
from adderlab.reading.running import built, load_file, parameters_of
from adderlab.results import Result
from adderlab.runs.checkpoints import Checkpoint, load_checkpoint, save_safetensors
from adderlab.runs.metadata import start_of
from adderlab.task.addition import PUBLISHED, Addition, Layout, from_digits, number_word
from adderlab.task.sampling import uniform_pairs

Kind = Literal["adderboard", "safetensors", "hub-folder", "onnx"]
KINDS: tuple[Kind, ...] = get_args(Kind)
COMPARED_PAIRS = 1000
COMPARED_FILE_PAIRS = 30
"""Of a user's file, each through its own ``add``."""

ONNX_TOLERANCE = 5e-4
"""Largest difference of logits, relative to the largest logit. ONNX Runtime's GELU errs more than
PyTorch's, and a norm of small numbers magnifies that: 2e-4 for a freshly drawn 456p on AVX2, where
PyTorch is 2e-6 away from double precision. Trained models stay far below."""

_USE_SUBMISSION = """```python
import {module}

model, metadata = {module}.build_model()
print({module}.add(model, {a}, {b}))
```"""
_USE_WEIGHTS = 'Load the weights with `adderlab.load("{name}")`, or:\n\n{commands}'
_USE_ONNX = """Input `tokens`, int64 (batch, length); output `logits` (batch, length, vocabulary). How a
prompt is written stands in the graph's metadata under `adderlab`. Append the token with the largest
logit at the last position, {times} times: the digits of the sum, units first."""
_NOT_FOR_THE_BOARD = (
    "AdderBoard ranks adders of ten-digit numbers, which this is not; the file has the board's form, "
    "and `adderlab verify` reads the size of its task off its metadata."
)


_SUFFIXES = {"adderboard": ".py", "safetensors": ".safetensors", "onnx": ".onnx"}


@dataclass(frozen=True, kw_only=True)
class Publication:
    """One model, who publishes it, and what is known about it."""

    checkpoint: Checkpoint
    credits: Credits
    evidence: Evidence


@dataclass(frozen=True, kw_only=True, repr=False)
class Exported(Result):
    """What was written, and what its texts say about the model."""

    written: tuple[Path, ...]
    """The main file or folder first."""
    publication: Publication

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        evidence = self.publication.evidence
        return {
            "written": [str(path) for path in self.written],
            "parameters": self.publication.checkpoint.num_parameters,
            "accuracy": {report.suite: report.total.exact_match for report in evidence.reports},
            "verdict": None if evidence.proof is None else evidence.proof.verdict,
        }

    def describe(self) -> list[str]:
        """The same for people, one statement a line."""
        paths = ", ".join(map(str, self.written))
        evidence = self.publication.evidence
        return [*evidence.lines(), f"Written, and compared with the checkpoint: {paths}"]


def export(
    checkpoint: Checkpoint | Path | str,
    *,
    to: str,
    output: Path | str,
    name: str | None = None,
    author: str | None = None,
    certificate: Path | str | None = None,
    prove: bool = True,
    suites: tuple[str, ...] = SUITES,
) -> Exported:
    """Measure a model, ask the prover about it, and write it out for others.

    ``to`` is "adderboard" (one Python file that needs torch only, and beside it the text of the board's
    issue form), "safetensors", "onnx" (one file and a model card) or "hub-folder" (``output`` is then a
    folder). A checkpoint that lies in a run's folder also brings the success rate of that run.
    ``name`` is the zoo's by default, or the number of parameters; ``author`` git's. ``certificate`` is a
    file of ``adderlab prove`` for these weights; without one the prover is asked for up to a minute,
    unless ``prove`` is false. The accuracy is measured on ``suites``.

    Raises ``UsageError`` for an unknown kind or suite, a certificate of other weights, or a model that
    the format cannot hold, and ``Failure`` if a file is damaged, if what was made does not compute what
    the checkpoint computes (nothing is written then), or if the disk refuses.
    """
    loaded = checkpoint if isinstance(checkpoint, Checkpoint) else load_checkpoint(Path(checkpoint))
    loaded.need_code()
    if to not in KINDS:
        raise UsageError(f"no export {to!r}; there are {', '.join(KINDS)}")
    output, suffix = Path(output), _SUFFIXES.get(to)
    if suffix is not None and output.suffix != suffix:
        named = output.with_suffix(suffix)
        raise UsageError(f"{output}: {to} is a {suffix} file; give for example {named}")
    certificate_bytes, proof, why_no_proof = None, None, "the prover was not asked"
    if certificate is not None:
        proof, certificate_bytes = read_certificate(Path(certificate), loaded)
    elif prove:
        why_no_proof = why_no_tables(loaded.config) or ""
        proof = None if why_no_proof else ask_prover(loaded)
    evidence = Evidence(
        reports=measure(loaded, TorchEngine(1), suites),
        proof=proof,
        why_no_proof=why_no_proof,
        rate=success_rate(loaded.path),
        certificate=certificate_bytes,
    )
    credits = Credits(name=name or title(loaded.config), author=author or _git_author())
    publication = Publication(checkpoint=loaded, credits=credits, evidence=evidence)
    return Exported(written=tuple(write(publication, to, output)), publication=publication)


def _git_author() -> str:
    try:
        done = subprocess.run(["git", "config", "user.name"], capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return "anonymous"
    return done.stdout.strip() or "anonymous"


def write(publication: Publication, to: str, output: Path) -> list[Path]:
    """Write the publication; the paths written, the main one first.

    Raises ``UsageError`` for an unknown kind or a model that it cannot hold, ``Failure`` if what was
    made does not compute what the checkpoint computes, or if the disk refuses.
    """
    writers: dict[str, Callable[[Publication, Path], list[Path]]] = {
        "adderboard": _adderboard,
        "safetensors": _safetensors,
        "hub-folder": _hub_folder,
        "onnx": _onnx,
    }
    return writers[to](publication, output)


def load_source(source: str, name: str = "submission") -> ModuleType:
    """A submission written by this program as a module. Runs its code: never for a stranger's file."""
    module = ModuleType(name)
    exec(compile(source, f"{name}.py", "exec"), module.__dict__)
    return module


def compared_source(checkpoint: Checkpoint, credits: Credits) -> str:
    """The submission's source, compared with the checkpoint. Raises ``Failure`` if it differs."""
    start = start_of(checkpoint)
    if isinstance(checkpoint.config, FileModel):
        source = inlined_source(checkpoint.config, checkpoint.params, credits, start)
        compare_file(source, checkpoint)
        return source
    source = submission_source(checkpoint.config, checkpoint.params, credits, start)
    compare(load_source(source), checkpoint)
    return source


@torch.no_grad()
def compare_file(source: str, checkpoint: Checkpoint, pairs: int = COMPARED_FILE_PAIRS) -> None:
    """Raises ``Failure`` unless a user's file with its weights, alone in a folder, has the checkpoint's
    parameters and answers."""
    original = checkpoint.module()
    with tempfile.TemporaryDirectory() as folder:
        alone = Path(folder) / "submission.py"
        alone.write_text(source)
        try:
            module = load_file(alone)
            model = built(module)
        except Failure as failure:
            raise _differs(f"alone in a folder it does not run ({failure})") from failure
        found = parameters_of(model)
        for name, tensor in checkpoint.params.items():
            if name not in found or not torch.equal(found[name].to(tensor.dtype), tensor):
                raise _differs(f"its parameter {name} is another")
        task = checkpoint.config.token_layout.addition
        for a_J, b_J in zip(*uniform_pairs(0, pairs, task), strict=True):
            a, b = int(from_digits(a_J, task.base)), int(from_digits(b_J, task.base))
            answer, expected = module.add(model, a, b), original.own_sum(a, b)
            if answer != expected and expected != -1:
                raise _differs(f"add({a}, {b}) is {answer}, not {expected}")


@torch.no_grad()
def compare(module: ModuleType, checkpoint: Checkpoint, pairs: int = COMPARED_PAIRS) -> None:
    """Raises ``Failure`` unless count, greedy answers and ``add`` are those of the checkpoint."""
    original, layout = checkpoint.module(), checkpoint.config.token_layout
    digits, base = layout.sum_digits, layout.base
    model, metadata = module.build_model()
    if metadata["params"] != checkpoint.num_parameters:
        raise _differs(f"it counts {metadata['params']} parameters, not {checkpoint.num_parameters}")
    a_BJ, b_BJ = uniform_pairs(0, pairs, layout.addition)
    expected_BI = oracle_decoder(original)(a_BJ, b_BJ)[:, :digits]
    prompts = layout.encode_prompt(a_BJ, b_BJ).long()
    answers_BI = module.generate(model, prompts, digits)
    different = int((answers_BI != expected_BI).any(1).sum())
    if different:
        raise _differs(f"its answers to {different} of {pairs} pairs are others")
    for row in range(min(3, pairs)):
        a, b = int(from_digits(a_BJ[row], base)), int(from_digits(b_BJ[row], base))
        answer_I = expected_BI[row]
        expected = int(from_digits(answer_I, base)) if int(answer_I.max()) < base else -1
        if module.add(model, a, b) != expected:
            raise _differs(f"add({a}, {b}) is {module.add(model, a, b)}, not {expected}")


def _differs(how: str) -> Failure:
    return Failure(f"the file made is not the checkpoint's model: {how}; nothing was written")


def _adderboard(publication: Publication, output: Path) -> list[Path]:
    checkpoint, credits = publication.checkpoint, publication.credits
    source = compared_source(checkpoint, credits)
    task = checkpoint.config.token_layout.addition
    if task != PUBLISHED:
        write_text(output, source)
        module = output.stem if output.stem.isidentifier() else "submission"
        usage = f"{_use_submission(module, task)}\n\n{_NOT_FOR_THE_BOARD}"
        return [output, _card_beside(publication, output, "the model, needs torch only", usage)]
    text = issue_form(checkpoint, credits, publication.evidence, output.name)
    beside = output.with_suffix(".md")
    write_text(output, source)
    write_text(beside, text)
    return [output, beside]


def _use_submission(module: str, task: Addition) -> str:
    a, b = _example(task)
    return _USE_SUBMISSION.format(module=module, a=a, b=b)


def _example(task: Addition) -> tuple[int, int]:
    """A pair for people: 1234567890 and 9876543210, as far as the columns go."""
    return 1234567890 % task.limit, 9876543210 % task.limit


def _safetensors(publication: Publication, output: Path) -> list[Path]:
    save_safetensors(output, publication.checkpoint)
    return [
        output,
        _card_beside(publication, output, "weights and configuration", _commands(publication, output)),
    ]


def _onnx(publication: Publication, output: Path) -> list[Path]:
    checkpoint = publication.checkpoint
    if isinstance(checkpoint.config, FileModel):
        raise UsageError("to=onnx writes models of presets; export a Python file to adderboard")
    model, _ = load_source(compared_source(checkpoint, publication.credits)).build_model()
    metadata = {"adderlab": json.dumps(config_json(checkpoint), sort_keys=True)}
    data = onnx_bytes(model, checkpoint.config.token_layout, metadata)
    write_bytes(output, data)
    usage = _USE_ONNX.format(times=number_word(checkpoint.config.token_layout.sum_digits))
    return [output, _card_beside(publication, output, "ONNX graph", usage)]


def _card_beside(publication: Publication, output: Path, what: str, usage: str) -> Path:
    card = output.with_suffix(".md")
    checkpoint, credits, evidence = publication.checkpoint, publication.credits, publication.evidence
    write_text(card, model_card(checkpoint, credits, evidence, {output.name: what}, usage))
    return card


def _hub_folder(publication: Publication, output: Path) -> list[Path]:
    checkpoint, credits, evidence = publication.checkpoint, publication.credits, publication.evidence
    source = compared_source(checkpoint, credits)
    make_folder(output)
    files = {
        "model.safetensors": "weights, with the configuration in the header",
        "config.json": "the configuration, and how prompts are written",
        "submission.py": "the model as one file that needs torch only",
    }
    save_safetensors(output / "model.safetensors", checkpoint)
    write_json(output / "config.json", config_json(checkpoint))
    write_text(output / "submission.py", source)
    commands = _commands(publication, Path("model.safetensors"))
    if evidence.certificate is not None:
        name = "certificate.json" + (".gz" if evidence.certificate[:2] == b"\x1f\x8b" else "")
        write_bytes(output / name, evidence.certificate)
        files[name] = "the proof; check it with `adderlab check`"
        commands += f"\n\nCheck the proof again: `adderlab check {name} model.safetensors`"
    if evidence.reports:
        reports = [report.to_dict() for report in evidence.reports]
        write_json(output / "evaluation.json", {"schema_version": 1, "suites": reports})
        files["evaluation.json"] = "the measured accuracy, with intervals and first failures"
    usage = _use_submission("submission", checkpoint.config.token_layout.addition)
    card = model_card(checkpoint, credits, evidence, files, f"{usage}\n\n{commands}")
    write_text(output / "README.md", card)
    return [output, output / "README.md", *(output / name for name in files)]


def _commands(publication: Publication, output: Path) -> str:
    name, (a, b) = output.name, _example(publication.checkpoint.config.token_layout.addition)
    commands = f"```sh\nadderlab evaluate {name}\nadderlab predict {name} {a} {b}\n```"
    return _USE_WEIGHTS.format(name=name, commands=commands)


def onnx_bytes(model: nn.Module, layout: Layout, metadata: dict[str, str]) -> bytes:
    """The graph of ``model``, already compared with it. Batch and length are free.

    Raises ``UsageError`` without the extra ``publish``, ``Failure`` if the graph differs.
    """
    _require_onnx()
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
    _compare_onnx(data, model, layout)
    return data


def run_onnx(data: bytes, tokens_BT: Tensor) -> Tensor:
    """Logits of an ONNX graph, by ONNX Runtime on one thread."""
    return torch.from_numpy(_session(data).run(None, {"tokens": tokens_BT.numpy()})[0])


def _session(data: bytes) -> Any:
    onnxruntime: Any = importlib.import_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def _compare_onnx(data: bytes, model: nn.Module, layout: Layout) -> None:
    generator = torch.Generator().manual_seed(0)
    for batch, length in ((1, layout.num_prompt), (7, layout.num_positions)):
        tokens_BT = torch.randint(layout.vocab_size, (batch, length), generator=generator)
        with torch.no_grad():
            wanted_BTV = model(tokens_BT)
        worst = float((run_onnx(data, tokens_BT) - wanted_BTV).abs().max() / wanted_BTV.abs().max())
        if not worst <= ONNX_TOLERANCE:
            raise Failure(f"the ONNX graph differs from the model by {worst:.1e}; nothing was written")


def _require_onnx() -> None:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            raise UsageError(
                f"to=onnx needs the package {name}: pip install 'adderlab[publish]'"
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

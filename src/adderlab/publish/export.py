"""Writing a model out: a board submission, weights, a folder for a model hub, an ONNX graph.

Whatever is written is first compared with the checkpoint's own model.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Literal, get_args

import torch

from adderlab.errors import Failure, UsageError
from adderlab.evaluation.exact import oracle_decoder
from adderlab.files.atomic import (
    make_folder,
    write_bytes,
    write_json,
    write_text,
)
from adderlab.publish.evidence import Evidence
from adderlab.publish.submission import Credits, submission_source
from adderlab.publish.texts import config_json, issue_form, model_card
from adderlab.runs.checkpoints import Checkpoint, save_safetensors
from adderlab.task.digits import SUM_DIGITS, from_digits
from adderlab.task.sampling import uniform_pairs

Kind = Literal["adderboard", "safetensors", "hub-folder", "onnx"]
KINDS: tuple[Kind, ...] = get_args(Kind)
COMPARED_PAIRS = 1000

_USE_SUBMISSION = """```python
import submission

model, metadata = submission.build_model()
print(submission.add(model, 1234567890, 9876543210))
```"""
_USE_WEIGHTS = "Load the weights with `adderlab.runs.checkpoints.load_checkpoint`, or:\n\n{commands}"
_USE_ONNX = """Input `tokens`, int64 (batch, length); output `logits` (batch, length, vocabulary). How a
prompt is written stands in the graph's metadata under `adderlab`. Append the token with the largest
logit at the last position, eleven times: the digits of the sum, units first."""


@dataclass(frozen=True, kw_only=True)
class Publication:
    """One model, who publishes it, and what is known about it."""

    checkpoint: Checkpoint
    credits: Credits
    evidence: Evidence


def export(publication: Publication, kind: str, output: Path) -> list[Path]:
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
    if kind not in writers:
        raise UsageError(f"no export {kind!r}; there are {', '.join(KINDS)}")
    return writers[kind](publication, output)


def load_source(source: str, name: str = "submission") -> ModuleType:
    """A submission written by this program as a module. Runs its code: never for a stranger's file."""
    module = ModuleType(name)
    exec(compile(source, f"{name}.py", "exec"), module.__dict__)
    return module


def compared_source(checkpoint: Checkpoint, credits: Credits) -> str:
    """The submission's source, compared with the checkpoint. Raises ``Failure`` if it differs."""
    source = submission_source(checkpoint.config, checkpoint.params, credits)
    compare(load_source(source), checkpoint)
    return source


@torch.no_grad()
def compare(module: ModuleType, checkpoint: Checkpoint, pairs: int = COMPARED_PAIRS) -> None:
    """Raises ``Failure`` unless count, greedy answers and ``add`` are those of the checkpoint."""
    original, layout = checkpoint.model(), checkpoint.config.token_layout
    model, metadata = module.build_model()
    if metadata["params"] != checkpoint.num_parameters:
        raise _differs(f"it counts {metadata['params']} parameters, not {checkpoint.num_parameters}")
    a_BJ, b_BJ = uniform_pairs(0, pairs)
    wanted_BI = oracle_decoder(original)(a_BJ, b_BJ)[:, :SUM_DIGITS]
    prompts = layout.encode_prompt(a_BJ, b_BJ).long()
    answers_BI = module.generate(model, prompts, SUM_DIGITS)
    different = int((answers_BI != wanted_BI).any(1).sum())
    if different:
        raise _differs(f"its answers to {different} of {pairs} pairs are others")
    for row in range(min(3, pairs)):
        a, b = int(from_digits(a_BJ[row])), int(from_digits(b_BJ[row]))
        text = layout.answer_text(wanted_BI[row])
        if module.add(model, a, b) != (int(text) if text.isdigit() else -1):
            raise _differs(f"add({a}, {b}) is {module.add(model, a, b)}, not {text}")


def _differs(how: str) -> Failure:
    return Failure(f"the file made is not the checkpoint's model: {how}; nothing was written")


def _adderboard(publication: Publication, output: Path) -> list[Path]:
    source = compared_source(publication.checkpoint, publication.credits)
    text = issue_form(publication.checkpoint, publication.credits, publication.evidence, output.name)
    beside = output.with_suffix(".md")
    write_text(output, source)
    write_text(beside, text)
    return [output, beside]


def _safetensors(publication: Publication, output: Path) -> list[Path]:
    save_safetensors(output, publication.checkpoint)
    return [
        output,
        _card_beside(publication, output, "weights and configuration", _commands(output.name)),
    ]


def _onnx(publication: Publication, output: Path) -> list[Path]:
    from adderlab.publish.onnx_file import onnx_bytes

    checkpoint = publication.checkpoint
    model, _ = load_source(compared_source(checkpoint, publication.credits)).build_model()
    metadata = {"adderlab": json.dumps(config_json(checkpoint), sort_keys=True)}
    data = onnx_bytes(model, checkpoint.config.token_layout, metadata)
    write_bytes(output, data)
    return [output, _card_beside(publication, output, "ONNX graph", _USE_ONNX)]


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
    commands = _commands("model.safetensors")
    if evidence.certificate is not None:
        name = "certificate.json" + (".gz" if evidence.certificate[:2] == b"\x1f\x8b" else "")
        write_bytes(output / name, evidence.certificate)
        files[name] = "the proof; check it with `adderlab check`"
        commands += f"\n\nCheck the proof again: `adderlab check {name} model.safetensors`"
    if evidence.reports:
        reports = [report.to_json() for report in evidence.reports]
        write_json(output / "evaluation.json", {"schema_version": 1, "suites": reports})
        files["evaluation.json"] = "the measured accuracy, with intervals and first failures"
    card = model_card(checkpoint, credits, evidence, files, f"{_USE_SUBMISSION}\n\n{commands}")
    write_text(output / "README.md", card)
    return [output, output / "README.md", *(output / name for name in files)]


def _commands(name: str) -> str:
    commands = f"```sh\nadderlab evaluate {name}\nadderlab predict {name} 1234567890 9876543210\n```"
    return _USE_WEIGHTS.format(commands=commands)

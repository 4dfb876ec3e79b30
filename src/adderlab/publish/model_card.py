"""A publication described: the model and its training in words, the board's issue form, a model card."""

from __future__ import annotations

import json
from typing import Any

from adderlab import __version__
from adderlab.files import schema
from adderlab.models.config import ModelConfig
from adderlab.models.describe import count_parameters, parameter_table, ties
from adderlab.models.zoo import PRESETS
from adderlab.publish.evidence import Credits, Evidence, accuracy_line
from adderlab.runs.checkpoints import Checkpoint

BOARD = "https://github.com/anadim/AdderBoard"
_ACTIVATION = {"gelu": "GELU", "relu": "ReLU", "swiglu": "SwiGLU"}
_ORIGIN = {
    "adderlab": "adderlab",
    "r456": "the published 456-parameter program (R456)",
    "microadder": "MicroAdder (evindor)",
    "mlx": "an MLX program (staghado's family)",
}


def preset_of(config: ModelConfig) -> str | None:
    """The zoo's name of this very configuration."""
    return next((name for name, preset in PRESETS.items() if preset.config == config), None)


def title(config: ModelConfig) -> str:
    """``456p``: the zoo's name, or the number of parameters."""
    return preset_of(config) or f"{count_parameters(config)}p"


def architecture(config: ModelConfig) -> str:
    """One line: depth, width, heads, norms, activation, layout."""
    layers = "1 layer" if config.n_layer == 1 else f"{config.n_layer} layers"
    heads = "1 head" if config.n_head == 1 else f"{config.n_head} heads"
    if config.kv_heads != config.n_head:
        heads += f" ({config.kv_heads} for keys and values)"
    norm = "RMSNorm" if config.norm == "rms" else "LayerNorm"
    layout = config.token_layout
    return (
        f"decoder-only transformer, {layers}, d_model {config.d_model}, {heads} of width "
        f"{config.key_width}, {_ACTIVATION[config.activation]} MLP of {config.d_ff}, pre-{norm}, "
        f"{layout.vocab_size} tokens, {layout.num_positions} positions"
    )


def tricks(config: ModelConfig) -> list[str]:
    """What saves parameters or helps training: ranks, ties, the order of digits."""
    ranks = {
        "positions": config.pos_rank,
        "Q, K, V": config.qkv_rank,
        "attention output": config.attn_out_rank,
        "MLP": config.ffn_rank,
    }
    lines = [f"{what} of rank {rank}" for what, rank in ranks.items() if rank]
    return [*lines, *ties(config), "the sum is written units first"]


def recipe(checkpoint: Checkpoint) -> list[str]:
    """Lines about the training, as far as the checkpoint tells."""
    lines = [f"trained by {_ORIGIN.get(checkpoint.origin, checkpoint.origin)}"]
    if checkpoint.seed is not None:
        lines[0] += f", seed {checkpoint.seed}"
    if checkpoint.step:
        lines[0] += f", {checkpoint.step:,} steps"
    settings = {name: value for name, value in _flat(checkpoint.recipe) if name != "seed"}
    if settings:
        lines.append(", ".join(f"{name} {value}" for name, value in settings.items()))
    else:
        lines.append("the checkpoint does not say with which settings")
    return lines


_MACHINERY = ("run_name", "run_dir", "split_dir", "device", "eval_batch_size", "test_size", "output")
"""Settings that say where and not how a model was trained."""


def _flat(settings: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for name, value in settings.items():
        if isinstance(value, dict):
            found += _flat(value, f"{prefix}{name}.")
        elif name not in _MACHINERY and not name.endswith("_out") and value not in (None, "", [], False):
            found.append((f"{prefix}{name}", str(value)))
    return found


def issue_form(checkpoint: Checkpoint, credits: Credits, evidence: Evidence, file_name: str) -> str:
    """Text for the board's submission issue, section by section, in Markdown."""
    config = checkpoint.config
    board = [report.total for report in evidence.reports if report.suite == "adderboard"]
    result = f"{board[0].exact_match:.2%}" if board else "accuracy not measured"
    sections = {
        "Title": f"[Submission] {credits.name}: {checkpoint.num_parameters} parameters, {result}",
        "Author": credits.author,
        "Category": "Trained (weights come from a generic learning algorithm)",
        "Unique parameters": (
            f"{checkpoint.num_parameters}, counted by the file itself; tied tensors once, "
            "fixed numbers (eps, rotary base, a fixed spiral) not counted"
        ),
        "Accuracy": _bullets(_accuracy(evidence)),
        "Proof": _proof(evidence),
        "Architecture": architecture(config),
        "Tricks": _bullets(tricks(config)),
        "Training recipe": _bullets([*recipe(checkpoint), *_rate(evidence)]),
        "Files": (
            f"{file_name}: one file, weights inside, needs torch only. "
            "Paste the address where you put it here."
        ),
        "Verification": (
            f"python verify.py {file_name}\n"
            f"adderlab verify {file_name}   # the same pairs, harder ones, and the parameters counted"
        ),
    }
    text = "\n\n".join(f"### {name}\n\n{content}" for name, content in sections.items())
    return f"<!-- For an issue at {BOARD}; written by adderlab {__version__}. -->\n\n{text}\n"


def model_card(
    checkpoint: Checkpoint, credits: Credits, evidence: Evidence, files: dict[str, str], usage: str
) -> str:
    """README.md of a model folder; ``files`` says what each file is for, ``usage`` is Markdown."""
    config = checkpoint.config
    front = [
        "---",
        "library_name: adderlab",
        "tags:",
        "- addition",
        "- arithmetic",
        "- tiny-transformer",
    ]
    front += [f"model_name: {json.dumps(credits.name)}", "---"]
    zoo = preset_of(config)
    about = [
        f"{credits.name} adds two 10-digit numbers with {checkpoint.num_parameters:,} parameters. "
        f"Author: {credits.author}.",
        f"Architecture: {architecture(config)}."
        + (f" The zoo's {zoo}, from {PRESETS[zoo].source}." if zoo else ""),
    ]
    counted = [
        f"| {row.name} | {' x '.join(map(str, row.shape)) or '1'} | {_counted(row)} |"
        for row in parameter_table(config)
    ]
    sections = {
        "Accuracy": _bullets(_accuracy(evidence)),
        "Proof": _proof(evidence),
        "Success rate": evidence.rate or "The checkpoint does not say how many seeds were tried.",
        "Training": _bullets(recipe(checkpoint)),
        "Tricks": _bullets(tricks(config)),
        "Parameters": "\n".join(["| tensor | shape | counted |", "|---|---|---|", *counted]),
        "Use": usage,
        "Files": _bullets([f"`{name}`: {what}" for name, what in files.items()]),
        "Hash": f"SHA-256 of the weights (docs/publishing.md): `{checkpoint.weights_sha256}`",
    }
    body = "\n\n".join(f"## {name}\n\n{content}" for name, content in sections.items())
    start = "\n".join([*front, "", f"# {credits.name}", "", "\n\n".join(about)])
    return f"{start}\n\n{body}\n\nWritten by adderlab {__version__}.\n"


def config_json(checkpoint: Checkpoint) -> dict[str, Any]:
    """``config.json`` of a model folder: the configuration and how to read and write tokens."""
    layout = checkpoint.config.token_layout
    return {
        "schema_version": 1,
        "model_type": "adderlab",
        "adderlab_version": __version__,
        "config": schema.to_dict(checkpoint.config),
        "parameters": checkpoint.num_parameters,
        "weights_sha256": checkpoint.weights_sha256,
        "layout": {
            "vocabulary": list(layout.vocabulary),
            "a_positions": list(layout.a_positions),
            "b_positions": list(layout.b_positions),
            "separators": [list(pair) for pair in layout.separators],
            "num_prompt": layout.num_prompt,
            "pairs": layout.pairs,
            "answer": "eleven digits, units first",
        },
    }


def _counted(row: Any) -> str:
    if row.tied_to:
        return f"no, tied to {row.tied_to}"
    return str(row.count) if row.counted else "no, fixed"


def _accuracy(evidence: Evidence) -> list[str]:
    lines = [accuracy_line(report) for report in evidence.reports]
    misses = [f"wrong: {miss}" for report in evidence.reports for miss in report.failures[:3]]
    return [*lines, *misses[:5]] or ["not measured"]


def _proof(evidence: Evidence) -> str:
    if evidence.proof is None:
        return f"No proof: {evidence.why_no_proof}."
    return evidence.proof.sentence()


def _rate(evidence: Evidence) -> list[str]:
    return [] if evidence.rate is None else [evidence.rate]


def _bullets(lines: list[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)

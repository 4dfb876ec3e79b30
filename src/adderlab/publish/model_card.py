"""What is known about a model when it is published, measured and in words: its name, accuracy, success
rate and proof, the model and its training, the board's issue form, a model card.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adderlab import __version__
from adderlab.engine.base import Engine
from adderlab.errors import Failure, UsageError
from adderlab.evaluation.exact import SuiteReport, decoder_for, evaluate
from adderlab.evaluation.suites import parse_suite, wilson
from adderlab.files import schema
from adderlab.files.atomic import disk_failure
from adderlab.format import percent
from adderlab.models.config import ModelConfig
from adderlab.models.describe import count_parameters, parameter_table, ties
from adderlab.models.tables import why_no_tables
from adderlab.models.transformer import Architecture
from adderlab.models.zoo import PRESETS, Preset, at_size
from adderlab.proof.certificate import FORMAT, digest
from adderlab.proof.search import Limits
from adderlab.reading.file_model import FileModel, computed_line
from adderlab.runs.checkpoints import Checkpoint
from adderlab.runs.metadata import read_summary, start_of
from adderlab.task.addition import PUBLISHED, Addition, number_word

SUITES = ("adderboard", "published", "strata")
PROOF_SECONDS = 60.0
_LARGEST_CERTIFICATE = 1 << 28

Count = int | tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Credits:
    """What the board shows of a submission besides its numbers."""

    name: str
    author: str


@dataclass(frozen=True, kw_only=True)
class ProofStatement:
    """What is known about all pairs (10^20 of ten columns), and from where."""

    verdict: str
    failing_pairs: Count
    margin_bound: float | None
    margin_witness: float
    pair: tuple[int, int]
    source: str
    """For example "certificate cert.json.gz" or "the prover, in float64; no certificate"."""
    addition: Addition = PUBLISHED

    def sentence(self) -> str:
        """One sentence for people."""
        a, b = map(self.addition.numeral, self.pair)
        pairs, base = self.addition.pairs_text, self.addition.base
        where = "" if base == 10 else f" in base {base}"
        if self.verdict == "proved":
            least = (
                "" if self.margin_bound is None else f"by at least {self.margin_bound:.3g} logits, and "
            )
            return (
                f"Proved: all {pairs} pairs are added correctly in real arithmetic; the correct digit "
                f"leads {least}by {self.margin_witness:.3g} at {a} + {b}{where} ({self.source})."
            )
        if self.verdict == "refuted":
            if isinstance(self.failing_pairs, int):
                count = f"{self.failing_pairs:,}"
            else:
                count = " to ".join(f"{n:,}" for n in self.failing_pairs)
            example = f"{a} + {b}{where}"
            return f"Refuted: {count} of {pairs} pairs fail, for example {example} ({self.source})."
        return f"Undecided: the prover stopped at its limit ({self.source})."


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Everything measured for one publication."""

    reports: tuple[SuiteReport, ...] = ()
    proof: ProofStatement | None = None
    why_no_proof: str = "not tried"
    rate: str | None = None
    """Success rate over the seeds of the run that the checkpoint comes from."""
    certificate: bytes | None = None

    def lines(self) -> list[str]:
        """Accuracy and proof, one statement a line."""
        proof = f"No proof: {self.why_no_proof}." if self.proof is None else self.proof.sentence()
        return [*map(accuracy_line, self.reports), proof]


def measure(
    checkpoint: Checkpoint, engine: Engine | None, suites: tuple[str, ...] = SUITES
) -> tuple[SuiteReport, ...]:
    """Exact match on the suites; ``engine`` as for ``decoder_for``. Raises ``UsageError``."""
    layout = checkpoint.config.token_layout
    decoder = decoder_for(checkpoint.config, checkpoint.stacked(), engine)
    task = layout.addition
    return tuple(evaluate(decoder, layout, parse_suite(name, addition=task)) for name in suites)


def ask_prover(checkpoint: Checkpoint, seconds: float = PROOF_SECONDS) -> ProofStatement:
    """The prover's verdict after at most ``seconds``. The model must have a table form."""
    from adderlab.proof.prove import prove_checkpoint

    assert why_no_tables(checkpoint.config) is None
    limits = Limits(seconds=seconds, union_seconds=min(15.0, seconds))
    proof = prove_checkpoint(checkpoint, limits=limits)
    return ProofStatement(
        verdict=proof.verdict,
        failing_pairs=proof.failing_pairs,
        margin_bound=proof.margin.bound,
        margin_witness=proof.margin.witness,
        pair=proof.counterexample or proof.margin.pair,
        source="adderlab's prover, float64; no certificate",
        addition=proof.addition,
    )


def read_certificate(path: Path, checkpoint: Checkpoint) -> tuple[ProofStatement, bytes]:
    """What a certificate says about this checkpoint, and its bytes.

    Its digest and the hash of the weights are compared; the proof in it is not checked again (that
    is ``adderlab check``). Raises ``UsageError`` for a certificate of other weights or a missing
    file, ``Failure`` for a damaged one.
    """
    data = _bytes(path)
    document = _document(data, path)
    about = document.get("weights_sha256")
    if about != checkpoint.weights_sha256:
        raise UsageError(
            f"{path} is about other weights ({str(about)[:12]}, the checkpoint has "
            f"{checkpoint.weights_sha256[:12]}); name the certificate of this checkpoint"
        )
    try:
        margin, failing = document["margin"], document["failing_pairs"]
        bound = margin["bound"]
        first, second = document["counterexample"] or margin["pair"]
        statement = ProofStatement(
            verdict=str(document["verdict"]),
            failing_pairs=failing if isinstance(failing, int) else (int(failing[0]), int(failing[1])),
            margin_bound=None if bound is None else float(bound),
            margin_witness=float(margin["witness"]),
            pair=(int(first), int(second)),
            source=f"certificate {path.name}",
            addition=checkpoint.config.token_layout.addition,
        )
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise Failure(f"{path} is not a whole certificate ({error}); make it again") from error
    return statement, data


def _bytes(path: Path) -> bytes:
    if not path.is_file():
        raise UsageError(f"there is no certificate {path}; check the path")
    try:
        return path.read_bytes()
    except OSError as error:
        raise disk_failure(error, path, "read") from error


def _document(data: bytes, path: Path) -> dict[str, Any]:
    try:
        if data[:2] == b"\x1f\x8b":
            unpacker = zlib.decompressobj(wbits=31)
            data = unpacker.decompress(data, _LARGEST_CERTIFICATE)
        document = json.loads(data)
        fits = document["format"] == FORMAT and document["digest"] == digest(document)
    except (ValueError, KeyError, TypeError, RecursionError, zlib.error) as error:
        raise Failure(f"{path} is no certificate ({error}); name a file of adderlab prove") from error
    if not fits:
        raise Failure(f"{path} was altered: its digest does not fit; make the certificate again")
    return document


def success_rate(checkpoint: Path | None) -> str | None:
    """The success rate of the run that the checkpoint lies in; None if that is not known."""
    for folder in [] if checkpoint is None else checkpoint.resolve().parents[:3]:
        if (folder / "summary.json").is_file() and (folder / "seeds.csv").is_file():
            return _rate_of(folder)
    return None


def _rate_of(folder: Path) -> str | None:
    try:
        success = read_summary(folder).get("success")
        count, n = int(success["successes"]), int(success["seeds"])  # type: ignore[index]
    except (Failure, KeyError, TypeError, ValueError):
        return None
    rate = wilson(count, n)
    return f"{rate} of the seeds of this run reach 99% (95% Wilson interval)"


def accuracy_line(report: SuiteReport) -> str:
    """For example: adderboard: 10010/10010 correct = 100.0% (error rate 0.0e+00 to 3.7e-04, 95%)."""
    total, rate = report.total, report.total.error_rate
    correct = f"{total.n - total.errors}/{total.n} correct = {percent(total.exact_match)}"
    return f"{report.suite}: {correct} (error rate {rate.low:.1e} to {rate.high:.1e}, 95%)"


# In words.


BOARD = "https://github.com/anadim/AdderBoard"
_ACTIVATION = {"gelu": "GELU", "relu": "ReLU", "swiglu": "SwiGLU"}
_ORIGIN = {
    "adderlab": "adderlab",
    "r456": "the published 456-parameter program (R456)",
    "microadder": "MicroAdder (evindor)",
    "mlx": "an MLX program (staghado's family)",
}


def preset_of(config: Architecture) -> Preset | None:
    """The zoo's preset of this very configuration, at its size."""
    if not isinstance(config, ModelConfig):
        return None
    sized = (at_size(each, columns=config.columns, base=config.base) for each in PRESETS.values())
    return next((preset for preset in sized if preset.config == config), None)


def title(config: Architecture) -> str:
    """``456p``: the zoo's name, or the number of parameters; of a user's file its name."""
    if isinstance(config, FileModel):
        return config.file.removesuffix(".py")
    preset = preset_of(config)
    return f"{count_parameters(config)}p" if preset is None else preset.name


def numbers(config: Architecture) -> str:
    """What it adds: "two 10-digit numbers"."""
    task = config.token_layout.addition
    where = "" if task.base == 10 else f" in base {task.base}"
    return f"two {task.columns}-digit numbers{where}"


def architecture(config: Architecture) -> str:
    """One line: depth, width, heads, norms, activation, layout."""
    if isinstance(config, FileModel):
        return computed_line(config)
    assert isinstance(config, ModelConfig)
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


def tricks(config: Architecture) -> list[str]:
    """What saves parameters or helps training: ranks, ties, the order of digits."""
    if not isinstance(config, ModelConfig):
        return ["the sum is written units first"]
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
    if checkpoint.origin.endswith(".py"):
        return [f"weights as build_model of {checkpoint.origin} makes them"]
    lines = [f"trained by {_ORIGIN.get(checkpoint.origin, checkpoint.origin)}"]
    if checkpoint.seed is not None:
        lines[0] += f", seed {checkpoint.seed}"
    if checkpoint.step:
        lines[0] += f", {checkpoint.step:,} steps"
    settings = {name: value for name, value in _flat(checkpoint.recipe) if name != "seed"}
    lines.append(f"start: {start_of(checkpoint)}")
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
        "Category": (
            "Trained (weights come from a generic learning algorithm); what training began with: "
            f"{start_of(checkpoint)}"
        ),
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
        f"{credits.name} adds {numbers(config)} with {checkpoint.num_parameters:,} parameters. "
        f"Author: {credits.author}.",
        f"Architecture: {architecture(config)}."
        + (f" The zoo's {zoo.name}, from {zoo.source}." if zoo else ""),
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
        "start": start_of(checkpoint),
        "layout": {
            "vocabulary": list(layout.vocabulary),
            "a_positions": list(layout.a_positions),
            "b_positions": list(layout.b_positions),
            "separators": [list(pair) for pair in layout.separators],
            "num_prompt": layout.num_prompt,
            "pairs": layout.pairs,
            "answer": f"{number_word(layout.sum_digits)} digits, units first",
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

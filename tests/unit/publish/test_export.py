"""Everything that is written is the checkpoint's model, and says what is known about it."""

import json
import subprocess
import sys
import venv
from pathlib import Path

import pytest
import torch

from adderlab import __version__
from adderlab.cli.main import main
from adderlab.errors import Failure, UsageError
from adderlab.evaluation.exact import Score, SuiteReport, oracle_decoder
from adderlab.models.transformer import build_model
from adderlab.models.zoo import get_preset
from adderlab.publish import export as module
from adderlab.publish.export import Publication, compare, export, load_source, write
from adderlab.publish.model_card import Credits, Evidence, ProofStatement
from adderlab.publish.submission import read_submission, submission_source
from adderlab.runs.checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from adderlab.task.addition import SUM_DIGITS
from adderlab.task.sampling import uniform_pairs
from helpers.golden import Golden
from helpers.models import config_of
from helpers.reference import reference_checkpoint

CREDITS = Credits(name="it", author="me")
PUBLISHED = ("lowrank_456p_s43.pt", "microadder_67p_s71046.pt", "qwen3_122p_lbfgs.npz")
REPORT = SuiteReport(
    suite="adderboard",
    groups=(Score(name="all", n=10010, errors=0, right_digits=(10010,) * 11),),
    failures=(),
    seconds=1.0,
)
PROOF = ProofStatement(
    verdict="proved",
    failing_pairs=0,
    margin_bound=0.1,
    margin_witness=0.2,
    pair=(1, 2),
    source="certificate c.json",
)


@pytest.fixture(autouse=True)
def few_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "COMPARED_PAIRS", 20)


def publication(name: str = "36p") -> Publication:
    config = get_preset(name).config
    params = {name: p.detach() for name, p in build_model(config, 0).named_parameters()}
    checkpoint = Checkpoint(config=config, params=params, recipe={"lr": 0.01}, step=5, val_exact=0.5)
    evidence = Evidence(reports=(REPORT,), proof=PROOF, rate="3/4 of the seeds", certificate=b"{}")
    return Publication(checkpoint=checkpoint, credits=CREDITS, evidence=evidence)


def wording(text: str, published: Publication) -> str:
    """The text without what depends on the versions of adderlab and PyTorch."""
    sha256 = published.checkpoint.weights_sha256
    return text.replace(f"adderlab {__version__}", "adderlab VERSION").replace(sha256, "SHA-256")


def test_adderboard_writes_the_file_and_the_form(tmp_path: Path, golden: Golden) -> None:
    published = publication()
    code, form = write(published, "adderboard", tmp_path / "submission.py")
    assert read_submission(code.read_text()) is not None
    golden("publish/issue_form.md", wording(form.read_text(), published))


def test_safetensors_is_read_back(tmp_path: Path, golden: Golden) -> None:
    published = publication()
    weights, card = write(published, "safetensors", tmp_path / "model.safetensors")
    assert load_checkpoint(weights).weights_sha256 == published.checkpoint.weights_sha256
    assert published.checkpoint.weights_sha256 in card.read_text()
    golden("publish/card_of_weights.md", wording(card.read_text(), published))


def test_a_hub_folder_has_everything(tmp_path: Path, golden: Golden) -> None:
    published = publication()
    folder, *files = write(published, "hub-folder", tmp_path / "hub")
    names = {path.name for path in folder.iterdir()}
    assert names == {path.name for path in files}
    assert names == {
        "README.md",
        "model.safetensors",
        "config.json",
        "submission.py",
        "certificate.json",
        "evaluation.json",
    }
    config = json.loads((folder / "config.json").read_text())
    assert config["parameters"] == 36 and config["layout"]["num_prompt"] == 24
    assert json.loads((folder / "evaluation.json").read_text())["suites"][0]["errors"] == 0
    golden("publish/model_page.md", wording((folder / "README.md").read_text(), published))


def test_a_model_without_evidence_is_published_as_such(tmp_path: Path, golden: Golden) -> None:
    bare = Publication(
        checkpoint=publication().checkpoint, credits=CREDITS, evidence=Evidence(why_no_proof="no time")
    )
    _, form = write(bare, "adderboard", tmp_path / "s.py")
    golden("publish/issue_form_without_evidence.md", wording(form.read_text(), bare))
    _, *files = write(bare, "hub-folder", tmp_path / "hub")
    assert {path.name for path in files} == {
        "README.md",
        "model.safetensors",
        "config.json",
        "submission.py",
    }


def test_unknown_kinds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no export 'pickle'; there are adderboard"):
        export(publication().checkpoint, to="pickle", output=tmp_path / "x")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("x = x + self.mlp(", "x = x - self.mlp(", "answers to"),
        ("sum(p.numel() for p in model.parameters())", "35", "counts 35 parameters, not 456"),
        ("return -1 ", "return -2 ", r"add\("),
    ],
)
def test_a_file_that_differs_is_not_written(old: str, new: str, words: str) -> None:
    checkpoint = publication("456p").checkpoint
    # A fresh model's answers hang on nothing; far from there every part matters.
    generator = torch.Generator().manual_seed(0)
    params = {n: torch.randn(p.shape, generator=generator) for n, p in checkpoint.params.items()}
    checkpoint = Checkpoint(config=checkpoint.config, params=params, recipe={}, step=0, val_exact=0.0)
    source = submission_source(config_of(checkpoint), checkpoint.params, CREDITS)
    compare(load_source(source), checkpoint, pairs=50)
    assert old in source
    with pytest.raises(Failure, match=words):
        compare(load_source(source.replace(old, new)), checkpoint, pairs=50)


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.chdir(tmp_path)
    save_checkpoint("model.pt", publication().checkpoint)
    quick = ["--suites", "fresh:50", "--no-prove"]
    assert main(["export", "model.pt", "--to", "adderboard", "-o", "s.py", *quick, "--author", "A"]) == 0
    printed = capsys.readouterr().out
    assert "fresh:50: " in printed and "No proof: the prover was not asked." in printed
    assert "Written, and compared with the checkpoint: s.py, s.md" in printed
    submission = read_submission(Path("s.py").read_text())
    assert submission is not None and submission.credits == Credits(name="36p", author="A")

    assert main(["export", "model.pt", "--to", "hub-folder", "-o", "hub", *quick, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (
        printed["parameters"] == 36
        and printed["verdict"] is None
        and "hub/README.md" in printed["written"]
    )

    assert main(["export", "model.pt", "--to", "adderboard", "-o", "no/such/folder.py", *quick]) == 1
    assert capsys.readouterr().err.startswith("adderlab: cannot write no/such/folder.py")
    assert main(["export", "model.pt", "--to", "paper", "-o", "x"]) == 2
    onnx = ["export", "model.pt", "--to", "onnx", "-o", "x.onnx"]
    assert main([*onnx, "--certificate", "no", *quick]) == 2
    assert "there is no" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("to", "output"), [("adderboard", "exp"), ("safetensors", "exp.pt"), ("onnx", "exp.md")]
)
def test_another_ending_is_refused_before_anything_is_measured(
    to: str, output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "measure", lambda *_: pytest.fail("it was measured"))
    with pytest.raises(UsageError, match=rf"exp\{module._SUFFIXES[to]}"):
        export(publication().checkpoint, to=to, output=tmp_path / output, prove=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_exported_and_original_agree_on_100_000_pairs(name: str) -> None:
    torch.set_num_threads(1)
    checkpoint = load_checkpoint(reference_checkpoint(name))
    layout = checkpoint.config.token_layout
    module = load_source(submission_source(config_of(checkpoint), checkpoint.params, CREDITS))
    model, _ = module.build_model()
    original = oracle_decoder(checkpoint.module())
    a_BJ, b_BJ = uniform_pairs(11, 100_000)
    for a, b in zip(a_BJ.split(4096), b_BJ.split(4096), strict=True):
        theirs = module.generate(model, layout.encode_prompt(a, b).long(), SUM_DIGITS)
        assert torch.equal(theirs, original(a, b)[:, :SUM_DIGITS].long())


BOARD_CHECK = """
import random, sys
import submission

assert "numpy" not in sys.modules and "adderlab" not in sys.modules
model, metadata = submission.build_model()
assert set(metadata) == {"name", "author", "params", "architecture", "tricks"}
top = 9999999999
pairs = [(0, 0), (0, 1), (top, 0), (top, 1), (top, top), (5000000000, 5000000000)]
pairs += [(1111111111, 8888888889), (1234567890, 9876543210), (top, top), (1, top)]
draw = random.Random(2025)
pairs += [(draw.randint(0, top), draw.randint(0, top)) for _ in range(10000)]
right = sum(submission.add(model, a, b) == a + b for a, b in pairs)
print(metadata["params"], right, len(pairs))
"""
"""The board's protocol, one pair a call, in a Python that has torch and nothing else."""


@pytest.fixture(scope="module")
def empty_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty virtual environment with only torch; skips where pip cannot get it."""
    folder = tmp_path_factory.mktemp("empty")
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    version = torch.__version__.partition("+")[0]
    install = [python, "-m", "pip", "install", "-q", f"torch=={version}"]
    done = subprocess.run(install, capture_output=True, text=True, timeout=900)
    if done.returncode:
        pytest.skip(f"pip cannot install torch here: {done.stderr.strip().splitlines()[-1]}")
    return python


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_the_boards_protocol_in_an_empty_environment(
    name: str, empty_python: Path, tmp_path: Path
) -> None:
    checkpoint = load_checkpoint(reference_checkpoint(name))
    published = Publication(checkpoint=checkpoint, credits=CREDITS, evidence=Evidence())
    write(published, "adderboard", tmp_path / "submission.py")
    (tmp_path / "check.py").write_text(BOARD_CHECK)
    done = subprocess.run(
        [empty_python, "-W", "ignore", "check.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=1200,
        env={"OMP_NUM_THREADS": "1", "PATH": ""},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(checkpoint.num_parameters), "10010", "10010"]


def test_the_file_needs_torch_only(tmp_path: Path) -> None:
    write(publication(), "adderboard", tmp_path / "submission.py")
    program = """
import builtins, sys
known = builtins.__import__
def only_torch(name, *rest):
    outside = sys._getframe(1).f_globals.get("__name__") == "submission"
    assert not outside or name.partition(".")[0] in ("torch", "math"), name
    return known(name, *rest)
builtins.__import__ = only_torch
import submission
model, metadata = submission.build_model()
print(metadata["params"], isinstance(submission.add(model, 12, 30), int))
"""
    run = [sys.executable, "-c", program]
    done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["36", "True"], done.stderr

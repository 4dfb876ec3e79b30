"""The theorem as Coq sees it: minutes, and only where Coq is."""

import dataclasses
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

import adderlab as al
from adderlab.theorem import SCRIPT, THEOREM
from helpers.paths import ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        shutil.which("coqc") is None, reason="no coqc: apt-get install coq libcoq-interval"
    ),
]

OF_THE_REALS = {
    "ClassicalDedekindReals.sig_not_dec",
    "ClassicalDedekindReals.sig_forall_dec",
    "FunctionalExtensionality.functional_extensionality_dep",
    "Classical_Prop.classic",
}
"""What Coq's real numbers assume; no primitive number is among it."""


def record(name: str) -> al.Model:
    return al.load(ROOT / "records" / "best" / name / "model.pt")


def coqc(folder: Path, file: str) -> subprocess.CompletedProcess[str]:
    command = ["coqc", "-q", "-Q", ".", "Adder", file]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def proved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The 7p's folder, compiled, and what Coq printed."""
    folder = tmp_path_factory.mktemp("theorem") / "7p"
    al.export_theorem(record("7p"), folder)
    done = subprocess.run(
        ["sh", str(folder / SCRIPT)], capture_output=True, text=True, check=False, cwd=os.sep
    )
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def beside(proved: tuple[Path, str], model: al.Model, folder: Path) -> Path:
    """Another model's folder, with the development as compiled."""
    al.export_theorem(model, folder)
    for path in proved[0].glob("*.vo"):
        if path.stem != Path(THEOREM).stem:
            shutil.copy2(path, folder)
    return folder


def changed(model: al.Model, name: str, factor: float) -> al.Model:
    return dataclasses.replace(model, params={**model.params, name: model.params[name] * factor})


def test_coq_proves_the_7p_from_the_axioms_of_the_reals(proved: tuple[Path, str]) -> None:
    assert set(re.findall(r"^([\w.]+)(?= :|$)", proved[1], re.M)) - {"Axioms"} == OF_THE_REALS


def test_coq_proves_the_8p(proved: tuple[Path, str], tmp_path: Path) -> None:
    done = coqc(beside(proved, record("8p"), tmp_path), THEOREM)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("name", "factor"),
    [
        ("token_emb.stride", 1.03),
        ("blocks.0.attn.q_proj.scale", 0.95),
        ("blocks.0.attn.q_proj.angle", 1.08),
        ("blocks.0.attn.proj.column.weight", 1.02),
        ("blocks.0.mlp.fc1.pairs.weight", 1.06),
    ],
)
def test_coq_rejects_a_model_that_is_wrong(
    proved: tuple[Path, str], name: str, factor: float, tmp_path: Path
) -> None:
    wrong = changed(record("7p"), name, factor)
    assert wrong.evaluate("strata").failures
    done = coqc(beside(proved, wrong, tmp_path), THEOREM)
    assert done.returncode == 1
    assert 'Unable to unify "true" with "false"' in " ".join(done.stderr.split())


def test_what_coq_computes_encloses_the_tables(proved: tuple[Path, str], tmp_path: Path) -> None:
    """Enclosures, in Coq, of numbers of ``Transformer.v`` enclose those of the Python model."""
    model, n = record("7p"), 5  # the step that asks for digit 4
    folder = beside(proved, model, tmp_path)
    (folder / "Ask.v").write_text(
        (folder / THEOREM).read_text().split("Lemma")[0].replace("Soundness", "Enclosure")
        + "Definition t := tables_of adder_7p.\n"
        "Eval vm_compute in (List.map (cosine t) ten ++ List.map (sine t) ten\n"
        f"  ++ List.map (toward t {n}) (List.seq 0 12)\n"
        "  ++ (up_ t :: down_0_ t :: down_1_ t :: nil))%list.\n"
    )
    done = coqc(folder, "Ask.v")
    assert done.returncode == 0, done.stderr
    ends = re.findall(r"Float\s+\(?(-?\d+)\)?\s+\(?(-?\d+)\)?", done.stdout)
    bounds = torch.tensor([int(m) * 2.0 ** int(e) for m, e in ends], dtype=torch.float64).reshape(-1, 2)

    tables, step = model.tables(), n - 1
    head, last = tables.head, model.config.token_layout.query_positions[step]
    score_P = (tables.query[0, step, 0] @ tables.key[0, : last + 1, 0].transpose(1, 2))[:, 0, 0]
    share_P = score_P.softmax(0)
    # A value is the digit's sine over the norm; digit 0 stands for all.
    per_sine = tables.value[0, 0, 0, 0, 0] * head["attn_out"][0, 0, 1] / tables.residual[0, 0, 0, 1]
    toward_K = torch.stack([share_P[last - k] for k in range(12)]) * per_sine
    fc1_DF, fc2_FD = head["fc1"][0], head["fc2"][0]
    wanted = torch.cat(
        [
            *(tables.residual[0, 0, :, 0], tables.residual[0, 0, :, 1], toward_K),
            torch.stack([fc1_DF[0, 0], fc2_FD[0, 0], fc2_FD[0, 1]]),
        ]
    )
    assert len(bounds) == len(wanted)
    slack = 1e-13 * wanted.abs()  # what float64 rounds
    assert (bounds[:, 0] - slack <= wanted).all() and (wanted <= bounds[:, 1] + slack).all()
    assert (bounds[:, 1] - bounds[:, 0] <= 1e-9 * wanted.abs()).all()

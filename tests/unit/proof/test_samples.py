"""What a look at the board's pairs and the strata refutes is refuted before anything is bounded."""

import numpy as np
import pytest

from adderlab.proof.prove import Progress, prove_checkpoint, prove_problem
from adderlab.proof.search import Limits
from adderlab.proof.witnesses import failing_samples, real_margins
from adderlab.runs.checkpoints import load_checkpoint
from helpers.reference import disturbed, proved_model, reference_checkpoint
from oracle.proof_twin import all_margins, all_pairs, fitted_problem, random_problem


def test_two_heads_that_a_sample_refutes_are_refuted_without_a_search() -> None:
    checkpoint = load_checkpoint(reference_checkpoint("qwen3_155p_lbfgs.npz"))
    failing = failing_samples(checkpoint.module())
    assert len(failing) >= 2 and len(set(failing)) == len(failing)
    seen: list[Progress] = []
    proof = prove_checkpoint(checkpoint, limits=Limits(cells=0), progress=seen.append)
    assert proof.verdict == "refuted" and isinstance(proof.failing_pairs, tuple)
    assert proof.failing_pairs[0] >= len(failing)
    assert proof.answer is not None and proof.answer != sum(proof.counterexample or ())
    assert seen[0].phase == "samples" and seen[1].refuted_by in failing
    # In the stream's own coordinates the boxes are thin, and few inputs are left open.
    assert proof.margin.bound is not None and -45 < proof.margin.bound <= proof.margin.witness
    assert proof.failing_pairs[1] < 10**18


def test_a_model_that_a_sample_refutes_needs_no_search() -> None:
    checkpoint = disturbed(proved_model())
    failing = failing_samples(checkpoint.module())
    proof = prove_checkpoint(checkpoint, limits=Limits(cells=0))
    assert proof.verdict == "refuted" and isinstance(proof.failing_pairs, tuple)
    assert proof.failing_pairs[0] >= len(failing) > 0
    assert proof.answer is not None and proof.answer != sum(proof.counterexample or ())


def test_where_failing_pairs_are_not_counted_one_is_the_whole_refutation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    checkpoint = disturbed(proved_model())
    counted = prove_checkpoint(checkpoint, limits=Limits(cells=0))
    phases: list[str] = []
    found = prove_checkpoint(
        checkpoint,
        limits=Limits(cells=0),
        counting=False,
        progress=lambda progress: phases.append(progress.phase),
    )
    assert phases == ["samples"] and found.leaves == 0 < counted.leaves
    assert found.verdict == counted.verdict == "refuted"
    assert isinstance(found.failing_pairs, tuple) and isinstance(counted.failing_pairs, tuple)
    assert 0 < found.failing_pairs[0] <= counted.failing_pairs[1] <= found.failing_pairs[1]
    assert found.counterexample is not None and found.counterexample == found.margin.pair
    assert found.answer is not None and found.answer != sum(found.counterexample)
    assert found.margin.bound is None and counted.margin.witness <= found.margin.witness < 0
    assert "not counted" in found.reason

    # A pair that failed before comes first, whatever else would fail too.
    monkeypatch.setattr("adderlab.proof.prove.failing_samples", lambda model: pytest.fail("sampled"))
    again = prove_checkpoint(checkpoint, counting=False, known=[found.margin.pair, (1, 1)])
    assert again.margin == found.margin and again.verdict == "refuted"


def test_a_pair_that_failed_before_refutes_nothing_once_it_is_right() -> None:
    found = prove_checkpoint(proved_model(), counting=False, known=[(1, 1)])
    assert found.verdict == "proved" and found.leaves > 0


def test_models_that_no_sample_refutes_are_looked_at_for_nothing_else() -> None:
    assert failing_samples(proved_model().module()) == []


def test_margins_of_samples_are_those_of_real_arithmetic() -> None:
    problem = random_problem(1, heads=2)
    a, b = all_pairs(2)
    rows = np.arange(0, 10_000, 997)
    values = [(int(x @ [1, 10]), int(y @ [1, 10])) for x, y in zip(a[rows], b[rows], strict=True)]
    truth = all_margins(problem, a[rows], b[rows])
    for witness, margin_I in zip(real_margins(problem, values), truth, strict=True):
        assert witness.margin == pytest.approx(margin_I.min(), abs=1e-9)
        assert witness.step == margin_I.argmin()


def test_a_failure_of_fp32_alone_refutes_nothing_and_is_named() -> None:
    problem = fitted_problem(0)
    margins = all_margins(problem, *all_pairs(2)).min(1)
    right = int(margins.argmax())
    assert margins[right] > 0
    proof = prove_problem(problem, failing=[divmod(right, 100)])
    without = prove_problem(problem)
    assert proof.failing_pairs == without.failing_pairs
    assert f"Run in fp32 the model fails on {right // 100} + {right % 100}" in proof.reason

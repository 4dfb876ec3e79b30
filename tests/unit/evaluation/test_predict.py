"""One pair through the full model."""

import pytest
import torch

from adderlab.errors import UsageError
from adderlab.evaluation.exact import predict
from adderlab.models.config import ModelConfig
from adderlab.models.transformer import build_model
from adderlab.task.addition import pairs_from_ints
from helpers.reference import proved_model
from oracle import greedy_twin


def test_a_trained_model_is_right_and_sure() -> None:
    prediction = predict(proved_model().module(), 999, 9999999999)
    assert (prediction.answer, prediction.right_sum, prediction.right) == (
        "10000000998",
        10000000998,
        True,
    )
    assert len(prediction.confidences) == 11 and min(prediction.confidences) > 0.5


def test_an_untrained_models_answer_is_reported() -> None:
    model = build_model(ModelConfig(), 1)
    prediction = predict(model, 12, 34)
    tokens = greedy_twin.greedy_answer(model, 12, 34)[:11]
    assert list(prediction.tokens) == tokens and not prediction.right
    assert prediction.answer == "".join(model.layout.vocabulary[t] for t in reversed(tokens))
    # The confidences are those of the whole answer read back in one pass.
    prompt = model.layout.encode_prompt(*pairs_from_ints([(12, 34)])).long()
    logits_TV = model(torch.cat([prompt, torch.tensor([tokens[:10]])], 1))[0, -11:]
    expected = logits_TV.softmax(-1)[range(11), tokens]
    assert torch.allclose(torch.tensor(prediction.confidences), expected, atol=1e-6)


@pytest.mark.parametrize("operands", [(-1, 0), (0, 10**10)])
def test_operands_outside_the_range(operands: tuple[int, int]) -> None:
    wrong = next(x for x in operands if x != 0)
    with pytest.raises(UsageError, match=f"0 to 9999999999, not {wrong}"):
        predict(build_model(ModelConfig(), 1), *operands)

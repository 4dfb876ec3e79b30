"""One addition by the full model, with how sure it is of every digit."""

from dataclasses import dataclass

import torch

from adderlab.errors import UsageError
from adderlab.models.transformer import Transformer
from adderlab.task.digits import OPERAND_LIMIT, SUM_DIGITS, pairs_from_ints


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """A greedy answer. Digits and confidences go from s_0 (units) to s_10."""

    a: int
    b: int
    answer: str
    """Most significant digit first, eleven places; a token that is no digit shows as its name."""
    tokens: tuple[int, ...]
    confidences: tuple[float, ...]
    """Softmax probability of each answered token, given the digits answered before it."""
    right_sum: int

    @property
    def right(self) -> bool:
        return self.answer == f"{self.right_sum:0{SUM_DIGITS}d}"


@torch.no_grad()
def predict(model: Transformer, a: int, b: int) -> Prediction:
    """Answer a + b. Raises ``UsageError`` for operands outside 0 .. 9999999999."""
    for operand in (a, b):
        if not 0 <= operand < OPERAND_LIMIT:
            raise UsageError(f"an operand must be 0 to {OPERAND_LIMIT - 1}, not {operand}")
    device = next(model.parameters()).device
    tokens_1T = model.layout.encode_prompt(*pairs_from_ints([(a, b)])).long().to(device)
    confidences = []
    for _ in range(SUM_DIGITS):
        probability_1V = model(tokens_1T)[:, -1].softmax(-1)
        best, token = probability_1V.max(-1, keepdim=True)
        tokens_1T = torch.cat([tokens_1T, token], 1)
        confidences.append(float(best))
    answer = tokens_1T[0, -SUM_DIGITS:]
    return Prediction(
        a=a,
        b=b,
        answer=model.layout.answer_text(answer),
        tokens=tuple(answer.tolist()),
        confidences=tuple(confidences),
        right_sum=a + b,
    )

"""Driving a model in batches: one token a call, and all at once, are the same greedy answers."""

import torch
from torch import nn

from adderlab.publish.inside.watching import greedy, greedy_at_once

STEPS, PROMPT, VOCABULARY = 11, 5, 7


class Recurrent(nn.Module):
    """Causal: what it answers at a position depends on all tokens up to there."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.embedding = nn.Embedding(VOCABULARY, 16)
        self.network = nn.GRU(16, 16, batch_first=True)
        self.head = nn.Linear(16, VOCABULARY)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.network(self.embedding(tokens))[0])


def prompts() -> list[list[int]]:
    return torch.randint(VOCABULARY, (50, PROMPT), generator=torch.Generator().manual_seed(1)).tolist()


def test_all_at_once_is_one_token_a_call() -> None:
    model, calls = Recurrent(), []

    def target(tokens: torch.Tensor) -> torch.Tensor:
        calls.append(tokens.shape)
        return model(tokens)

    with torch.no_grad():
        tokens, leads = greedy(target, "torch", "int64", prompts(), STEPS)
        assert [shape[1] for shape in calls] == list(range(PROMPT, PROMPT + STEPS))
        calls.clear()
        at_once, their_leads = greedy_at_once(target, "torch", "int64", prompts(), STEPS)
    assert at_once == tokens
    assert {shape[1] for shape in calls} == {PROMPT + STEPS - 1} and len(calls) <= STEPS
    assert [shape[0] for shape in calls] == sorted((shape[0] for shape in calls), reverse=True)
    torch.testing.assert_close(torch.tensor(their_leads), torch.tensor(leads), rtol=1e-4, atol=1e-5)


def test_a_model_that_sees_what_follows_settles_nowhere_or_elsewhere() -> None:
    """What it answers at once is not what it answers token by token: the sample of pairs shows it."""
    model = Recurrent()

    def target(tokens: torch.Tensor) -> torch.Tensor:
        return model(tokens.flip(1)).flip(1)

    with torch.no_grad():
        tokens, _ = greedy(target, "torch", "int64", prompts(), STEPS)
        at_once, _ = greedy_at_once(target, "torch", "int64", prompts(), STEPS)
    assert at_once != tokens

"""Greedy answers and their marks, one pair at a time: the sequence as text, Python integers.

Tokens are looked up by position from text, so nothing here depends on how layouts encode digits.
"""

from collections.abc import Callable

import torch

from adderlab.models.transformer import Adder

PROMPTS: dict[str, Callable[[str, str], str]] = {
    # a and b as ten characters, most significant first
    "P": lambda a, b: f"{a}+{b}=",
    "S": lambda a, b: f"0{a[::-1]}00{b[::-1]}0",
    "M": lambda a, b: f"{a[::-1]}0{b[::-1]}0",
    "M14": lambda a, b: f"{a[::-1]}+{b[::-1]}=",
}


@torch.no_grad()
def greedy_answer(model: Adder, a: int, b: int) -> list[int]:
    """Answer tokens, end token included, by one full pass per token."""
    layout = model.layout
    text = PROMPTS[layout.name](f"{a:010d}", f"{b:010d}")
    tokens = [layout.vocabulary.index(character) for character in text]
    answer = []
    for _ in range(layout.num_answers):
        scores = model(torch.tensor([tokens]))[0, -1].tolist()
        answer.append(scores.index(max(scores)))
        tokens.append(answer[-1])
    return answer


def right_digits(answer: list[int], a: int, b: int) -> list[bool]:
    """Which of s_0 .. s_10 are right."""
    return [answer[i] == (a + b) // 10**i % 10 for i in range(11)]

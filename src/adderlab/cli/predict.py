"""One addition by a checkpoint: the answer, how sure each digit is, right or wrong."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True, kw_only=True)
class Args:
    """A model and two numbers."""

    checkpoint: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="CKPT")]
    """A checkpoint file."""
    a: Annotated[int, tyro.conf.Positional]
    """0 to 9999999999."""
    b: Annotated[int, tyro.conf.Positional]
    """0 to 9999999999."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print one object instead of text."""


def run(args: Args) -> int:
    """Answer; the exit code is 0 whether the answer is right or not."""
    from adderlab.cli.options import emit_json
    from adderlab.evaluation.exact import predict
    from adderlab.runs.checkpoints import load_checkpoint

    answer = predict(load_checkpoint(args.checkpoint).model(), args.a, args.b)
    if args.json:
        emit_json(
            {
                "a": answer.a,
                "b": answer.b,
                "answer": answer.answer,
                "sum": answer.right_sum,
                "right": answer.right,
                "confidences": list(answer.confidences),
            },
            None,
        )
        return 0
    text = answer.answer.lstrip("0") or "0" if answer.answer.isdigit() else answer.answer
    verdict = "right" if answer.right else f"wrong, it is {answer.right_sum}"
    print(f"{answer.a} + {answer.b} = {text}  ({verdict})")
    print("digit       s_i  confidence")
    places = range(len(answer.confidences) - 1, -1, -1)
    for place, symbol in zip(places, _symbols(answer.answer, len(answer.confidences)), strict=True):
        print(f"10^{place:<2}     {symbol:>6}  {answer.confidences[place]:.4f}")
    return 0


def _symbols(text: str, count: int) -> list[str]:
    """The answer's tokens, most significant first; names such as <EOS> are one token each."""
    import re

    symbols = re.findall(r"<[A-Z]+>|.", text)
    assert len(symbols) == count, text
    return symbols

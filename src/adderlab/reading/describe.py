"""What was read of a file's model, in a few plain lines."""

from __future__ import annotations

import itertools

from adderlab.models.head_program import HeadProgram
from adderlab.reading.file_model import FileModel, Live
from adderlab.task.addition import Layout


def reading_lines(config: FileModel) -> tuple[str, ...]:
    """The layout; of a file that was named also heads, operations and agreement with the model."""
    lines = [f"file: {config.file}, sha256 {config.sha256}", *layout_lines(config.token_layout)]
    if config.at_hand:
        lines += _computed(config, config.live)
    else:
        lines.append("nothing of the file was run; name it to see what it computes")
    return tuple(lines)


def layout_lines(layout: Layout) -> list[str]:
    """How the model is asked."""
    names = [f"[{name}]" for name in ["?"] * layout.num_prompt]
    for position, token in layout.separators:
        names[position] = layout.vocabulary[token]
    for operand, positions in (("a", layout.a_positions), ("b", layout.b_positions)):
        for column, position in enumerate(positions):
            names[position] = f"{operand}{column}"
    steps = f"{layout.sum_digits} digits of the sum, units first"
    if layout.end_token is not None:
        end = layout.vocabulary[layout.end_token]
        steps += f", then {end}" + (", without which an answer is wrong" if layout.end_decided else "")
    return [
        f"prompt: {' '.join(names)} (a0 is the units; {layout.vocab_size} tokens)",
        f"answer: {steps}",
    ]


def operations_line(program: HeadProgram) -> str:
    """The operations after attention, repeated ones once: ``linear 8, relu, square``."""
    names = [
        f"{each.name} {each.width}" if each.name in ("linear", "take", "concat") else each.name
        for each in program.operations
    ]
    runs = [(name, len(list(group))) for name, group in itertools.groupby(names)]
    return ", ".join(name if count == 1 else f"{count} x {name}" for name, count in runs)


def computed_line(config: FileModel) -> str:
    """One line: heads, operations, layout."""
    layout = config.token_layout
    where = f"{layout.vocab_size} tokens, {layout.num_positions} positions"
    if not config.at_hand or config.live.reading is None:
        return f"{config.file}, {where}"
    form = config.live.reading.form
    heads = "1 head" if form.heads == 1 else f"{form.heads} heads"
    return (
        f"one attention of {heads} with values of width {form.value_dim}; after it: "
        f"{operations_line(form.program)}; {where}"
    )


def _computed(config: FileModel, live: Live) -> list[str]:
    if live.reading is None:
        return []
    form = live.reading.form
    heads = "1 head" if form.heads == 1 else f"{form.heads} heads"
    keys = f"keys of width {form.key_dim}" if form.key_dim else "scores of any kind"
    lines = [
        f"attention: {heads}, {keys}, values of width {form.value_dim}",
        f"after attention: {operations_line(form.program)}",
        f"agreement: {live.agreement}",
    ]
    if live.foreign.never:
        lines.append(f"add never chooses: {', '.join(map(str, live.foreign.never))}")
    unread = sorted(set(config.parameter_shapes()) - set(live.reading.trace.parameters.values()))
    if unread:
        lines.append(f"no logit depends on: {', '.join(unread)}")
    return lines

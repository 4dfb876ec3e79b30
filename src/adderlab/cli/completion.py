"""``adderlab completion SHELL``: commands and options, for the shell to complete; and two examples of
each command, for its help.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from adderlab.errors import UsageError

SHELLS = ("bash", "zsh")

EXAMPLES = {
    "train": ("adderlab train 456p --until proved", "adderlab train 7p --seeds 0-15 --run-name seven"),
    "plan": ("adderlab plan 456p --seeds 0-511 --nodes 4", "adderlab plan 7p --price-per-hour 0.4"),
    "sweep": ("adderlab sweep lr.toml", "adderlab sweep lr.toml --resume"),
    "evaluate": (
        "adderlab evaluate best.pt",
        "adderlab evaluate best.pt --suite fresh:1000000 --json -o best.json",
    ),
    "predict": ("adderlab predict best.pt 9999999999 1", "adderlab predict my_adder.py 12 30 --json"),
    "prove": (
        "adderlab prove best.pt -o best.cert.json.gz",
        "adderlab prove my_adder.py --weights best.pt",
    ),
    "check": (
        "adderlab check best.cert.json.gz best.pt",
        "adderlab check best.cert.json.gz best.pt --json",
    ),
    "attack": ("adderlab attack best.pt", "adderlab attack my_adder.py --json"),
    "repair": (
        "adderlab repair best.pt -o repaired.pt",
        "adderlab repair best.pt -o better.pt --rounds 3",
    ),
    "inspect": ("adderlab inspect best.pt", "adderlab inspect 456p --set model.d_ff=16"),
    "rate": ("adderlab rate 456p --seeds 1000-1095", "adderlab rate --table"),
    "zoo": ("adderlab zoo", "adderlab zoo 456p"),
    "settings": ("adderlab settings", "adderlab settings recipe.prefit"),
    "log": ("adderlab log", "adderlab log results/runs -o runs.md"),
    "replay": (
        "adderlab replay experiments/seed-log.toml",
        "adderlab replay experiments/seed-log.toml --only E4",
    ),
    "report": (
        "adderlab report results/runs/main",
        "adderlab report results/runs/a results/runs/b -o both.html",
    ),
    "explore": ("adderlab explore best.pt", "adderlab explore results/runs/main -o main.html"),
    "compare": (
        "adderlab compare results/runs/a results/runs/b",
        "adderlab compare results/sweeps/lr --json",
    ),
    "export": (
        "adderlab export best.pt --to adderboard -o adder.py",
        "adderlab export best.pt --to safetensors -o best.safetensors",
    ),
    "verify": ("adderlab verify adder.py", "adderlab verify adder.py --json"),
}


def completion(shell: str, kinds: dict[str, Any]) -> str:
    """A script for the shell to read: ``eval "$(adderlab completion bash)"``. ``kinds``: command ->
    dataclass. Raises ``UsageError`` for a shell that there is none for."""
    if shell not in SHELLS:
        raise UsageError(f"no completion for {shell!r}; there is one for {' and '.join(SHELLS)}")
    cases = [f'        {name}) words="{" ".join(_options(kind))}" ;;' for name, kind in kinds.items()]
    first = ["autoload -U +X bashcompinit && bashcompinit"] if shell == "zsh" else []
    return "\n".join(
        [
            *first,
            "_adderlab() {",
            '    local word="${COMP_WORDS[COMP_CWORD]}" words=""',
            '    if [ "$COMP_CWORD" -eq 1 ]; then',
            f'        COMPREPLY=($(compgen -W "{" ".join([*kinds, "help", "completion"])}" -- "$word"))',
            "        return",
            "    fi",
            '    case "${COMP_WORDS[1]}" in',
            *cases,
            f'        help) words="{" ".join(kinds)}" ;;',
            f'        completion) words="{" ".join(SHELLS)}" ;;',
            "    esac",
            '    case "$word" in',
            '        -*) COMPREPLY=($(compgen -W "$words" -- "$word")) ;;',
            '        *) COMPREPLY=($(compgen -f -- "$word")) ;;',
            "    esac",
            "}",
            "complete -o filenames -F _adderlab adderlab",
        ]
    )


def _options(kind: Any) -> Iterator[str]:
    yield "--help"
    for field in dataclasses.fields(kind):
        if "Positional" not in str(field.type):
            yield f"--{field.name.replace('_', '-')}"

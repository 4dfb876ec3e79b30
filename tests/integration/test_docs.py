"""The documents tell the truth: their code runs and prints what they say, their commands parse."""

import doctest
import importlib
import re
import shlex

import pytest

from adderlab.cli.main import COMMANDS, parse
from adderlab.errors import UsageError
from helpers.paths import ROOT


def test_the_code_of_the_statistics_page() -> None:
    page = ROOT / "docs" / "statistics.md"
    outcome = doctest.testfile(str(page), module_relative=False)
    assert outcome.attempted >= 15 and outcome.failed == 0


def commands(text: str) -> list[list[str]]:
    """Every adderlab command in a shell block or indented line, as words."""
    blocks = re.findall(r"```(?:sh|bash)\n(.*?)```", text, re.DOTALL)
    blocks += re.findall(r"^    (adderlab .*)$", text, re.MULTILINE)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    parts = [part.strip() for line in lines for part in line.split("&&")]
    found = [shlex.split(part, comments=True) for part in parts if "adderlab " in part]
    return [each for each in found if each and each[0].rpartition("/")[2] == "adderlab"]


@pytest.mark.parametrize("name", ["docs/guide.md", "docs/statistics.md", "README.md"])
def test_commands_in_the_documents_parse(name: str) -> None:
    found = commands((ROOT / name).read_text())
    assert found
    for _, command, *arguments in found:
        assert command in COMMANDS, command
        module = importlib.import_module(f"adderlab.cli.{command}")
        try:
            parse(module.Args, arguments, f"adderlab {command}", None)
        except UsageError as error:
            raise AssertionError(
                f"{name}: adderlab {command} {shlex.join(arguments)}: {error}"
            ) from None


def test_links_between_documents_lead_somewhere() -> None:
    for name in ("docs/guide.md", "docs/statistics.md"):
        page = ROOT / name
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{name}: {target}"

"""The documents are true: their code runs and prints what stands there, their commands parse."""

import doctest
import re
import shlex

import pytest

import adderlab
from adderlab.cli.main import COMMANDS, command_of, parse
from adderlab.errors import UsageError
from helpers.paths import ROOT

PAGES = sorted(
    path.relative_to(ROOT).as_posix() for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]
)
WRITTEN_BY_COMMANDS = {"EXPERIMENTS.md", "docs/rates.md", "docs/zoo.md"}
"""Records of what was run, with the commands of their day."""


def test_the_code_of_the_statistics_page() -> None:
    page = ROOT / "docs" / "statistics.md"
    outcome = doctest.testfile(str(page), module_relative=False)
    assert outcome.attempted >= 15 and outcome.failed == 0


def test_the_code_of_the_readme(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    outcome = doctest.testfile(str(ROOT / "README.md"), module_relative=False)
    assert outcome.attempted >= 5 and outcome.failed == 0


@pytest.mark.parametrize("name", PAGES)
def test_names_of_the_api_in_documents_exist(name: str) -> None:
    for each in re.findall(r"\bal\.([a-z_]\w*)\(", (ROOT / name).read_text()):
        assert each in adderlab.__all__, f"{name}: al.{each}"


def test_changelog_and_citation_name_the_version() -> None:
    first = re.search(r"^## (\d\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert first and first.group(1) == adderlab.__version__
    assert f"\nversion: {adderlab.__version__}\n" in (ROOT / "CITATION.cff").read_text()


def commands(text: str) -> list[list[str]]:
    """Every adderlab command in a shell block or indented line, as words; shell variables replaced."""
    for name, value in re.findall(r'\b([A-Z]+)="([^"]*)"', text):
        text = text.replace(f"${name} ", f"{value} ").replace(f"${name}\n", f"{value}\n")
    text = re.sub(r" \[--[^\]]*\]", "", text)  # optional arguments in a synopsis
    blocks = re.findall(r"```(?:sh|bash)\n(.*?)```", text, re.DOTALL)
    blocks += re.findall(r"^    (adderlab (?:.*\\\n)*.*)$", text, re.MULTILINE)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    parts = [part.partition(" > ")[0].strip() for line in lines for part in line.split("&&")]
    found = [shlex.split(part, comments=True) for part in parts if "adderlab " in part]
    return [each for each in found if each and each[0].rpartition("/")[2] == "adderlab"]


def test_commands_are_found_in_blocks_and_indented_lines() -> None:
    assert len(commands((ROOT / "README.md").read_text())) == 1
    assert len(commands((ROOT / "docs" / "guide.md").read_text())) >= 10
    assert len(commands((ROOT / "docs" / "lab-notebook.md").read_text())) >= 12


@pytest.mark.parametrize("name", [page for page in PAGES if page not in WRITTEN_BY_COMMANDS])
def test_commands_in_the_documents_parse(name: str) -> None:
    found = commands((ROOT / name).read_text())
    for _, command, *arguments in found:
        assert command in COMMANDS, command
        try:
            parse(command_of(command), arguments, f"adderlab {command}")
        except UsageError as error:
            raise AssertionError(
                f"{name}: adderlab {command} {shlex.join(arguments)}: {error}"
            ) from None


@pytest.mark.parametrize("name", PAGES)
def test_links_and_files_named_in_documents_exist(name: str) -> None:
    page = ROOT / name
    text = page.read_text()
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{name}: {target}"
    folders = "tests|experiments|benchmarks|docs|src|notebooks"
    for file in re.findall(
        rf"(?<![\w/.])(?:{folders})/[\w./-]+\.(?:py|cpp|hpp|md|ipynb|json|toml)\b", text
    ):
        assert (ROOT / file).exists(), f"{name}: {file}"
    packages = "|".join(path.parent.name for path in (ROOT / "src" / "adderlab").glob("*/__init__.py"))
    for file in re.findall(rf"`((?:{packages})/[\w./-]+\.(?:py|cpp|hpp))`", text):
        assert (ROOT / "src" / "adderlab" / file).exists(), f"{name}: {file}"


@pytest.mark.parametrize("name", PAGES)
def test_links_into_pages_name_a_heading(name: str) -> None:
    page = ROOT / name
    for target, anchor in re.findall(r"\]\(([^)#\s]*)#([^)]+)\)", page.read_text()):
        if "://" in target:
            continue
        to = page.parent / target if target else page
        headings = re.findall(r"^#+ (.*)$", to.read_text(), re.MULTILINE)
        assert anchor in {slug(heading) for heading in headings}, f"{name}: {target}#{anchor}"


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")

"""``import adderlab``: light, complete, and the same for people, type checkers and editors."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import adderlab
from helpers.paths import ROOT

INIT = ROOT / "src" / "adderlab" / "__init__.py"


def test_importing_loads_nothing_heavy() -> None:
    code = (
        "import adderlab, sys; dir(adderlab); adderlab.UsageError;"
        "print(sorted({'torch', 'numpy', 'rich', 'tyro', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_name_is_there_and_typed_where_it_is_defined() -> None:
    block = next(node for node in ast.parse(INIT.read_text()).body if isinstance(node, ast.If))
    typed = {
        str(alias.asname): str(node.module)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert typed == adderlab._MODULE_OF
    for name, module in typed.items():
        assert getattr(adderlab, name) is getattr(importlib.import_module(module), name)
    assert set(adderlab.__all__) <= set(dir(adderlab))


def test_no_public_name_is_a_package_of_ours() -> None:
    """Importing a package sets it as an attribute, over a function of the same name."""
    folder = INIT.parent
    modules = {path.stem for path in folder.glob("*.py")} | {
        p.parent.name for p in folder.glob("*/*.py")
    }
    assert not modules & set(adderlab.__all__)


def test_public_functions_and_classes_are_documented() -> None:
    for name in adderlab._MODULE_OF:
        value = getattr(adderlab, name)
        assert value.__doc__ and "(" not in value.__doc__.split(maxsplit=1)[0], name


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        adderlab.nothing  # noqa: B018


def test_the_package_is_marked_as_typed() -> None:
    assert Path(str(adderlab.__file__)).with_name("py.typed").is_file()

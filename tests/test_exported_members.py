import ast
import importlib
import subprocess
import sys
import types
from pathlib import Path

import pytest

import cibench

HOME = cibench._HOME


def test_all_is_the_public_names():
    assert cibench.__all__ == ["PLUGIN_API", "PROTOCOL", "VERSION", *HOME]
    assert dir(cibench) == sorted(cibench.__all__)


def test_names_are_sorted():
    assert list(HOME) == sorted(HOME)


@pytest.mark.parametrize("name", cibench.__all__)
def test_every_name_is_importable(name):
    value = getattr(cibench, name)
    if name in HOME:
        assert value is getattr(importlib.import_module(f"cibench.{HOME[name]}"), name)


def test_no_public_name_is_left_out():
    for name in cibench.__all__:
        getattr(cibench, name)
    imported = {"annotations", "Any", "TYPE_CHECKING"}
    public = {
        name
        for name, value in vars(cibench).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }
    assert public - imported == set(cibench.__all__)


def test_type_checkers_see_the_same_names():
    tree = ast.parse(Path(cibench.__file__).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.asname: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == HOME


def test_unknown_name():
    with pytest.raises(AttributeError, match="no attribute 'Defence'"):
        cibench.Defence  # noqa: B018


@pytest.mark.parametrize(
    "statement",
    [
        "import cibench",
        "import cibench; cibench.VERSION; dir(cibench); cibench.CibenchError",
        "from cibench import hookimpl, CellRecord",
        "from cibench.registry import Registry as R; [e.summary for e in R().entries]",
        "import cibench.statistics, cibench.spec",
    ],
)
def test_torch_is_imported_only_when_a_name_needs_it(statement):
    script = f"import sys\n{statement}\nsys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0

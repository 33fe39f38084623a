"""The version of the plugin API: what modules declare, and what does not fit."""

import ast
import importlib
import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

import cibench
from cibench import cli
from cibench._errors import PluginError
from cibench.plugin_api import declared_in, misfit
from cibench.registry import Registry, default_registry

MODULE = """
\"\"\"A defense from elsewhere.\"\"\"
from dataclasses import dataclass
from cibench import hookimpl
{line}

@dataclass(frozen=True, kw_only=True)
class Elsewhere:
    name = "elsewhere"

@hookimpl
def cibench_defenses():
    return [Elsewhere]
"""
MAJOR, MINOR = map(int, cibench.PLUGIN_API.split("."))


@pytest.fixture
def install(tmp_path, monkeypatch):
    """A function that installs a module as a distribution of its own."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    modules = []

    def add(source, *, dist="elsewhere", point="defenses.elsewhere", module=None):
        module = module or f"api_{dist}"
        if source is not None:
            (tmp_path / f"{module}.py").write_text(source)
        info = tmp_path / f"{dist}-3.1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {dist}\nVersion: 3.1\n"
        )
        (info / "entry_points.txt").write_text(f"[cibench]\n{point} = {module}\n")
        importlib.invalidate_caches()
        default_registry().__dict__.pop("entries", None)
        modules.append(module)

    yield add
    for module in modules:
        sys.modules.pop(module, None)
    default_registry().__dict__.pop("entries", None)


def listed(capsys, *options):
    assert cli.invoke(["ls", "plugins", "--json", *options]) == 0
    rows = json.loads(capsys.readouterr().out)
    return [row for row in rows if row["distribution"] != "cibench 0.1.0"]


@pytest.mark.parametrize(
    "line",
    [
        "",
        f"CIBENCH_PLUGIN_API = {cibench.PLUGIN_API!r}",
        f"CIBENCH_PLUGIN_API: str = '{MAJOR}.0'",
    ],
)
def test_what_fits_loads(install, capsys, line):
    install(MODULE.format(line=line))
    assert Registry().load("defense", "elsewhere").name == "elsewhere"
    (row,) = listed(capsys)
    assert row["state"] == "ok"
    assert row["summary"] == "A defense from elsewhere."


@pytest.mark.parametrize(
    ("version", "fix"),
    [
        (f"{MAJOR}.{MINOR + 1}", "upgrade cibench, or install an older elsewhere"),
        (f"{MAJOR + 1}.0", "upgrade cibench, or install an older elsewhere"),
        (f"{MAJOR - 1}.9", "upgrade elsewhere, or install an older cibench"),
    ],
)
def test_another_version_is_refused_and_listed(install, capsys, version, fix):
    # Before the import, which the other version may well break.
    line = f"CIBENCH_PLUGIN_API = '{version}'\nraise SystemExit"
    install(MODULE.format(line=line))
    reason = f"it is written for plugin API {version}, this cibench has"
    with pytest.raises(PluginError) as caught:
        Registry().load("defense", "elsewhere")
    assert "elsewhere 3.1" in str(caught.value)
    assert reason in str(caught.value)
    assert fix in str(caught.value)
    (row,) = listed(capsys)
    assert (row["state"], row["fix"]) == ("other API", fix)
    assert reason in row["reason"]


def test_a_version_that_only_the_import_shows_is_refused(install):
    line = f"CIBENCH_PLUGIN_API = '.'.join(['{MAJOR + 1}', '0'])"
    install(MODULE.format(line=line))
    with pytest.raises(PluginError, match=f"written for plugin API {MAJOR + 1}"):
        Registry().load("defense", "elsewhere")


@pytest.mark.parametrize("value", ["1", "one", "1.0.0", "01.0", "1.0 ", ""])
def test_what_is_no_version_is_refused(value):
    reason, fix = misfit(value, "elsewhere")
    assert "expected CIBENCH_PLUGIN_API as MAJOR.MINOR such as" in reason
    assert fix == "correct the declaration in elsewhere"


def test_a_number_is_no_version():
    assert misfit(1.0, "elsewhere") is not None


@given(st.integers(0, 10**5), st.integers(0, 10**5))
def test_a_version_fits_exactly_if_major_is_equal_and_minor_not_higher(major, minor):
    fits = major == MAJOR and minor <= MINOR
    assert (misfit(f"{major}.{minor}", "x") is None) == fits


@given(st.text())
def test_any_text_is_answered(text):
    found = misfit(text, "x")
    assert found is None or all(found)


@given(st.from_regex(r"[0-9]\.[0-9]", fullmatch=True))
def test_the_declaration_is_read_from_text(version):
    tree = ast.parse(f"import nowhere\nCIBENCH_PLUGIN_API = {version!r}\n1 / 0")
    assert declared_in(tree) == version
    hidden = ast.parse(f"if True:\n    CIBENCH_PLUGIN_API = {version!r}")
    assert declared_in(hidden) is None


# What is wrong with plugins, as `ls` tells it


def test_broken_duplicate_and_strange_plugins_are_marked(install, capsys):
    install("def:", dist="broken", point="defenses.broken")
    install(None, dist="absent", point="attacks.absent", module="nowhere_at_all")
    install("", dist="odd", point="widgets.odd")
    install(MODULE.format(line=""), dist="first")
    install(MODULE.format(line=""), dist="second")
    found = {row["distribution"]: row for row in listed(capsys)}
    states = {name: row["state"] for name, row in found.items()}
    assert states == {
        "broken 3.1": "broken",
        "absent 3.1": "broken",
        "odd 3.1": "broken",
        "first 3.1": "duplicate",
        "second 3.1": "duplicate",
    }
    assert "api_broken cannot be read: SyntaxError" in found["broken 3.1"]["reason"]
    assert found["absent 3.1"]["reason"] == "no module nowhere_at_all"
    assert "unknown kind 'widgets'" in found["odd 3.1"]["reason"]
    assert found["first 3.1"]["reason"] == "its name is also claimed by second"
    for row in found.values():
        assert row["fix"]


def test_what_fails_on_import_shows_with_load(install, capsys):
    install("import not_installed_anywhere", dist="fails", point="attacks.fails")
    (row,) = listed(capsys)
    assert row["state"] == "ok"
    (row,) = listed(capsys, "--load")
    assert row["state"] == "broken"
    assert "No module named 'not_installed_anywhere'" in row["reason"]


def test_the_table_explains_below(install, capsys):
    install("def:", dist="broken", point="defenses.broken")
    assert cli.invoke(["ls", "defenses"]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0].split() == [
        "kind", "name", "distribution", "state", "summary"
    ]  # fmt: skip
    assert "\nbroken: defense broken of broken 3.1: api_broken cannot be read" in out
    assert "\n  to mend it: reinstall or uninstall broken\n" in out

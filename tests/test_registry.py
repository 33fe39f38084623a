import importlib
import re
import sys
from textwrap import dedent

import pytest

from cibench import ContractError, hookspecs
from cibench._errors import OptionError, PluginError, UnknownPluginError
from cibench.registry import PluginEntry, Registry
from cibench.spec import Spec

HOOKS = sorted(name for name in dir(hookspecs) if name.startswith("cibench_"))

DEFENSE = '''
    """A defense from elsewhere."""

    from dataclasses import dataclass
    from cibench import hookimpl

    @dataclass(frozen=True, kw_only=True)
    class Elsewhere:
        name = "elsewhere"
        tau: float = 1.0

    @hookimpl
    def cibench_defenses():
        return [Elsewhere]
'''


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A function that installs a distribution of one module, as metadata files."""
    monkeypatch.syspath_prepend(str(tmp_path))
    # A module rewritten within a second must not be answered from its bytecode.
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def install(source, *, module, points, dist="elsewhere", version="1.2"):
        (tmp_path / f"{module}.py").write_text(dedent(source))
        info = tmp_path / f"{dist}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {dist}\nVersion: {version}\n"
        )
        lines = [f"{name} = {module}" for name in points]
        (info / "entry_points.txt").write_text("\n".join(["[cibench]", *lines, ""]))
        importlib.invalidate_caches()
        modules.append(module)
        return tmp_path / f"{module}.py"

    modules = []
    yield install
    for module in modules:
        sys.modules.pop(module, None)


def test_shipped_plugins_are_listed_with_their_distribution():
    entries = Registry().entries
    assert list(entries) == sorted(entries)
    (copur,) = (e for e in entries if (e.kind, e.name) == ("defense", "copur"))
    assert copur.module == "cibench_plugins.defenses.copur"
    assert copur.distribution == "cibench"
    assert "CoPur" in copur.summary
    assert {"copur", "manifold-projection", "none"} <= set(Registry().names("defense"))


def test_every_shipped_plugin_loads_under_its_name():
    registry = Registry()
    for entry in registry.entries:
        if entry.distribution == "cibench":
            assert registry.load(entry.kind, entry.name).name == entry.name


def test_a_third_party_plugin_is_found_loaded_and_configured(site):
    site(DEFENSE, module="ext_plain", points=["defenses.elsewhere"])
    registry = Registry()
    entry = registry.entry("defense", "elsewhere")
    assert entry == PluginEntry("defense", "elsewhere", "ext_plain", "elsewhere", "1.2")
    plugin = registry.configure("defense", Spec.parse("elsewhere:tau=2"))
    assert plugin.tau == 2.0
    with pytest.raises(OptionError, match="did you mean 'tau'"):
        registry.configure("defense", Spec.parse("elsewhere:tao=2"))


def test_listing_imports_nothing(site):
    site("raise SystemExit(3)", module="ext_listed", points=["attacks.listed"])
    registry = Registry()
    assert "listed" in registry.names("attack")
    assert registry.entry("attack", "listed").summary == ""
    assert "ext_listed" not in sys.modules


@pytest.mark.parametrize(
    ("source", "summary"),
    [
        ('"""First line.\n\nSecond."""\nimport nowhere', "First line."),
        ("'''A title'''", "A title"),
        ("not python", ""),
        ("x = '\\0'", ""),
    ],
)
def test_summary_is_the_first_line_of_the_docstring(site, source, summary):
    site(source, module="ext_summary", points=["attacks.summary"])
    assert Registry().entry("attack", "summary").summary == summary


def test_summary_of_a_module_that_is_not_there(site):
    site("", module="ext_absent", points=["attacks.absent"]).unlink()
    assert Registry().entry("attack", "absent").summary == ""


@pytest.mark.parametrize(
    ("kind", "name", "nearest"),
    [
        ("defense", "copurr", "copur"),
        ("attack", "pdg", "pgd"),
        ("dataset", "mfaet", "mfeat"),
    ],
)
def test_unknown_name_suggests_the_nearest(kind, name, nearest):
    message = f"unknown {kind} '{name}' (did you mean '{nearest}'?); expected one of "
    with pytest.raises(UnknownPluginError, match=re.escape(message)) as caught:
        Registry().load(kind, name)
    assert str(caught.value).endswith(f"(see: cibench ls {kind}s)")
    assert caught.value.exit_code == 2


def test_unknown_name_far_from_all_others():
    with pytest.raises(UnknownPluginError, match="unknown defense 'zzz'; expected one"):
        Registry().load("defense", "zzz")


@pytest.mark.parametrize(
    ("source", "error"),
    [
        (
            "import nowhere_at_all",
            "ModuleNotFoundError: No module named 'nowhere_at_all'",
        ),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("def", "SyntaxError"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("import sys; sys.exit('bye')", "SystemExit: bye"),
        ("raise BaseException('odd')", "BaseException: odd"),
        ("from cibench import Defence", "ImportError"),
    ],
)
def test_a_plugin_that_fails_on_import(site, source, error):
    site(source, module="ext_broken", points=["defenses.broken"], dist="acme")
    registry = Registry()
    message = f"defense broken (ext_broken, from acme 1.2) cannot be loaded: {error}"
    with pytest.raises(PluginError, match=re.escape(message)) as caught:
        registry.load("defense", "broken")
    assert "reinstall or uninstall acme" in str(caught.value)
    assert caught.value.exit_code == 3
    assert registry.load("defense", "none").name == "none"


def test_an_interrupt_during_an_import_is_an_interrupt(site):
    site("raise KeyboardInterrupt", module="ext_stopped", points=["defenses.stopped"])
    with pytest.raises(KeyboardInterrupt):
        Registry().load("defense", "stopped")


def test_a_failed_load_is_not_remembered(site):
    path = site("1 / 0", module="ext_mended", points=["defenses.elsewhere"])
    registry = Registry()
    for _ in range(2):
        with pytest.raises(PluginError, match="ZeroDivisionError"):
            registry.load("defense", "elsewhere")
    path.write_text(dedent(DEFENSE))
    assert registry.load("defense", "elsewhere").name == "elsewhere"


def test_a_misspelt_hook(site):
    source = DEFENSE.replace("def cibench_defenses", "def cibench_defences")
    site(source, module="ext_misspelt", points=["defenses.elsewhere"])
    registry = Registry()
    for _ in range(2):
        with pytest.raises(PluginError, match="unknown hook 'cibench_defences'"):
            registry.load("defense", "elsewhere")
    assert registry.load("defense", "none").name == "none"


def test_a_hook_with_an_argument_it_is_not_given(site):
    source = DEFENSE.replace("cibench_defenses()", "cibench_defenses(context)")
    site(source, module="ext_argument", points=["defenses.elsewhere"])
    registry = Registry()
    for _ in range(2):
        with pytest.raises(PluginError, match=r"(?s)elsewhere 1\.2.*context"):
            registry.load("defense", "elsewhere")
    assert registry.load("defense", "none").name == "none"


def test_a_hook_that_fails(site):
    source = DEFENSE.replace("return [Elsewhere]", "raise RuntimeError('no')")
    site(source, module="ext_failing", points=["defenses.elsewhere"])
    registry = Registry()
    with pytest.raises(PluginError, match=r"elsewhere 1\.2.*RuntimeError: no"):
        registry.load("defense", "elsewhere")
    assert registry.load("defense", "none").name == "none"


@pytest.mark.parametrize("returned", ["None", "[1]", "Elsewhere"])
def test_a_hook_that_returns_no_list_of_classes(site, returned):
    source = DEFENSE.replace("return [Elsewhere]", f"return {returned}")
    site(source, module="ext_odd", points=["defenses.elsewhere"])
    with pytest.raises(PluginError, match=r"elsewhere 1\.2"):
        Registry().load("defense", "elsewhere")


@pytest.mark.parametrize(
    ("returned", "got"),
    [("[Elsewhere]", "elsewhere"), ("[]", "no class")],
)
def test_a_module_without_the_class_it_claims(site, returned, got):
    source = DEFENSE.replace("[Elsewhere]", returned)
    site(source, module="ext_other", points=["defenses.claimed"])
    message = f"to return a class named 'claimed', got {got}"
    with pytest.raises(PluginError, match=message):
        Registry().load("defense", "claimed")


def test_a_module_of_another_kind(site):
    site(DEFENSE, module="ext_kind", points=["attacks.elsewhere"])
    with pytest.raises(PluginError, match=r"expected cibench_attacks\(\) to return"):
        Registry().load("attack", "elsewhere")


def test_one_module_may_provide_several_methods(site):
    source = DEFENSE.replace(
        "return [Elsewhere]",
        "return [Elsewhere, type('Second', (Elsewhere,), {'name': 'second'})]",
    )
    points = ["defenses.elsewhere", "defenses.second"]
    site(source, module="ext_several", points=points)
    registry = Registry()
    assert registry.load("defense", "second").name == "second"
    assert registry.load("defense", "elsewhere").name == "elsewhere"


def test_two_distributions_with_one_name(site):
    points = ["defenses.copur"]
    site(DEFENSE, module="ext_double", points=points, dist="acme", version="0.3")
    registry = Registry()
    with pytest.raises(PluginError, match="'copur' is claimed by") as caught:
        registry.load("defense", "copur")
    assert "acme 0.3" in str(caught.value)
    assert "cibench 0." in str(caught.value)
    assert registry.load("attack", "pgd").name == "pgd"


def test_an_unknown_kind_is_kept_for_the_listing(site):
    site("", module="ext_strange", points=["oracles.delphi", "nodot"])
    entries = {(e.kind, e.name) for e in Registry().entries}
    assert {("oracles", "delphi"), ("nodot", "")} <= entries


@pytest.mark.parametrize("kind", ["defenses", "attacks", "datasets"])
def test_hook_that_provides_classes(kind):
    """Covers cibench_defenses, cibench_attacks and cibench_datasets."""
    module = {"defenses": "copur", "attacks": "pgd", "datasets": "mfeat"}[kind]
    plugin = importlib.import_module(f"cibench_plugins.{kind}.{module}")
    (provided,) = getattr(plugin, f"cibench_{kind}")()
    assert Registry().load(kind[:-1], module) is provided


OBSERVER = (
    DEFENSE
    + """
    @hookimpl
    def cibench_cell_finished(record):
        record["seen"] = True
"""
)


def test_hook_cibench_cell_finished(site):
    site(OBSERVER, module="ext_observer", points=["defenses.elsewhere"])
    registry = Registry()
    registry.notify_finished(before := {})
    registry.load("defense", "elsewhere")
    registry.notify_finished(after := {})
    assert (before, after) == ({}, {"seen": True})


def test_an_observer_that_fails(site):
    site(OBSERVER, module="ext_observing", points=["defenses.elsewhere"])
    registry = Registry()
    registry.load("defense", "elsewhere")
    with pytest.raises(ContractError, match="cibench_cell_finished failed: "):
        registry.notify_finished(None)


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_is_tested(hook):
    tests = [value for name, value in globals().items() if name.startswith("test_hook")]
    assert any(hook in test.__name__ + (test.__doc__ or "") for test in tests)

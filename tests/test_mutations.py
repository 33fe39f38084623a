"""The tool that breaks plugins on purpose: what it breaks is found."""

import re
import sys

import pytest

from cibench.registry import default_registry
from cibench.spec import Spec
from helpers_tools import TOOLS, load_tool

pytestmark = pytest.mark.skipif(not TOOLS.is_dir(), reason="the tool is not here")


@pytest.fixture(scope="module")
def tool():
    return load_tool("mutations")


def test_breaks_of_a_defense_and_of_an_attack_are_found(tool, capsys):
    outcomes = tool.trials(["norm-clip", "flip"])
    ways = {(o.kind, o.way): o.found for o in outcomes}
    assert set(ways) == {
        *(("defense", way) for way in ("sign", "mask", "neighbour", "batch")),
        *(("attack", way) for way in ("sign", "neighbour", "clean")),
    }
    assert ways["defense", "mask"] == ("check_accuracy_with_missing_agents",)
    assert "check_one_sample_one_answer" in ways["defense", "batch"]
    assert "check_does_something" in ways["attack", "clean"]
    # A block that is amplified the wrong way round does harm, too: nothing to find.
    assert [way for way, found in ways.items() if not found] == [("attack", "sign")]


def test_the_figure_is_of_the_plugins_that_are_shipped(tool):
    """If not: python tools/mutations.py --figure docs/figures/mutations.svg."""
    registry, tried = default_registry(), 0
    for entry in registry.entries:
        if (entry.kind, entry.name) == ("attack", "witness"):
            continue  # of a file that there is not
        if entry.distribution != "cibench" or entry.kind == "dataset":
            continue
        plugin = registry.configure(entry.kind, Spec(entry.name))
        if entry.kind == "attack" and not (plugin.may_corrupt or plugin.may_drop):
            continue
        ways = tool.DEFENSE_BREAKS if entry.kind == "defense" else tool.ATTACK_BREAKS
        tried += sum(tool.applies(entry.kind, plugin, way) for way in list(ways)[1:])
    docs = TOOLS.parent / "docs"
    figure = (docs / "figures" / "mutations.svg").read_text(encoding="utf-8")
    found, total = map(int, re.search(r"(\d+) of (\d+) breaks found", figure).groups())
    assert total == tried
    assert found >= 0.9 * total
    assert f"{found} of {total} are" in (docs / "conformance.md").read_text("utf-8")


def test_a_break_that_nothing_notices_fails_the_tool(tool, monkeypatch, capsys):
    monkeypatch.setattr(tool, "failures", lambda plugin: set())
    monkeypatch.setattr(sys, "argv", ["mutations.py", "flip"])
    assert tool.main() == 1
    out = capsys.readouterr().out
    assert out.count("NOT FOUND") == 3
    assert "0 of 3 breaks found (0 %" in out

"""`cibench check` on the command line."""

import json
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from cibench import cli

DEFENSE = """
from dataclasses import dataclass
from typing import ClassVar
from cibench import AbstractDefense, Decision, FusionCenter, hookimpl

class Center(FusionCenter):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def decide(self, observation):
        found = self.inner.decide(observation)
        return Decision(logits={logits})

@dataclass(frozen=True, kw_only=True)
class Mine(AbstractDefense):
    \"\"\"Does what the test says.\"\"\"

    name: ClassVar[str] = "{name}"

    def fit(self, training, *, generator):
        return Center(training.undefended)

@hookimpl
def cibench_defenses():
    return [Mine]
"""


@pytest.fixture
def check(capsys):
    def run(*arguments):
        code = cli.invoke(["check", *map(str, arguments)])
        return (code, *capsys.readouterr())

    return run


def write(path, name, logits="found.logits"):
    path.write_text(DEFENSE.format(name=name, logits=logits))
    return path


def test_a_shipped_defense_passes(check):
    code, out, err = check("norm-clip", "--fast")
    assert (code, err) == (0, "")
    assert out.startswith("defense norm-clip: 19 passed, 1 skipped (")


def test_verbose_names_what_passed_and_what_was_skipped(check):
    code, out, _ = check("flip", "-v")
    assert code == 0
    assert "passed  check_touches_only_its_agents (" in out
    assert "skipped check_budget (0.0 s): it has no budget" in out


def test_a_name_of_several_kinds_is_checked_as_each(check):
    code, out, _ = check("none", "--fast")
    assert code == 0
    assert "defense none: " in out
    assert "attack none: " in out
    code, out, _ = check("none", "--fast", "--kind", "attack")
    assert "defense none" not in out


def outside(*arguments, **environment):
    """The command in a process of its own, for plugins that are to leave again."""
    done = subprocess.run(
        [Path(sys.executable).with_name("cibench"), "check", *map(str, arguments)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def test_a_broken_file_fails_with_what_why_and_how(tmp_path):
    path = write(tmp_path / "upside.py", "upside-down", "-found.logits")
    code, out, err = outside("--plugin", path, "--fast", "--junit", tmp_path / "r.xml")
    assert code == 1
    assert "failed  defense upside-down: check_clean_accuracy: expected at least" in out
    assert "  why it matters: " in out
    assert "  to mend it: " in out
    assert err == "error: 2 of 20 checks failed\n"
    (suite,) = ElementTree.parse(tmp_path / "r.xml").getroot()
    assert suite.attrib["name"] == "defense upside-down"
    assert (suite.attrib["tests"], suite.attrib["failures"]) == ("20", "2")
    failure, _ = suite.iter("failure")
    assert "check_clean_accuracy: expected at least" in failure.attrib["message"]


def test_json_has_every_check(tmp_path):
    path = write(tmp_path / "plain.py", "plain-one")
    code, out, _ = outside("--plugin", path, "--fast", "--json")
    results = json.loads(out)
    assert code == 0
    skipped = [r["check"] for r in results if r["status"] != "passed"]
    assert skipped == ["check_certificate"]
    assert {r["plugin"] for r in results} == {"plain-one"}
    assert len(results) == 20


def test_options_are_taken(check):
    code, out, _ = check("norm-clip:quantile=0.9", "--fast")
    assert code == 0
    assert out.startswith("defense norm-clip:quantile=0.9: ")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "expected names of plugins, --all or --plugin FILE, got none"),
        (["copurr"], 2, "unknown plugin 'copurr' (did you mean 'copur'?)"),
        (["copur:tau=-1"], 2, "option tau: number > 0"),
        (["flip", "--junit", "absent/r.xml"], 3, "expected a file that can be written"),
        (["witness"], 2, "expected file=FILE.safetensors, got no file"),
    ],
)
def test_what_is_wrong_is_said(check, tmp_path, monkeypatch, arguments, code, message):
    monkeypatch.chdir(tmp_path)
    found, _, err = check(*arguments)
    assert found == code
    assert message in err


def test_a_module_that_cannot_be_imported_is_a_failed_check(tmp_path):
    site = tmp_path / "site"
    info = site / "broken_one-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: broken-one\nVersion: 1\n"
    )
    (info / "entry_points.txt").write_text(
        "[cibench]\ndefenses.broken-one = broken_one\n"
    )
    (site / "broken_one.py").write_text("raise SystemExit(3)\n")
    code, out, _ = outside("broken-one", PYTHONPATH=str(site))
    assert code == 1
    assert "cannot be loaded: SystemExit: 3" in out
    assert "defense broken-one: 1 failed" in out


def test_it_computes_with_one_thread_as_a_run_does():
    """Threads that wait for one another on small tensors took ten times as long."""
    script = (
        "import torch\nfrom cibench.cli import invoke\ntorch.set_num_threads(2)\n"
        "print(invoke(['check', '--fast', '--kind', 'attack', 'flip']),"
        " torch.get_num_threads())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "0 1"

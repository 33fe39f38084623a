"""Listing, help and finished runs need metadata and records only: nothing heavy."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "pandas", "numpy", "scipy", "sklearn", "cibench_plugins")
SCRIPT = """
import json, sys
from cibench import cli
code = cli.invoke(sys.argv[1:])
print(json.dumps([code, sorted(sys.modules)]), file=sys.stderr)
"""


def started(*arguments):
    """Exit code, and the modules a command imported."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    code, modules = json.loads(done.stderr.splitlines()[-1])
    return code, set(modules)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--help"],
        ["--version"],
        ["ls"],
        ["ls", "defenses", "--json"],
        ["ls", "flags"],
        ["ls", "recipes"],
        ["ls", "suites"],
        ["run", "--help"],
        ["schema"],
    ],
    ids=" ".join,
)
def test_nothing_heavy_is_imported(arguments):
    code, modules = started(*arguments)
    assert code == 0
    assert modules.isdisjoint(HEAVY)


def test_help_imports_no_verb():
    _, modules = started("--help")
    assert {m for m in modules if m.startswith("cibench.cli.")} == set()


def test_a_finished_run_is_shown_without_torch(tmp_path):
    (tmp_path / "cells").mkdir()
    code, modules = started("show", str(tmp_path))
    assert code == 0
    assert modules.isdisjoint(HEAVY)


def test_importing_the_package_is_light():
    script = "import sys, cibench; print(*sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert set(done.stdout.split()).isdisjoint(HEAVY)


def test_the_console_script_starts_the_same_code():
    program = Path(sys.executable).with_name("cibench")
    done = subprocess.run(
        [sys.executable, "-X", "importtime", program, "--help"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "cibench.cli" in imported
    assert imported.isdisjoint(HEAVY)

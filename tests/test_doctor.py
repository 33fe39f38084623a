"""`cibench doctor` and `python -m cibench`."""

import json
import subprocess
import sys

import pytest

from cibench import cli, health
from cibench.registry import KINDS, PluginEntry, Registry


@pytest.fixture
def doctor(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("CIBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CIBENCH_DATA", raising=False)

    def call(*arguments):
        code = cli.invoke(["doctor", "--json", *arguments])
        told = capsys.readouterr()
        rows = json.loads(told.out)
        return code, {(row["part"], row["what"]): row for row in rows}, told.err

    return call


def test_every_part_is_looked_at(doctor, tmp_path):
    code, found, err = doctor()
    assert (code, err) == (0, "")
    parts = {part for part, _ in found}
    assert parts >= {"versions", "computing", "extras", "cache", "plugins", "data sets"}
    counted = found["plugins", "cibench 0.1.0"]["detail"]
    entries = Registry().entries
    for kind, plural in KINDS.items():
        own = [e for e in entries if (e.kind, e.distribution) == (kind, "cibench")]
        assert f"{len(own)} {plural}" in counted
    assert found["data sets", "mfeat"]["state"] == "ok"
    absent = found["data sets", "extrasensory"]
    assert absent["state"] == "absent"
    assert absent["detail"] == "cibench data fetch extrasensory"
    assert "test" not in {what for part, what in found if part == "extras"}


def test_broken_plugins_are_named_with_what_to_do(doctor, monkeypatch):
    bad = PluginEntry("defense", "bad", "no_such_module_at_all", "acme", "1.0")
    odd = PluginEntry("widget", "odd", "json", "acme", "1.0")
    monkeypatch.setattr(health, "default_registry", Registry)
    monkeypatch.setattr(Registry, "entries", (bad, odd))
    code, found, err = doctor()
    assert code == 3
    broken = found["plugins", "defense bad of acme 1.0"]
    assert broken["state"] == "broken"
    assert "reinstall or uninstall acme" in broken["detail"]
    assert (
        "unknown kind 'widget'" in found["plugins", "widget odd of acme 1.0"]["detail"]
    )
    assert len(err.splitlines()) == 2


def test_absent_extras_say_how_to_install(doctor, monkeypatch):
    wants = [
        "numpy>=1",
        'no-such-library>=3; extra == "wishes"',
        "pytest>=1; extra == 'report'",
        'no-such-tool; extra == "dev"',
    ]
    monkeypatch.setattr(health.importlib.metadata, "requires", lambda name: wants)
    _, found, _ = doctor()
    lack = found["extras", "wishes"]
    assert lack["state"] == "absent"
    assert lack["detail"] == 'no-such-library absent; pip install "cibench[wishes]"'
    assert found["extras", "report"]["detail"].startswith("pytest ")
    assert ("extras", "dev") not in found


def test_a_cache_that_is_a_file_is_broken(doctor, monkeypatch, tmp_path):
    path = tmp_path / "file"
    path.write_text("")
    monkeypatch.setenv("CIBENCH_CACHE", str(path))
    code, found, err = doctor()
    assert code == 3
    assert "set CIBENCH_CACHE" in found["cache", "folder"]["detail"]
    assert err.startswith("error: folder: ")


def test_the_home_folder_is_not_named(monkeypatch, tmp_path):
    monkeypatch.setattr(health.Path, "home", lambda: tmp_path)
    assert health.cache_folder(tmp_path / "a" / "b").detail.startswith("~/a/b, ")


def test_python_m_is_the_command(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "cibench", "--version"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == subprocess.run(
        [sys.executable, "-c", "from cibench.cli import main; main()", "--version"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert "cibench, version" in done.stdout

"""`--plugin FILE` on the command line, and the sources that stand for a plugin."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cibench.grid import source_hash

PLUGIN = """
from dataclasses import dataclass
from cibench import AbstractDefense, hookimpl

@dataclass(frozen=True, kw_only=True)
class Plain(AbstractDefense):
    name = "plain"

    def fit(self, training, *, generator):
        return training.undefended

@hookimpl
def cibench_defenses():
    return [Plain]
"""
GRID = ["-d", "plain", "-a", "none", "--seeds", "1"]
GRID += ["--dataset", "synthetic:agents=4,rank=2,samples=200,width=6"]


@pytest.mark.parametrize("verb", [["plan"], ["run", "-o", "out"]])
def test_a_file_is_found_by_the_process_of_the_cells(tmp_path, verb):
    (tmp_path / "mine.py").write_text(PLUGIN)
    command = Path(sys.executable).with_name("cibench")
    done = subprocess.run(
        [command, *verb, *GRID, "--plugin", "mine.py"],
        cwd=tmp_path,
        env={**os.environ, "CIBENCH_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "failed" not in done.stdout


def test_a_run_with_a_file_is_taken_up_with_the_file(tmp_path):
    (tmp_path / "mine.py").write_text(PLUGIN)
    command = Path(sys.executable).with_name("cibench")

    def call(*words):
        return subprocess.run(
            [command, "run", "--isolation", "none", *words],
            cwd=tmp_path,
            env={**os.environ, "CIBENCH_CACHE": str(tmp_path / "cache")},
            capture_output=True,
            text=True,
            check=False,
        )

    assert call(*GRID, "-o", "out", "--plugin", "mine.py").returncode == 0
    without = call("--resume", "out")
    assert without.returncode == 2
    assert "if it came from a file, add --plugin FILE" in without.stderr
    assert call("--resume", "out", "--plugin", "mine.py").returncode == 0


def test_the_modules_of_a_distribution_count_as_its_source(tmp_path, monkeypatch):
    (tmp_path / "hashed_main.py").write_text("import hashed_helper")
    (tmp_path / "hashed_helper.py").write_text("SCALE = 1")
    (tmp_path / "hashed_stranger.py").write_text("")
    info = tmp_path / "hashed-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: hashed\nVersion: 1.0\n"
    )
    (info / "top_level.txt").write_text("hashed_main\nhashed_helper\n")
    monkeypatch.syspath_prepend(tmp_path)

    def found():
        source_hash.cache_clear()
        return source_hash("hashed_main")

    before = found()
    (tmp_path / "hashed_stranger.py").write_text("SCALE = 2")
    assert found() == before
    (tmp_path / "hashed_helper.py").write_text("SCALE = 2")
    assert found() != before

"""The example in examples/: built, installed, listed, checked, run and put on a board."""

import os
import re
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "examples" / "cibench-example-defense"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not SOURCE.is_dir(), reason="the example is not here"),
    pytest.mark.xdist_group("example"),
]
GRID = ["--suite", "standard", "--dataset", "synthetic", "--seeds", "1"]
GRID += ["-d", "none", "-d", "trimmed-mean"]
GRID += ["-a", "no attack", "-a", "flip x10 by 1 agent"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A fresh environment with the wheel; cibench and its needs are those of this one."""
    home = tmp_path_factory.mktemp("example")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]
    offline = ["--quiet", "--no-index", "--no-deps"]
    copy = home / "source"
    copy.mkdir()
    for path in SOURCE.iterdir():
        if path.is_file():
            (copy / path.name).write_bytes(path.read_bytes())
    _call([*pip, "wheel", *offline, "--no-build-isolation", "-w", home, copy], home)
    venv.create(home / "env", with_pip=False)
    (wheel,) = home.glob("*.whl")
    python = home / "env" / "bin" / "python"
    purelib = _call(
        [python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"],
        home,
    ).strip()
    _call([*pip, "install", *offline, "--target", purelib, wheel], home)
    here = sysconfig.get_paths()["purelib"]
    (Path(purelib) / "cibench_of_this_environment.pth").write_text(
        f"import site; site.addsitedir({here!r})\n"
    )
    return home


def _call(arguments, cwd, status=0):
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    env |= {"NO_COLOR": "1", "COLUMNS": "200", "CIBENCH_CACHE": str(cwd / "cache")}
    done = subprocess.run(
        [str(a) for a in arguments],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def cibench(home):
    def run(*arguments, status=0):
        python = home / "env" / "bin" / "python"
        return _call([python, "-m", "cibench", *arguments], home, status)

    return run


def test_it_is_listed_with_its_distribution(cibench):
    out = cibench("ls", "defenses")
    assert re.search(
        r"^defense +trimmed-mean +cibench-example-defense 1\.0\.0 ", out, re.M
    )
    assert "trim      integer >= 0  1" in cibench("info", "trimmed-mean")


def test_it_passes_every_check(cibench):
    out = cibench("check", "trimmed-mean", "trimmed-mean:trim=2")
    assert re.search(r"^defense trimmed-mean: \d\d passed, 1 skipped \(", out, re.M)
    assert "failed" not in out


def test_its_own_tests_pass(home):
    python = home / "env" / "bin" / "python"
    tests = SOURCE / "tests"
    out = _call(
        [
            python,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "--rootdir",
            tests,
            tests,
        ],
        home,
    )
    assert re.search(r"^\d\d passed", out, re.M)


def test_it_runs_and_comes_onto_a_board(cibench, home):
    cibench("run", "-q", *GRID, "--witnesses", "-o", "run")
    cibench("submit", "run", "--author", "A. B.", "--name", "ours", "-o", "ours.zip")
    (home / "boards").mkdir()
    (home / "boards" / "leaderboard.toml").write_text(
        'title = "Ours"\nowner = "A. B."\nsuite = "standard"\n'
    )
    cibench("leaderboard", "add", "ours.zip", "boards", "--replay", "all")
    pages = {p.name: p.read_text() for p in (home / "boards").rglob("*.md")}
    rows = [
        line
        for text in pages.values()
        for line in text.splitlines()
        if line.startswith("|") and "trimmed-mean" in line
    ]
    assert rows
    assert any("cibench-example-defense 1.0.0" in text for text in pages.values())

"""The README's plugin, exactly as printed: built, installed and run."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

README = Path(__file__).parents[1] / "README.md"
FILE = re.compile(r"<!-- file: (\S+) -->\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("readme")
    files = dict(FILE.findall(README.read_text(encoding="utf-8")))
    assert set(files) == {"mydef/pyproject.toml", "mydef/mydef.py"}
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content, encoding="utf-8")
    target = folder / "site"
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"),
            *("--no-index", "--no-build-isolation", "--disable-pip-version-check"),
            *("--target", str(target), str(folder / "mydef")),
        ],
        check=True,
        capture_output=True,
    )
    return target


def cibench(site, cwd, *arguments):
    env = os.environ | {"PYTHONPATH": str(site), "CIBENCH_CACHE": str(cwd / "cache")}
    return subprocess.run(
        [str(Path(sys.executable).parent / "cibench"), *arguments],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def test_it_is_listed_with_its_own_distribution(site, tmp_path):
    rows = json.loads(cibench(site, tmp_path, "ls", "defenses", "--json"))
    (row,) = [row for row in rows if row["name"] == "block-clip"]
    assert row["distribution"] == "mydef 0.1.0"
    assert row["summary"].startswith("Norm clipping")


def test_it_runs_and_blunts_an_amplified_block(site, tmp_path):
    printed = cibench(
        *(site, tmp_path, "run", "--quick", "--json", "-d", "block-clip"),
        *("-d", "block-clip:quantile=0.9", "-d", "none", "-a", "flip:amplification=20"),
    )
    records = {r["defense"]["spec"]: r for r in json.loads(printed)}
    assert set(records) == {"none", "block-clip", "block-clip:quantile=0.9"}
    correct = {k: r["metrics"]["attacked"]["successes"] for k, r in records.items()}
    assert correct["block-clip"] > correct["none"]
    assert records["block-clip"]["defense"]["distribution"] == "mydef"

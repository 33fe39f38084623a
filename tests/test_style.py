import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("cibench", "plugins")
LIMIT = 300


def sources(*folders):
    return [
        path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))
    ]


def hits(pattern, files):
    """`file:line` of every match."""
    return [
        f"{path.relative_to(ROOT).as_posix()}:{number}: {line.strip()}"
        for path in files
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if re.search(pattern, line)
    ]


needs_tree = pytest.mark.skipif(
    not all((ROOT / package).is_dir() for package in PACKAGES),
    reason="reads the tree; here only the installed package is at hand",
)


@needs_tree
@pytest.mark.parametrize(
    "pattern",
    [
        r"\btorch\.(random\.)?(manual_seed|seed)\(",
        r"\bnp\.random\.|\bnumpy\.random\b",
        r"^\s*(import random\b|from random import)",
    ],
    ids=["torch", "numpy", "standard library"],
)
def test_randomness_comes_from_a_passed_generator(pattern):
    # One sets the global generators, to see who uses them; one puts them back.
    spared = ("disturb.py", "put_back.py")
    files = [f for f in sources(*PACKAGES, "examples") if f.name not in spared]
    assert hits(pattern, files) == []


@needs_tree
@pytest.mark.parametrize("folder", ["tests", "benchmarks"])
def test_no_test_seeds_the_global_state(folder):
    pattern = r"\b(torch|np\.random|random)\.(manual_" + "seed|seed)\\("
    # The plugins in `faults` do on purpose what plugins should not.
    files = [path for path in sources(folder) if "faults" not in path.parts]
    assert hits(pattern, files) == []


@needs_tree
@pytest.mark.parametrize("package", PACKAGES)
def test_files_stay_short(package):
    lengths = {p: len(p.read_text("utf-8").splitlines()) for p in sources(package)}
    assert {p.name: n for p, n in lengths.items() if n > LIMIT} == {}


@needs_tree
def test_no_device_is_hard_coded():
    assert hits(r"\.cuda\(\)|=\s*[\"']cuda", sources(*PACKAGES)) == []


def test_no_absolute_path_of_a_machine():
    folders = ("work", "home", "root", "opt", "mnt", "Users")
    pattern = r"(?<![\w.~:/*-])/(" + "|".join(folders) + r")/|\b[A-Z]:\\\w"
    kinds = {".py", ".md", ".toml", ".txt", ".in", ".json", ".html", ".yml", ".cfg", ""}
    skipped = {"build", "dist", "runs"}
    top = [
        entry
        for entry in ROOT.iterdir()
        if entry.name not in skipped
        and (not entry.name.startswith(".") or entry.name in (".ci", ".github"))
    ]
    files = [
        path
        for entry in sorted(top)
        for path in ([entry] if entry.is_file() else sorted(entry.rglob("*")))
        if path.suffix in kinds and path.is_file() and path != Path(__file__)
    ]
    assert files
    assert hits(pattern, files) == []

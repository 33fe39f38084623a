"""`cibench new`: what it writes installs, is found, and passes its own tests unedited."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from cibench import cli
from cibench._errors import UsageError
from cibench.scaffold.write import LICENCES, Scaffold

KINDS = ("defense", "attack", "dataset")
BIN = Path(sys.executable).parent


@pytest.fixture
def new(capsys):
    def run(*arguments):
        code = cli.invoke(["new", *map(str, arguments)])
        return (code, *capsys.readouterr())

    return run


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """A package of each kind, and a folder into which all three are installed."""
    home = tmp_path_factory.mktemp("new")
    for kind in KINDS:
        made = Scaffold(kind=kind, name=f"Own.{kind}-1", licence="MIT", author="A. B.")
        made.write(home)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input")
    outside(
        *(*pip, "install", "--quiet", "--no-index", "--no-deps"),
        *("--no-build-isolation", "--target", home / "site"),
        *(home / f"Own.{kind}-1" for kind in KINDS),
        cwd=home,
    )
    return home


def outside(*arguments, cwd, path=None, status=0):
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    env |= {"NO_COLOR": "1", "COLUMNS": "200"}
    if path is not None:
        env["PYTHONPATH"] = str(path)
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


def test_all_are_listed_with_their_distribution(packages):
    out = outside(BIN / "cibench", "ls", cwd=packages, path=packages / "site")
    for kind in KINDS:
        # Wheels normalize a name in metadata or keep it; users may write either.
        assert re.search(
            rf"^{kind} +Own\.{kind}-1 +Own[.-]{kind}-1 0\.1\.0 ", out, re.M
        )


@pytest.mark.parametrize("kind", KINDS)
def test_its_own_tests_pass_unedited(packages, kind):
    folder = packages / f"Own.{kind}-1"
    out = outside(
        *(BIN / "pytest", "-q", "-p", "no:cacheprovider"),
        cwd=folder,
        path=packages / "site",
    )
    assert re.search(r"^\d+ passed", out, re.M)
    assert "failed" not in out


@pytest.mark.parametrize(
    ("kind", "grid"),
    [
        ("defense", ["-d", "Own.defense-1:slack=0.5", "-a", "pgd"]),
        ("attack", ["-d", "copur", "-a", "Own.attack-1"]),
        ("dataset", ["-d", "none", "-a", "none", "--dataset", "Own.dataset-1"]),
    ],
)
def test_the_grid_runs_it(packages, tmp_path, kind, grid):
    if kind != "dataset":
        grid = [*grid, "--dataset", "synthetic:agents=4,rank=2,samples=120,width=4"]
    os.environ["CIBENCH_CACHE"] = str(tmp_path / "cache")
    try:
        out = outside(
            *(BIN / "cibench", "run", *grid, "--seeds", "1", "-o", tmp_path / "run"),
            cwd=packages,
            path=packages / "site",
        )
    finally:
        del os.environ["CIBENCH_CACHE"]
    assert f"Own.{kind}-1" in out


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("licence", LICENCES)
def test_files_are_whole(kind, licence):
    made = Scaffold(kind=kind, name="brand-new", licence=licence, author="Zoë O'Hara")
    files = made.files()
    for path, text in files.items():
        assert "$" not in text, path
        assert text.endswith("\n")
        if path.endswith(".py"):
            ast.parse(text)
            assert all(len(line) <= 92 for line in text.splitlines())
    project = tomllib.loads(files["pyproject.toml"])["project"]
    assert project["name"] == "brand-new"
    article = "An" if kind == "attack" else "A"
    assert project["description"] == f"{article} {kind} for cibench"
    assert f"\n{article} {kind} for cibench, the" in files["README.md"]
    assert project["license"] == licence
    assert project["entry-points"] == {"cibench": {f"{kind}s.brand-new": "brand_new"}}
    assert project["authors"] == [{"name": "Zoë O'Hara"}]
    workflow = yaml.safe_load(files[".github/workflows/check.yml"])
    steps = [
        step["run"] for step in workflow["jobs"]["check"]["steps"] if "run" in step
    ]
    assert steps == ['pip install ".[test]"', "pytest", steps[-1]]
    assert steps[-1] == f"cibench check --kind {kind} brand-new"
    assert len(files["LICENSE"]) > 1000
    if licence != "Apache-2.0":
        assert "Zoë O'Hara" in files["LICENSE"]
    assert "EDIT" in files["brand_new.py"]


def test_written_code_is_in_good_order(packages):
    ruff = BIN / "ruff"
    if not ruff.exists():
        pytest.skip("ruff is not installed here")
    for kind in KINDS:
        files = [f"Own.{kind}-1/own_{kind}_1.py", f"Own.{kind}-1/tests"]
        outside(ruff, "check", "--isolated", "--no-cache", *files, cwd=packages)
        outside(
            *(ruff, "format", "--check", "--isolated", "--no-cache", *files),
            cwd=packages,
        )


def test_the_command_says_what_to_type_next(new, tmp_path):
    code, out, err = new("attack", "one-step", "--into", tmp_path, "--licence", "MIT")
    assert (code, err) == (0, "")
    assert f'pip install -e "{tmp_path / "one-step"}[test]"' in out
    assert "cibench check one-step" in out
    assert "cibench run -d none -d copur -a one-step" in out
    assert (tmp_path / "one-step" / "one_step.py").is_file()


def test_nothing_is_overwritten(new, tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "thesis.tex").write_text("mine")
    code, _, err = new("defense", "kept", "--into", tmp_path)
    assert code == 2
    assert "expected a new or an empty folder, got one with content" in err
    assert [p.name for p in (tmp_path / "kept").iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["defense", "copur"], "a defense of cibench 0.1.0"),
        (["attack", "pgd"], "got 'pgd', an attack of cibench 0.1.0"),
        (["defense", "all"], "`all` selects every plugin"),
        (["dataset", "Setup"], "pip would run its module"),
        (["defense", "conftest"], "pytest would take its module"),
        (["defense", "class"], "expected one that Python does not use itself"),
        (["defense", "json"], "expected one that Python does not use itself"),
        (["defense", "torch"], "a module torch is here already"),
        (["defense", "9lives"], "beginning with a letter"),
        (["defense", "a b"], "parts joined by -, _ or ."),
        (["defense", "../up"], "parts joined by -, _ or ."),
        (["defence", "x"], "'defence' is not one of"),
        (["attack", "ok-name", "--author", 'x"y'], "without quotes"),
    ],
)
def test_what_is_wrong_is_said(new, tmp_path, arguments, message):
    code, _, err = new(*arguments, "--into", tmp_path)
    assert code == 2
    assert message in err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_said(new, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, err = new("defense", "brand-new", "--into", tmp_path / "file" / "deeper")
    assert code == 3
    assert "expected a folder that can be written" in err


@given(st.text(max_size=20))
@example("False")
@example("none")
def test_a_name_is_refused_or_makes_a_module(name):
    try:
        made = Scaffold(kind="defense", name=name)
    except UsageError as error:
        assert "expected" in str(error)  # noqa: PT017
        return
    assert made.module.isidentifier()
    ast.parse(made.files()[f"{made.module}.py"])
    assert tomllib.loads(made.files()["pyproject.toml"])["project"]["name"] == name


@given(
    st.from_regex(
        r"[A-Za-z][A-Za-z0-9]{0,6}([._-][A-Za-z0-9]{1,6}){0,2}", fullmatch=True
    )
)
def test_names_of_packages_are_taken(name):
    try:
        made = Scaffold(kind="dataset", name=name)
    except UsageError as error:
        refused = "Python does not use|no installed package|its own|another one than"
        assert re.search(refused, str(error))  # noqa: PT017
        return
    assert made.module == re.sub(r"[._-]", "_", name).lower()

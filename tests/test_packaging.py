import importlib.metadata
import importlib.util
import re
import tomllib
from importlib import resources
from pathlib import Path

import pytest

import cibench

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
TREES = {"cibench": ROOT / "cibench", "cibench_plugins": ROOT / "plugins"}
ENTRY_POINTS = PROJECT["project"]["entry-points"]["cibench"]

needs_tree = pytest.mark.skipif(
    not all(tree.is_dir() for tree in TREES.values()),
    reason="compares with the tree; here only the installed package is at hand",
)


def modules():
    """Path of every module in the tree, by its name when installed."""
    return {
        ".".join((package, *path.relative_to(tree).with_suffix("").parts)): path
        for package, tree in TREES.items()
        for path in tree.rglob("*.py")
    }


@needs_tree
def test_packages_are_the_folders_with_modules():
    found = {name.rpartition(".")[0] for name in modules()}
    assert sorted(found) == PROJECT["tool"]["setuptools"]["packages"]


@needs_tree
def test_every_package_has_an_init():
    found = {path.parent for path in modules().values()}
    assert [p for p in sorted(found) if not (p / "__init__.py").is_file()] == []


@needs_tree
def test_every_plugin_module_is_an_entry_point():
    expected = {}
    for kind in ("attacks", "datasets", "defenses"):
        for path in (TREES["cibench_plugins"] / kind).glob("[!_]*.py"):
            method = path.stem.replace("_", "-")
            expected[f"{kind}.{method}"] = f"cibench_plugins.{kind}.{path.stem}"
    assert expected == ENTRY_POINTS


@needs_tree
def test_package_data_covers_every_other_file():
    patterns = PROJECT["tool"]["setuptools"]["package-data"]
    packages = PROJECT["tool"]["setuptools"]["packages"]
    for package, tree in TREES.items():
        shipped = set()
        for owner in packages:
            if owner.partition(".")[0] == package:
                folder = tree.joinpath(*owner.split(".")[1:])
                for pattern in patterns.get(owner, []):
                    shipped.update(folder.glob(pattern))
        others = {
            path
            for path in tree.rglob("*")
            if path.is_file() and path.suffix not in (".py", ".pyc")
        }
        assert sorted(others - shipped) == []


@needs_tree
@pytest.mark.parametrize("folder", ["cibench", "plugins", "tests", "tools", "examples"])
def test_the_second_copy_of_the_plugins_is_never_imported(folder):
    imports = re.compile(r"^\s*(?:from|import)\s+plugins\b", re.MULTILINE)
    files = sorted((ROOT / folder).rglob("*.py"))
    assert [p for p in files if imports.search(p.read_text(encoding="utf-8"))] == []


def test_installed_entry_points_are_the_declared_ones():
    dist = importlib.metadata.distribution("cibench")
    found = {p.name: p.value for p in dist.entry_points if p.group == "cibench"}
    assert found == ENTRY_POINTS, (
        "install again: pip install -e . (see CONTRIBUTING.md)"
    )


@pytest.mark.parametrize("name", sorted(ENTRY_POINTS))
def test_entry_point_is_named_after_its_module(name):
    kind, _, method = name.partition(".")
    module = ENTRY_POINTS[name]
    assert module == f"cibench_plugins.{kind}.{method.replace('-', '_')}"
    assert importlib.util.find_spec(module) is not None


@pytest.mark.parametrize("package", PROJECT["tool"]["setuptools"]["packages"])
def test_declared_package_is_installed(package):
    assert importlib.util.find_spec(package) is not None


@pytest.mark.parametrize("package", TREES)
def test_types_are_shipped(package):
    assert (resources.files(package) / "py.typed").is_file()


def test_the_data_set_is_shipped_with_its_attribution():
    folder = resources.files("cibench_plugins.datasets.data")
    assert (folder / "mfeat.npz").is_file()
    assert (folder / "ATTRIBUTION.md").is_file()


def test_version_is_the_installed_one():
    assert (
        cibench.__version__ == cibench.VERSION == importlib.metadata.version("cibench")
    )
    attr = PROJECT["tool"]["setuptools"]["dynamic"]["version"]["attr"]
    assert attr == "cibench._version.VERSION"


def test_licence_is_shipped():
    files = importlib.metadata.files("cibench") or []
    found = [p for p in files if p.name == "LICENSE" and ".dist-info" in str(p)]
    assert len(found) == 1
    text = found[0].read_text()
    assert "Version 2.0, January 2004" in text
    assert "APPENDIX: How to apply the Apache License" in text


@pytest.mark.parametrize("extra", ["test", "dev"])
def test_constraints_pin_what_the_project_names(extra):
    path = ROOT / "constraints.txt"
    if not path.is_file():
        pytest.skip("needs constraints.txt")
    pinned = {
        line.partition("==")[0].lower().replace("_", "-")
        for line in path.read_text(encoding="utf-8").splitlines()
        if not line.startswith("#")
    }
    project = PROJECT["project"]
    named = project["dependencies"] + project["optional-dependencies"][extra]
    named += PROJECT["build-system"]["requires"]
    names = {re.match(r"[\w.-]+", n)[0].lower() for n in named} - {"cibench"}
    assert names - pinned == set()

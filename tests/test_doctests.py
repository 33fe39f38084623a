import doctest
import importlib
import pkgutil

import pytest

import cibench
import cibench_plugins


def names(package, paths):
    """Names of all modules below a package, found without importing them."""
    for info in pkgutil.iter_modules(paths):
        name = f"{package}.{info.name}"
        yield name
        if info.ispkg:
            yield from names(name, [f"{info.module_finder.path}/{info.name}"])


# `pytest --doctest-modules` would import the folder `plugins` a second time; the paths
# of the packages lead to the modules that everybody else imports.
MODULES = sorted(
    name
    for package in (cibench, cibench_plugins)
    for name in (package.__name__, *names(package.__name__, package.__path__))
)


def test_all_modules_are_found():
    assert "cibench.manifold.affine" in MODULES
    assert "cibench_plugins.defenses.copur" in MODULES


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    failed, _ = doctest.testmod(importlib.import_module(name))
    assert failed == 0

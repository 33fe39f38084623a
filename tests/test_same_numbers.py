"""The numbers of a cell do not depend on where, when or beside what it is computed."""

import random

import pytest

from cibench import cli
from cibench.execute.engine import Engine
from helpers_grid import DATA, RECIPE, Place

#: One worker runs them all: what they share takes long to make.
pytestmark = pytest.mark.xdist_group("same_numbers")

GRID = [
    *("-d", "none", "-d", "norm-clip", "-d", "manifold-projection"),
    *("-d", "randomized-smoothing:draws=100,selection=20"),
    *("-a", "flip", "-a", "gaussian", "-a", "pgd:steps=2,agents=worst:1"),
]
SEEDS = "2"
CELLS = 4 * 3 * 2


@pytest.fixture(scope="module")
def serial(tmp_path_factory):
    """A place with a run of one process, and its numbers."""
    place = Place(tmp_path_factory.mktemp("serial"))
    place.run(*GRID, "-q", seeds=SEEDS)
    found = place.numbers()
    assert len(found) == CELLS
    return place, found


@pytest.mark.parametrize(
    "words",
    [["-j", "2"], ["-j", "2", "--no-cache"], ["--backend", "dask", "-j", "2"]],
    ids=["loky", "no cache", "dask"],
)
def test_other_workers_give_the_same(serial, tmp_path, words):
    if "dask" in words:
        pytest.importorskip("distributed")
    place = Place(tmp_path)
    place.run(*GRID, "-q", *words, seeds=SEEDS)
    assert place.numbers() == serial[1]
    assert place.cache.exists() == ("--no-cache" not in words)
    assert place.emptied()


def test_artifacts_that_others_left_give_the_same(serial):
    place, expected = serial
    place.run(*GRID, "-q", "--rerun", "all", out="again", seeds=SEEDS)
    assert place.numbers("again") == expected


def test_any_order_in_this_very_process_gives_the_same(serial, tmp_path, monkeypatch):
    draw, run = random.Random(5), Engine.run

    def shuffled(self):
        before = list(self.cells)
        self.cells = draw.sample(before, len(before))
        assert self.cells != before
        return run(self)

    monkeypatch.setattr(Engine, "run", shuffled)
    monkeypatch.setenv("CIBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    given = ["--dataset", DATA, "--embedding", RECIPE, "--seeds", SEEDS, "-o", "out"]
    assert cli.invoke(["run", *GRID, *given, "-q", "--isolation", "none"]) == 0
    assert Place(tmp_path).numbers() == serial[1]


def test_one_cell_alone_has_the_numbers_it_has_in_a_grid(serial, tmp_path):
    place = Place(tmp_path)
    place.run("-d", "norm-clip", "-a", "gaussian", "-q")
    found = place.numbers()
    assert len(found) == 1
    assert found.items() <= serial[1].items()

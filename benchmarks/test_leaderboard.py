"""How long boards take: 1000 entries of a row, 5 seeds, 3 attacks and 500 samples.

Run with `pytest -s --benchmark-only benchmarks/test_leaderboard.py`. Target: less than ten
seconds from the folder's entries to its pages.
"""

import pytest

from cibench.leaderboard import build as building
from cibench.leaderboard.boards import make_leaderboard
from helpers_published import published
from leaderboard_samples import sample_entries, suite

ATTACKS = (
    "flip:agents=random:1",
    "pgd:agents=random:1",
    "pgd:agents=random:1,knowledge=fusion",
)


@pytest.mark.parametrize("rows", [20, 1000])
def test_entries_to_boards(benchmark, rows):
    entries = sample_entries(rows, seeds=5, n=500, attacks=ATTACKS, apart=True)

    def build():
        return make_leaderboard(
            entries, title="t", owner="o", link="", suite=suite(ATTACKS, seeds=5),
            suite_name="standard",
        )  # fmt: skip

    found = benchmark.pedantic(build, rounds=1, warmup_rounds=1)
    assert len(found.boards[0].rows) == rows


@pytest.mark.parametrize("rows", [20, 1000])
def test_folder_to_pages(benchmark, rows, tmp_path, monkeypatch):
    entries = sample_entries(rows, seeds=5, n=500, attacks=ATTACKS, apart=True)
    published(tmp_path, entries)
    monkeypatch.setattr(building, "load_suite", lambda name: suite(ATTACKS, seeds=5))
    benchmark.pedantic(building.build, (tmp_path,), rounds=1, warmup_rounds=1)
    assert (tmp_path / "site" / "index.html").is_file()

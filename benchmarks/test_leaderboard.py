"""How long boards take: 1000 rows of 5 seeds, 3 attacks and 500 samples.

Run with `pytest benchmarks/test_leaderboard.py`, with `tests` on the path as in the suite.
"""

import pytest

from cibench.leaderboard.boards import make_leaderboard
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

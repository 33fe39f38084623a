"""Cost and tightness of the leverage constant's bounds.

    OMP_NUM_THREADS=1 pytest benchmarks/test_leverage.py -s

Ten agents with blocks of 32 and Gaussian decoders. A prototype that lowered a soft maximum
of the policies' singular values by Adam took 1.0 s for one pair of agents at rank 50, 88 s
for the minimum over all 45 (gap 0.0006), and 4.1 s for three agents at rank 200. Times
depend on the machine and on its load, and nothing is asserted about them.
"""

import sys
import time
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from cibench.certify import leverage, recovery_rate
from helpers import layout_of, normal

LAYOUT = layout_of(*(32,) * 10)
REPEATS = 3


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def least_seconds(function, *arguments, **options):
    """Fewest seconds of a few calls, of the clock and of the processor; and the result."""
    taken = []
    for _ in range(REPEATS):
        start = time.perf_counter(), time.process_time()
        result = function(*arguments, **options)
        end = time.perf_counter(), time.process_time()
        taken.append([after - before for before, after in zip(start, end, strict=True)])
    clock, processor = (min(column) for column in zip(*taken, strict=True))
    return f"{clock:.2f} s, {processor:.2f} s of the processor", result


@pytest.mark.parametrize("corrupted", [1, 2, 3])
@pytest.mark.parametrize("rank", [5, 20, 50, 150, 200])
def test_one_set(benchmark, rank, corrupted):
    W, names = normal(LAYOUT.width, rank, seed=rank), LAYOUT.names[:corrupted]
    seconds, found = least_seconds(leverage, W, LAYOUT, names)
    print(
        f"\nrank {rank}, {corrupted} corrupted: {found.lower:.4f} to {found.upper:.4f},"
        f" gap {found.upper - found.lower:.5f}, {seconds}"
    )
    benchmark.extra_info["gap"] = found.upper - found.lower
    benchmark.pedantic(leverage, (W, LAYOUT, names), rounds=3)


@pytest.mark.parametrize(("rank", "corrupted"), [(5, 3), (20, 2), (50, 1), (50, 2)])
def test_all_sets(benchmark, rank, corrupted):
    W, options = normal(LAYOUT.width, rank, seed=rank), {"tolerance": 6e-4}
    seconds, found = least_seconds(leverage, W, LAYOUT, corrupted, **options)
    print(
        f"\nrank {rank}, all {found.sets} sets of {corrupted}: {found.lower:.4f} to"
        f" {found.upper:.4f}, gap {found.upper - found.lower:.5f}, {seconds}"
    )
    benchmark.extra_info["gap"] = found.upper - found.lower
    benchmark.pedantic(leverage, (W, LAYOUT, corrupted), options, rounds=3)


@pytest.mark.parametrize(("rank", "corrupted"), [(5, 2), (20, 2), (50, 2)])
def test_recovery_rate(benchmark, rank, corrupted):
    W, names = normal(LAYOUT.width, rank, seed=rank), LAYOUT.names[:corrupted]
    seconds, found = least_seconds(recovery_rate, W, LAYOUT, names)
    print(
        f"\nrank {rank}, {corrupted} corrupted: rate {found.lower:.4f} to"
        f" {found.upper:.4f}, by the constant {found.by_leverage:.4f}, {seconds}"
    )
    benchmark.extra_info["gap"] = found.upper - found.lower
    benchmark.pedantic(recovery_rate, (W, LAYOUT, names), rounds=3)

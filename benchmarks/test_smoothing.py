"""Cost of a smoothed head beside the matrix product it cannot avoid.

    OMP_NUM_THREADS=1 pytest benchmarks/test_smoothing.py -s

The sizes are those of the paper's ExtraSensory experiment. Times depend on the machine and
on its load, so only the ratio of two measurements of one run is of interest, and nothing is
asserted about either.
"""

import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from cibench import fusion_head
from cibench.embedding import RECIPES
from cibench_plugins.defenses._smoothing import Smoother
from helpers import layout_of, normal, seeded

AGENTS, BLOCK, HIDDEN, CLASSES = 10, 32, 32, 2
WIDTH, SAMPLES, DRAWS = AGENTS * BLOCK, 465, 1000
REPEATS = 7


class Opaque(nn.Module):
    """A head whose first layer cannot be seen: every noisy input goes through it."""

    def __init__(self, head):
        super().__init__()
        self.inner = head

    def forward(self, features):
        return self.inner(features)


@pytest.fixture(autouse=True)
def keep_threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def product(inner, outer):
    """The product of one layer with every noisy input, in pieces that stay in a cache."""
    weight, rows = normal(outer, inner).float(), 4 * DRAWS
    inputs, outputs = normal(rows, inner).float(), torch.empty(rows, outer)

    def run():
        for _ in range(SAMPLES // 4 + 1):
            torch.mm(inputs, weight.T, out=outputs)

    return run


def seconds(function):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


@pytest.mark.parametrize(
    ("path", "missing", "threads"),
    [
        ("linear first layer", 0.0, 1),
        ("linear first layer", 0.3, 1),
        ("any head", 0.0, 1),
        # Worth little on a machine that does other work at the same time.
        ("linear first layer", 0.0, 2),
    ],
)
def test_smoothed_votes(benchmark, path, missing, threads):
    torch.set_num_threads(threads)
    head = fusion_head(WIDTH, CLASSES, RECIPES["linear-32"], seeded())
    head = head.requires_grad_(False)
    fast = path == "linear first layer"
    smoother = Smoother(
        head if fast else Opaque(head),
        layout_of(*(BLOCK,) * AGENTS),
        normal(DRAWS, WIDTH, seed=1).float(),
        sigma=1.0,
    )
    features = normal(SAMPLES, WIDTH, seed=2).float()
    noisy = torch.rand(SAMPLES, AGENTS, generator=seeded(3)) >= missing
    # What remains per sample and draw: the second layer, or the first one as well.
    floor = product(HIDDEN, CLASSES) if fast else product(WIDTH, HIDDEN)

    def votes():
        smoother.decide(features, noisy)

    votes(), floor()
    # Alternate, so that a change of the machine's load meets both.
    times = [(seconds(floor), seconds(votes)) for _ in range(REPEATS)]
    least_floor, least = (min(column) for column in zip(*times, strict=True))
    benchmark.extra_info["ratio_to_matrix_product"] = least / least_floor
    benchmark.extra_info["seconds"] = least
    print(
        f"\n{path}, missing {missing:.0%}, {threads} threads, {SAMPLES} samples,"
        f" {DRAWS} draws: {least:.3f} s, {least / least_floor:.2f} times the matrix"
        f" product ({least_floor:.3f} s)"
    )
    benchmark.pedantic(votes, rounds=3)

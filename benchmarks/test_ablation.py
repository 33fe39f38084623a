"""Cost of an exact ablation vote and of its certificate.

    OMP_NUM_THREADS=1 pytest benchmarks/test_ablation.py -s

All 252 subsets of five of ten agents, at the sizes of the paper's ExtraSensory experiment.
Times depend on the machine and on its load: the ratio to one pass of the base model per
subset, measured in turn, is of interest, and nothing is asserted about either.
"""

import sys
import time
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from cibench.certify import all_subsets
from cibench_plugins.defenses.randomized_ablation import _Ablation
from helpers import everyone, layout_of, mlp_head, normal

AGENTS, BLOCK, SAMPLES, HIDDEN = 10, 32, 465, 32
REPEATS = 5


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def setting(size):
    """The vote over all subsets of a size, and what it decides on, in float32."""
    layout = layout_of(*(BLOCK,) * AGENTS)
    base = mlp_head(layout.width + AGENTS, 2, hidden=HIDDEN).float()
    observation = everyone(normal(SAMPLES, layout.width).float(), layout)
    return _Ablation(base, all_subsets(AGENTS, size)).eval(), observation


def one_pass_per_subset(center, observation):
    """The same logits without sharing the first layer."""
    for members in center.members:
        mask = members.expand(len(observation), -1)
        values = observation.without(~mask).filled(0.0)
        center.base(torch.cat([values, mask.to(values.dtype)], dim=1))


def seconds(function, *arguments):
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


@pytest.mark.parametrize("size", [2, 5])
def test_vote(benchmark, size):
    center, observation = setting(size)
    with torch.no_grad():
        center(observation), one_pass_per_subset(center, observation)
        # Alternate, so that a change of the machine's load meets both.
        pairs = [
            (
                seconds(center, observation),
                seconds(one_pass_per_subset, center, observation),
            )
            for _ in range(REPEATS)
        ]
        least, plain = (min(column) for column in zip(*pairs, strict=True))
        benchmark.extra_info["ratio_to_one_pass_per_subset"] = least / plain
        benchmark.extra_info["milliseconds_per_sample"] = 1e3 * least / SAMPLES
        print(
            f"\n{len(center.members)} subsets, {SAMPLES} samples, one thread:"
            f" {1e3 * least:.1f} ms, {1e3 * least / SAMPLES:.4f} ms per sample,"
            f" {least / plain:.2f} times one pass per subset ({1e3 * plain:.1f} ms)"
        )
        benchmark.pedantic(center, (observation,), rounds=3)


@pytest.mark.parametrize(("size", "corrupted"), [(2, 2), (5, 1)])
def test_certificate(benchmark, size, corrupted):
    center, observation = setting(size)
    with torch.no_grad():
        least = min(
            seconds(center.certify, observation, corrupted) for _ in range(REPEATS)
        )
        benchmark.extra_info["milliseconds_per_sample"] = 1e3 * least / SAMPLES
        print(
            f"\n{len(center.members)} subsets, {corrupted} corrupted,"
            f" {SAMPLES} samples, one thread: {1e3 * least:.1f} ms"
        )
        benchmark.pedantic(center.certify, (observation, corrupted), rounds=3)

"""Cost of CoPur's purifier beside the matrix products it cannot avoid.

    OMP_NUM_THREADS=1 pytest benchmarks/test_purifier.py -s

The sizes are those of the paper's ExtraSensory experiment. Times depend on the machine and
on its load, so only the ratio of two measurements of one run is of interest, and nothing is
asserted about either.
"""

import sys
import time
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import itertools

from cibench import Knowledge, Victim
from cibench.manifold import AutoEncoder, FittedManifold
from cibench_plugins.defenses._chain import Chain
from cibench_plugins.defenses._fixed_steps import FixedSteps
from cibench_plugins.defenses._released import (
    STAGE1_STEPS,
    STAGE2_STEPS,
    released_purify,
)
from cibench_plugins.defenses.copur import _Converged
from helpers import affine_manifold, everyone, layout_of, linear_head, normal, seeded

AGENTS, BLOCK, SAMPLES = 10, 32, 454
#: Samples of the ExtraSensory test split, whose gradients an attack asks for.
TEST = 465
SIZES = (AGENTS * BLOCK, 200, 150, 200, AGENTS * BLOCK)
REPEATS = 9


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def purifier(samples):
    """The released algorithm on its own autoencoder, ready to be called."""
    layout = layout_of(*(BLOCK,) * AGENTS)
    model = AutoEncoder(
        layout,
        torch.zeros(layout.width),
        torch.tensor(1.0),
        SIZES[2],
        generator=seeded(),
    )
    chain = Chain(model.requires_grad_(False), torch.float32)
    received = 3 * normal(samples, layout.width).float()
    observation = everyone(received, layout)

    def run():
        return released_purify(
            chain, observation, received, tau=1000.0, all_agents=False, stop_below=0.0
        )

    return run


def products(samples):
    """Every step's four forward and four input-gradient products, and nothing else."""
    pairs = list(itertools.pairwise(SIZES))
    weights = [normal(b, a, seed=i).float() for i, (a, b) in enumerate(pairs)]
    inputs = [normal(samples, width).float() for width in SIZES]
    outputs = [torch.empty(samples, width) for width in SIZES]

    def run():
        for _ in range(STAGE1_STEPS + STAGE2_STEPS):
            for i, weight in enumerate(weights):
                torch.mm(inputs[i], weight.T, out=outputs[i + 1])
            for i, weight in reversed(list(enumerate(weights))):
                torch.mm(inputs[i + 1], weight, out=outputs[i])

    return run


def seconds(function):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


@pytest.mark.parametrize("samples", [SAMPLES, 1])
def test_released_purifier(benchmark, samples):
    purify, floor = purifier(samples), products(samples)
    purify(), floor()
    # Alternate, so that a change of the machine's load meets both.
    floors = [(seconds(floor), seconds(purify)) for _ in range(REPEATS)]
    least_floor, least = (min(column) for column in zip(*floors, strict=True))
    benchmark.extra_info["ratio_to_matrix_products"] = least / least_floor
    benchmark.extra_info["milliseconds_per_sample"] = 1e3 * least / samples
    print(
        f"\n{samples} samples, one thread: {1e3 * least / samples:.3f} ms per sample,"
        f" {least / least_floor:.2f} times the matrix products"
        f" ({1e3 * least_floor / samples:.3f} ms)"
    )
    benchmark.pedantic(purify, rounds=3)


@pytest.mark.parametrize("tau", [2.0, None])
@pytest.mark.parametrize("samples", [SAMPLES, 1])
def test_converged_solver(benchmark, samples, tau):
    manifold = affine_manifold((BLOCK,) * AGENTS, 8)
    clean = manifold.decode(3 * normal(samples, 8))
    received = clean + 0.1 * normal(samples, AGENTS * BLOCK, seed=1)
    received[:, -BLOCK:] *= -10
    center = _Converged(
        FittedManifold(manifold, 0.0, {}), linear_head(AGENTS * BLOCK, 2), tau, 200
    )
    observation = everyone(received, manifold.layout)
    center(observation)
    least = min(seconds(lambda: center(observation)) for _ in range(3))
    benchmark.extra_info["milliseconds_per_sample"] = 1e3 * least / samples
    print(
        f"\nconverged, affine rank 8, tau {tau}, {samples} samples, one thread:"
        f" {1e3 * least / samples:.3f} ms per sample"
    )
    benchmark.pedantic(center, (observation,), rounds=3)


def backward_products(samples):
    """What differentiating every step cannot avoid: its products once more, transposed."""
    forward = products(samples)

    def run():
        forward()
        forward()

    return run


def test_gradient_through_all_released_steps(benchmark):
    """An adaptive attack's gradient through 110 unrolled steps, against its floor."""
    layout = layout_of(*(BLOCK,) * AGENTS)
    model = AutoEncoder(
        layout, torch.zeros(layout.width), torch.tensor(1.0), SIZES[2],
        generator=seeded(),
    )  # fmt: skip
    head = linear_head(layout.width, 2).float()
    center = FixedSteps(
        FittedManifold(model.requires_grad_(False), 0.0, {}), head, 1000.0,
        released=False,
    )  # fmt: skip
    observation = everyone(3 * normal(TEST, layout.width).float(), layout)
    victim = Victim(Knowledge.ADAPTIVE, undefended=center, defended=center)

    def gradient():
        return victim.loss_gradient(
            observation, lambda logits: logits[:, 0], route="unrolled"
        )

    floor = backward_products(TEST)
    gradient(), floor()
    times = [(seconds(floor), seconds(gradient)) for _ in range(REPEATS)]
    least_floor, least = (min(column) for column in zip(*times, strict=True))
    benchmark.extra_info["ratio_to_forward_and_backward_products"] = least / least_floor
    peak = center.samples_per_gradient("unrolled")
    print(
        f"\ngradient through {STAGE1_STEPS + STAGE2_STEPS} steps, {TEST} samples, one"
        f" thread: {least:.2f} s, {least / least_floor:.2f} times the forward and backward"
        f" products ({least_floor:.2f} s); {peak} samples at a time"
    )
    benchmark.pedantic(gradient, rounds=3)

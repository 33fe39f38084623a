"""Recovery rate and radius against closed forms, samples and an exact purifier."""

import math

import cvxpy as cp
import numpy as np
import pytest
import torch

from cibench import ThreatModelError
from cibench._errors import UsageError
from cibench.certify import leverage, recovery_radius, recovery_rate
from helpers import layout_of, normal, orthonormal

EVEN = layout_of(*(4,) * 7)


def rates(W, layout, z, corrupted, missing=()):
    """`(sum_S - sum_T) / ||v||` of v = W z, straight from its definition."""
    v = z @ W.T
    norms = torch.stack([v[:, s].norm(dim=1) for s in layout.slices], dim=1)
    sign = [-1.0 if a in corrupted else float(a not in missing) for a in layout.names]
    return (norms * torch.tensor(sign, dtype=norms.dtype)).sum(1) / v.norm(dim=1)


def descended(W, layout, corrupted, missing=(), starts=30, steps=200):
    z = normal(starts, W.shape[1], seed=8).requires_grad_()
    optimizer = torch.optim.Adam([z], lr=0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        rates(W, layout, z, corrupted, missing).sum().backward()
        optimizer.step()
    return z.detach()


@pytest.mark.parametrize("missing", [0, 1, 2])
@pytest.mark.parametrize("corrupted", [0, 1, 2])
def test_identical_blocks(corrupted, missing):
    layout = layout_of(*(5,) * 9)
    W = normal(5, 3).repeat(9, 1)
    bounds = recovery_rate(W, layout, corrupted, missing)
    exact = (9 - missing - 2 * corrupted) / 3
    assert 0.99 * exact <= bounds.lower <= exact <= bounds.upper <= exact + 1e-9
    assert bounds.lower <= bounds.upper
    assert bounds.sets == math.comb(9, missing) * math.comb(9 - missing, corrupted)


@pytest.mark.parametrize(
    ("corrupted", "missing"), [("a", ""), ("b/d", ""), ("a", "g"), ("c", "a/e")]
)
def test_no_direction_has_a_lower_rate(corrupted, missing):
    W = normal(EVEN.width, 4, seed=6)
    bounds = recovery_rate(W, EVEN, corrupted, missing)
    names = corrupted.split("/"), missing.split("/")
    sampled = rates(W, EVEN, normal(100_000, 4, seed=2), *names).min()
    found = rates(W, EVEN, descended(W, EVEN, *names), *names).min()
    least = float(torch.minimum(sampled, found))
    assert 0 < bounds.lower <= least
    assert bounds.upper == pytest.approx(least, rel=1e-4)
    assert bounds.upper <= 1.01 * bounds.lower
    at = float(rates(W, EVEN, bounds.direction[None], *names))
    assert at == pytest.approx(bounds.upper, abs=1e-12)


def test_the_least_over_sets():
    layout = layout_of(3, 2, 3, 4, 3)
    W = normal(layout.width, 2, seed=1)
    bounds = recovery_rate(W, layout, 1, 1)
    each = [
        recovery_rate(W, layout, bad, gone)
        for bad in layout.names
        for gone in layout.names
        if bad != gone
    ]
    worst = min(each, key=lambda one: one.upper)
    assert (bounds.corrupted, bounds.missing) == (worst.corrupted, worst.missing)
    assert bounds.upper == pytest.approx(worst.upper, abs=1e-9)
    assert bounds.lower <= worst.upper
    assert bounds.upper <= 1.01 * bounds.lower


@pytest.mark.parametrize("missing", [0, "g"])
def test_the_leverage_constant_proves_less(missing):
    W = normal(EVEN.width, 4, seed=6)
    bounds = recovery_rate(W, EVEN, 1, missing)
    c = leverage(W, EVEN, 1, missing)
    basis = torch.linalg.svd(W, full_matrices=False).U
    kept = basis if missing == 0 else basis[:-4]
    kappa = float(torch.linalg.svdvals(kept)[-1])
    assert bounds.by_leverage == pytest.approx((2 * c.lower - 1) * kappa, abs=1e-9)
    assert 0 < bounds.by_leverage < 0.6 * bounds.lower


def by_semidefinite_programme(W, layout, corrupted, missing=()):
    """Best rate that linear policies prove: linear in g, the ratio being at most 1."""
    blocks = [W[s].numpy() for s in layout.slices]
    everything = torch.linalg.qr(W, mode="r").R.numpy()
    bad = [blocks[layout.index(a)] for a in corrupted]
    good = [
        block
        for a, block in zip(layout.names, blocks, strict=True)
        if a not in (*corrupted, *missing)
    ]
    rate, constraints, sums = cp.Variable(), [], [0.0] * (len(bad) + 1)
    heights = [len(everything), *map(len, bad)]
    for block in good:
        scales = cp.Variable(len(heights))
        parts = [cp.Variable((height, len(block))) for height in heights]
        ones = [scales[k] * np.ones(height) for k, height in enumerate(heights)]
        side = cp.vstack(parts)
        whole = cp.bmat(
            [[cp.diag(cp.hstack(ones)), side], [side.T, np.eye(len(block))]]
        )
        cone = cp.Variable(whole.shape, PSD=True)
        constraints += [cone == whole, cp.sum(scales) <= 1]
        sums = [total + part @ block for total, part in zip(sums, parts, strict=True)]
    targets = [rate * everything, *bad]
    constraints += [total == part for total, part in zip(sums, targets, strict=True)]
    cp.Problem(cp.Maximize(rate), constraints).solve(solver=cp.CLARABEL)
    return float(rate.value)


@pytest.mark.parametrize(
    ("rank", "corrupted", "missing"), [(4, "a", ""), (10, "a", ""), (8, "a", "c")]
)
def test_semidefinite_programme(rank, corrupted, missing):
    W = normal(EVEN.width, rank, seed=3)
    bounds = recovery_rate(
        W, EVEN, tuple(corrupted), tuple(missing), tolerance=1e-3, steps=300
    )
    best = by_semidefinite_programme(W, EVEN, corrupted, missing)
    assert 0.99 * best <= bounds.lower <= best * (1 + 1e-6)
    assert best <= bounds.upper * (1 + 1e-6)


def test_a_goal_out_of_reach():
    # Linear policies prove less than the rate here: bisection ends between.
    layout = layout_of(5, 1, 4, 6, 2, 2, 5)
    W = normal(layout.width, 6)
    bounds = recovery_rate(W, layout, "a", steps=100)
    best = by_semidefinite_programme(W, layout, "a")
    assert best < 0.98 * bounds.upper
    assert 0.99 * best <= bounds.lower <= best * (1 + 1e-6)


@pytest.mark.parametrize("condition", [1e4, 1e8])
def test_ill_conditioned_decoders(condition):
    rank = 4
    scale = torch.logspace(0, -math.log10(condition), rank, dtype=torch.float64)
    W = orthonormal(EVEN.width, rank) * scale @ orthonormal(rank, rank, 1).T
    bounds = recovery_rate(W, EVEN, "c")
    code = normal(100_000, rank, seed=2) / scale @ orthonormal(rank, rank, 1).T
    assert 0 < bounds.lower <= float(rates(W, EVEN, code, "c").min())
    same = recovery_rate(orthonormal(EVEN.width, rank), EVEN, "c")
    assert bounds.upper == pytest.approx(same.upper, rel=1e-4)


def test_what_float64_cannot_prove_is_not_proved():
    """But for the last agent nobody sees much of a direction, and that one is missing."""
    layout, V = layout_of(*(8,) * 6), normal(48, 5)
    V[:40, 4] *= 1e-13
    found = recovery_rate(V, layout, 1, "f")
    assert 0.0 == found.lower < found.upper < 1e-9
    assert found.reason.startswith("no lower bound can be proved in float64")


@pytest.mark.parametrize("missing", [(), ("f",)])
def test_an_exact_purifier_stays_within_the_radius(missing):
    W = normal(EVEN.width, 3, seed=2)
    bad = ("b", "e")
    bounds = recovery_rate(W, EVEN, bad, missing)
    # What the corrupted agents send is a shift along the worst direction, or noise.
    v = W @ bounds.direction
    largest = 0.0
    for trial in range(8):
        clean, residual = W @ normal(3, seed=trial), 0.0
        received = clean.clone()
        for i, (name, s) in enumerate(zip(EVEN.names, EVEN.slices, strict=True)):
            if name in bad:
                size = (-1) ** trial * 2.0 ** (trial - 3)
                received[s] += size * (v[s] if trial < 6 else normal(4, seed=i + trial))
            elif name not in missing:
                # Honest noise that pulls towards the shift as well.
                noise = 0.1 * (-1) ** trial * v[s] / v[s].norm()
                received[s] += noise
                residual += float(noise.norm())
        z = cp.Variable(3)
        objective = sum(
            cp.norm(received[s].numpy() - W[s].numpy() @ z)
            for name, s in zip(EVEN.names, EVEN.slices, strict=True)
            if name not in missing
        )
        cp.Problem(cp.Minimize(objective)).solve(solver=cp.CLARABEL)
        error = float((W @ torch.tensor(z.value) - clean).norm())
        delta = torch.tensor([residual], dtype=torch.float64)
        radius = float(recovery_radius(delta, bounds.lower, 1e-6))
        assert error <= radius
        largest = max(largest, error / radius)
    # For noise along the shift an exact fit errs by (1 - ratio) / 2 of the radius.
    assert largest > 0.15


def test_where_nothing_is_recovered():
    W = normal(5, 3).repeat(5, 1)
    outweighed = recovery_rate(W, layout_of(5, 5, 5, 5, 5), 3)
    assert (outweighed.lower, outweighed.upper, outweighed.by_leverage) == (0, 0, 0)
    assert outweighed.reason == (
        "the leverage constant is at most 0.4000: corrupted agents move the point without"
        " limit unless it is above 1/2"
    )
    lost = recovery_rate(normal(8, 6), layout_of(2, 2, 2, 2), 1, 1)
    assert (lost.lower, lost.upper) == (0, 0)
    assert lost.reason.startswith("the honest agents have rank below 6")


def test_radius():
    residual = torch.tensor([0.0, 1.0, 3.0], dtype=torch.float64)
    gap = torch.tensor([0.0, 0.5, 0.0], dtype=torch.float64)
    found = recovery_radius(residual, 0.5, gap)
    torch.testing.assert_close(found, torch.tensor([0.0, 5.0, 12.0]).double())
    assert recovery_radius(residual, 0.0).tolist() == [torch.inf] * 3


@pytest.mark.parametrize(
    ("residual", "gamma", "gap", "message"),
    [
        (-1.0, 1.0, 0.0, "residual: expected numbers >= 0, got -1"),
        (1.0, -0.5, 0.0, "gamma: expected numbers >= 0, got -0.5"),
        (1.0, 1.0, -2.0, "gap: expected numbers >= 0, got -2"),
        (math.nan, 1.0, 0.0, "residual: expected numbers >= 0, got nan"),
    ],
)
def test_bad_radii(residual, gamma, gap, message):
    with pytest.raises(UsageError, match=message):
        recovery_radius(torch.tensor([1.0, residual]), gamma, gap)


def test_bad_input():
    W = normal(EVEN.width, 3)
    with pytest.raises(UsageError, match="fewer than the 7 agents heard, got 7"):
        recovery_rate(W, EVEN, 7)
    with pytest.raises(
        ThreatModelError, match="none both corrupted and missing, got a"
    ):
        recovery_rate(W, EVEN, "a", "a")
    with pytest.raises(UsageError, match=r"tolerance: expected .* got 1"):
        recovery_rate(W, EVEN, 1, tolerance=1.0)
    with pytest.raises(UsageError, match="got zeros only"):
        recovery_rate(0 * W, EVEN, 1)

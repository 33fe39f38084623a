"""Fits with a proved gap: from anywhere, beside any payload, against the exact minimum."""

import cvxpy as cp
import pytest
import torch

from cibench import Observation, robust_fit
from cibench._errors import UsageError
from cibench.certify import duality_gap, proved_gap, settled, tight_fit
from helpers import affine_manifold, everyone, normal, on_manifold, seeded

N = 40


def received(manifold, size, missing=0.0, seed=3):
    """Noisy points of the manifold, two blocks replaced by noise of a size."""
    features = on_manifold(manifold, N) + 0.1 * normal(N, manifold.layout.width, seed=5)
    first = manifold.layout.slices[1].stop
    features[:, :first] = size * normal(N, first, seed=seed)
    heard = torch.rand(N, manifold.layout.agents, generator=seeded(9)) >= missing
    return Observation(features, heard, manifold.layout)


def objective(manifold, observation, code):
    known = manifold.layout.expand(observation.observed)
    residual = torch.where(known, observation.filled() - manifold.decode(code), 0.0)
    return manifold.layout.block_norms(residual).sum(dim=1)


@pytest.mark.parametrize("missing", [0.0, 0.3])
@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3, 1e5])
def test_the_bounded_method_reaches_the_limit_from_anywhere(size, missing):
    manifold = affine_manifold((4, 3, 4, 5, 4, 3), 3)
    observation = received(manifold, size, missing)
    limit = max(1e-4, 1e-7 * size)  # beside 1e5 rounding leaves no less
    best = robust_fit(manifold, observation, tolerance=1e-13).objective
    for seed, away in enumerate((0.0, 1.0, 1e6)):
        start = away * normal(N, 3, seed=seed)
        code, multipliers = settled(manifold, observation, start, limit)
        assert (objective(manifold, observation, code) <= best + limit).all()
        gap = proved_gap(
            manifold.basis, manifold.mean, observation, code, multipliers
        ).gap
        heard = observation.observed.sum(dim=1)
        # Whom two agents or fewer are heard of, others may not see the whole code.
        assert (gap[heard > 2] <= limit).all()


def test_the_limit_bounds_what_an_exact_solver_gains():
    manifold = affine_manifold((3, 2, 3, 4), 2)
    observation = received(manifold, 30.0)[:4]
    for limit in (1.0, 1e-2, 1e-5):
        code, _ = settled(manifold, observation, torch.zeros(4, 2).double(), limit)
        found = objective(manifold, observation, code)
        for h, mine in zip(observation.features.numpy(), found.tolist(), strict=True):
            z = cp.Variable(2)
            r = h - manifold.mean.numpy() - manifold.basis.numpy() @ z
            terms = [cp.norm(r[s]) for s in manifold.layout.slices]
            least = cp.Problem(cp.Minimize(cp.sum(terms))).solve(solver=cp.CLARABEL)
            assert mine <= least + limit + 1e-6 * least


def test_a_fit_that_stops_early_is_resumed():
    manifold = affine_manifold((4,) * 6, 3)
    observation = received(manifold, 50.0)
    short = tight_fit(manifold, observation, 1e-3, max_iterations=1)
    assert short.resumed > 0
    assert (short.gap <= 1e-3).all()
    long = tight_fit(manifold, observation, 1e-3)
    assert long.resumed == 0
    assert (long.gap <= 1e-3).all()
    assert ((short.objective - long.objective).abs() <= 1e-3).all()
    exact = objective(manifold, observation, short.code)
    torch.testing.assert_close(short.objective, exact)
    assert set(short.status.tolist()) == {0}


def test_a_proved_gap_is_sound_for_any_multipliers():
    manifold = affine_manifold((4, 3, 4, 5, 4, 3), 3)
    observation = received(manifold, 3.0, missing=0.2)
    code = robust_fit(manifold, observation).code + 0.1 * normal(N, 3, seed=1)
    known = manifold.basis, manifold.mean, observation, code
    exact = duality_gap(*known)
    best = robust_fit(manifold, observation, tolerance=1e-13).objective
    excess = objective(manifold, observation, code) - best
    again = proved_gap(*known, exact.multipliers)
    torch.testing.assert_close(again.gap, exact.gap, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(again.objective, exact.objective)
    for size in (0.0, 0.1, 1.0, 100.0):
        any_ = exact.multipliers + size * normal(N, 23, seed=2)
        assert (proved_gap(*known, any_).gap >= excess - 1e-9).all()


def test_a_sample_without_agents_is_at_the_mean():
    manifold = affine_manifold((4,) * 5, 2)
    nobody = everyone(normal(3, 20), manifold.layout)
    nobody = nobody.without(torch.ones_like(nobody.observed))
    fit = tight_fit(manifold, nobody, 1e-6)
    assert fit.gap.tolist() == [0.0] * 3
    torch.testing.assert_close(
        manifold.decode(fit.code), manifold.mean.expand(3, -1), rtol=0, atol=1e-12
    )


def test_the_limit_is_above_zero():
    manifold = affine_manifold((4,) * 3, 2)
    observation = everyone(normal(2, 12), manifold.layout)
    for limit in (0.0, -1.0, float("nan")):
        with pytest.raises(UsageError, match="limit: expected a number above 0, got"):
            tight_fit(manifold, observation, limit)


def test_blocks_that_were_heard_are_finite():
    manifold = affine_manifold((4,) * 3, 2)
    features = normal(2, 12)
    features[1, 2] = torch.inf
    with pytest.raises(UsageError, match="observation: expected finite heard blocks"):
        tight_fit(manifold, everyone(features, manifold.layout), 1e-3)

"""Duality gaps of the convex fit: sound for every code, tight for good ones."""

import pytest
import torch

from cibench._errors import UsageError
from cibench.certify import duality_gap
from cibench.manifold import robust_fit
from helpers import (
    affine_manifold,
    everyone,
    identical_blocks,
    layout_of,
    normal,
    observation_of,
    on_manifold,
)


def attacked(manifold, samples, *, noise, missing=0.0, payload=30.0, seed=0):
    """Noisy points of the manifold whose last agent sends something else."""
    layout = manifold.layout
    values = on_manifold(manifold, samples, seed=seed)
    values = values + noise * normal(samples, layout.width, seed=seed + 1)
    last = layout.slices[-1]
    values[:, last] += payload * normal(samples, layout.widths[-1], seed=seed + 2)
    return observation_of(layout, samples, missing=missing, seed=seed).with_features(
        values
    )


def objective(manifold, observation, code):
    layout = manifold.layout
    residual = observation.filled(0.0) - manifold.decode(code)
    return (layout.block_norms(residual) * observation.observed).sum(1)


def gap_of(manifold, observation, code):
    return duality_gap(manifold.basis, manifold.mean, observation, code)


@pytest.mark.parametrize("noise", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("missing", [0.0, 0.3])
@pytest.mark.parametrize(
    ("widths", "rank"), [((3, 4, 2, 5), 3), ((6,) * 8, 5), ((1,) * 9, 2)]
)
def test_converged_codes_have_a_small_gap(widths, rank, noise, missing):
    manifold = affine_manifold(widths, rank)
    observation = attacked(manifold, 40, noise=noise, missing=missing)
    fit = robust_fit(manifold, observation, tolerance=1e-12, max_iterations=500)
    found = gap_of(manifold, observation, fit.code)
    torch.testing.assert_close(
        found.objective, objective(manifold, observation, fit.code)
    )
    assert (found.gap >= 0).all()
    # Most are far smaller; a few blocks just about fit, where all methods are slow.
    assert found.gap.median() < 1e-6
    assert found.gap.max() < 1e-2


def test_the_gap_bounds_the_distance_to_the_best_code_for_any_code():
    manifold = affine_manifold((3, 4, 2, 5), 3)
    observation = attacked(manifold, 60, noise=0.2, missing=0.2)
    best = robust_fit(manifold, observation, tolerance=1e-13, max_iterations=2000)
    for scale in (0.0, 1e-6, 1e-2, 1.0, 100.0):
        code = best.code + scale * normal(60, 3, seed=7)
        found = gap_of(manifold, observation, code)
        true = found.objective - best.objective
        assert (found.gap >= true - 1e-12 * found.objective).all()
        assert (found.gap - true).median() < 1e-6


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_multipliers_are_feasible_and_give_the_gap(noise):
    manifold = affine_manifold((3, 4, 2, 5, 4), 3)
    observation = attacked(manifold, 50, noise=noise, missing=0.3)
    code = manifold.encode(observation.filled(manifold.mean))
    found = gap_of(manifold, observation, code)
    y = found.multipliers
    hidden = ~observation.layout.expand(observation.observed)
    assert (y[hidden] == 0).all()
    assert observation.layout.block_norms(y).max() <= 1 + 1e-14
    torch.testing.assert_close(
        y @ manifold.basis, torch.zeros(50, 3).double(), rtol=0, atol=1e-13
    )
    centered = observation.filled(0.0) - manifold.mean
    dual = torch.where(hidden, 0.0, y * centered).sum(1)
    torch.testing.assert_close(found.objective - dual, found.gap, rtol=0, atol=1e-10)


@pytest.mark.parametrize("noise", [0.0, 0.5])
@pytest.mark.parametrize("missing", [0.0, 0.4])
def test_against_a_cone_solver(noise, missing):
    """The minimum lies within the gap below the objective, wherever the code is."""
    cvxpy = pytest.importorskip("cvxpy")
    manifold = affine_manifold((3, 4, 2, 5), 3, seed=2)
    observation = attacked(manifold, 6, noise=noise, missing=missing, seed=4)
    code = manifold.encode(observation.filled(manifold.mean)) + normal(6, 3, seed=9)
    found = gap_of(manifold, observation, code)
    for n in range(6):
        z = cvxpy.Variable(3)
        terms = [
            cvxpy.norm(
                (observation.features[n, s] - manifold.mean[s]).numpy()
                - manifold.basis[s].numpy() @ z
            )
            for s, heard in zip(
                manifold.layout.slices, observation.observed[n].tolist(), strict=True
            )
            if heard
        ]
        program = cvxpy.Problem(cvxpy.Minimize(sum(terms)))
        least = program.solve(solver=cvxpy.CLARABEL)
        true = float(found.objective[n]) - least
        assert true > 0.1
        assert -1e-6 < float(found.gap[n]) - true < 1e-4


def test_exact_fits_of_all_honest_blocks():
    """Residuals are 0 but for the corrupted block: y is chosen, not read off."""
    manifold = identical_blocks(5, 3)
    values = on_manifold(manifold, 20)
    values[:, manifold.layout.slices[4]] += 10 * normal(20, 3, seed=3)
    observation = everyone(values, manifold.layout)
    code = manifold.encode(on_manifold(manifold, 20))
    found = gap_of(manifold, observation, code)
    assert found.objective.min() > 1
    assert found.gap.max() < 1e-7
    # Without the corrupted block nothing is left to explain.
    clean = everyone(on_manifold(manifold, 20), manifold.layout)
    assert gap_of(manifold, clean, code).gap.max() < 1e-12


def test_half_of_identical_blocks_by_hand():
    """Two against two: every point between them is a minimizer, and the gap is 0."""
    layout = layout_of(1, 1, 1, 1)
    weight = torch.ones(4, 1).double()
    values = torch.tensor([[0.0, 0.0, 1.0, 1.0]]).double().repeat(3, 1)
    code = torch.tensor([[0.25], [0.5], [3.0]]).double()
    found = duality_gap(weight, torch.zeros(4).double(), everyone(values, layout), code)
    torch.testing.assert_close(found.objective, torch.tensor([2.0, 2.0, 10.0]).double())
    torch.testing.assert_close(
        found.gap, torch.tensor([0.0, 0.0, 8.0]).double(), rtol=0, atol=1e-6
    )


def test_a_matrix_of_less_than_full_rank():
    layout = layout_of(3, 3, 3, 3)
    weight = normal(12, 2) @ normal(2, 5, seed=1)
    observation = observation_of(layout, 20, missing=0.3, seed=2)
    code = normal(20, 5, seed=3)
    found = duality_gap(weight, torch.zeros(12).double(), observation, code)
    # The same manifold with two columns, from the same points.
    left, values, right = torch.linalg.svd(weight, full_matrices=False)
    basis = left[:, :2] * values[:2]
    reduced = code @ right[:2].T
    again = duality_gap(basis, torch.zeros(12).double(), observation, reduced)
    torch.testing.assert_close(found.objective, again.objective)
    torch.testing.assert_close(found.gap, again.gap, rtol=0, atol=1e-5)


def test_one_agent_explains_itself_and_silence_costs_nothing():
    manifold = affine_manifold((4, 4, 4), 4)
    observation = observation_of(manifold.layout, 2)
    observation.observed[0] = torch.tensor([True, False, False])
    observation.observed[1] = False
    found = gap_of(manifold, observation, torch.zeros(2, 4).double())
    # A block of as many columns as the code is fitted exactly.
    torch.testing.assert_close(found.gap[0], found.objective[0], rtol=1e-6, atol=0)
    assert found.gap[1] == found.objective[1] == 0


def test_a_huge_payload_is_paid_for():
    manifold = affine_manifold((3, 4, 2, 5), 3)
    for payload, size in ((1e3, 1e-4), (1e6, 1e-3), (1e12, 1e4)):
        observation = attacked(manifold, 20, noise=0.1, payload=payload)
        fit = robust_fit(manifold, observation)
        found = gap_of(manifold, observation, fit.code)
        assert (found.gap >= 2**-50 * 14 * found.objective).all()
        assert (found.gap < size).all()


def test_pieces_and_order_do_not_matter(monkeypatch):
    manifold = affine_manifold((3, 4, 2, 5), 3)
    observation = attacked(manifold, 30, noise=0.1, missing=0.3)
    code = manifold.encode(observation.filled(manifold.mean))
    whole = gap_of(manifold, observation, code)
    monkeypatch.setattr("cibench.certify.duality._WORKING_SET", 500)
    pieces = gap_of(manifold, observation, code)
    torch.testing.assert_close(whole.gap, pieces.gap, rtol=0, atol=1e-6)
    assert pieces.multipliers.shape == (30, 14)
    empty = gap_of(manifold, observation[:0], code[:0])
    assert empty.gap.shape == (0,)


def test_bad_input():
    manifold = affine_manifold((2, 2), 1)
    observation = observation_of(manifold.layout, 3)
    code = torch.zeros(3, 1).double()
    with pytest.raises(UsageError, match=r"code: expected finite numbers.*\(3, 1\)"):
        gap_of(manifold, observation, code[:2])
    with pytest.raises(UsageError, match="weight: expected finite numbers"):
        duality_gap(manifold.basis * torch.nan, manifold.mean, observation, code)
    with pytest.raises(UsageError, match=r"offset: .* shape \(4,\), got \(3,\)"):
        duality_gap(manifold.basis, manifold.mean[:3], observation, code)
    broken = observation.with_features(observation.features * torch.inf)
    with pytest.raises(UsageError, match="expected finite heard blocks"):
        gap_of(manifold, broken, code)

"""Manifolds, the robust fit of Eq. 5 and its derivative, and how a manifold is chosen."""

import itertools

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from sklearn.decomposition import PCA

from cibench import SOLVER_STATUS, Observation, differentiable_code, robust_fit
from cibench.manifold import (
    AffineManifold,
    ManifoldRecipe,
    fit_affine,
    fit_autoencoder,
    fit_manifold,
    recovery_error,
    robust,
)
from cibench.manifold.select import simulate_corruption
from cibench.manifold.storage import manifold_from, manifold_tensors
from cibench_plugins.datasets.synthetic import Synthetic
from helpers import (
    affine_manifold,
    autoencoder,
    everyone,
    identical_blocks,
    layout_of,
    normal,
    observation_of,
    on_manifold,
    orthonormal,
    seeded,
)

CONVERGED, MAX_ITERATIONS, NO_AGENTS = (
    [name for name, _ in SOLVER_STATUS].index(name)
    for name in ("converged", "max-iterations", "no-agents")
)
WIDTHS = (2, 3, 1)


# fit_affine


def test_fit_affine_spans_the_principal_components():
    layout = layout_of(3, 2, 4)
    features = normal(50, 9) @ torch.diag(torch.linspace(3, 1, 9).double()) + 5.0
    fitted = fit_affine(everyone(features, layout), 4)
    pca = PCA(4, svd_solver="full").fit(features.numpy())
    projector = torch.from_numpy(pca.components_.T @ pca.components_)
    torch.testing.assert_close(fitted.basis @ fitted.basis.T, projector)
    torch.testing.assert_close(fitted.mean, torch.from_numpy(pca.mean_))
    torch.testing.assert_close(
        fitted.basis.T @ fitted.basis, torch.eye(4, dtype=torch.float64)
    )
    torch.testing.assert_close(
        fitted.reconstruct(features),
        torch.from_numpy(pca.inverse_transform(pca.transform(features.numpy()))),
    )


def test_fit_affine_recovers_a_subspace_behind_missing_blocks():
    true = affine_manifold((3, 3, 3, 3, 3), 2)
    features = on_manifold(true, 200)
    observed = observation_of(true.layout, 200, missing=0.1).observed
    gaps = ~true.layout.expand(observed)
    assert 0.05 < gaps.double().mean() < 0.15
    gappy = Observation(features.masked_fill(gaps, torch.nan), observed, true.layout)
    fitted = fit_affine(gappy, 2)
    error = torch.linalg.matrix_norm(
        fitted.basis @ fitted.basis.T - true.basis @ true.basis.T, 2
    )
    assert error < 1e-6
    naive = fit_affine(gappy, 2, sweeps=1)
    unmended = naive.basis @ naive.basis.T - true.basis @ true.basis.T
    assert torch.linalg.matrix_norm(unmended, 2) > 1e-2
    torch.testing.assert_close(
        fitted.reconstruct(features), features, rtol=0, atol=1e-4
    )


@pytest.mark.parametrize("rank", [0, 6, 20])
def test_fit_affine_refuses_a_rank_out_of_range(rank):
    with pytest.raises(ValueError, match=f"rank: expected 1 to 5, got {rank}"):
        fit_affine(observation_of(layout_of(4, 4), 6), rank)


# Derivatives and layers


@pytest.mark.parametrize("make", [affine_manifold, autoencoder])
def test_gram_and_pullback_against_autograd(make):
    manifold = make(WIDTHS, 2)
    code, weights = normal(5, 2, seed=3), normal(5, 3, seed=4).abs()
    vectors = normal(5, 6, seed=5)
    for n in range(5):
        jacobian = torch.autograd.functional.jacobian(
            lambda z: manifold.decode(z[None])[0], code[n]
        )
        spread = torch.diag(weights[n].repeat_interleave(torch.tensor(WIDTHS)))
        one = slice(n, n + 1)
        torch.testing.assert_close(
            manifold.gram(code[one], weights[one])[0], jacobian.T @ spread @ jacobian
        )
        torch.testing.assert_close(
            manifold.pullback(code[one], vectors[one])[0], jacobian.T @ vectors[n]
        )
        for agent, columns in enumerate(manifold.layout.slices):
            torch.testing.assert_close(
                manifold.pullbacks(code[one], vectors[one])[0, agent],
                jacobian[columns].T @ vectors[n, columns],
            )
        if make is autoencoder:
            torch.testing.assert_close(manifold.jacobian(code[one])[0], jacobian)
    torch.testing.assert_close(
        manifold.gram(code, weights)[3], manifold.gram(code[3:4], weights[3:4])[0]
    )


@pytest.mark.parametrize("make", [affine_manifold, autoencoder])
def test_the_chain_of_layers_is_reconstruct(make):
    manifold = make(WIDTHS, 2)
    values = features = normal(20, 6, seed=8)
    for weight, bias, slope in manifold.layers():
        values = values @ weight.T + bias
        if slope is not None:
            values = torch.where(values > 0, values, slope * values)
    torch.testing.assert_close(values, manifold.reconstruct(features))
    assert manifold.rank == 2


def test_affine_encode_is_the_orthogonal_projection():
    manifold = affine_manifold(WIDTHS, 2)
    features = normal(4, 6, seed=9)
    off = features - manifold.reconstruct(features)
    torch.testing.assert_close(
        off @ manifold.basis, torch.zeros(4, 2, dtype=torch.float64)
    )
    points = on_manifold(manifold, 4)
    torch.testing.assert_close(manifold.reconstruct(points), points)


def test_residual_counts_observed_agents_only():
    manifold = affine_manifold(WIDTHS, 2)
    observation = observation_of(manifold.layout, 6, missing=0.4)
    filled = torch.where(
        manifold.layout.expand(observation.observed),
        observation.features,
        manifold.mean,
    )
    off = manifold.reconstruct(filled) - filled
    expected = [
        sum(
            float(off[n, s].norm())
            for s, heard in zip(
                manifold.layout.slices, observation.observed[n], strict=True
            )
            if heard
        )
        for n in range(6)
    ]
    assert manifold.residual(observation).tolist() == pytest.approx(expected)


# The robust fit


def block_sum(manifold, observation, code):
    """Eq. 5 in plain words: `(n,)` sum of block norms over observed agents."""
    off = observation.filled(0.0) - manifold.decode(code)
    norms = torch.stack(
        [off[:, s].square().sum(1).sqrt() for s in manifold.layout.slices]
    )
    return (norms.T * observation.observed).sum(1)


def noisy(manifold, samples, *, noise=0.1, corrupted=1, missing=0.0, seed=0, by=10.0):
    """Points of a manifold with noise, whose last agents send a flipped block."""
    layout = manifold.layout
    clean = on_manifold(manifold, samples, seed=seed)
    received = clean + noise * normal(samples, layout.width, seed=seed + 1)
    for columns in layout.slices[layout.agents - corrupted :]:
        received[:, columns] *= -by
    observed = observation_of(layout, samples, missing=missing, seed=seed).observed
    return clean, Observation(received, observed, layout)


def scipy_minimum(manifold, observation):
    """Smoothed L-BFGS at falling smoothing, then Nelder-Mead, for one sample."""
    keep = [a for a in range(manifold.layout.agents) if observation.observed[0, a]]
    slices = [manifold.layout.slices[a] for a in keep]
    h, mean = observation.features[0].numpy(), manifold.mean.numpy()
    basis = manifold.basis.numpy()

    def value(z, eps=0.0):
        off = h - mean - basis @ z
        return sum(np.sqrt(off[s] @ off[s] + eps**2) for s in slices)

    def slope(z, eps):
        off = h - mean - basis @ z
        return -sum(
            basis[s].T @ off[s] / np.sqrt(off[s] @ off[s] + eps**2) for s in slices
        )

    z = basis.T @ np.where(np.isfinite(h), h - mean, 0.0)
    for eps in 10.0 ** np.arange(1, -9, -1):
        z = minimize(value, z, (eps,), jac=slope, method="L-BFGS-B").x
    options = {"xatol": 1e-12, "fatol": 1e-14, "maxiter": 4000, "maxfev": 4000}
    return min(value(z), minimize(value, z, method="Nelder-Mead", options=options).fun)


@pytest.mark.parametrize(
    ("widths", "rank", "noise", "missing"),
    [
        ((2, 3, 4), 2, 0.1, 0.0),
        ((2, 3, 4), 2, 0.0, 0.0),
        ((1, 1, 1, 1, 1), 1, 0.3, 0.0),
        ((4,) * 6, 3, 0.1, 0.3),
        ((3,) * 5, 3, 0.3, 0.2),
    ],
)
def test_robust_fit_is_not_worse_than_scipy(widths, rank, noise, missing):
    manifold = affine_manifold(widths, rank, seed=2)
    _, observation = noisy(manifold, 6, noise=noise, missing=missing)
    fit = robust_fit(manifold, observation)
    torch.testing.assert_close(
        fit.objective, block_sum(manifold, observation, fit.code)
    )
    for n in range(6):
        theirs = scipy_minimum(manifold, observation[n : n + 1])
        assert float(fit.objective[n]) <= theirs * (1 + 1e-6)


def duality_gap(manifold, observation, code):
    """Relative gap to a lower bound that needs no trust in any solver.

    min_z sum ||h_i - W_i z|| = max { <u, h> : sum W_i' u_i = 0, ||u_i|| <= 1 }.
    """
    layout, gaps = manifold.layout, []
    for n in range(len(code)):
        rows = layout.expand(observation.observed)[n]
        w, h = manifold.basis[rows], (observation.features[n] - manifold.mean)[rows]
        off = h - w @ code[n]
        owner = layout.owner[rows]

        def norms(vector, owner=owner):
            squares = torch.zeros(layout.agents, dtype=torch.float64)
            return squares.index_add(0, owner, vector.square()).sqrt()

        size = norms(off)
        zero = (size < 1e-6 * size.max())[owner]
        u = torch.where(zero, 0.0, off / size.clamp_min(1e-300)[owner])
        # Blocks met exactly may carry any force up to 1: they balance the others.
        if zero.any():
            free = torch.linalg.lstsq(w[zero].T, -(w.T @ u), driver="gelsd").solution
            u[zero] = free
        u = u - w @ torch.linalg.solve(w.T @ w, w.T @ u)
        u = u / norms(u).max().clamp_min(1.0)
        primal = size.sum()
        # Where the fit is exact the objective itself is zero: measure by the data.
        gaps.append(float((primal - u @ h) / (primal + 1e-3 * h.norm())))
    return torch.tensor(gaps)


@pytest.mark.parametrize("missing", [0.0, 0.3])
@pytest.mark.parametrize("noise", [0.0, 0.1])
@pytest.mark.parametrize(("widths", "rank"), [((4,) * 8, 3), ((3, 5, 4, 6, 2, 5), 2)])
def test_robust_fit_is_optimal_by_duality(widths, rank, noise, missing):
    manifold = affine_manifold(widths, rank, seed=4)
    _, observation = noisy(manifold, 30, noise=noise, missing=missing)
    fit = robust_fit(manifold, observation)
    assert (fit.status == CONVERGED).all()
    gap = duality_gap(manifold, observation, fit.code)
    assert (gap > -1e-12).all()
    assert gap.max() < 1e-7
    # The certificate can tell: a point beside the minimum has a gap.
    beside = duality_gap(manifold, observation, fit.code + 0.05)
    assert beside.min() > 1e-4


def test_scalar_fit_is_the_median():
    manifold = identical_blocks(5, 1)
    values = normal(20, 5, seed=6)
    fit = robust_fit(manifold, everyone(values, manifold.layout))
    medians = values.median(dim=1).values
    torch.testing.assert_close(
        manifold.decode(fit.code), medians[:, None].expand(20, 5), rtol=0, atol=1e-8
    )


def test_geometric_median_by_hand():
    """Identical blocks: the minimizer is the geometric median of the agents' blocks."""
    manifold = identical_blocks(4, 2)
    square = torch.tensor([[1.0, 1], [-1, 1], [-1, -1], [1, -1]], dtype=torch.float64)
    # A convex quadrilateral: the crossing of the diagonals.
    kite = torch.tensor([[0.0, 3], [-1, 0], [0, -1], [1, 0]], dtype=torch.float64)
    # One point inside the triangle of the others: that point.
    inside = torch.tensor(
        [[0.0, 5], [-5, -4], [0.3, 0.1], [5, -4]], dtype=torch.float64
    )
    points = torch.stack([square, kite, inside])
    fit = robust_fit(manifold, everyone(points.flatten(1), manifold.layout))
    expected = torch.tensor([[0.0, 0], [0, 0], [0.3, 0.1]], dtype=torch.float64)
    torch.testing.assert_close(
        manifold.decode(fit.code)[:, :2], expected, rtol=0, atol=1e-7
    )
    torch.testing.assert_close(
        fit.objective[:2], torch.tensor([4 * 2**0.5, 6.0], dtype=torch.float64)
    )


def test_weiszfeld_point_of_a_triangle():
    """The Fermat point of a triangle sees every side under 120 degrees."""
    manifold = identical_blocks(3, 2)
    points = torch.tensor([[0.0, 0], [4, 0], [1, 3]], dtype=torch.float64)
    fit = robust_fit(manifold, everyone(points.reshape(1, 6), manifold.layout))
    point = manifold.decode(fit.code)[0, :2]
    unit = torch.nn.functional.normalize(points - point, dim=1)
    cosines = (unit @ unit.T)[torch.triu_indices(3, 3, 1).unbind()]
    assert cosines.tolist() == pytest.approx([-0.5] * 3, abs=1e-4)


@pytest.mark.parametrize("make", [affine_manifold, autoencoder])
def test_a_sample_does_not_depend_on_its_batch(make):
    manifold = make((3, 2, 4, 3, 3), 2)
    layout = manifold.layout
    received = 3 * normal(12, layout.width, seed=11)
    observed = observation_of(layout, 12, missing=0.2).observed
    observation = Observation(received, observed, layout)
    together = robust_fit(manifold, observation)
    alone = torch.cat(
        [robust_fit(manifold, observation[n : n + 1]).code for n in range(12)]
    )
    torch.testing.assert_close(together.code, alone, rtol=1e-11, atol=1e-11)
    order = torch.randperm(12, generator=seeded(1))
    shuffled = robust_fit(manifold, observation[order])
    torch.testing.assert_close(
        shuffled.code, together.code[order], rtol=1e-11, atol=1e-11
    )
    assert torch.equal(shuffled.status, together.status[order])


def test_missing_agents_do_not_enter():
    manifold = affine_manifold((3, 2, 4, 3), 2)
    layout = manifold.layout
    _, observation = noisy(manifold, 10)
    gone = torch.zeros(10, 4, dtype=torch.bool)
    gone[:, 1] = True
    expected = robust_fit(manifold, observation.without(gone))
    for junk in (torch.nan, torch.inf, 1e200):
        features = observation.features.clone()
        features[:, layout.slices[1]] = junk
        spoilt = observation.with_features(features).without(gone)
        assert torch.equal(robust_fit(manifold, spoilt).code, expected.code)
    rest = [c for c in range(layout.width) if layout.owner[c] != 1]
    small = AffineManifold(
        layout_of(3, 4, 3), manifold.mean[rest], manifold.basis[rest]
    )
    reduced = robust_fit(small, everyone(observation.features[:, rest], small.layout))
    torch.testing.assert_close(expected.objective, reduced.objective, rtol=1e-7, atol=0)
    torch.testing.assert_close(expected.code, reduced.code, rtol=0, atol=1e-3)


@pytest.mark.parametrize("make", [affine_manifold, autoencoder])
def test_without_any_agent_the_mean_is_returned(make):
    manifold = make(WIDTHS, 2)
    observed = torch.ones(3, 3, dtype=torch.bool)
    observed[1] = False
    observation = Observation(normal(3, 6), observed, manifold.layout)
    fit = robust_fit(manifold, observation)
    assert fit.status[1] == NO_AGENTS
    assert (fit.status[[0, 2]] != NO_AGENTS).all()
    torch.testing.assert_close(fit.code[1:2], manifold.encode(manifold.mean[None]))
    assert fit.objective[1] == 0
    nobody = robust_fit(manifold, observation.without(torch.ones_like(observed)))
    assert (nobody.status == NO_AGENTS).all()


@pytest.mark.parametrize("payload", [1e3, 1e8, 1e14])
def test_a_payload_of_any_size_moves_the_fit_no_further(payload):
    """The pull of a block has length 1 whatever it sends; float64 has to show it."""
    manifold = affine_manifold((4,) * 8, 3)
    clean, observation = noisy(manifold, 20)
    direction = torch.nn.functional.normalize(normal(20, 4, seed=12), dim=1)
    last = manifold.layout.slices[-1]
    features = observation.features.clone()
    features[:, last] = payload * direction
    fit = robust_fit(manifold, observation.with_features(features))
    purified = manifold.decode(fit.code)
    error = torch.linalg.vector_norm(purified - clean, dim=1)
    assert error.max() < 1.0
    # The limit of infinite payloads: the honest fit under a constant pull.
    features[:, last] = 1e6 * direction
    limit = robust_fit(manifold, observation.with_features(features)).code
    torch.testing.assert_close(fit.code, limit, rtol=0, atol=2e-2)
    if payload > 1e6:
        torch.testing.assert_close(fit.code, limit, rtol=0, atol=1e-3)


@pytest.mark.parametrize("unit", [1e-6, 1e6])
def test_the_fit_does_not_depend_on_units(unit):
    manifold = affine_manifold((4,) * 6, 3)
    _, observation = noisy(manifold, 10)
    scaled = AffineManifold(manifold.layout, unit * manifold.mean, manifold.basis)
    there = robust_fit(scaled, observation.with_features(unit * observation.features))
    here = robust_fit(manifold, observation)
    torch.testing.assert_close(there.code / unit, here.code, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("corrupted", [1, 2, 3])
def test_exact_recovery_with_redundant_agents(corrupted):
    manifold = affine_manifold((6,) * 10, 3)
    clean, observation = noisy(manifold, 20, noise=0.0, corrupted=corrupted, by=20.0)
    fit = robust_fit(manifold, observation)
    torch.testing.assert_close(manifold.decode(fit.code), clean, rtol=0, atol=1e-7)


def test_a_limit_of_iterations_is_reported():
    manifold = affine_manifold((3,) * 5, 2)
    _, observation = noisy(manifold, 8)
    fit = robust_fit(manifold, observation, max_iterations=3)
    assert (fit.status == MAX_ITERATIONS).all()
    assert fit.iterations == 3
    assert torch.isfinite(fit.code).all()


def test_the_fit_through_an_autoencoder_is_stationary():
    """No descent direction is left, and other starts than the plain one are used."""
    manifold = autoencoder((4,) * 5, 2)
    clean = manifold.decode(2 * normal(10, 2, seed=7))
    received = clean + 0.05 * normal(10, 20, seed=8)
    received[:, -4:] += 8.0
    observation = everyone(received, manifold.layout)
    fit = robust_fit(manifold, observation)
    for n in range(10):

        def value(z, one=observation[n : n + 1]):
            code = torch.from_numpy(z)[None]
            return float(block_sum(manifold, one, code)[0])

        at = fit.code[n].numpy()
        polished = minimize(value, at, method="Nelder-Mead", options={"xatol": 1e-10})
        assert value(at) <= polished.fun * (1 + 1e-5)
    plain = block_sum(manifold, observation, manifold.encode(received))
    assert (fit.objective <= plain).all()


# The derivative of the fit


def tight(manifold, observation):
    return robust_fit(manifold, observation, max_iterations=5000, tolerance=1e-15).code


def derivative(manifold, observation, n):
    """`(rank, width)` derivative of the code of sample n by autograd."""
    one = observation[n : n + 1]
    code = tight(manifold, one)

    def function(features):
        return differentiable_code(manifold, one.with_features(features[None]), code)[0]

    return torch.autograd.functional.jacobian(function, one.features[0])


def test_differentiable_code_has_the_value_of_the_code():
    manifold = affine_manifold((3,) * 6, 2)
    _, observation = noisy(manifold, 5, missing=0.2)
    code = tight(manifold, observation)
    features = observation.features.clone().requires_grad_()
    result = differentiable_code(manifold, observation.with_features(features), code)
    assert torch.equal(result, code)
    assert result.requires_grad


def test_differentiable_code_against_finite_differences():
    manifold = affine_manifold((3,) * 6, 2)
    _, observation = noisy(manifold, 4, noise=0.5, by=2.0)
    observation = observation.without(
        torch.tensor([[0, 0, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0]] * 2).bool()
    )
    step = 1e-5
    for n in range(4):
        exact = derivative(manifold, observation, n)
        one = observation[n : n + 1]
        shifts = step * torch.eye(18, dtype=torch.float64)
        many = one[torch.zeros(18, dtype=torch.long)]
        ahead = tight(manifold, many.with_features(one.features + shifts))
        behind = tight(manifold, many.with_features(one.features - shifts))
        numeric = ((ahead - behind) / (2 * step)).T
        assert (exact - numeric).norm() < 1e-3 * numeric.norm()


def test_the_influence_of_a_block_falls_like_its_inverse_residual():
    manifold = affine_manifold((4,) * 8, 3)
    _, observation = noisy(manifold, 1, noise=0.3)
    last = manifold.layout.slices[-1]
    push = torch.nn.functional.normalize(normal(1, 4, seed=3), dim=1)
    sizes = []
    for length in (1e2, 1e3, 1e4):
        features = observation.features.clone()
        features[:, last] = length * push
        moved = derivative(manifold, observation.with_features(features), 0)
        sizes.append(float(moved[:, last].norm()) * length)
    assert sizes[0] > 0.1
    assert sizes[1] == pytest.approx(sizes[0], rel=0.1)
    assert sizes[2] == pytest.approx(sizes[1], rel=0.02)


@pytest.mark.parametrize("make", [affine_manifold, autoencoder])
def test_the_derivative_is_finite_where_residuals_vanish(make):
    manifold = make((3,) * 5, 2)
    code = normal(4, 2)
    features = manifold.decode(code)
    features[1, -3:] += 5.0
    observed = torch.ones(4, 5, dtype=torch.bool)
    observed[2, :3] = False
    observed[3] = False
    leaf = features.clone().requires_grad_()
    result = differentiable_code(
        manifold, Observation(leaf, observed, manifold.layout), code
    )
    (gradient,) = torch.autograd.grad(result.square().sum(), leaf)
    assert torch.isfinite(gradient).all()
    assert (gradient[~manifold.layout.expand(observed)] == 0).all()


# Choosing a manifold


def test_recovery_error_by_hand():
    layout = layout_of(2, 1)
    clean = Observation(
        torch.tensor([[3.0, 4, 5], [3, 4, 5], [1, 1, 1]], dtype=torch.float64),
        torch.tensor([[True, True], [True, False], [True, True]]),
        layout,
    )
    mean = torch.tensor([0.0, 0, 5], dtype=torch.float64)
    purified = torch.tensor([[3.0, 4, 5], [0, 0, 99], [1, 1, 3]], dtype=torch.float64)
    expected = [0.0, 1.0, 2 / 18**0.5]
    assert recovery_error(purified, clean, mean).tolist() == pytest.approx(expected)
    assert recovery_error(mean.expand(3, 3), clean, mean).tolist() == pytest.approx(
        [1] * 3
    )


@pytest.mark.parametrize("agents", [3, 4, 6, 10])
def test_simulated_corruption_spares_a_majority(agents):
    layout = layout_of(*(2,) * agents)
    clean = observation_of(layout, 400, missing=0.2)
    corrupted = simulate_corruption(clean, seeded(1))
    assert torch.equal(corrupted.observed, clean.observed)
    hit = layout.block_norms(corrupted.features - clean.filled(0.0)) > 0
    assert (2 * hit.sum(1) < agents).all()
    heard = hit & clean.observed
    assert heard.any(dim=0).all()
    assert hit.sum(1).max() == max(1, agents // 3)
    again = simulate_corruption(clean, seeded(1))
    assert torch.equal(corrupted.features, again.features)
    # The three kinds: flipped blocks, others' blocks, noise.
    dirty = layout.expand(hit)
    cosine = torch.nn.functional.cosine_similarity(
        torch.where(dirty, corrupted.features, 0.0).reshape(-1, 2),
        torch.where(dirty, clean.filled(0.0), 0.0).reshape(-1, 2),
    )
    flipped = (cosine < -1 + 1e-9).sum() / heard.sum()
    assert 0.2 < flipped < 0.5


@pytest.mark.parametrize("rank", [2, 4, 8])
def test_fit_manifold_finds_the_rank(rank):
    data = Synthetic(
        agents=8, width=6, rank=rank, redundancy=0.5, noise=0.1, samples=600
    ).load()
    fitted = fit_manifold(
        ManifoldRecipe(),
        data.train.observation(data.layout),
        data.validation.observation(data.layout),
        generator=seeded(2),
    )
    assert fitted.manifold.rank == rank
    assert set(fitted.recovery) == {f"affine-{w}" for w in (2, 4, 8, 16, 32)}
    assert fitted.recovery[f"affine-{rank}"] == min(fitted.recovery.values()) < 0.5
    # Unexplained is the noise outside of the manifold, as a share of the energy.
    assert fitted.residual == pytest.approx(0.01 * (1 - rank / 48) / 1.01, rel=0.15)
    assert all(not p.requires_grad for p in fitted.manifold.parameters())
    assert fitted.manifold.basis.dtype == torch.float64


def curved(samples, seed):
    """A closed curve: one parameter, but two principal components."""
    angle = 1.5 * torch.pi * torch.rand(samples, 1, generator=seeded(seed)).double()
    both = torch.cat([angle.cos(), angle.sin()], 1) @ orthonormal(8, 2).T
    return everyone(both.float(), layout_of(4, 4))


def test_an_autoencoder_follows_a_curve_that_principal_components_cannot():
    train, validation = curved(400, 1), curved(200, 2)
    pca = fit_affine(train, 1)
    mean = pca.mean.float()

    def unexplained(manifold, dtype):
        features = validation.features.to(dtype)
        left = (manifold.reconstruct(features) - features).square().sum()
        return float(left / (features - manifold.mean).square().sum())

    epochs = []

    def train_to(residual):
        model = fit_autoencoder(
            train,
            validation,
            1,
            mean=mean,
            generator=seeded(3),
            residual=residual,
            progress=lambda phase, done, total: epochs.append((phase, done)),
        )
        return unexplained(model.requires_grad_(False), torch.float32)

    straight = unexplained(pca, torch.float64)
    best = train_to(0.0)
    assert best < 0.5 * straight
    taken = epochs[-1]
    epochs.clear()
    stated = (best + straight) / 2
    assert best < train_to(stated) <= stated
    assert epochs[-1][0] == taken[0] == "autoencoder 1"
    assert epochs[-1][1] < taken[1]


@pytest.mark.parametrize(
    ("family", "candidates"),
    [
        ("affine", {"affine-2"}),
        ("mlp", {"mlp-2"}),
        ("auto", {"affine-2", "mlp-2"}),
    ],
)
def test_the_recipe_says_which_families_compete(family, candidates):
    data = Synthetic(agents=4, width=3, rank=2, samples=120).load()
    fitted = fit_manifold(
        ManifoldRecipe(family=family, width=2, epochs=3),
        data.train.observation(data.layout),
        data.validation.observation(data.layout),
        generator=seeded(),
    )
    assert set(fitted.recovery) == candidates
    chosen = f"{fitted.manifold.family}-{fitted.manifold.rank}"
    assert fitted.recovery[chosen] == min(fitted.recovery.values())


@pytest.mark.parametrize("family", ["affine", "mlp"])
def test_storage_round_trip(family):
    data = Synthetic(agents=4, width=3, rank=2, samples=120).load()
    fitted = fit_manifold(
        ManifoldRecipe(family=family, width=2, epochs=3),
        data.train.observation(data.layout),
        data.validation.observation(data.layout),
        generator=seeded(),
    )
    tensors = manifold_tensors(fitted)
    assert all(isinstance(tensor, torch.Tensor) for tensor in tensors.values())
    back = manifold_from(tensors, data.layout)
    assert (back.residual, back.recovery) == (fitted.residual, fitted.recovery)
    assert (back.manifold.family, back.manifold.rank) == (family, 2)
    features = normal(6, 12)
    assert torch.equal(
        back.manifold.reconstruct(features), fitted.manifold.reconstruct(features)
    )
    code, weights = normal(6, 2, seed=1), normal(6, 4, seed=2).abs()
    assert torch.equal(
        back.manifold.gram(code, weights), fitted.manifold.gram(code, weights)
    )
    for (a, b, _), (c, d, _) in itertools.zip_longest(
        back.manifold.layers(), fitted.manifold.layers()
    ):
        assert torch.equal(a, c)
        assert torch.equal(b, d)


@pytest.mark.parametrize("widths", [(6, 5, 7, 4), (12,) * 5, (2, 30, 9)])
@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_the_compressed_fit_is_the_fit(widths, missing, monkeypatch):
    """Fewer columns, the same codes, residual norms and objective."""
    manifold = affine_manifold(widths, 3)
    observation = observation_of(manifold.layout, 30, missing=missing)
    blank = ~manifold.layout.expand(observation.observed)
    observation = observation.with_features(
        observation.features.masked_fill(blank, torch.nan)
    )
    small, kept = manifold.compressed(
        observation.with_features(observation.filled(0.0))
    )
    assert small.layout.width < manifold.layout.width
    code = normal(30, 3, seed=5)
    whole = manifold.layout.block_norms(observation.filled(0.0) - manifold.decode(code))
    part = small.layout.block_norms(kept.features - small.decode(code))
    assert torch.allclose(
        whole[observation.observed], part[observation.observed], rtol=1e-12
    )
    monkeypatch.setattr(robust, "_worthwhile", lambda manifold: True)
    fewer = robust_fit(manifold, observation)
    monkeypatch.setattr(robust, "_worthwhile", lambda manifold: False)
    plain = robust_fit(manifold, observation)
    assert torch.allclose(fewer.objective, plain.objective, rtol=1e-7, atol=1e-9)
    assert torch.allclose(fewer.code, plain.code, atol=1e-3)
    assert torch.equal(fewer.status, plain.status)

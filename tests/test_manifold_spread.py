"""A basis spread over agents: what it gives up, and what certificates gain."""

import itertools
import math

import pytest
import torch

from cibench._errors import OptionError
from cibench.certify import leverage
from cibench.embedding.training import named
from cibench.manifold import ManifoldRecipe, fit_affine, fit_manifold
from cibench.manifold.spread import POWER, largest_shares, spread_basis
from cibench_plugins.defenses.copur import CoPur
from cibench_plugins.defenses.copur_smoothed import CoPurSmoothed
from helpers import everyone, layout_of, normal, orthonormal, seeded

LAYOUT = layout_of(4, 2, 3, 5)


@pytest.fixture
def covariance():
    """One agent sends much of its own; what all share is weaker."""
    shared = normal(LAYOUT.width, 6)
    own = torch.zeros(LAYOUT.width, 2, dtype=torch.float64)
    own[:4] = 3 * normal(4, 2, seed=1)
    factor = torch.cat([shared, own], dim=1)
    return factor @ factor.T + 0.1 * torch.eye(LAYOUT.width, dtype=torch.float64)


def principal(covariance, rank):
    return torch.linalg.eigh(covariance).eigenvectors[:, -rank:].flip(1)


def value(covariance, basis, layout, weight):
    """The sum that is minimized, by eigenvalues."""
    explained = (basis.T @ covariance @ basis).trace() / covariance.trace()
    grams = [basis[s].T @ basis[s] for s in layout.slices]
    shares = torch.cat([torch.linalg.eigvalsh(gram) for gram in grams])
    return float(weight * shares.pow(POWER).sum() ** (1 / POWER) - explained)


def test_the_largest_share_is_that_of_the_worst_direction():
    basis = orthonormal(LAYOUT.width, 3)
    shares = largest_shares(basis, LAYOUT)
    codes = torch.nn.functional.normalize(normal(20000, 3), dim=1)
    found = LAYOUT.block_norms(codes @ basis.T).square().amax(dim=0)
    assert (found <= shares + 1e-12).all()
    torch.testing.assert_close(found, shares, rtol=0.01, atol=0)


@pytest.mark.parametrize("weight", [0.05, 0.3, 2.0])
def test_the_descent_finds_what_a_grid_finds(weight):
    layout = layout_of(1, 1, 1)
    covariance = torch.diag(torch.tensor([3.0, 1.0, 1.0]).double()) + 0.5
    start = principal(covariance, 1)
    found = spread_basis(covariance, start, layout, weight)
    angles = torch.linspace(0, math.pi, 181).double()
    least = min(
        value(
            covariance,
            torch.stack([a.sin() * b.cos(), a.sin() * b.sin(), a.cos()])[:, None],
            layout,
            weight,
        )
        for a, b in itertools.product(angles, angles)
    )
    assert value(covariance, found, layout, weight) == pytest.approx(least, abs=2e-4)


def test_weight_buys_shares_with_explained_energy(covariance):
    start = principal(covariance, 3)
    assert spread_basis(covariance, start, LAYOUT, 0.0) is start
    explained, shares, constants = [], [], []
    for weight in (0.0, 0.1, 0.3, 1.0):
        basis = spread_basis(covariance, start, LAYOUT, weight)
        torch.testing.assert_close(basis.T @ basis, torch.eye(3, dtype=torch.float64))
        assert value(covariance, basis, LAYOUT, weight) <= value(
            covariance, start, LAYOUT, weight
        )
        explained.append(float((basis * (covariance @ basis)).sum()))
        shares.append(float(largest_shares(basis, LAYOUT).max()))
        constants.append(leverage(basis, LAYOUT, corrupted=1).lower)
    assert explained == sorted(explained, reverse=True)
    assert shares == sorted(shares, reverse=True)
    # The first basis is one agent's for the most part, the last is nobody's.
    assert shares[0] > 0.9
    assert constants[0] < 0.4 < constants[-1]


def test_a_manifold_is_fitted_with_it():
    features = normal(60, LAYOUT.width)
    features[:, :4] *= 3
    train = everyone(features, LAYOUT)
    plain, spread = (fit_affine(train, 3, spread=weight) for weight in (0.0, 1.0))
    torch.testing.assert_close(plain.mean, spread.mean)
    largest = [float(largest_shares(m.basis, LAYOUT).max()) for m in (plain, spread)]
    assert largest[1] < largest[0] - 0.2
    recipe = ManifoldRecipe(width=3, spread=1.0)
    found = fit_manifold(recipe, train, train[:20], generator=seeded())
    torch.testing.assert_close(found.manifold.basis, spread.basis)


def test_without_it_seeds_are_those_of_before_it_was_there():
    """Their text seeds fits and heads: a word more would move every purifier's numbers."""
    off = {"epochs": 300, "family": "affine", "residual": 0.0, "width": 4}
    assert str(named(ManifoldRecipe(width=4))) == str(off)
    on = named(ManifoldRecipe(width=4, spread=0.1))
    assert on == {**off, "spread": 0.1}


@pytest.mark.parametrize("options", [{"manifold": "mlp"}, {"solver": "paper"}])
def test_only_affine_manifolds_are_spread(options):
    with pytest.raises(ValueError, match=r"spread: expected an affine manifold.*mlp"):
        CoPur(spread=0.1, **options)


def test_a_smoothed_copur_is_spread_alike():
    with pytest.raises((ValueError, OptionError), match="spread: expected an affine"):
        CoPurSmoothed(spread=0.1, manifold="mlp")

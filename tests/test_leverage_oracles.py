"""Leverage bounds against two other ways to compute them, and soundness of rounding."""

import dataclasses
import itertools

import cvxpy as cp
import numpy as np
import pytest
import torch

from cibench.certify import leverage
from cibench.certify.leverage import policy
from cibench.certify.leverage.blocks import compress
from cibench.certify.leverage.family import family
from cibench.certify.leverage.programme import pose
from cibench.certify.leverage.rounded import sound_ratio
from helpers import layout_of, normal, orthonormal


def by_semidefinite_programme(W, layout, corrupted, solver):
    """Best constant that linear policies prove: a linear matrix inequality per agent."""
    blocks = [W[s].numpy() for s in layout.slices]
    bad = [layout.index(a) for a in corrupted]
    good = [i for i in range(layout.agents) if i not in bad]
    ratio, matrices, constraints = cp.Variable(), {}, []
    for i in good:
        scales = cp.Variable(len(bad))
        corner = cp.diag(
            cp.hstack([scales[k] * np.ones(len(blocks[j])) for k, j in enumerate(bad)])
        )
        for j in bad:
            matrices[j, i] = cp.Variable((len(blocks[j]), len(blocks[i])))
        side = cp.vstack([matrices[j, i] for j in bad])
        rest = ratio * np.eye(len(blocks[i]))
        whole = cp.bmat([[corner, side], [side.T, rest]])
        cone = cp.Variable(whole.shape, PSD=True)
        constraints += [cone == whole, cp.sum(scales) <= ratio]
    for j in bad:
        constraints.append(sum(matrices[j, i] @ blocks[i] for i in good) == blocks[j])
    cp.Problem(cp.Minimize(ratio), constraints).solve(solver=solver)
    return 1 / (1 + ratio.value)


def by_enumeration(W, corrupted):
    """Exact constant of blocks of one row each.

    The points with `sum_S |w_i z| <= 1` are a polytope; at its vertices rank - 1 of the
    w_i z vanish, and the convex `sum_T |w_j z|` is largest at a vertex.
    """
    rank = W.shape[1]
    good = [i for i in range(len(W)) if i not in corrupted]
    least = 1.0
    for zeros in itertools.combinations(good, rank - 1):
        z = torch.linalg.svd(W[list(zeros)], full_matrices=True).Vh[-1]
        sizes = (W @ z).abs()
        bad, honest = float(sizes[corrupted].sum()), float(sizes[good].sum())
        least = min(least, honest / (bad + honest))
    return least


@pytest.mark.parametrize(
    ("widths", "rank", "corrupted"),
    [
        ((4,) * 6, 5, "a"),
        ((4,) * 6, 5, "ab"),
        ((3, 6, 1, 4, 2, 5), 7, "acd"),
        ((3, 6, 1, 4, 2, 5), 4, "be"),
        ((8,) * 8, 20, "abc"),
        ((5, 5, 5, 5, 1, 3, 1), 3, "bf"),
    ],
)
def test_semidefinite_programme(widths, rank, corrupted):
    layout = layout_of(*widths)
    W = normal(layout.width, rank, seed=rank)
    bounds = leverage(W, layout, tuple(corrupted), tolerance=2e-4)
    best = by_semidefinite_programme(W, layout, corrupted, cp.CLARABEL)
    assert bounds.lower <= best + 1e-6
    assert best <= bounds.upper + 1e-6
    assert bounds.lower >= best - 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(("rank", "corrupted"), [(5, "a"), (20, "a"), (20, "ab")])
def test_semidefinite_programme_of_ten_wide_blocks(rank, corrupted):
    layout = layout_of(*(32,) * 10)
    W = normal(320, rank, seed=rank)
    # Triangular factors: the same norms, smaller matrices.
    short = torch.cat([torch.linalg.qr(W[s], mode="r").R for s in layout.slices])
    bounds = leverage(W, layout, tuple(corrupted))
    best = by_semidefinite_programme(
        short, layout_of(*(min(32, rank),) * 10), corrupted, cp.SCS
    )
    assert bounds.lower == pytest.approx(best, abs=1e-3)
    assert best <= bounds.upper + 1e-3


@pytest.mark.parametrize("rank", [2, 3, 4])
@pytest.mark.parametrize("size", [1, 2])
def test_enumeration_of_scalar_blocks(rank, size):
    layout = layout_of(*(1,) * 8)
    W = normal(8, rank, seed=10 * rank + size)
    exact = {
        pair: by_enumeration(W, list(pair))
        for pair in itertools.combinations(range(8), size)
    }
    bounds = leverage(W, layout, size, details=True)
    least = min(exact, key=exact.get)
    assert bounds.upper == pytest.approx(exact[least], abs=1e-6)
    assert bounds.corrupted == tuple(layout.names[i] for i in least)
    for one in bounds.details:
        value = exact[tuple(layout.index(a) for a in one.corrupted)]
        assert one.lower <= value + 1e-12
        assert value - 1e-12 <= one.upper
        # For one agent linear policies lose nothing: linear programming duality.
        assert size > 1 or one.lower >= value - 6e-4


def ratios(W, layout, corrupted, z):
    norms = torch.stack([(z @ W[s].T).norm(dim=1) for s in layout.slices], dim=1)
    good = [i for i in range(layout.agents) if i not in corrupted]
    return norms[:, corrupted].sum(1) / norms[:, good].sum(1)


@pytest.mark.parametrize("condition", [1.0, 1e4, 1e8])
@pytest.mark.parametrize("scale", [0.0, 1e-3, 1.0, 1e6])
def test_whatever_policy_is_handed_in_the_ratio_holds(condition, scale):
    # Also those that do not meet the constraint: what is off is charged to the bound.
    layout, rank, bad = layout_of(4, 3, 5, 4), 3, [1, 3]
    spread = torch.logspace(0, 1, rank, base=1 / condition, dtype=torch.float64)
    W = orthonormal(16, rank) * spread @ orthonormal(rank, rank, 1).T
    blocks = compress(W, layout)
    sets = family(layout, "b/d", 0, W.device)
    goal = torch.full((1,), 2.0, dtype=torch.float64)
    programme = pose(blocks, sets, goal, None)
    squares = torch.tensor([[[0.6, 1.4], [0.6, 0.4]]], dtype=torch.float64)
    drawn = scale * normal(*(1, programme.target.shape[1], len(programme.basis[0])))
    proved = float(goal * sound_ratio(programme, drawn, squares))
    z = normal(10_000, rank, seed=4) @ blocks.basis.T
    assert float(ratios(W, layout, bad, z).max()) <= proved
    feasible = drawn + (programme.wanted - drawn @ programme.basis) @ (
        programme.basis.transpose(1, 2)
    )
    gain = programme.by_agent(feasible) * programme.by_row(squares).rsqrt()[..., None]
    norms = torch.linalg.matrix_norm(gain, ord=2) * squares.sum(2).sqrt()
    plain = float(2 * norms.amax())
    assert plain < proved
    assert proved <= plain * (1 + 1e-11 * condition) + 1e-9 * condition


def test_what_is_off_is_charged():
    layout, bad = layout_of(4, 3, 5, 4), [1, 3]
    W = normal(16, 3)
    blocks = compress(W, layout)
    sets = family(layout, "b/d", 0, W.device)
    one = torch.ones(1, dtype=torch.float64)
    programme = pose(blocks, sets, one, None)
    policy = torch.zeros(1, len(programme.target[0]), len(programme.basis[0])).double()
    squares = torch.full((1, 2, 2), 0.5, dtype=torch.float64)
    plain = float(sound_ratio(programme, policy, squares))
    # Half a correction leaves half of the constraint unmet.
    half = dataclasses.replace(programme, inverse=0.5 * programme.inverse)
    z = normal(10_000, 3, seed=4) @ blocks.basis.T
    most = float(ratios(W, layout, bad, z).max())
    assert most <= float(sound_ratio(half, policy, squares))
    assert plain / 2 < most
    sigma = 0.5 / float(torch.linalg.matrix_norm(programme.inverse))
    more = dataclasses.replace(programme, extra=programme.extra + 0.125)
    found = float(sound_ratio(more, policy, squares))
    assert found == pytest.approx(plain + 0.125 / sigma, rel=1e-9)
    d = sigma / 4
    rough = dataclasses.replace(programme, rounding=programme.rounding + d)
    found = float(sound_ratio(rough, policy, squares))
    assert found == pytest.approx(plain + plain * d / (sigma - d), rel=1e-9)
    lost = dataclasses.replace(programme, rounding=programme.rounding + 2 * sigma)
    assert float(sound_ratio(lost, policy, squares)) == torch.inf


@pytest.mark.parametrize("faint", [1e-3, 1e-8, 1e-13])
def test_a_small_constant_is_enclosed(faint):
    # Two honest agents nearly miss the second code: c = 2 faint / (1 + 2 faint).
    W = torch.eye(2, dtype=torch.float64).repeat(3, 1)
    W[:4, 1] *= faint
    bounds = leverage(W, layout_of(2, 2, 2), "c")
    exact = 2 * faint / (1 + 2 * faint)
    assert not bounds.exact_zero
    assert 0.8 * exact < bounds.lower < exact < bounds.upper < 1.1 * exact


def test_scales_of_each_agent_are_tighter(monkeypatch):
    layout = layout_of(3, 6, 1, 4, 2, 5)
    W = normal(21, 4)
    joint = leverage(W, layout, "b/e")
    monkeypatch.setattr(policy, "JOINT", 0)
    common = leverage(W, layout, "b/e")
    assert common.lower < joint.lower - 1e-3
    assert joint.lower <= joint.upper
    assert joint.upper == pytest.approx(common.upper, abs=1e-9)

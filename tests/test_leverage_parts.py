"""Parts of the leverage bounds: ascent, first policy, splittings, coordinates."""

import pytest
import torch

from cibench.certify.leverage.ascent import _step, ascend, height
from cibench.certify.leverage.blocks import compress
from cibench.certify.leverage.family import family
from cibench.certify.leverage.joint import split_jointly
from cibench.certify.leverage.policy import _least_squares
from cibench.certify.leverage.programme import pose
from cibench.certify.leverage.rounded import sound_ends
from cibench.certify.leverage.splitting import split
from cibench.certify.leverage.zero import unseen
from helpers import layout_of, normal

LAYOUT = layout_of(3, 6, 1, 4, 2, 5)


def setting(rank=4, corrupted=2, missing=0, seed=0):
    W = normal(LAYOUT.width, rank, seed=seed)
    return W, compress(W, LAYOUT), family(LAYOUT, corrupted, missing, W.device)


@pytest.mark.parametrize("code", [4, 30])
def test_coordinates_keep_the_norms_of_blocks(code):
    W = normal(LAYOUT.width, 4) @ normal(4, code, seed=1)
    blocks = compress(W, LAYOUT)
    assert blocks.values.shape == (6, 4, 4)
    y = normal(50, 4, seed=2)
    v = y @ blocks.basis.T @ W.T
    # W is divided by a power of two first.
    factor = float(v.norm() / y.norm())
    assert 2 ** round(torch.log2(torch.tensor(factor)).item()) == pytest.approx(factor)
    off = (LAYOUT.block_norms(v) / factor - blocks.norms(y)).abs()
    assert bool((off <= (blocks.rounding + 1e-14) * y.norm(dim=1, keepdim=True)).all())
    torch.testing.assert_close(v.norm(dim=1) / factor, y.norm(dim=1))
    assert blocks.drift < 1e-11


@pytest.mark.parametrize("missing", [0, 1])
@pytest.mark.parametrize("rate", [False, True])
def test_a_step_of_the_ascent_never_loses(rate, missing):
    _, blocks, sets = setting(corrupted=1, missing=missing)
    y = torch.nn.functional.normalize(normal(len(sets), 5, 4, seed=3), dim=2)
    before = height(blocks, sets, y, rate=rate)
    first = before
    for _ in range(25):
        y = _step(blocks, sets, y, rate)
        after = height(blocks, sets, y, rate=rate)
        # With a negative rate g is held at 0: then the ratio rises, not minus the rate.
        sure = before < 0 if rate else torch.ones_like(before, dtype=torch.bool)
        assert bool((after >= before - 1e-12)[sure].all())
        before = after
    assert bool((before > first + 1e-6).any())
    best = ascend(blocks, sets, y, rate=rate, schedule=((1, 50),))
    found = height(blocks, sets, best[:, None], rate=rate)
    most = before.amax(1)
    sure = most < 0 if rate else torch.ones_like(most, dtype=torch.bool)
    assert bool((found[:, 0] >= most - 1e-12)[sure].all())
    assert int(sure.sum()) > 4


def test_the_first_policy_is_weighted_least_squares():
    _, blocks, sets = setting(corrupted=2)
    sets = sets.part(torch.tensor([3]))
    programme = pose(blocks, sets, torch.ones(1, dtype=torch.float64), None)
    norms = torch.tensor([[1.0, 2.0, 0.5, 1.5]], dtype=torch.float64)
    rows = programme.rows[0]
    gram = sum(b.T @ b / n for b, n in zip(rows, norms[0], strict=True))
    expected = torch.cat(
        [
            programme.target[0] @ torch.linalg.inv(gram) @ b.T / n
            for b, n in zip(rows, norms[0], strict=True)
        ],
        dim=1,
    )
    found = _least_squares(programme, norms)
    torch.testing.assert_close(found[0], expected)


@pytest.mark.parametrize("joint", [False, True])
def test_policies_are_feasible_and_reach_what_they_say(joint):
    _, blocks, sets = setting(corrupted=2, rank=5)
    goal = torch.linspace(0.5, 3.0, len(sets), dtype=torch.float64)
    programme = pose(blocks, sets, goal, None)
    squares = torch.tensor([[0.4, 0.6]], dtype=torch.float64).expand(len(sets), -1)
    level = torch.full((len(sets),), 0.98, dtype=torch.float64)
    start = _least_squares(programme, torch.ones(len(sets), 4).double())
    first = (
        programme.by_agent(start) / programme.by_row(squares).sqrt()[:, None, :, None]
    )
    before = torch.linalg.matrix_norm(first, ord=2).amax(1)
    if joint:
        policy, shares, dual = split_jointly(programme, squares, start, level, 40)
    else:
        policy, lowest, dual = split(programme, squares, start, level, 40)
        shares = squares[:, None].expand(-1, 4, -1)
    honest = programme.rows.flatten(1, 2)
    torch.testing.assert_close(policy @ honest, programme.target)
    torch.testing.assert_close(shares.sum(2), torch.ones(len(sets), 4).double())
    scaled = programme.by_agent(policy) * programme.by_row(shares).rsqrt()[..., None]
    after = torch.linalg.matrix_norm(scaled, ord=2).amax(1)
    assert bool((after <= before + 1e-9).all())
    if not joint:
        torch.testing.assert_close(after, lowest)
    # Goals from easy to out of reach: what rests has reached its own.
    done = after <= 1.0
    assert 0 < int(done.sum()) < len(sets)
    assert bool((dual[done] == 0).all())
    assert bool(dual[~done].flatten(1).any(1).all())


def test_sums_at_a_point_are_enclosed():
    _, blocks, sets = setting(corrupted=1, missing=1)
    points = torch.nn.functional.normalize(normal(len(sets), 4, seed=5), dim=1)
    least, most = sound_ends(blocks, sets, points)
    norms = blocks.norms(points)
    bad, good = (norms * sets.corrupted).sum(1), (norms * sets.honest).sum(1)
    assert bool((least < bad).all())
    assert bool((most > good).all())
    torch.testing.assert_close(least, bad, atol=1e-11, rtol=0)
    torch.testing.assert_close(most, good, atol=1e-11, rtol=0)


def test_agents_that_miss_a_direction():
    W = torch.eye(4, dtype=torch.float64)[[0, 1, 2, 3, 0, 1, 0, 2]]
    layout = layout_of(2, 2, 2, 2)
    blocks = compress(W, layout)
    seeing = torch.tensor([[1, 1, 0, 0], [1, 0, 1, 1], [0, 1, 1, 0]]).bool()
    lost, least = unseen(blocks, seeing)
    assert lost.tolist() == [False, True, False]
    # Only the second agent sees the last code.
    code = blocks.basis @ least[1]
    assert float(code[3].abs() / code.norm()) == pytest.approx(1.0)


def test_pairs_of_sets():
    layout = layout_of(1, 1, 1, 1)
    sets = family(layout, 2, 1, torch.device("cpu"))
    assert len(sets) == 12
    pairs = [sets.names(number) for number in range(len(sets))]
    assert len(set(pairs)) == 12
    assert all(not set(bad) & set(gone) for bad, gone in pairs)
    named = family(layout, "a/3", 1, torch.device("cpu"))
    assert [named.names(i) for i in range(2)] == [
        (("a", "c"), ("b",)),
        (("a", "c"), ("d",)),
    ]

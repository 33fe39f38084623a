"""Leverage bounds against closed forms, sampled directions and invariances."""

import math

import pytest
import torch

from cibench import AgentLayout, ThreatModelError
from cibench._errors import UsageError
from cibench.certify import identifiability, leverage, union_bound
from cibench.certify.leverage import family
from helpers import layout_of, normal, orthonormal

UNEVEN = layout_of(3, 6, 1, 4, 2, 5)


def gaussian(layout, rank, seed=0):
    return normal(layout.width, rank, seed=seed)


def shares(W, layout, z, corrupted, missing=()):
    """Constant that directions `(n, code)` alone would suggest, straight from W."""
    blocks = [z @ W[s].T for s in layout.slices]
    norms = torch.stack([b.norm(dim=1) for b in blocks], dim=1)
    bad = [layout.index(a) for a in corrupted]
    good = [i for i, a in enumerate(layout.names) if a not in (*corrupted, *missing)]
    bad, good = norms[:, bad].sum(1), norms[:, good].sum(1)
    return good / (bad + good)


def descended(W, layout, corrupted, missing=(), starts=40, steps=150, seed=0):
    """Directions that gradient descent on the share of the honest agents finds."""
    z = normal(starts, W.shape[1], seed=seed).requires_grad_()
    optimizer = torch.optim.Adam([z], lr=0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        shares(W, layout, z, corrupted, missing).sum().backward()
        optimizer.step()
    return z.detach()


@pytest.mark.parametrize("corrupted", [1, 2, 3, 4])
def test_identical_blocks(corrupted):
    layout = layout_of(*(6,) * 9)
    W = normal(6, 4).repeat(9, 1)
    bounds = leverage(W, layout, corrupted, tolerance=1e-4)
    exact = 1 - corrupted / 9
    assert exact - 1e-4 <= bounds.lower <= exact <= bounds.upper <= exact + 1e-9
    assert bounds.sets == math.comb(9, corrupted)
    assert bounds.recovers == (corrupted < 4.5)


def test_blocks_of_one_code_each():
    # Orthogonal blocks of different sizes share no direction: one agent sees it alone.
    layout = layout_of(2, 2, 2)
    W = torch.block_diag(*(normal(2, 2, seed=s) for s in range(3)))
    bounds = leverage(W, layout, 1)
    assert (bounds.lower, bounds.upper) == (0.0, 0.0)


def test_weights_of_equal_directions():
    # With B_i = a_i I the share of T is the sum of its a: the largest ones are the worst.
    sizes = torch.tensor([1.0, 5.0, 2.0, 4.0, 3.0], dtype=torch.float64)
    W = (sizes[:, None, None] * torch.eye(3, dtype=torch.float64)).reshape(15, 3)
    bounds = leverage(W, layout_of(*(3,) * 5), 2)
    assert bounds.corrupted == ("b", "d")
    assert 6 / 15 - 5e-4 <= bounds.lower <= 6 / 15 <= bounds.upper <= 6 / 15 + 1e-9


@pytest.mark.parametrize("rank", [1, 3, 7])
@pytest.mark.parametrize("corrupted", [("a",), ("b", "e"), ("a", "c", "d")])
def test_no_direction_is_below_the_lower_bound(rank, corrupted):
    W = gaussian(UNEVEN, rank, seed=rank)
    bounds = leverage(W, UNEVEN, corrupted)
    random = shares(W, UNEVEN, normal(100_000, rank, seed=9), corrupted)
    found = shares(W, UNEVEN, descended(W, UNEVEN, corrupted), corrupted)
    least = min(float(random.min()), float(found.min()))
    assert bounds.lower <= least
    assert bounds.upper <= least + 1e-9
    assert bounds.upper - bounds.lower <= 5e-3
    at = shares(W, UNEVEN, bounds.direction[None], corrupted)
    torch.testing.assert_close(float(at), bounds.upper, atol=1e-12, rtol=0)


@pytest.mark.parametrize("condition", [1e3, 1e6, 1e9])
def test_the_lower_bound_holds_for_ill_conditioned_decoders(condition):
    layout, rank = layout_of(*(4,) * 6), 6
    scale = torch.logspace(0, -math.log10(condition), rank, dtype=torch.float64)
    W = orthonormal(layout.width, rank) * scale @ orthonormal(rank, rank, 1).T
    bounds = leverage(W, layout, ("b", "c"))
    code = normal(100_000, rank, seed=2) / scale @ orthonormal(rank, rank, 1).T
    sampled = shares(W, layout, code, ("b", "c"))
    assert 0 < bounds.lower <= float(sampled.min())
    assert bounds.lower <= bounds.upper <= float(sampled.min()) + 1e-6


def test_every_pair_is_bounded_if_asked_for():
    W = gaussian(UNEVEN, 4)
    bounds = leverage(W, UNEVEN, 2, details=True)
    assert len(bounds.details) == bounds.sets == 15
    for one in bounds.details:
        alone = leverage(W, UNEVEN, one.corrupted)
        assert alone.lower <= one.upper
        assert one.lower <= alone.upper
        assert one.upper - one.lower <= 5e-3
    assert min(one.lower for one in bounds.details) == bounds.lower
    assert min(one.upper for one in bounds.details) == bounds.upper
    quick = leverage(W, UNEVEN, 2)
    assert quick.details == ()
    assert quick.corrupted == bounds.corrupted
    assert quick.lower == pytest.approx(bounds.lower, abs=1e-3)


def test_it_is_the_same_each_time_and_changes_nothing():
    W = gaussian(UNEVEN, 4)
    before, state = W.clone(), torch.get_rng_state()
    first, second = (leverage(W, UNEVEN, 2) for _ in range(2))
    assert (first.lower, first.upper) == (second.lower, second.upper)
    assert first.direction.equal(second.direction)
    assert W.equal(before)
    assert torch.get_rng_state().equal(state)


def test_single_precision_and_gradients_are_no_obstacle():
    W = gaussian(UNEVEN, 4)
    wide = leverage(W.float().double(), UNEVEN, 2)
    narrow = leverage(W.float().requires_grad_(), UNEVEN, 2)
    assert (narrow.lower, narrow.upper) == (wide.lower, wide.upper)


@pytest.mark.parametrize("change", ["codes", "rotations", "scale", "tiny", "order"])
def test_invariances(change):
    layout, W = layout_of(4, 3, 5, 4, 2), normal(18, 4)
    names = ("b", "d")
    same = leverage(W, layout, names)
    if change == "codes":
        W = W @ normal(4, 4, seed=5)
    elif change == "rotations":
        turned = [
            orthonormal(len(W[s]), len(W[s]), seed) @ W[s]
            for seed, s in enumerate(layout.slices)
        ]
        W = torch.cat(turned)
    elif change in ("scale", "tiny"):
        W = W * (1e200 if change == "scale" else 1e-200)
    else:
        W = torch.cat([W[s] for s in reversed(layout.slices)])
        layout = AgentLayout(layout.names[::-1], layout.widths[::-1])
    other = leverage(W, layout, names)
    assert other.upper == pytest.approx(same.upper, abs=1e-9)
    assert other.lower == pytest.approx(same.lower, abs=5e-4)
    assert max(other.lower, same.lower) <= min(other.upper, same.upper)


@pytest.mark.parametrize("sizes", [(1, 1e-8, 1e-20, 1e20), (1e-16, 1, 1, 1)])
def test_how_long_a_column_is_plays_no_part(sizes):
    """A short column is no kernel: its direction counts as any other."""
    layout, W = layout_of(4, 3, 5, 4, 2), normal(18, 4)
    scaled = W * torch.tensor(sizes, dtype=torch.float64)
    for corrupted in (1, 2):
        same, other = (leverage(each, layout, corrupted) for each in (W, scaled))
        assert other.upper == pytest.approx(same.upper, abs=1e-3)
        assert other.lower == pytest.approx(same.lower, abs=1e-3)
        assert max(other.lower, same.lower) <= min(other.upper, same.upper)


@pytest.mark.parametrize("size", [1.0, 1e-10, 1e-16, 1e-100])
def test_a_direction_that_one_agent_alone_sees_is_its_own(size):
    layout, W = layout_of(8, 8, 8, 8, 8), normal(40, 5)
    W[:, 4] = 0.0
    W[0, 4] = size
    found = leverage(W, layout, 1)
    assert (found.lower, found.upper, found.exact_zero) == (0.0, 0.0, True)
    assert found.corrupted == ("a",)
    norms = layout.block_norms((W @ found.direction)[None])[0]
    assert norms[0] > 0
    assert float(norms[1:].sum()) < 1e-9 * float(norms[0])
    # Nor can any other method do without that agent.
    assert identifiability(W, layout).corrupted == 0


def test_arrays_are_taken_too():
    layout, W = layout_of(4, 3, 5), normal(12, 2)
    same, other = leverage(W, layout, 1), leverage(W.numpy(), layout, 1)
    assert (same.lower, same.upper) == (other.lower, other.upper)


def test_the_kernel_plays_no_part():
    layout, W = layout_of(4, 3, 5, 4), normal(16, 3)
    wide = W @ normal(3, 7, seed=1)
    assert int(torch.linalg.matrix_rank(wide)) == 3
    same, other = leverage(W, layout, 1), leverage(wide, layout, 1)
    assert other.upper == pytest.approx(same.upper, abs=1e-9)
    assert other.lower == pytest.approx(same.lower, abs=5e-4)
    at = shares(wide, layout, other.direction[None], other.corrupted)
    assert float(at) == pytest.approx(other.upper, abs=1e-12)


def test_it_falls_with_the_number_of_corrupted_agents():
    W = gaussian(UNEVEN, 3, seed=4)
    bounds = [leverage(W, UNEVEN, q) for q in range(4)]
    assert (bounds[0].lower, bounds[0].upper, bounds[0].direction) == (1.0, 1.0, None)
    for more, fewer in zip(bounds[1:], bounds[:-1], strict=True):
        assert more.upper < fewer.upper
        assert more.lower < fewer.lower


@pytest.mark.parametrize("seed", range(6))
def test_zero_is_the_test_by_rank(seed):
    layout = layout_of(2, 2, 1, 2, 1)
    pattern = torch.rand(8, 4, generator=torch.Generator().manual_seed(seed)) < 0.5
    W = normal(8, 4, seed=seed) * pattern
    rank = int(torch.linalg.matrix_rank(W))
    bounds = leverage(W, layout, 2, details=True)
    zeros = 0
    for one in bounds.details:
        honest = [i for i, a in enumerate(layout.names) if a not in one.corrupted]
        rows = torch.cat([W[layout.slices[i]] for i in honest])
        lost = int(torch.linalg.matrix_rank(rows)) < rank
        assert one.exact_zero == lost
        assert (one.lower > 0) == (not lost)
        if lost:
            zeros += 1
            assert one.upper == 0
            assert float((rows @ one.direction).norm()) < 1e-12
            assert float((W @ one.direction).norm()) > 1e-6
    assert bounds.exact_zero == (zeros > 0)


def test_why_it_is_zero():
    # As in the NUS-WIDE experiment of the paper, scaled down: 4 blocks of 6, 20 codes.
    layout = layout_of(6, 6, 6, 6)
    bounds = leverage(normal(24, 20), layout, 1)
    assert bounds.reason == (
        "the honest agents have rank below 20, the rank of W: without a a direction is"
        " unseen"
    )
    assert (bounds.lower, bounds.upper) == (0.0, 0.0)
    lonely = leverage(
        torch.block_diag(normal(2, 2), normal(4, 2)), layout_of(2, 2, 2), "c", "a"
    )
    assert lonely.reason == (
        "the agents heard have rank below 4, the rank of W: without a points are told"
        " apart by nobody"
    )


def test_missing_agents_are_left_out():
    layout = layout_of(4, 3, 5, 4, 3)
    W = normal(19, 3)
    bounds = leverage(W, layout, "b", "d")
    rest = AgentLayout(("a", "b", "c", "e"), (4, 3, 5, 3))
    kept = torch.cat([W[s] for i, s in enumerate(layout.slices) if i != 3])
    alone = leverage(kept, rest, "b")
    assert bounds.missing == ("d",)
    assert bounds.upper == pytest.approx(alone.upper, abs=1e-9)
    assert bounds.lower == pytest.approx(alone.lower, abs=5e-4)


def test_a_number_of_missing_agents_is_the_worst_set():
    layout = layout_of(4, 3, 5, 4, 3)
    W = normal(19, 3, seed=3)
    bounds = leverage(W, layout, 1, 1)
    each = [leverage(W, layout, 1, name) for name in layout.names]
    worst = min(each, key=lambda one: one.upper)
    assert bounds.sets == 20
    assert (bounds.corrupted, bounds.missing) == (worst.corrupted, worst.missing)
    assert bounds.upper == pytest.approx(worst.upper, abs=1e-9)
    assert bounds.lower == pytest.approx(worst.lower, abs=1e-3)
    some = leverage(W, layout, "2", 1)
    assert some.sets == 4
    assert some.upper >= bounds.upper - 1e-9


def test_the_union_bound_is_sound_and_decides_nothing_wrongly():
    layout = layout_of(*(3,) * 9)
    W = normal(27, 3, seed=7) * torch.linspace(0.2, 2, 9).repeat_interleave(3)[:, None]
    singles = [leverage(W, layout, name).lower for name in layout.names]
    bounds = leverage(W, layout, 3)
    assert union_bound(singles, 3) <= bounds.upper
    # 84 sets of 9 agents: the search starts from it, and ends as without it.
    full = leverage(W, layout, 3, details=True)
    assert bounds.corrupted == full.corrupted
    assert bounds.lower == pytest.approx(full.lower, abs=1e-3)
    assert bounds.lower <= full.upper


def test_the_union_bound_of_identical_blocks_is_exact():
    assert union_bound([0.75] * 4, 2) == 0.5
    assert union_bound([0.3, 0.3, 0.3], 2) == 0.0


@pytest.mark.parametrize("rules", [("2-3", "6"), (("b", "c"), ["f"]), ("b/3", "f")])
def test_agents_are_named_in_several_ways(rules):
    bounds = leverage(gaussian(UNEVEN, 2), UNEVEN, *rules)
    assert (bounds.corrupted, bounds.missing) == (("b", "c"), ("f",))


def test_agents_that_send_nothing():
    # A block of zeros is no harm when corrupted, and no help when honest.
    layout, W = layout_of(3, 3, 3, 3), normal(12, 2)
    W[:3] = 0
    harmless = leverage(W, layout, "a")
    assert 1 - 5e-4 <= harmless.lower <= harmless.upper == 1.0
    rest = leverage(W[3:], AgentLayout(("b", "c", "d"), (3, 3, 3)), "b")
    assert leverage(W, layout, "b").upper == pytest.approx(rest.upper, abs=1e-9)


@pytest.mark.parametrize(
    ("W", "message"),
    [
        (normal(20, 3), r"W: expected a matrix with 21 rows.* got shape \(20, 3\)"),
        (normal(21), r"W: expected a matrix with 21 rows.* got shape \(21,\)"),
        (normal(21, 0), r"W: expected a matrix with 21 rows.* got shape \(21, 0\)"),
        (normal(21, 2) / 0, "W: expected finite entries, got 42 that are not"),
        (0 * normal(21, 2), "W: expected an entry that is not zero, got zeros only"),
        (1j * normal(21, 2), "W: expected real numbers, got torch.complex128"),
        (
            normal(21, 2) * torch.tensor([1e-150, 1.0], dtype=torch.float64),
            r"W: expected columns whose sizes differ by a factor of 2\^400 at most, got 2",
        ),
    ],
)
def test_bad_decoders(W, message):
    with pytest.raises(UsageError, match=message):
        leverage(W, UNEVEN, 1)


@pytest.mark.parametrize(
    ("corrupted", "missing", "error", "message"),
    [
        (6, 0, UsageError, "corrupted: expected fewer than the 6 agents heard, got 6"),
        (3, 3, UsageError, "corrupted: expected fewer than the 3 agents heard, got 3"),
        (4, "e/f", UsageError, "expected fewer than the 4 agents heard, got 4"),
        (0, 6, UsageError, "missing: expected fewer than the 6 agents, got 6"),
        (
            1.5,
            0,
            UsageError,
            "corrupted: expected a number of agents or names, got 1.5",
        ),
        (
            True,
            0,
            UsageError,
            "corrupted: expected a number of agents or names, got True",
        ),
        (-1, 0, UsageError, "corrupted: expected a number of agents >= 0, got -1"),
        (1, -2, UsageError, "missing: expected a number of agents >= 0, got -2"),
        ("a/z", 0, ThreatModelError, "expected one of a, b, c, d, e, f or a number"),
        ("7", 0, ThreatModelError, "agent number: expected 1 to 6, got 7"),
        (("a", "a"), 0, ThreatModelError, "expected each agent once, got 'a/a'"),
        ("a/b", "2", ThreatModelError, "none both corrupted and missing, got b"),
    ],
)
def test_bad_agents(corrupted, missing, error, message):
    with pytest.raises(error, match=message):
        leverage(gaussian(UNEVEN, 2), UNEVEN, corrupted, missing)


def test_bad_options():
    W = gaussian(UNEVEN, 2)
    with pytest.raises(UsageError, match=r"tolerance: expected .* \(0, 1\), got 0"):
        leverage(W, UNEVEN, 1, tolerance=0)
    with pytest.raises(UsageError, match="steps: expected at least 1, got 0"):
        leverage(W, UNEVEN, 1, steps=0)
    with pytest.raises(UsageError, match="corrupted: expected 0 to 2 agents, got 3"):
        union_bound([0.5, 0.5], 3)


def test_too_many_sets(monkeypatch):
    monkeypatch.setattr(family, "MAX_SETS", 14)
    with pytest.raises(
        UsageError, match="expected at most 14, got 15; name the agents"
    ):
        leverage(gaussian(UNEVEN, 2), UNEVEN, 2)

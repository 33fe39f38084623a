"""Certified purified decisions against closed forms, and against what they assume."""

import itertools
import math

import pytest
import torch

from cibench import AffineManifold, AgentLayout, Observation
from cibench._errors import UsageError
from cibench.certify import (
    RecoveryRates,
    certify_purifier,
    lead_rounding,
    recovery_rate,
    smallest_lead,
    tight_fit,
)
from helpers import (
    affine_manifold,
    everyone,
    identical_blocks,
    linear_head,
    mlp_head,
    normal,
    on_manifold,
)


def leading(head):
    return lambda points, radius: smallest_lead(head, points, radius)


def certified(manifold, observation, head, corrupted, gap=0.0, **options):
    points = manifold.decode(tight_fit(manifold, observation, 1e-9).code)
    rates = RecoveryRates(manifold)
    found = certify_purifier(
        rates, observation, points, corrupted, gap=gap, lead=leading(head), **options
    )
    return found, points


@pytest.mark.parametrize("corrupted", [0, 1, 2, 3])
def test_identical_blocks(corrupted):
    manifold, noise = identical_blocks(7, 2), 0.05 * normal(5, 14, seed=4)
    observation = everyone(on_manifold(manifold, 5) + noise, manifold.layout)
    head = linear_head(14, 3)
    found, points = certified(manifold, observation, head, corrupted, gap=0.01)
    norms = manifold.layout.block_norms(observation.features - points)
    delta = norms.sort(dim=1).values[:, corrupted:].sum(dim=1)
    torch.testing.assert_close(found.residual, delta, rtol=1e-9, atol=1e-9)
    gamma = (7 - 2 * corrupted) / math.sqrt(7)
    assert (found.rate <= gamma).all()
    assert (found.rate >= 0.99 * gamma).all()
    expected = (2 * delta + 0.01) / found.rate
    torch.testing.assert_close(found.distance, expected, rtol=1e-9, atol=1e-9)
    assert found.gap.tolist() == [0.01] * 5
    logits, rows = head(points), head.weight
    for sample, lead in enumerate(found.lead.tolist()):
        best = int(logits[sample].argmax())
        exact = min(
            float(
                logits[sample, best]
                - logits[sample, k]
                - found.distance[sample] * (rows[best] - rows[k]).norm()
            )
            for k in range(3)
            if k != best
        )
        assert lead == pytest.approx(exact, abs=1e-9)
    assert torch.equal(found.certified, found.lead > 0)


def test_a_limit_takes_the_place_of_the_samples_own_residual():
    manifold = identical_blocks(7, 2)
    noise = torch.linspace(0.01, 0.2, 12).double()[:, None] * normal(12, 14, seed=4)
    observation = everyone(on_manifold(manifold, 12) + noise, manifold.layout)
    head = linear_head(14, 3)
    plain, points = certified(manifold, observation, head, 1)
    assert not plain.deployed.any()
    whole = manifold.layout.block_norms(observation.features - points).sum(dim=1)
    middle = 1.001 * float(whole.median())
    for limit in (0.0, middle, 10.0):
        found, _ = certified(manifold, observation, head, 1, limit=limit)
        far = 2 * limit / found.rate
        leads = smallest_lead(head, points, far)
        assert torch.equal(found.deployed, (leads > 0) & (whole <= limit))
        assert torch.equal(found.certified, plain.certified)
    # Who is within the limit and certified by it is certified by its own residual, too.
    assert (plain.certified | ~found.deployed).all()
    found, _ = certified(manifold, observation, head, 1, limit=middle)
    assert 0 < int(found.deployed.sum()) <= 6


def test_half_of_the_agents_or_more_are_never_certified():
    manifold = identical_blocks(6, 2)
    observation = everyone(on_manifold(manifold, 3), manifold.layout)
    for corrupted in (3, 4, 6, 9):
        found, _ = certified(manifold, observation, linear_head(12, 2), corrupted)
        assert found.rate.tolist() == [0.0] * 3
        assert found.distance.tolist() == [math.inf] * 3
        assert found.lead.tolist() == [-math.inf] * 3
        assert not found.certified.any()


def test_each_set_of_agents_heard_has_its_own_rate():
    manifold = affine_manifold((4,) * 6, 2)
    observation = everyone(on_manifold(manifold, 4), manifold.layout)
    gone = torch.zeros_like(observation.observed)
    gone[1, 0] = gone[2, 0] = gone[3, 2] = gone[3, 5] = True
    observation = observation.without(gone)
    found, _ = certified(manifold, observation, linear_head(24, 2), 1)
    names = manifold.layout.names
    for sample in range(4):
        missing = [n for n, g in zip(names, gone[sample].tolist(), strict=True) if g]
        bounds = recovery_rate(manifold.basis, manifold.layout, 1, missing)
        assert float(found.rate[sample]) == bounds.lower
    assert found.rate[1] == found.rate[2]
    assert len(set(found.rate.tolist())) == 3
    # Nothing under a missing block counts.
    features = torch.where(
        manifold.layout.expand(gone), torch.nan, observation.features
    )
    again, _ = certified(
        manifold, observation.with_features(features), linear_head(24, 2), 1
    )
    assert torch.equal(again.lead, found.lead)


def test_rates_are_bounded_once(monkeypatch):
    from cibench.certify import purifier

    asked = []

    def counted(*arguments, **options):
        asked.append(arguments[2:])
        return recovery_rate(*arguments, **options)

    monkeypatch.setattr(purifier, "recovery_rate", counted)
    rates = RecoveryRates(identical_blocks(5, 2))
    heard = torch.tensor([[1, 1, 1, 1, 1], [0, 1, 1, 1, 1], [1, 1, 1, 1, 1]]).bool()
    first = rates.lower(heard, 1)
    assert torch.equal(rates.lower(heard.flip(0), 1), first.flip(0))
    assert sorted(asked) == [(1, []), (1, ["a"])]
    assert rates.lower(heard, 2).tolist() == [
        pytest.approx(1 / math.sqrt(5), rel=1e-2),
        0.0,
        pytest.approx(1 / math.sqrt(5), rel=1e-2),
    ]


def test_more_sets_than_can_be_tried_prove_nothing():
    layout = AgentLayout(tuple(f"a{i}" for i in range(30)), (1,) * 30)
    same = torch.full((30, 1), 1 / math.sqrt(30)).double()
    rates = RecoveryRates(AffineManifold(layout, torch.zeros(30).double(), same))
    assert rates.lower(torch.ones(1, 30).bool(), 10).tolist() == [0.0]


def test_no_pair_of_silent_and_lying_agents_is_worse():
    """gamma(T without V, U and V) >= gamma(T, U), the docstring's step."""
    manifold = affine_manifold((3, 4, 2, 3, 4), 2, seed=2)
    names = manifold.layout.names
    for bad in itertools.combinations(names, 2):
        both = recovery_rate(manifold.basis, manifold.layout, "/".join(bad))
        one = recovery_rate(manifold.basis, manifold.layout, bad[0], bad[1])
        none = recovery_rate(manifold.basis, manifold.layout, 0, "/".join(bad))
        assert both.lower <= one.upper + 1e-9
        assert one.lower <= none.upper + 1e-9


def test_what_no_rate_could_certify_is_left_out_if_asked():
    manifold = affine_manifold((4,) * 6, 2)
    noise = torch.tensor([1e-6, 100.0])[:, None] * normal(2, 24, seed=3)
    observation = everyone(on_manifold(manifold, 2) + noise, manifold.layout)
    head = linear_head(24, 2)
    whole, _ = certified(manifold, observation, head, 1)
    part, _ = certified(manifold, observation, head, 1, every=False)
    assert whole.certified.tolist() == part.certified.tolist() == [True, False]
    assert whole.rate[1] > 0
    assert part.rate[1] == 0


def test_changes_within_a_span_cost_less():
    head, basis = mlp_head(24, 3), affine_manifold((4,) * 6, 2).basis
    points, radius = normal(6, 24), torch.full((6,), 0.2).double()
    free = smallest_lead(head, points, radius)
    held = smallest_lead(head, points, radius, basis)
    assert (held > free).all()
    whole = torch.linalg.qr(normal(24, 24, seed=8)).Q
    torch.testing.assert_close(smallest_lead(head, points, radius, whole), free)
    # Nothing in the ball of the span has a smaller lead; for a linear head one attains it.
    logits = head(points)
    best = logits.argmax(dim=1)
    moves = normal(4000, 1, 2, seed=6)
    moves = 0.2 * moves / moves.norm(dim=2, keepdim=True)
    there = head(points + moves @ basis.T)
    index = best.expand(4000, -1)[..., None]
    rivals = there.scatter(2, index, -torch.inf).amax(dim=2)
    lead = (there.gather(2, index).squeeze(2) - rivals).amin(dim=0)
    assert (held <= lead).all()
    linear = linear_head(24, 2)
    row = linear.weight[0] - linear.weight[1]
    ahead = (linear(points) @ torch.tensor([1.0, -1.0]).double()).abs()
    exact = ahead - 0.2 * (row @ basis).norm()
    torch.testing.assert_close(smallest_lead(linear, points, radius, basis), exact)


@pytest.mark.parametrize("make", [linear_head, mlp_head])
def test_rounding_of_a_lead_covers_float32(make):
    head, points = make(24, 3), 100.0 * normal(2000, 24)
    bound = lead_rounding(head, points, torch.zeros(2000), torch.float32)
    single = make(24, 3).float()
    exact, rounded = head(points), single(points.float()).double()
    # The weights themselves are those of the single head.
    with torch.no_grad():
        for mine, theirs in zip(head.parameters(), single.parameters(), strict=True):
            mine.copy_(theirs)
    exact = head(points)
    lead = exact[:, :1] - exact
    seen = (lead - (rounded[:, :1] - rounded)).abs().amax(dim=1)
    assert (seen > 0).any()
    assert (seen <= bound).all()
    assert (bound <= 1e-2 * exact.abs().amax(dim=1) + 1e-2).all()
    further = lead_rounding(head, points, torch.ones(2000), torch.float32)
    assert (further > bound).all()
    double = lead_rounding(head, points, torch.zeros(2000), torch.float64)
    assert (double < 1e-7 * bound).all()


@pytest.mark.parametrize(
    ("points", "corrupted", "message"),
    [
        (torch.zeros(2, 24), -1, "corrupted: expected at least 0, got -1"),
        (torch.zeros(2, 23), 1, r"points: expected .* shape \(2, 24\), got \(2, 23\)"),
        (torch.full((2, 24), torch.nan), 1, "points: expected finite numbers"),
    ],
)
def test_bad_arguments(points, corrupted, message):
    manifold = affine_manifold((4,) * 6, 2)
    observation = Observation(
        torch.zeros(2, 24), torch.ones(2, 6).bool(), manifold.layout
    )
    with pytest.raises(UsageError, match=message):
        certify_purifier(
            RecoveryRates(manifold),
            observation,
            points,
            corrupted,
            gap=0.0,
            lead=leading(linear_head(24, 2)),
        )

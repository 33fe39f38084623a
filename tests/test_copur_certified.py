"""Certified CoPur: nothing within its budget moves a decision, and false claims show."""

import dataclasses
import math
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from cibench import (
    SOLVER_STATUS,
    AbstractDefense,
    ContractError,
    FusionCenter,
    Observation,
)
from cibench.certificates import certificates
from cibench.certify import RecoveryRates, conformal_limit, smallest_lead
from cibench.conformance import ConformanceError, NotApplicable, checks_of
from cibench.embedding import RECIPES, prepare
from cibench.execute.store import ArtifactStore
from cibench.grid import expand
from cibench.manifold import FittedManifold
from cibench.registry import default_registry
from cibench.scenario import Scenario
from cibench_plugins.attacks.none import NoAttack
from cibench_plugins.datasets.synthetic import Synthetic
from cibench_plugins.defenses import _certified
from cibench_plugins.defenses._certified import Guard
from cibench_plugins.defenses._smoothing import Smoother
from cibench_plugins.defenses.copur import CoPur, _Converged
from cibench_plugins.defenses.copur_smoothed import CoPurSmoothed, _SmoothedCoPur
from helpers import (
    affine_manifold,
    everyone,
    identical_blocks,
    linear_head,
    mlp_head,
    normal,
    on_manifold,
    run_cells,
    seeded,
)
from helpers_tools import load_tool

SOUNDNESS = load_tool("soundness")
CONVERGED = [name for name, _ in SOLVER_STATUS].index("converged")


def guard_of(manifold, *, reach=1e4, limit=1e-2, rates=None):
    return Guard(
        manifold=manifold,
        rates=rates or RecoveryRates(manifold),
        reach=reach,
        limit=limit,
        max_iterations=200,
    )


def certified(manifold, head, **options):
    """CoPur on a manifold that is known, with certificates; the head in float32."""
    fitted = FittedManifold(manifold, 0.0, {})
    return _Converged(fitted, head.float(), None, 200, guard_of(manifold, **options))


def balanced_head(manifold):
    """Three classes that meet at the manifold's mean."""
    head = mlp_head(manifold.layout.width, 3, seed=6)
    head[0].bias.copy_(-head[0].weight @ manifold.mean)
    head[2].bias -= head(manifold.mean)
    return head


def noisy(manifold, samples, noise, *, missing=0.0, seed=0):
    """Single precision, as agents send it."""
    clean = on_manifold(manifold, samples, scale=1.0, seed=seed)
    clean = clean + noise * normal(samples, manifold.layout.width, seed=seed + 1)
    heard = torch.rand(samples, manifold.layout.agents, generator=seeded(seed + 2))
    return Observation(clean.float(), heard >= missing, manifold.layout)


@pytest.fixture(scope="module")
def agents():
    """Eight agents that all see a code of two numbers."""
    return affine_manifold((3,) * 8, 2, seed=4)


@pytest.fixture(scope="module")
def training():
    plugin = Synthetic(
        agents=7, width=4, rank=2, redundancy=0.9, noise=0.02, samples=300
    )
    return prepare(
        plugin.load(),
        dataclasses.replace(RECIPES["identity"], epochs=20),
        seed=0,
        store=ArtifactStore(None),
        device=torch.device("cpu"),
    )


# Soundness


@pytest.mark.slow
def test_no_payload_moves_a_certified_decision(agents):
    center = certified(agents, balanced_head(agents))
    clean = noisy(agents, 600, 0.01, missing=0.05)
    held = SOUNDNESS.budgets(center, clean)
    sure = held > 0
    assert set(held.tolist()) >= {0, 1, 2}
    found = SOUNDNESS.attacked(center, clean[sure], held[sure], 100_000, seeded(1))
    assert sum(done for done, _ in found.values()) >= 100_000
    assert {name: fell for name, (_, fell) in found.items() if fell} == {}
    # The same payloads of many more agents do move decisions, each of them.
    beyond = SOUNDNESS.attacked(center, clean, held + 5, 4000, seeded(2))
    assert all(fell > 0 for _, fell in beyond.values())


def test_no_payload_moves_certified_votes(agents):
    head = balanced_head(agents).float()
    bank = (0.1 * normal(50, 24, seed=7)).float()
    purifier = certified(agents, balanced_head(agents))
    for abstains in (False, True):
        smoother = Smoother(
            head, agents.layout, bank, sigma=0.1, alpha=1e-9, abstains=abstains
        )
        center = _SmoothedCoPur(purifier, smoother)
        clean = noisy(agents, 100, 0.005)
        held = SOUNDNESS.budgets(center, clean)
        sure = held > 0
        assert set(held.tolist()) >= {0, 1}
        before = center(clean)
        if abstains:
            assert not before.abstained[sure].any()
            assert before.abstained.any()
        found = SOUNDNESS.attacked(center, clean[sure], held[sure], 2000, seeded(1))
        assert all(fell == 0 for _, fell in found.values())


def test_collusion_takes_the_purifier_as_far_as_its_bound_allows():
    """Three of seven equal blocks, exact data: recovered; four: wherever they like."""
    manifold = identical_blocks(7, 2)
    center = certified(manifold, linear_head(14, 2), limit=1e-6)
    clean = everyone(on_manifold(manifold, 20).float(), manifold.layout)
    own = torch.zeros_like(clean.observed)
    for corrupted in (3, 4):
        own[:, :corrupted] = True
        sent = SOUNDNESS.collusion(center, clean, own, seeded(3))
        moved = center(sent).purified - center(clean).purified
        parts = center.certificate_parts(clean, corrupted)
        if corrupted == 3:
            assert (moved.norm(dim=1) <= parts["distance"]).all()
            assert (parts["distance"] < 1e-3).all()
        else:
            assert parts["distance"].isinf().all()
            assert (moved.norm(dim=1) > 1e-2).any()


@pytest.mark.slow
def test_no_shipped_attack_moves_a_certified_decision():
    attacks = [
        f"{name}:agents={agents}"
        for name in ("collusion", "replay", "flip", "nonfinite", "missing", "pgd")
        for agents in ("random:1", "random:2")
    ]
    cells = expand(
        default_registry(),
        datasets=[
            "synthetic:agents=7,rank=2,samples=150,width=3,redundancy=0.9,noise=0.02"
        ],
        attacks=["none", *attacks],
        seeds=[0],
        defenses=["copur:gap=1e-4,width=2", "copur-smoothed:gap=1e-4,width=2,draws=50"],
        embedding="identity:epochs=20",
    )
    found = run_cells(cells)
    assert all(record.status == "ok" for _, record, _ in found)
    records = {(r.defense.name, str(r.cell)): r for _, r, _ in found}
    for name in ("copur", "copur-smoothed"):
        own = [r for (defense, _), r in records.items() if defense == name]
        (clean,) = [r for r in own if r.attack[0].component.name == "none"]
        (proof,) = clean.certificates
        tried = 0
        for record in own:
            if record is clean:
                continue
            size = int(record.attack[0].component.options["agents"][-1])
            pairs = zip(
                proof.radius,
                clean.outcomes.clean,
                record.outcomes.attacked,
                strict=True,
            )
            held = [
                before == after for radius, before, after in pairs if radius >= size
            ]
            assert all(held)
            tried += len(held)
        assert tried > 100


# The guard


@pytest.mark.parametrize("payload", [torch.nan, torch.inf, -3e38, 1e38, 1e15, 0.0])
def test_every_answer_is_proved_to_be_near_the_least(agents, payload):
    center = certified(agents, linear_head(24, 2))
    clean = noisy(agents, 50, 0.05)
    features = clean.features.clone()
    features[:, :6] = payload
    decision = center(clean.with_features(features))
    assert set(decision.status.tolist()) == {CONVERGED}
    assert (
        decision.rejected[:, :2] == (abs(payload) > 1e15 or payload != payload)
    ).all()


@pytest.mark.parametrize("heard", [1, 2, 4])
def test_the_least_gap_is_reached_whoever_is_heard(training, heard):
    own, test, _ = training
    center = CoPur(gap=1e-6, width=3).fit(own, generator=seeded())
    drawn = torch.rand(test.observed.shape, generator=seeded(heard))
    some = test.without(drawn.argsort(dim=1).argsort(dim=1) >= heard)
    for payload in ("noise", "flips", "collusion", "unusable"):
        sizes = torch.full((len(some),), heard - 1)
        own_agents = SOUNDNESS.corrupted_agents(some.observed, sizes, seeded(1))
        send = getattr(SOUNDNESS, payload)
        assert center(send(center, some, own_agents, seeded(2))).logits.isfinite().all()


def test_far_blocks_are_moved_to_the_ball_and_others_are_not(agents):
    guard = guard_of(agents, reach=2.0)
    observation = noisy(agents, 40, 0.5, missing=0.2)
    features = observation.features.clone()
    features[:, :3] *= 1e6
    features[~agents.layout.expand(observation.observed)] = torch.nan
    given = observation.with_features(features)
    bounded = guard.bounded(given)
    assert bounded.features.dtype == torch.float64
    away = agents.layout.block_norms(given.filled(0.0).double() - agents.mean)
    after = agents.layout.block_norms(bounded.filled(0.0) - agents.mean)
    heard, far = given.observed, away > 2.0
    assert (far & heard).any()
    assert (~far & heard).any()
    torch.testing.assert_close(
        after[far & heard], torch.full_like(after[far & heard], 2.0)
    )
    same = agents.layout.expand(~far & heard)
    assert torch.equal(bounded.features[same], given.features.double()[same])
    # Direction is kept.
    first = slice(0, 3)
    there = (bounded.features - agents.mean)[heard[:, 0], first]
    whence = (given.features.double() - agents.mean)[heard[:, 0], first]
    torch.testing.assert_close(
        torch.nn.functional.cosine_similarity(there, whence),
        torch.ones(int(heard[:, 0].sum())).double(),
    )


def test_a_gap_that_rounding_hides_is_an_error(agents):
    center = certified(agents, linear_head(24, 2), reach=1e12, limit=1e-9)
    features = 1e11 * normal(4, 24).float()
    with pytest.raises(ContractError, match="copur gap: expected fits within 1e-09"):
        center(everyone(features, agents.layout))


def test_a_clean_block_outside_the_ball_counts_as_it_is_moved(agents):
    clean = noisy(agents, 60, 0.02)
    away = agents.layout.block_norms(clean.features.double() - agents.mean)
    center = certified(agents, linear_head(24, 2), reach=float(away.quantile(0.9)))
    parts = center.certificate_parts(clean, 0)
    points, _ = center.purify(clean)
    guard = center.guard
    norms = agents.layout.block_norms(guard.bounded(clean).features - points)
    torch.testing.assert_close(parts["residual"], norms.sum(1), rtol=1e-9, atol=1e-9)
    held = SOUNDNESS.budgets(center, clean)
    sure = held > 0
    assert sure.any()
    found = SOUNDNESS.attacked(center, clean[sure], held[sure], 800, seeded(1))
    assert all(fell == 0 for _, fell in found.values())


def test_a_sample_with_a_refused_block_is_not_certified(agents):
    clean = noisy(agents, 4, 0.001)
    center = certified(agents, balanced_head(agents))
    assert center.certify(clean, 1).all()
    features = clean.features.clone()
    features[1, 0], features[2, 5] = torch.nan, 1e-40
    clean = clean.with_features(features)
    assert center.certify(clean, 1).tolist() == [True, False, False, True]
    assert center.certificate_parts(clean, 1)["lead"].isinf().tolist() == [
        False, True, True, False
    ]  # fmt: skip


# The fitted defense


def test_parts_and_certificates_agree(training):
    own, test, _ = training
    for plugin in (
        CoPur(gap=1e-4, width=2),
        CoPurSmoothed(gap=1e-4, width=2, draws=40),
    ):
        center = plugin.fit(own, generator=seeded())
        for corrupted in (0, 1, 2, 3):
            parts = center.certificate_parts(test, corrupted)
            assert {p.dtype for p in parts.values()} == {torch.float64}
            assert {len(p) for p in parts.values()} == {len(test)}
            told = center.certify(test, corrupted)
            assert told.dtype == torch.bool
            assert torch.equal(told, parts["certified"] == 1)
            assert torch.equal(told, parts["lead"] > 0)
            distance = (2 * parts["residual"] + parts["gap"]) / parts["rate"]
            torch.testing.assert_close(
                parts["distance"], distance, rtol=1e-9, atol=1e-9
            )
        assert told.float().mean() < 1
        assert center.certify(test, 1).any()
        assert set(parts["gap"].tolist()) == {center.facts["gap_limit"]}
    radius, classes = center.purified_radius(test)
    decided = center(test).logits.argmax(1)
    assert torch.equal(parts["radius"], torch.where(classes == decided, radius, 0.0))


def test_the_option_moves_no_clean_decision(training):
    own, test, _ = training
    plain = CoPur(width=2).fit(own, generator=seeded())
    center = CoPur(width=2, gap=1e-4).fit(own, generator=seeded())
    torch.testing.assert_close(center(test).logits, plain(test).logits)
    assert torch.equal(center.guard.bounded(test).features, test.features.double())
    features = test.features.clone()
    features[:, :4] *= -20
    flipped = test.with_features(features)
    torch.testing.assert_close(
        center(flipped).purified, plain(flipped).purified, rtol=1e-3, atol=1e-3
    )


def test_the_limit_and_the_ball_follow_from_clean_training_samples(training):
    own, _, _ = training
    center = CoPur(width=2, gap=1e-3).fit(own, generator=seeded())
    away = own.layout.block_norms(own.train.features.double() - center.manifold.mean)
    assert center.guard.reach == pytest.approx(100 * float(away.max()))
    expected = 1e-3 * float(away.sum(dim=1).median())
    assert center.facts["gap_limit"] == center.guard.limit == pytest.approx(expected)


def test_the_residual_of_fresh_clean_samples_is_in_the_facts(training, monkeypatch):
    own, test, _ = training
    center = CoPur(width=2, gap=1e-4).fit(own, generator=seeded())
    residuals = center.guard.residuals(own.validation)
    limit = conformal_limit(residuals, 0.1)
    assert center.facts["residual_limit"] == limit
    assert center.facts["residual_miss"] == 0.1
    assert 0.8 <= (center.guard.residuals(test) <= limit).double().mean() <= 1.0
    monkeypatch.setattr(_certified, "MISS", 1e-3)
    few = CoPur(width=2, gap=1e-4).fit(own, generator=seeded())
    assert math.isinf(few.guard.residual_limit)
    assert "residual_limit" not in few.facts


def test_without_a_gap_nothing_is_certified(training):
    own, test, labels = training
    for plugin in (CoPur(width=2), CoPurSmoothed(width=2, draws=20)):
        center = plugin.fit(own, generator=seeded())
        assert center.certify is None
        assert center.certificate_parts is None
        assert "gap_limit" not in center.facts
        assert certificates(center, scenario(test, labels)) == []


def scenario(clean, labels):
    return Scenario(
        clean=clean, labels=labels, attack=(NoAttack(),), specs=("none",),
        median_norms=torch.ones(clean.layout.agents), class_names=("a", "b"),
        dataset="tiny", seed=0,
    )  # fmt: skip


def test_records_hold_the_number_of_agents(training):
    own, test, labels = training
    for plugin in (
        CoPur(width=2, gap=1e-4),
        CoPurSmoothed(width=2, gap=1e-4, draws=40),
    ):
        center = plugin.fit(own, generator=seeded())
        (found,) = certificates(center, scenario(test, labels))
        assert (found.kind, found.confidence) == ("agents", 1.0)
        assert found.radius == SOUNDNESS.budgets(center, test).tolist()
        assert max(found.radius) >= 1


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (
            CoPur,
            {"solver": "paper"},
            "gap: expected the converged solver and an affine",
        ),
        (CoPur, {"manifold": "mlp"}, "gap: .* got solver=converged and manifold=mlp"),
        (CoPur, {"manifold": "auto"}, "gap: expected .* manifold=auto"),
        (CoPur, {"tau": 0.5}, "gap: expected tau of at least 1, .* got tau=0.5"),
        (CoPurSmoothed, {"manifold": "mlp"}, "gap: expected the converged solver"),
    ],
)
def test_what_cannot_be_certified_is_said_at_once(make, options, message):
    with pytest.raises(ValueError, match=message):
        make(gap=1e-4, **options)
    assert make(gap=None, **options)
    assert CoPur(gap=1e-4, tau=0.5, refine=False)


# Votes


def test_votes_that_stand_are_counted():
    """A linear head of two classes: a draw stands iff its margin exceeds the radius."""
    head, layout = linear_head(6, 2), affine_manifold((3, 3), 1).layout
    bank = normal(200, 6, seed=2)
    smoother = Smoother(head, layout, bank, sigma=1.0)
    points, whole = normal(9, 6, seed=3), torch.eye(6).double()
    row = (head.weight[0] - head.weight[1]).double()
    shift = (head.bias[0] - head.bias[1]).double()
    margin = ((points[:, None] + bank.double()) @ row + shift) / row.norm()
    for radius in (0.0, 0.3, 2.0):
        lead = smoother.vote_lead(whole, points, torch.full((9,), radius))
        sure = torch.stack([(margin > radius).sum(1), (margin < -radius).sum(1)], dim=1)
        expected = 2 * sure.amax(dim=1) - 200
        assert lead.tolist() == expected.tolist()
    row_only = (row / row.norm())[:, None]
    across = torch.linalg.qr(torch.cat([row_only, normal(6, 5)], dim=1)).Q[:, 1:]
    free = smoother.vote_lead(across, points, torch.full((9,), 100.0))
    still = smoother.vote_lead(whole, points, torch.zeros(9))
    assert torch.equal(free, still)


def test_a_lead_that_a_test_does_not_tell_apart_is_none():
    layout = affine_manifold((3, 3), 1).layout
    bank = normal(10, 6).float()
    smoother = Smoother(
        linear_head(6, 3).float(), layout, bank, sigma=1.0, alpha=0.01, abstains=True
    )
    sure = torch.tensor([[10, 0, 0], [8, 0, 0], [0, 9, 1], [4, 4, 2]])
    # 10 of 10: p = 2 / 1024; 8 to 2: p = 0.109; 9 to 1: 0.021.
    assert smoother._least_lead(sure).tolist() == [10.0, 0.0, 0.0, 0.0]
    smoother.abstains = False
    assert smoother._least_lead(sure).tolist() == [10.0, 6.0, 8.0, 0.0]


# False certificates


class Lies(FusionCenter):
    """Certified CoPur with a certificate of its own."""

    def __init__(self, inner, claim):
        super().__init__()
        self.inner, self.claim = inner, claim

    @property
    def purifies_onto(self):
        return self.inner.purifies_onto

    def decide(self, observation):
        return self.inner.decide(observation)

    def surrogate(self, observation):
        return self.inner.surrogate(observation)

    def certify(self, observation, corrupted):
        guard, head = self.inner.guard, self.inner.head
        if self.claim == "honest":
            return self.inner.certify(observation, corrupted)
        if self.claim == "one agent less":
            return self.inner.certify(observation, corrupted - 1)
        parts = self.inner.certificate_parts(observation, corrupted)
        points, _ = self.inner.purify(observation)
        factor = {"a tenth of the distance": 0.1, "no distance": 0.0}[self.claim]
        near = torch.where(parts["rate"] > 0, factor * parts["distance"], 0.0)
        return smallest_lead(head, points, near, guard.manifold.basis) > 0


@dataclass(frozen=True, kw_only=True)
class Lying(AbstractDefense):
    """Certified CoPur behind `Lies`."""

    name: ClassVar[str] = "lying"
    claim: str = "honest"

    def fit(self, training, *, generator):
        inner = CoPur(gap=1e-4, width=4).fit(training, generator=generator)
        return Lies(inner, self.claim)


def tried(plugin):
    (one,) = [c for c in checks_of(plugin, fast=True) if c.name == "check_certificate"]
    one(plugin)


@pytest.mark.slow
def test_honest_certificates_pass_the_conformance_check():
    tried(Lying())
    tried(CoPur(gap=1e-4, width=4))
    with pytest.raises(NotApplicable, match="it certifies nothing"):
        tried(CoPur())


@pytest.mark.parametrize("claim", ["one agent less", "no distance"])
def test_a_false_certificate_is_caught(claim):
    with pytest.raises(ConformanceError, match="that `certify` says outlast"):
        tried(Lying(claim=claim))


def test_a_distance_that_is_too_small_is_caught(agents):
    center = certified(agents, balanced_head(agents))
    lies = Lies(center, "a tenth of the distance")
    clean = noisy(agents, 400, 0.02)
    held = SOUNDNESS.budgets(lies, clean)
    honest = SOUNDNESS.budgets(center, clean)
    wrong = held > honest
    assert wrong.any()
    found = SOUNDNESS.attacked(center, clean[wrong], held[wrong], 8000, seeded(4))
    assert sum(fell for _, fell in found.values()) > 0

"""Planted counter-examples: there by construction, found by sound attacks only."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from cibench import AbstractAttack, Decision, FusionCenter
from cibench.oracle import OracleFusionCenter
from cibench.planted import ENOUGH, Grafted, planted_missed
from cibench.victim import Victim
from cibench_plugins.attacks.apgd import APGD
from cibench_plugins.attacks.ensemble import Ensemble
from cibench_plugins.attacks.pgd import PGD
from helpers import Plain, everyone, layout_of, linear_head, mlp_head, normal, seeded

LAYOUT = layout_of(6, 4, 5)
N = 20
MASK = torch.tensor([[True, False, False]]).repeat(N, 1)


@pytest.fixture
def clean():
    return everyone(normal(N, LAYOUT.width), LAYOUT)


@pytest.fixture
def donors():
    return everyone(normal(50, LAYOUT.width, seed=1), LAYOUT)


def measured(center, attack, clean, donors, *, radius=None, targeted=False, mask=MASK):
    return planted_missed(
        center,
        attack,
        clean,
        donors,
        compromised=mask,
        radius=radius,
        targeted=targeted,
        recorded=None,
        generator=seeded(),
    )


def missed(*given, **options):
    return measured(*given, **options)["planted_missed"]


@dataclass(frozen=True, kw_only=True)
class Idle(AbstractAttack):
    """Knows everything and does nothing, or fails."""

    name: ClassVar[str] = "idle"
    knowledge: str = "adaptive"
    fails: bool = False

    def run(self, victim, observation, criterion, **rest):
        if self.fails:
            return observation.with_features(victim.logits(observation)[:, [9]])
        return observation


class Rounded(Plain):
    """The derivative of what it decides is zero."""

    def decide(self, observation):
        return super().decide(observation.with_features(observation.filled().round()))


def test_the_clean_point_is_right_and_the_planted_one_is_wrong(clean, donors):
    center = Plain(mlp_head(LAYOUT.width, 4))
    features = clean.features.clone()
    features[:, :6] = donors.features[:N, :6]
    planted = clean.with_features(features)
    grafted = Grafted(center, clean, planted, MASK)
    assert grafted.has_point.all()
    start, end = grafted(clean).logits, grafted(planted).logits
    half = torch.tensor([0.5, -0.5], dtype=torch.float64)
    torch.testing.assert_close(start, half.expand(N, 2))
    torch.testing.assert_close(end, -half.expand(N, 2))
    # Its own gradient: t is the projection on the line between the two.
    change = center(planted).logits - center(clean).logits
    half_way = clean.with_features((clean.features + features) / 2)
    moved = center(half_way).logits - center(clean).logits
    t = (moved * change).sum(1) / change.square().sum(1)
    torch.testing.assert_close(grafted(half_way).logits[:, 1], t - 0.5)
    torch.testing.assert_close(
        grafted.differentiable_logits(half_way), grafted(half_way).logits
    )


def test_samples_are_told_by_their_honest_blocks(clean, donors):
    center = Plain(mlp_head(LAYOUT.width, 4))
    features = clean.features.clone()
    features[:, :6] = donors.features[:N, :6]
    grafted = Grafted(center, clean, clean.with_features(features), MASK)
    some = torch.tensor([7, 3, 11])
    torch.testing.assert_close(
        grafted(clean.with_features(features)[some]).logits,
        grafted(clean.with_features(features)).logits[some],
    )


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("radius", [None, torch.full((3,), 0.7)])
@pytest.mark.parametrize("attack", [PGD(agents="1"), APGD(agents="1", steps=20)])
def test_sound_attacks_find_them(clean, donors, attack, radius, targeted):
    for head in (linear_head(LAYOUT.width, 4), mlp_head(LAYOUT.width, 4)):
        found = missed(
            Plain(head), attack, clean, donors, radius=radius, targeted=targeted
        )
        assert found <= 0.05


def test_an_attack_that_does_nothing_misses_all(clean, donors):
    center = Plain(mlp_head(LAYOUT.width, 4))
    assert missed(center, Idle(agents="1"), clean, donors) == 1.0


def test_a_blinded_attack_misses(clean, donors):
    center = Rounded(mlp_head(LAYOUT.width, 4))
    attack = PGD(agents="1", restarts=1)
    assert missed(center, attack, clean, donors) == 1.0


def test_nothing_is_said_where_nothing_can_be_planted(clean, donors):
    class Deaf(FusionCenter):
        def decide(self, observation):
            return Decision(logits=observation.filled()[:, 6:9])

    attack = PGD(agents="1")
    assert measured(Deaf(), attack, clean, donors) == {}
    few = ENOUGH - 1
    center = Plain(linear_head(LAYOUT.width, 4))
    assert measured(center, attack, clean[:few], donors, mask=MASK[:few]) == {}


def test_an_attack_that_fails_on_two_classes_is_told_of(clean, donors):
    center, attack = Plain(linear_head(LAYOUT.width, 4)), Idle(agents="1", fails=True)
    assert measured(center, attack, clean, donors) == {"planted_failed": 1.0}


def test_it_stops_once_all_are_found(clean, donors):
    class Counting(Plain):
        asked = 0

        def decide(self, observation):
            type(self).asked += 1
            return super().decide(observation)

    center = Counting(linear_head(LAYOUT.width, 4))
    assert missed(center, PGD(agents="1", steps=1000), clean, donors) == 0.0
    assert Counting.asked < 100


@pytest.mark.parametrize("agents", [[0], [0, 1, 2]])
@pytest.mark.parametrize("members", ["pgd", "apgd", "payloads/pgd/square-blocks"])
def test_an_attack_that_goes_on_with_who_is_left_finds_them(
    clean, donors, agents, members
):
    """With every agent compromised no honest block tells the samples apart."""
    mask = torch.zeros_like(MASK)
    mask[:, agents] = True
    center = Plain(mlp_head(LAYOUT.width, 3))
    recorded = donors, torch.zeros(len(donors), dtype=torch.long)
    found = planted_missed(
        center, Ensemble(agents="all", members=members), clean, donors,
        compromised=mask, radius=None, targeted=False, recorded=recorded,
        generator=seeded(),
    )  # fmt: skip
    assert found == {"planted_missed": 0.0}


class Told(OracleFusionCenter):
    """Averages the agents that it is told are honest."""

    def __init__(self, head):
        super().__init__()
        self.head = head

    def decide_told(self, observation, corrupted):
        kept = ~observation.layout.expand(corrupted[:, [1, 2, 0]])
        return Decision(logits=self.head(observation.filled() * kept))

    def decide(self, observation):
        return Decision(logits=self.head(observation.filled()))


def test_who_is_left_is_asked_of_all_that_were_told_of_everybody(clean, donors):
    """A grafted oracle stands for the undefended fusion center, too."""
    center = Told(mlp_head(LAYOUT.width, 3)).told(MASK)
    planted = clean.with_features(donors.features[:N])
    grafted = Grafted(center, clean, planted, MASK)
    victim = Victim("adaptive", undefended=grafted, defended=grafted, own=MASK)
    left = torch.tensor([3, 7, 8])
    expected = grafted(planted).logits[left]
    for some in (victim.part(left), victim.part(left).transfer()):
        torch.testing.assert_close(some.logits(planted[left]), expected)
        gradient, _ = some.loss_gradient(planted[left], lambda logits: logits[:, 0])
        assert gradient.abs().sum(dim=1).min() > 0


class Routed(Plain):
    """Has a second derivative, of use or of none."""

    def __init__(self, head, useful):
        super().__init__(head)
        self.useful = useful

    @property
    def routes(self):
        return {"unrolled": lambda o: self.surrogate(o) * (1.0 if self.useful else 0.0)}


@pytest.mark.parametrize(("useful", "expected"), [(True, 0.0), (False, 1.0)])
def test_points_are_sought_along_the_attacks_own_derivative(
    clean, donors, useful, expected
):
    center = Routed(mlp_head(LAYOUT.width, 3), useful)
    attack = PGD(agents="1", gradient="unrolled", restarts=1)
    assert missed(center, attack, clean, donors) == expected

"""Gradients against differences: where the angle is known, and where there is none."""

import math

import pytest
import torch

from cibench import Criterion, Decision, FusionCenter
from cibench.gradient_check import check_gradient
from helpers import Plain, everyone, layout_of, linear_head, mlp_head, normal, seeded

LAYOUT = layout_of(40, 20)
N = 40
OWN = torch.tensor([[True, False]]).repeat(N, 1)


def checked(center, *, own=OWN, features=None):
    features = normal(N, LAYOUT.width) if features is None else features
    clean = everyone(features, LAYOUT)
    labels = center(clean).logits.argmax(1)
    return check_gradient(
        center,
        clean,
        Criterion(labels),
        own=own,
        length=torch.linalg.vector_norm(features[:, :40], dim=1),
        generator=seeded(3),
    )


class Tilted(FusionCenter):
    """A linear margin whose gradient is shown at an angle to it."""

    def __init__(self, angle):
        super().__init__()
        slope, other = torch.linalg.qr(normal(40, 2)).Q.T
        zero = torch.zeros(20, dtype=torch.float64)
        self.slope = torch.cat([slope, zero])
        self.shown = torch.cat(
            [math.cos(angle) * slope + math.sin(angle) * other, zero]
        )

    def decide(self, observation):
        value = observation.filled(0.0) @ self.slope
        return Decision(logits=torch.stack([value, 0 * value], dim=1))

    def surrogate(self, observation):
        value = observation.filled(0.0) @ self.shown
        return torch.stack([value, 0 * value], dim=1)


@pytest.mark.parametrize("degrees", [0, 20, 45, 80])
def test_the_angle_of_a_linear_margin_is_found(degrees):
    angle = math.radians(degrees)
    found = checked(Tilted(angle))
    # The mean square of eight differences estimates the sine's square.
    assert found.cosine == pytest.approx(math.cos(angle), abs=0.12)
    if degrees == 0:
        assert found.cosine == pytest.approx(1.0, abs=1e-9)
        assert found.descends == 1.0


def test_a_gradient_uphill_is_found():
    found = checked(Tilted(math.pi))
    assert found.cosine == pytest.approx(-1.0, abs=1e-9)
    assert found.descends < 0.1


@pytest.mark.parametrize("double", [True, False])
def test_a_network_s_own_gradient_is_right(double):
    center = Plain(mlp_head(LAYOUT.width, 3, hidden=64))
    features = normal(N, LAYOUT.width)
    if not double:
        center, features = center.float(), features.float()
    found = checked(center, features=features)
    assert found.cosine > 0.99
    assert found.descends > 0.95


class Voting(FusionCenter):
    """Counts the signs of the columns: piecewise constant, with a stand-in or without."""

    def __init__(self, stand_in):
        super().__init__()
        self.stand_in = stand_in

    def decide(self, observation):
        value = (observation.filled(0.0) > 0).double().sum(dim=1)
        return Decision(logits=torch.stack([value, 30 + 0 * value], dim=1))

    def surrogate(self, observation):
        value = self.stand_in(observation.filled(0.0))
        return torch.stack([value, 0 * value], dim=1)


def test_a_vote_is_judged_by_where_its_surrogate_leads():
    features = 0.1 * normal(N, LAYOUT.width).sign() * (1 + normal(N, 60, seed=1) ** 2)
    honest = checked(Voting(lambda x: (3 * x).sigmoid().sum(dim=1)), features=features)
    assert honest.cosine is None
    assert honest.descends > 0.9
    weights = normal(60, seed=5)
    posing = checked(Voting(lambda x: x @ weights), features=features)
    assert posing.cosine is None
    assert posing.descends < 0.75


def test_nothing_is_said_without_a_gradient_or_a_block():
    for center in (
        Voting(lambda x: x.detach().sum(dim=1)),
        Voting(lambda x: 0 * x.sum(dim=1)),
    ):
        found = checked(center)
        assert (found.cosine, found.descends) == (None, None)
    nobody = checked(Plain(linear_head(LAYOUT.width, 3)), own=torch.zeros_like(OWN))
    assert (nobody.cosine, nobody.descends) == (None, None)


def test_only_the_adversary_s_own_blocks_are_moved():
    class Split(Plain):
        """The second block's derivative is cut off."""

        def decide(self, observation):
            features = observation.features.clone()
            features[:, 40:] = features[:, 40:].detach()
            return super().decide(observation.with_features(features))

    center = Split(linear_head(LAYOUT.width, 3))
    assert checked(center).cosine == pytest.approx(1.0, abs=1e-6)
    assert checked(center, own=torch.ones_like(OWN)).cosine < 0.95

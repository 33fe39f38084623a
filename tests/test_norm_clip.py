"""Norm clipping against closed forms, scikit-learn and SciPy."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import mahalanobis
from sklearn.covariance import ledoit_wolf

from cibench import UndefendedFusionCenter
from cibench.embedding import RECIPES, prepare
from cibench.execute.store import ArtifactStore
from cibench_plugins.datasets.synthetic import Synthetic
from cibench_plugins.defenses.norm_clip import (
    NormClip,
    _Clip,
    shrunk_covariance,
    whitener,
)
from helpers import everyone, layout_of, linear_head, normal, observation_of, seeded


@pytest.fixture(scope="module")
def synthetic():
    plugin = Synthetic(agents=5, width=4, rank=3, samples=120)
    training, test, _ = prepare(
        plugin.load(),
        dataclasses.replace(RECIPES["identity"], epochs=3),
        seed=0,
        store=ArtifactStore(None),
        device=torch.device("cpu"),
    )
    return training, test


@pytest.fixture(params=["norm", "mahalanobis"])
def center(request, synthetic):
    return NormClip(distance=request.param).fit(synthetic[0], generator=seeded())


def clip_of(widths, radii):
    """A clipper of Euclidean norms with known radii."""
    layout = layout_of(*widths)
    zero = torch.zeros(layout.width, dtype=torch.float64)
    head = UndefendedFusionCenter(linear_head(layout.width, 2), zero + 0.3)
    whiten = [torch.eye(width, dtype=torch.float64) for width in widths]
    return _Clip(head, zero, whiten, torch.tensor(radii, dtype=torch.float64)), layout


def test_a_block_is_scaled_to_the_radius():
    center, layout = clip_of((2, 1), [5.0, 2.0])
    received = everyone(torch.tensor([[6.0, 8.0, -1.0], [0.3, 0.4, -8.0]]), layout)
    expected = [[3.0, 4.0, -1.0], [0.3, 0.4, -2.0]]
    found = center(received.with_features(received.features.double())).purified
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


@given(st.integers(0, 1000), st.floats(-6, 14))
@settings(max_examples=40, deadline=None)
def test_clipping_is_the_projection_onto_the_ball(seed, exponent):
    center, layout = clip_of((3, 2), [1.0, 0.5])
    received = observation_of(layout, 4, missing=0.3, seed=seed)
    received = received.with_features(10.0**exponent * received.features)
    decision = center(received)
    norms = layout.block_norms(decision.purified)
    heard = received.observed
    assert (norms <= center.radii * (1 + 1e-12))[heard].all()
    before = layout.block_norms(received.features)
    expected = torch.minimum(before, center.radii)
    torch.testing.assert_close(norms[heard], expected[heard])
    cosine = (decision.purified * received.features) * layout.expand(heard)
    assert (cosine >= 0).all()
    # Missing blocks get the head's own fill.
    assert (decision.purified[~layout.expand(heard)] == 0.3).all()
    again = center(received.with_features(decision.purified))
    torch.testing.assert_close(again.purified, decision.purified)


@pytest.mark.parametrize("quantile", [0.5, 0.99])
def test_radii_are_quantiles_of_clean_training_norms(synthetic, quantile):
    training = synthetic[0]
    center = NormClip(quantile=quantile).fit(training, generator=seeded())
    for agent, s in enumerate(training.layout.slices):
        heard = training.train.observed[:, agent]
        norms = training.train.features[heard][:, s].double().norm(dim=1)
        expected = np.quantile(norms.numpy(), quantile)
        assert float(center.radii[agent]) == pytest.approx(expected)


@pytest.mark.parametrize(("n", "d"), [(8, 5), (60, 4), (5, 9), (400, 1)])
def test_shrinkage_is_that_of_ledoit_and_wolf(n, d):
    samples = normal(n, d) * torch.logspace(0, 1, d, dtype=torch.float64)
    expected, _ = ledoit_wolf(samples.numpy(), assume_centered=True)
    np.testing.assert_allclose(shrunk_covariance(samples).numpy(), expected)


def test_mahalanobis_distances_against_scipy(synthetic):
    training = synthetic[0]
    center = NormClip(distance="mahalanobis").fit(training, generator=seeded())
    train = training.train
    values = train.filled(0.0).double()
    mean = values.mean(0)
    for agent, s in enumerate(train.layout.slices):
        block = (values - mean)[:, s].numpy()
        inverse = np.linalg.inv(ledoit_wolf(block, assume_centered=True)[0])
        sizes = [mahalanobis(row, np.zeros(4), inverse) for row in block]
        expected = np.quantile(sizes, 0.99)
        assert float(center.radii[agent]) == pytest.approx(expected, rel=1e-5)


def test_a_whitened_block_has_unit_covariance():
    samples = normal(5000, 3) @ normal(3, 3, seed=1)
    white = samples @ whitener(samples)
    covariance = white.T @ white / len(white)
    torch.testing.assert_close(
        covariance, torch.eye(3, dtype=torch.float64), atol=0.01, rtol=0
    )
    assert torch.equal(whitener(torch.zeros(5, 2).double()), torch.eye(2).double())


def test_clean_blocks_are_left_alone(center, synthetic):
    training, test = synthetic
    away = center(test).purified - test.features
    moved = (test.layout.block_norms(away) > 1e-4).double().mean()
    assert moved < 0.05
    same = center(training.train).purified - training.train.features
    share = (training.layout.block_norms(same) > 1e-4).double().mean()
    assert 0 < share <= 1 / 60 + 1e-9


def test_no_payload_goes_further_than_the_radius(center, synthetic):
    test = synthetic[1]
    columns = test.layout.slices[2]
    answers = []
    for amplification in (1e3, 1e9, 1e14):
        features = test.features.clone()
        features[:, columns] = -amplification * features[:, columns].sign()
        answers.append(center(test.with_features(features)))
    for answer in answers[1:]:
        torch.testing.assert_close(
            answer.purified, answers[0].purified, rtol=1e-2, atol=1e-2
        )


def test_every_subset_of_agents_is_answered(center, synthetic):
    masks = torch.tensor(list(itertools.product([False, True], repeat=5)))
    some = synthetic[1][: len(masks)].without(~masks)
    logits = center(some).logits
    assert torch.isfinite(logits).all()
    hidden = torch.where(some.layout.expand(masks), some.features, 1e6)
    assert torch.equal(center(some.with_features(hidden)).logits, logits)
    silent = center.undefended(some[:1]).logits
    torch.testing.assert_close(logits[:1], silent)


def test_the_surrogate_is_the_decision_and_differentiable(synthetic):
    training, test = synthetic
    for distance in ("norm", "mahalanobis"):
        center = NormClip(distance=distance).fit(training, generator=seeded())
        center.undefended = UndefendedFusionCenter(
            linear_head(20, 2), training.undefended.fill.double()
        )
        features = test.features[:4].double() * torch.tensor([1.0, 5.0]).repeat(10)
        received = test[:4].with_features(features)
        torch.testing.assert_close(
            center.differentiable_logits(received), center(received).logits
        )

        def logits(f, received=received, center=center):
            return center.differentiable_logits(received.with_features(f))

        leaf = features.clone().requires_grad_()
        assert torch.autograd.gradcheck(logits, leaf, atol=1e-5)
        zero = torch.zeros_like(features).requires_grad_()
        (slope,) = torch.autograd.grad(logits(zero).sum(), zero)
        assert torch.isfinite(slope).all()


def test_an_agent_never_heard_in_training_is_not_trusted(synthetic):
    training, test = synthetic
    silent = torch.zeros_like(training.train.observed)
    silent[:, 1] = True
    partly = dataclasses.replace(training, train=training.train.without(silent))
    for distance in ("norm", "mahalanobis"):
        center = NormClip(distance=distance).fit(partly, generator=seeded())
        features = test.features.clone()
        features[:, test.layout.slices[1]] *= -7
        there = center(test.with_features(features)).logits
        torch.testing.assert_close(there, center(test).logits)

"""Smoothed heads against brute force over the bank and linear heads in closed form."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy.stats import binomtest, kstest, norm
from torch import nn

from cibench import AgentLayout, Observation, OptionError
from cibench.embedding import RECIPES, prepare
from cibench.execute.store import ArtifactStore
from cibench.manifold import FittedManifold
from cibench_plugins.datasets.synthetic import Synthetic
from cibench_plugins.defenses import _smoothing
from cibench_plugins.defenses._noise import spread
from cibench_plugins.defenses._smoothing import Smoother
from cibench_plugins.defenses.copur import CoPur, _Converged
from cibench_plugins.defenses.copur_smoothed import CoPurSmoothed, _SmoothedCoPur
from cibench_plugins.defenses.randomized_smoothing import (
    RandomizedSmoothing,
    SmoothedFusionCenter,
)
from cibench_plugins.defenses.randomized_smoothing_block import (
    RandomizedSmoothingBlock,
    _BlockSmoothed,
)
from helpers import (
    affine_manifold,
    everyone,
    layout_of,
    linear_head,
    mlp_head,
    normal,
    observation_of,
    seeded,
)

LAYOUT = layout_of(3, 1, 2)


class Opaque(nn.Module):
    """A head whose first layer cannot be seen, and does not care for noise linearly."""

    def __init__(self, head):
        super().__init__()
        self.inner = head

    def forward(self, features):
        return self.inner(features)


HEADS = {
    "linear": linear_head(6, 3),
    "mlp": mlp_head(6, 3),
    "opaque": Opaque(mlp_head(6, 3)),
    "other first layer": nn.Sequential(nn.Tanh(), linear_head(6, 3)),
}


def smoother(head, layout=LAYOUT, *, sigma=0.8, draws=150, **options):
    bank = sigma * normal(draws, layout.width, seed=7)
    return Smoother(head, layout, bank, sigma=sigma, **options)


def noisy_logits(head, layout, features, mask, bank):
    """`(draws, classes)` of one sample, one vector of noise at a time."""
    taken = torch.repeat_interleave(mask, torch.tensor(layout.widths))
    return torch.stack([head((features + e * taken)[None])[0] for e in bank])


def brute_votes(head, layout, features, noisy, bank):
    counts = [
        noisy_logits(head, layout, row, mask, bank).argmax(1).bincount(minlength=3)
        for row, mask in zip(features, noisy, strict=True)
    ]
    return torch.stack(counts).double()


@pytest.fixture(scope="module")
def training():
    dataset = Synthetic(agents=4, width=3, rank=3, samples=240, noise=0.3).load()
    return prepare(
        dataset,
        dataclasses.replace(RECIPES["identity"], epochs=8),
        seed=0,
        store=ArtifactStore(None),
        device=torch.device("cpu"),
    )[0]


# Votes


@pytest.mark.parametrize("missing", [0.0, 0.5])
@pytest.mark.parametrize("name", HEADS)
def test_votes_equal_brute_force(name, missing):
    head, observation = HEADS[name], observation_of(LAYOUT, 9, missing=missing, seed=3)
    center = SmoothedFusionCenter(smoother(head), normal(6, seed=11))
    features = observation.filled(center.fill)
    votes = brute_votes(
        head, LAYOUT, features, observation.observed, center.smoother.bank
    )
    logits = ((votes + 0.5) / (150 + 1.5)).log()
    torch.testing.assert_close(center(observation).logits, logits)
    # Votes that all agree would be equal whatever the noise.
    assert (votes.amax(1) < 150).sum() >= 3
    torch.testing.assert_close(logits.exp().sum(1), torch.ones(9).double())


def test_ties_go_to_the_smallest_class():
    head = nn.Linear(1, 3, bias=False, dtype=torch.float64).requires_grad_(False)
    head.weight.copy_(torch.tensor([[-1.0], [-2.0], [2.0]]))
    layout = layout_of(1)
    bank = torch.tensor([[1.0], [-1.0]]).double()
    center = SmoothedFusionCenter(
        Smoother(head, layout, bank, sigma=1.0), torch.zeros(1).double()
    )
    logits = center(everyone(torch.zeros(1, 1).double(), layout)).logits
    assert logits[0, 1] == logits[0, 2] > logits[0, 0]
    assert int(logits.argmax(1)) == 1
    # Neither is a tie between the logits of a single draw.
    center.smoother.bank.zero_()
    logits = center(everyone(torch.zeros(1, 1).double(), layout)).logits
    assert int(logits.argmax(1)) == 0


@pytest.mark.parametrize("name", ["mlp", "opaque"])
@pytest.mark.parametrize("missing", [0.0, 0.5])
def test_an_answer_does_not_depend_on_the_batch(name, missing, monkeypatch):
    center = SmoothedFusionCenter(smoother(HEADS[name]), normal(6, seed=11))
    observation = observation_of(LAYOUT, 23, missing=missing, seed=3)
    together = center(observation).logits
    order = torch.randperm(23, generator=seeded(5))
    assert torch.equal(center(observation[order]).logits, together[order])
    alone = [center(observation[n : n + 1]).logits for n in range(23)]
    assert torch.equal(torch.cat(alone), together)
    monkeypatch.setattr(_smoothing, "PIECE", 5000)
    assert torch.equal(center(observation).logits, together)


def test_missing_blocks_take_no_noise_and_carry_nothing():
    center = SmoothedFusionCenter(smoother(HEADS["mlp"]), normal(6, seed=11))
    observation = observation_of(LAYOUT, 12, missing=0.5, seed=3)
    gone = ~LAYOUT.expand(observation.observed)
    other = observation.with_features(
        torch.where(gone, torch.nan, observation.features)
    )
    assert torch.equal(center(other).logits, center(observation).logits)
    silent = observation.without(torch.ones_like(observation.observed))
    decision = center(silent)
    fill_only = HEADS["mlp"](center.fill[None]).argmax(1)
    assert (decision.logits.argmax(1) == fill_only).all()
    unanimous = math.log((150 + 0.5) / (150 + 1.5))
    torch.testing.assert_close(
        decision.logits.amax(1), torch.full((12,), unanimous).double()
    )


def test_no_sample_at_all():
    center = SmoothedFusionCenter(smoother(HEADS["mlp"]), torch.zeros(6).double())
    observation = observation_of(LAYOUT, 3)[:0]
    assert center(observation).logits.shape == (0, 3)
    assert center.differentiable_logits(observation).shape == (0, 3)


# Radii


def two_class_head(width, seed=0):
    """A linear head, and its signed distance from the decision boundary."""
    head = linear_head(width, 2, seed)
    normal_vector = head.weight[1] - head.weight[0]
    offset = head.bias[1] - head.bias[0]

    def distance(features):
        return (features @ normal_vector + offset) / normal_vector.norm()

    return head, normal_vector / normal_vector.norm(), distance


def certifying(head, layout, *, sigma, draws, alpha=0.001, abstains=False, seed=0):
    banks = sigma * normal(draws + 100, layout.width, seed=seed)
    inner = Smoother(
        head,
        layout,
        banks[100:],
        sigma=sigma,
        selection=banks[:100],
        alpha=alpha,
        abstains=abstains,
    )
    return SmoothedFusionCenter(inner, torch.zeros(layout.width).double())


@pytest.mark.parametrize("sigma", [0.5, 2.0])
def test_radius_of_a_linear_head_is_margin_over_norm(sigma):
    """Noise turns a margin m into a vote share Phi(m / (sigma ||w||))."""
    layout, draws = layout_of(4, 4, 4), 20_000
    head, direction, distance = two_class_head(12)
    center = certifying(head, layout, sigma=sigma, draws=draws)
    # From the boundary to 2.5 sigma on either side.
    along = sigma * torch.linspace(-2.5, 2.5, 41).double()
    points = normal(41, 12, seed=4)
    points = points + (along - distance(points))[:, None] * direction
    margin = distance(points)
    torch.testing.assert_close(margin, along)
    votes = center.smoother.votes(
        points, torch.ones(41, 3).bool(), center.smoother.bank
    )
    p = norm.cdf(along.abs() / sigma)
    error = sigma * np.sqrt(p * (1 - p) / draws) / norm.pdf(norm.ppf(p))
    share = votes.amax(1).numpy() / draws
    assert (np.abs(sigma * norm.ppf(share) - along.abs().numpy()) < 4 * error).all()
    # The certified radius is below the true one, by little more than the error.
    radius, chosen = center.radius(everyone(points, layout))
    assert (radius <= along.abs()).all()
    far = along.abs() > 0.3 * sigma
    assert (radius[far].numpy() > (along.abs().numpy() - 8 * error)[far]).all()
    assert torch.equal(chosen[far], (along[far] > 0).long())


def test_certified_samples_are_not_flipped_within_their_radius():
    """The smoothed classifier of a linear head is the head: by symmetry, in closed form."""
    layout = layout_of(5, 3)
    head, direction, distance = two_class_head(8)
    center = certifying(head, layout, sigma=1.0, draws=1000)
    points = 1.5 * normal(300, 8, seed=9)
    radius, chosen = center.radius(everyone(points, layout))
    assert 100 < (radius > 0).sum() < 300
    sign = torch.where(chosen == 1, 1.0, -1.0)
    certified = radius > 0
    # The shortest way across is along the normal vector; random ones are no better.
    for way in (
        direction.expand(300, 8),
        nn.functional.normalize(normal(300, 8, seed=2)),
    ):
        for turn in (1.0, -1.0):
            moved = points + turn * radius[:, None] * 0.999999 * way
            assert (sign * distance(moved) > 0)[certified].all()
    # Not so far beyond the radius that the test could not fail.
    over = points - (sign * 1.5 * radius)[:, None] * direction
    assert (sign * distance(over) < 0)[certified].float().mean() > 0.5


def test_radius_counts_what_arrived_unusable_as_missing():
    layout = layout_of(5, 3)
    head, *_ = two_class_head(8)
    center = certifying(head, layout, sigma=1.0, draws=200)
    observation = observation_of(layout, 10, seed=3)
    broken = observation.features.clone()
    broken[:, 6] = torch.inf
    gone = torch.tensor([[False, True]]).expand(10, 2)
    for mine, theirs in zip(
        center.radius(observation.with_features(broken)),
        center.radius(observation.without(gone)),
        strict=True,
    ):
        assert torch.equal(mine, theirs)


def test_the_selection_chooses_and_the_bank_counts():
    head, layout = two_class_head(1)[0], layout_of(1)
    point = -(head.bias[1] - head.bias[0]) / (head.weight[1] - head.weight[0])
    one = torch.ones(50, 1).double() * torch.sign(head.weight[1] - head.weight[0])
    for selection, bank, radius, chosen in ((one, -one, 0.0, 1), (-one, -one, 1.0, 0)):
        inner = Smoother(head, layout, bank, sigma=1.0, selection=selection)
        center = SmoothedFusionCenter(inner, torch.zeros(1).double())
        found = center.radius(everyone(point[None], layout))
        assert found[1].tolist() == [chosen]
        assert float(found[0]) == pytest.approx(radius * norm.ppf(0.001**0.02))


def test_cohen_abstains_where_the_margin_is_small():
    layout = layout_of(4, 4)
    head, direction, distance = two_class_head(8)
    points = normal(61, 8, seed=4)
    along = torch.linspace(-1.5, 1.5, 61).double()
    points = points + (along - distance(points))[:, None] * direction
    observation = everyone(points, layout)
    center = certifying(head, layout, sigma=1.0, draws=1000, abstains=True)
    decision = center(observation)
    everything = torch.ones(61, 2).bool()
    votes = center.smoother.votes(points, everything, center.smoother.bank)
    p_values = [binomtest(int(v.amax()), 1000, 0.5).pvalue for v in votes]
    assert decision.abstained.tolist() == [p > 0.001 for p in p_values]
    # A share of 1/2 + 0.052 is needed: a margin of 0.13, give or take the draw.
    assert decision.abstained[along.abs() < 0.03].all()
    assert not decision.abstained[along.abs() > 0.3].any()
    radius, _ = center.radius(observation)
    assert (radius[along.abs() < 0.03] == 0).all()
    assert (radius[along.abs() > 0.3] > 0).all()
    silent = certifying(head, layout, sigma=1.0, draws=1000)
    assert silent(observation).abstained is None


# The surrogate


def brute_surrogate(head, layout, features, noisy, bank):
    rows = [
        noisy_logits(head, layout, row, mask, bank).softmax(1).mean(0).log()
        for row, mask in zip(features, noisy, strict=True)
    ]
    return torch.stack(rows)


@pytest.mark.parametrize("piece", [2**18, 2000])
@pytest.mark.parametrize("name", HEADS)
def test_surrogate_is_the_mean_softmax_over_the_bank(name, piece, monkeypatch):
    monkeypatch.setattr(_smoothing, "PIECE", piece)
    head, observation = HEADS[name], observation_of(LAYOUT, 5, missing=0.4, seed=3)
    center = SmoothedFusionCenter(smoother(head), normal(6, seed=11))
    bank = center.smoother.bank[: _smoothing.SURROGATE_DRAWS]
    assert len(bank) < len(center.smoother.bank)
    features = observation.filled(center.fill)
    expected = brute_surrogate(head, LAYOUT, features, observation.observed, bank)
    torch.testing.assert_close(center.differentiable_logits(observation), expected)
    leaf = observation.features.clone().requires_grad_()
    logits = center.differentiable_logits(observation.with_features(leaf))
    weights = normal(5, 3, seed=8)
    (gradient,) = torch.autograd.grad((weights * logits).sum(), leaf)
    step = 1e-6
    for n, column in ((0, 0), (1, 2), (2, 3), (4, 5)):
        change = torch.zeros_like(features)
        change[n, column] = step
        ends = [
            brute_surrogate(
                head,
                LAYOUT,
                observation.with_features(observation.features + sign * change).filled(
                    center.fill
                ),
                observation.observed,
                bank,
            )
            for sign in (1, -1)
        ]
        slope = float((weights * (ends[0] - ends[1])).sum() / (2 * step))
        assert float(gradient[n, column]) == pytest.approx(slope, rel=1e-5, abs=1e-7)
    assert (gradient[~LAYOUT.expand(observation.observed)] == 0).all()


# Fitting


def test_noise_is_drawn_as_asked(training):
    center = RandomizedSmoothing(sigma=0.7, units="absolute", draws=2000, selection=500)
    inner = center.fit(training, generator=seeded()).smoother
    assert inner.bank.shape == (2000, 12)
    assert inner.selection.shape == (500, 12)
    both = torch.cat([inner.bank, inner.selection]).double() / 0.7
    assert kstest(both.flatten().numpy(), "norm").pvalue > 1e-3
    correlation = np.corrcoef(both.T.numpy()) - np.eye(12)
    assert np.abs(correlation).max() < 4.5 / math.sqrt(2500)
    # No vector of one bank is in the other: the count is to be independent of the choice.
    assert torch.cdist(inner.bank, inner.selection).min() > 0.1
    other = center.fit(training, generator=seeded(1)).smoother
    assert not torch.equal(inner.bank, other.bank)
    again = center.fit(training, generator=seeded()).smoother
    assert torch.equal(inner.bank, again.bank)


def test_spread_by_hand():
    layout = layout_of(1, 2)
    features = torch.tensor(
        [[1.0, 5.0, 0.0], [3.0, 5.0, 4.0], [9.0, 7.0, 7.0]]
    ).double()
    observed = torch.tensor([[True, True], [True, True], [False, True]])
    # Deviations 1, 1 | 2/3, 2/3, 4/3 | 11/3, 1/3, 10/3.
    squares = 2 + (4 + 4 + 16) / 9 + (121 + 1 + 100) / 9
    expected = math.sqrt(squares / 8)
    assert spread(Observation(features, observed, layout)) == pytest.approx(expected)


def rescaled(training, factor):
    """The same embedding in other units, and the head that reads them."""

    def scaled(observation):
        return observation.with_features(observation.features * factor)

    undefended = type(training.undefended)(
        nn.Sequential(*training.undefended.head), training.undefended.fill * factor
    )
    first = nn.Linear(12, training.undefended.head[0].out_features)
    first.load_state_dict(training.undefended.head[0].state_dict())
    first.requires_grad_(False).weight.div_(factor)
    undefended.head[0] = first
    return dataclasses.replace(
        training,
        train=scaled(training.train),
        validation=scaled(training.validation),
        undefended=undefended.requires_grad_(False),
        _fitted={},
    )


def test_relative_noise_follows_the_units_of_the_embedding(training):
    # Powers of two, so that rounding is the same.
    small, large = rescaled(training, 1.0), rescaled(training, 64.0)
    defense = RandomizedSmoothing(draws=300)
    centers = [defense.fit(t, generator=seeded()) for t in (small, large)]
    logits = [
        center(t.validation).logits
        for center, t in zip(centers, (small, large), strict=True)
    ]
    assert torch.equal(*logits)
    assert (logits[0].exp().amax(1) < 0.99).any()
    radii = [
        center.radius(t.validation)[0]
        for center, t in zip(centers, (small, large), strict=True)
    ]
    torch.testing.assert_close(64 * radii[0], radii[1])
    absolute = RandomizedSmoothing(draws=300, units="absolute")
    centers = [absolute.fit(t, generator=seeded()) for t in (small, large)]
    assert torch.equal(centers[0].smoother.bank, centers[1].smoother.bank)
    assert centers[0].facts["sigma"] == absolute.sigma


@pytest.mark.parametrize("defense", [RandomizedSmoothing, CoPurSmoothed])
def test_a_noisy_head_is_better_under_its_noise(training, defense):
    options = {"sigma": 2.0, "draws": 200}
    training = dataclasses.replace(
        training, recipe=dataclasses.replace(training.recipe, epochs=40, patience=40)
    )
    losses = []
    for head in ("clean", "noisy"):
        center = defense(head=head, **options).fit(training, generator=seeded())
        inner, known = center.smoother, training.validation
        assert not any(p.requires_grad for p in inner.head.parameters())
        purified = center(known).purified
        features = known.filled(0.0) if purified is None else purified
        noisy = features[:, None] + inner.bank
        loss = nn.functional.cross_entropy(
            inner.head(noisy.flatten(0, 1)),
            training.validation_labels.repeat_interleave(200),
        )
        losses.append(float(loss))
    assert losses[1] < losses[0]


def test_a_stored_head_leaves_the_noise_as_it_was(training, tmp_path):
    training = dataclasses.replace(training, store=ArtifactStore(tmp_path), scope="s")
    defense = RandomizedSmoothing(head="noisy", draws=20)
    first = defense.fit(training, generator=seeded()).smoother
    assert list(tmp_path.rglob("*.*"))
    second = defense.fit(training, generator=seeded()).smoother
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name])


def test_facts_name_the_noise_and_what_it_can_certify(training):
    center = RandomizedSmoothing(sigma=0.5, units="absolute").fit(
        training, generator=seeded()
    )
    assert center.facts["sigma"] == 0.5
    expected = 0.5 * norm.ppf(0.001 ** (1 / 1000))
    assert center.facts["largest_radius"] == pytest.approx(expected)


@pytest.mark.parametrize("defense", [RandomizedSmoothing, CoPurSmoothed])
def test_too_few_draws_to_certify(defense):
    with pytest.raises(ValueError, match=r"draws: expected at least 10, .* got 9"):
        defense(mode="cohen", draws=9)
    defense(mode="cohen", draws=10)
    defense(mode="paper", draws=9)


# Blocks told to be corrupted


def block_center(head, **options):
    return _BlockSmoothed(smoother(head, **options), normal(6, seed=11))


@pytest.mark.parametrize("name", HEADS)
def test_only_corrupted_blocks_take_noise(name):
    head, observation = HEADS[name], observation_of(LAYOUT, 16, missing=0.3, seed=3)
    corrupted = torch.rand(16, 3, generator=seeded(2)) < 0.5
    center = block_center(head)
    decision = center.told(corrupted)(observation)
    features = observation.filled(center.fill)
    noisy = corrupted & observation.observed
    votes = brute_votes(head, LAYOUT, features, noisy, center.smoother.bank)
    shares = ((votes + 0.5) / (150 + 1.5)).log()
    own = ~noisy.any(1)
    assert 0 < own.sum() < 16
    torch.testing.assert_close(decision.logits[~own], shares[~own])
    torch.testing.assert_close(decision.logits[own], head(features[own]))
    assert torch.equal(decision.logits[own].argmax(1), votes[own].argmax(1))
    bank = center.smoother.bank[: _smoothing.SURROGATE_DRAWS]
    expected = brute_surrogate(head, LAYOUT, features, noisy, bank)
    logits = center.told(corrupted).differentiable_logits(observation)
    torch.testing.assert_close(logits.log_softmax(1), expected)
    order = torch.randperm(16, generator=seeded(5))
    shuffled = center.told(corrupted[order])(observation[order]).logits
    torch.testing.assert_close(shuffled, decision.logits[order], rtol=1e-12, atol=0)


def test_without_corrupted_agents_it_is_the_head_itself(training):
    center = RandomizedSmoothingBlock().fit(training, generator=seeded())
    observation = training.validation
    expected = training.undefended(observation).logits
    assert torch.equal(center(observation).logits, expected)
    nobody = torch.zeros_like(observation.observed)
    assert torch.equal(center.told(nobody)(observation).logits, expected)
    assert torch.equal(center.differentiable_logits(observation), expected)
    everybody = torch.ones_like(observation.observed)
    assert not torch.equal(center.told(everybody)(observation).logits, expected)


def test_correlated_noise_is_one_vector_in_every_block(training):
    defense = RandomizedSmoothingBlock(correlated=True, draws=500)
    bank = defense.fit(training, generator=seeded()).smoother.bank
    blocks = bank.reshape(500, 4, 3)
    assert torch.equal(blocks, blocks[:, :1].expand(500, 4, 3))
    independent = RandomizedSmoothingBlock(draws=500).fit(training, generator=seeded())
    correlation = np.corrcoef(independent.smoother.bank.T.numpy()) - np.eye(12)
    assert np.abs(correlation).max() < 4.5 / math.sqrt(500)


def test_correlated_noise_needs_equal_blocks(training):
    layout = AgentLayout(("a", "b"), (5, 7))

    def merged(observation):
        observed = torch.ones(len(observation), 2, dtype=torch.bool)
        return Observation(observation.features, observed, layout)

    uneven = dataclasses.replace(training, train=merged(training.train))
    with pytest.raises(OptionError, match=r"equally wide .* got widths 5, 7"):
        RandomizedSmoothingBlock(correlated=True).fit(uneven, generator=seeded())
    RandomizedSmoothingBlock(correlated=False).fit(uneven, generator=seeded())


# CoPur in front


def smoothed_copur(head, *, tau=None, **options):
    manifold = affine_manifold((3,) * 4, 2)
    purifier = _Converged(FittedManifold(manifold, 0.0, {}), head, tau, 200)
    return _SmoothedCoPur(purifier, smoother(head, manifold.layout, **options))


def copur_input(layout, samples=6, seed=5):
    observation = observation_of(layout, samples, missing=0.3, seed=seed)
    return observation.with_features(2 * observation.features)


@pytest.mark.parametrize("tau", [None, 0.5])
def test_smoothed_copur_votes_at_the_purified_features(tau):
    head = mlp_head(12, 3)
    center = smoothed_copur(head, tau=tau)
    observation = copur_input(center.manifold.layout)
    decision, plain = center(observation), center.purifier(observation)
    assert torch.equal(decision.purified, plain.purified)
    assert torch.equal(decision.status, plain.status)
    # A missing block is purified, so it takes noise like the others.
    everything = torch.ones(6, 4).bool()
    votes = brute_votes(
        head,
        center.manifold.layout,
        plain.purified,
        everything,
        center.smoother.bank,
    )
    torch.testing.assert_close(decision.logits, ((votes + 0.5) / 151.5).log())
    assert not observation.observed.all()
    torch.testing.assert_close(
        center.differentiable_logits(observation),
        center.smoother.surrogate(plain.purified, everything),
        rtol=1e-3,
        atol=1e-3,
    )
    leaf = observation.features.clone().requires_grad_()
    logits = center.differentiable_logits(observation.with_features(leaf))
    (gradient,) = torch.autograd.grad(logits[:, 0].sum(), leaf)
    assert (gradient.norm(dim=1) > 0).all()


def test_smoothed_copur_gradient_against_finite_differences():
    center = smoothed_copur(mlp_head(12, 3))
    observation = copur_input(center.manifold.layout, samples=4)
    weights = normal(4, 3, seed=8)

    def value(features):
        purified = center(observation.with_features(features)).purified
        logits = center.smoother.surrogate(purified, torch.ones(4, 4).bool())
        return (weights * logits).sum(1)

    leaf = observation.features.clone().requires_grad_()
    logits = center.differentiable_logits(observation.with_features(leaf))
    (gradient,) = torch.autograd.grad((weights * logits).sum(), leaf)
    way = normal(4, 12, seed=3)
    step = 1e-3
    ends = value(leaf.detach() + step * way), value(leaf.detach() - step * way)
    slope = (ends[0] - ends[1]) / (2 * step)
    heard = center.manifold.layout.expand(observation.observed)
    mine = (torch.where(heard, gradient, 0.0) * way).sum(1)
    torch.testing.assert_close(mine, slope, rtol=0.05, atol=0.02)


def test_smoothed_copur_radius_is_around_the_purified_features():
    layout = layout_of(3, 3, 3, 3)
    head, _, distance = two_class_head(12)
    center = smoothed_copur(
        head, sigma=0.7, draws=2000, selection=0.7 * normal(100, 12, seed=1)
    )
    observation = copur_input(layout, samples=40)
    radius, chosen = center.purified_radius(observation)
    margin = distance(center(observation).purified)
    assert (radius <= margin.abs()).all()
    limit = center.facts["largest_radius"]
    within = (margin.abs() > 0.2) & (margin.abs() < 0.6 * limit)
    assert within.sum() > 3
    assert (radius > 0.9 * margin.abs() - 0.1)[within].all()
    assert torch.equal(chosen[within], (margin[within] > 0).long())


def test_a_fitted_smoothed_copur_purifies_as_copur(training):
    center = CoPurSmoothed(width=3).fit(training, generator=seeded())
    copur = CoPur(width=3).fit(training, generator=seeded())
    theirs, mine = copur(training.validation), center(training.validation)
    assert torch.equal(mine.purified, theirs.purified)
    # Noise relative to what the head is fed with: the purified features.
    scale = center.facts["sigma"] / CoPurSmoothed().sigma
    assert scale < spread(training.train)
    points = copur.manifold.reconstruct(training.train.filled(0.0).double())
    expected = (points - points.mean(0)).square().mean().sqrt()
    assert scale == pytest.approx(float(expected), rel=1e-4)
    assert center.facts["code_width"] == 3
    cohen = CoPurSmoothed(width=3, mode="cohen").fit(training, generator=seeded())
    assert cohen(training.validation).abstained.dtype == torch.bool

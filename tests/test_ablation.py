"""Randomized ablation against one pass of the base model per subset."""

import dataclasses
import itertools

import pytest
import torch

from cibench import AgentLayout, Observation, OptionError
from cibench.certify import all_subsets, drawn_subsets
from cibench.embedding import RECIPES, prepare
from cibench.execute.store import ArtifactStore
from cibench_plugins.datasets.synthetic import Synthetic
from cibench_plugins.defenses.randomized_ablation import (
    RandomizedAblation,
    _Ablation,
    _random_input,
)
from helpers import layout_of, mlp_head, normal, observation_of, seeded

LAYOUT = layout_of(2, 4, 1, 3, 2)


def center_of(layout=LAYOUT, size=2, classes=3, members=None):
    """Voting by a random base model, in float64."""
    base = mlp_head(layout.width + layout.agents, classes, seed=3)
    if members is None:
        members = all_subsets(layout.agents, size)
    return _Ablation(base, members)


def base_answers(center, observation, n, agents):
    """The base model's logits on one sample, of which only `agents` are kept."""
    layout = observation.layout
    values = torch.zeros(layout.width, dtype=torch.float64)
    mask = torch.zeros(layout.agents, dtype=torch.float64)
    for agent in agents:
        columns = layout.slices[agent]
        values[columns] = observation.features[n, columns]
        mask[agent] = 1
    return center.base(torch.cat([values, mask])[None])[0]


def plain(center, observation, size):
    """Votes per class, sample by sample and subset by subset."""
    counts, probabilities = [], []
    for n in range(len(observation)):
        heard = [i for i, o in enumerate(observation.observed[n].tolist()) if o]
        subsets = list(itertools.combinations(heard, size)) or [tuple(heard)]
        answers = [base_answers(center, observation, n, s) for s in subsets]
        tally = [0] * len(answers[0])
        for answer in answers:
            tally[int(answer.argmax())] += 1
        counts.append(tally)
        logits = torch.stack(answers)
        span = logits.amax(1) - logits.amin(1)
        logits = logits * (8 / span).clamp(max=1)[:, None]
        probabilities.append(logits.softmax(dim=1).mean(dim=0))
    return torch.tensor(counts), torch.stack(probabilities)


@pytest.fixture(scope="module")
def training():
    plugin = Synthetic(agents=5, width=4, rank=3, redundancy=0.9, samples=400)
    return prepare(
        plugin.load(),
        dataclasses.replace(RECIPES["identity"], epochs=25, agent_dropout=0.2),
        seed=0,
        store=ArtifactStore(None),
        device=torch.device("cpu"),
    )


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("layout", [LAYOUT, layout_of(3, 3, 3, 3, 3)])
def test_votes_are_those_of_one_pass_per_subset(layout, size):
    observation = observation_of(layout, 40, missing=0.4, seed=size)
    observation.observed[0] = False
    center = center_of(layout, size)
    counts, probabilities = plain(center, observation, size)
    decision = center(observation)
    assert torch.equal(decision.logits.argmax(1), counts.argmax(1))
    shares = (counts + 0.5) / (counts + 0.5).sum(1, keepdim=True)
    torch.testing.assert_close(decision.logits.exp(), shares.double())
    torch.testing.assert_close(center.surrogate(observation).exp(), probabilities)
    # The cases differ: ties, missing agents, and all subsets voting alike.
    assert len({tuple(row) for row in counts.tolist()}) >= 3


def test_ties_go_to_the_smallest_class():
    layout = layout_of(1, 1, 1, 1)
    base = mlp_head(8, 3, seed=0)
    # Agent i is heard as +-1 and votes for class 1 or 2.
    first, _, last = base
    first.weight.zero_(), first.bias.zero_(), last.weight.zero_(), last.bias.zero_()
    first.weight[0, :4], first.weight[1, :4] = 1.0, -1.0
    last.weight[1, 0] = last.weight[2, 1] = 1.0
    center = _Ablation(base, all_subsets(4, 1))
    signs = torch.tensor([[1.0, 1, -1, -1], [-1, -1, 1, -1], [-1, 1, 1, 1]]).double()
    observation = Observation(signs, torch.ones(3, 4, dtype=torch.bool), layout)
    assert center(observation).logits.argmax(1).tolist() == [1, 2, 1]
    assert center.certify(observation, 1).tolist() == [False, False, True]
    # 2 to 2 with one turned round is 1 to 3; 3 to 1 for class 2 then is a tie, and lost.
    alone = observation.without(torch.tensor([[True, True, True, False]] * 3))
    assert center.certify(alone, 0).all()
    assert not center.certify(alone, 1).any()


def test_what_a_certificate_promises():
    """No payload of one agent, silence included, moves a certified decision."""
    layout = layout_of(1, 1, 1, 1, 1)
    center = center_of(layout, size=1, classes=2)
    observation = observation_of(layout, 60, missing=0.1, seed=9)
    certified = center.certify(observation, 1)
    assert 5 < int(certified.sum()) < 60
    before = center(observation).logits.argmax(1)
    moved = torch.zeros_like(certified)
    for agent in range(5):
        own = torch.zeros_like(observation.observed)
        own[:, agent] = True
        sent = [observation.without(own)]
        for value in (-1e6, -3.0, -1.0, 0.0, 1.0, 3.0, 1e6, torch.inf):
            features = observation.features.clone()
            features[:, agent] = value
            sent.append(observation.with_features(features))
        for received in sent:
            moved |= center(received).logits.argmax(1) != before
    assert not (moved & certified).any()
    assert moved.any()


@pytest.mark.parametrize("corrupted", [0, 1, 2])
def test_a_certificate_is_about_the_sanitized_observation(corrupted):
    observation = observation_of(LAYOUT, 30, missing=0.1, seed=4)
    center = center_of(size=1, classes=2)
    features = observation.features.clone()
    features[:, LAYOUT.slices[2].start] = torch.nan
    own = torch.zeros_like(observation.observed)
    own[:, 2] = True
    torch.testing.assert_close(
        center.certify(observation.with_features(features), corrupted),
        center.certify(observation.without(own), corrupted),
    )


def test_nothing_depends_on_the_batch_or_on_missing_values():
    center = center_of()
    observation = observation_of(LAYOUT, 30, missing=0.5, seed=5)
    whole, certified = center(observation), center.certify(observation, 1)
    hidden = torch.where(LAYOUT.expand(observation.observed), 0.0, torch.nan)
    center.samples_per_chunk = 7
    order = torch.randperm(30, generator=seeded())
    noisy = observation.with_features(observation.features + hidden)[order]
    torch.testing.assert_close(center(noisy).logits, whole.logits[order])
    assert torch.equal(center.certify(noisy, 1), certified[order])


@pytest.mark.parametrize("heard", list(itertools.product([False, True], repeat=4)))
def test_finite_whoever_is_missing(heard):
    layout = layout_of(2, 1, 2, 1)
    center = center_of(layout, size=3)
    observation = observation_of(layout, 3)
    features = observation.features.clone().requires_grad_()
    observation = dataclasses.replace(
        observation, features=features, observed=torch.tensor([heard] * 3)
    )
    logits = center.differentiable_logits(observation)
    (gradient,) = torch.autograd.grad(logits[:, 0].sum(), features)
    assert center(observation).logits.isfinite().all()
    assert logits.isfinite().all()
    assert gradient.isfinite().all()
    gradients = torch.stack([gradient[:, s].abs().sum() for s in layout.slices]) > 0
    assert gradients.tolist() == list(heard)


def test_the_surrogate_follows_finite_differences():
    center = center_of(layout_of(2, 2, 2, 2, 2))
    observation = observation_of(layout_of(2, 2, 2, 2, 2), 4, missing=0.3, seed=8)
    # Logits of moderate size: larger ones are scaled, and the scale is held fixed.
    observation = observation.with_features(0.03 * observation.features)
    center.last.weight *= 0.3
    points = observation.features.clone().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda p: center.surrogate(observation.with_features(p)), points
    )


def test_a_huge_block_still_has_a_gradient():
    """In float32 a softmax of logits far apart is flat."""
    layout = layout_of(2, 2, 2, 2, 2)
    center = center_of(layout).float()
    observation = observation_of(layout, 20, seed=8)
    for size in (1e2, 1e6, 1e12):
        features = observation.features.float()
        features[:, 8:] *= size
        features.requires_grad_()
        logits = center.differentiable_logits(observation.with_features(features))
        (gradient,) = torch.autograd.grad((logits[:, 0] - logits[:, 1]).sum(), features)
        share = gradient[:, 8:].norm(dim=1) / gradient.norm(dim=1)
        assert (share > 1e-4).all()


def test_kept_agents_are_random_among_those_observed():
    observation = observation_of(LAYOUT, 4000, missing=0.3, seed=6)
    values = _random_input(observation, 2, seeded(1))
    features, mask = values[:, : LAYOUT.width], values[:, LAYOUT.width :]
    kept = mask.bool()
    assert not (kept & ~observation.observed).any()
    heard = observation.observed.sum(1)
    assert torch.equal(kept.sum(1), heard.clamp(max=2))
    expected = torch.where(LAYOUT.expand(kept), observation.features, 0.0)
    assert torch.equal(features, expected)
    full = kept[heard == 5].double().mean(0)
    assert (full - 0.4).abs().max() < 0.08
    # Fresh ones next time.
    again = _random_input(observation, 2, seeded(2))
    assert (again[:, LAYOUT.width :] != mask).any(dim=1).double().mean() > 0.5


def test_a_fitted_vote_outlasts_what_brings_the_head_down(training):
    prepared, test, labels = training
    center = RandomizedAblation(keep=2).fit(prepared, generator=seeded())
    assert center.facts == {
        "subsets": "all",
        "votes": 10,
        "certifiable_corrupted_agents": 1,
    }
    flipped = test.features.clone()
    flipped[:, test.layout.slices[4]] *= -20
    attacked = test.with_features(flipped)

    def accuracy(model, observation):
        return (model(observation).logits.argmax(1) == labels).double().mean()

    assert accuracy(center, test) > 0.85
    assert accuracy(center, attacked) > accuracy(prepared.undefended, attacked) + 0.1
    certified = center.certify(test, 1)
    same = center(test).logits.argmax(1) == center(attacked).logits.argmax(1)
    assert certified.double().mean() > 0.3
    assert same[certified].all()
    assert not center.certify(test, 5).any()


def test_fits_are_seeded_and_leave_training_alone(training):
    prepared, _, _ = training
    before = prepared.train.features.clone()
    states = [
        RandomizedAblation(keep=1).fit(prepared, generator=seeded(s)).base.state_dict()
        for s in (1, 1, 2)
    ]
    first, again, other = ({k: v.clone() for k, v in s.items()} for s in states)
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert not all(torch.equal(first[k], other[k]) for k in first)
    assert torch.equal(prepared.train.features, before)


def test_drawn_subsets_approach_the_whole_vote(training):
    prepared, test, _ = training
    # The draw comes before the training, so only the base model is taken from the fits.
    base = RandomizedAblation(keep=2).fit(prepared, generator=seeded()).base
    drawn = RandomizedAblation(keep=2, subsets=7).fit(prepared, generator=seeded())
    assert drawn.facts["votes"] == 7
    assert drawn.facts["subsets"] == "drawn"
    assert (drawn.members.sum(1) == 2).all()
    everyone = _Ablation(base, all_subsets(5, 2))(test).logits
    errors = []
    for draws in (2, 5, 9):
        found = [
            _Ablation(base, drawn_subsets(5, 2, draws, seeded(seed)))(
                test
            ).logits.softmax(1)
            for seed in range(12)
        ]
        error = torch.stack(found) - everyone.softmax(1)
        errors.append(float(error.square().mean()))
    assert errors[0] > errors[1] > errors[2]
    # Drawing as many as there are is the whole vote itself.
    assert torch.equal(
        _Ablation(base, drawn_subsets(5, 2, 10, seeded()))(test).logits, everyone
    )


@pytest.mark.parametrize("keep", [5, 6])
def test_a_subset_must_leave_somebody_out(training, keep):
    with pytest.raises(
        OptionError, match=f"keep: expected fewer agents than the 5.*{keep}"
    ):
        RandomizedAblation(keep=keep).fit(training[0], generator=seeded())


def test_memory_is_bounded_by_the_size_of_a_batch():
    agents = 12
    layout = AgentLayout(tuple("abcdefghijkl"), (8,) * agents)
    small, large = center_of(layout, 1), center_of(layout, 6)
    assert large.samples_per_chunk < small.samples_per_chunk / 50
    observation = observation_of(layout, 5)
    logits, counted = large.logits(observation)
    assert logits.shape == (5, 925, 3)
    assert counted.shape == (5, 925)


def test_answers_follow_the_dtype_of_the_input():
    center = center_of(layout_of(2, 2, 2, 2, 2)).float()
    observation = observation_of(layout_of(2, 2, 2, 2, 2), 4)
    observation = observation.with_features(normal(4, 10).float())
    assert center(observation).logits.dtype == torch.float32


def test_a_vote_on_all_agents_heard_is_not_certified():
    """Where no subset is whole, anybody heard can turn the one vote there is."""
    center = center_of(size=3)
    observation = observation_of(LAYOUT, 4)
    observation.observed[:, 2:] = False
    assert center.certify(observation, 0).all()
    assert not center.certify(observation, 1).any()

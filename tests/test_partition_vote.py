"""Partition vote against one head per group, and its certificate against payloads."""

import dataclasses
import itertools

import pytest
import torch

from cibench import OptionError
from cibench.certify import missing_tolerance
from cibench.embedding import RECIPES, prepare
from cibench.execute.store import ArtifactStore
from cibench_plugins.datasets.synthetic import Synthetic
from cibench_plugins.defenses.partition_vote import (
    PartitionVote,
    _dropped,
    _Groups,
    _Partition,
)
from helpers import layout_of, mlp_head, observation_of, seeded

LAYOUT = layout_of(2, 4, 1, 3, 2)


def center_of(layout=LAYOUT, groups=3, classes=3):
    """Voting by random heads, in float64."""
    widths = [
        sum(layout.widths[i] + 1 for i in range(g, layout.agents, groups))
        for g in range(groups)
    ]
    heads = [mlp_head(w, classes, seed=g) for g, w in enumerate(widths)]
    return _Partition(_Groups(heads, layout))


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


@pytest.mark.parametrize("groups", [2, 3, 5])
def test_votes_are_those_of_one_head_per_group(groups):
    observation = observation_of(LAYOUT, 60, missing=0.4, seed=groups)
    observation.observed[0] = False
    center = center_of(groups=groups)
    decided = center(observation).logits.argmax(1)
    kinds = set()
    for n in range(60):
        counts = [0] * 3
        for g in range(groups):
            agents = range(g, 5, groups)
            heard = [bool(observation.observed[n, i]) for i in agents]
            blocks = [
                observation.features[n, LAYOUT.slices[i]] * h
                for i, h in zip(agents, heard, strict=True)
            ]
            if any(heard):
                values = torch.cat([*blocks, torch.tensor(heard).double()])
                counts[int(center.groups.heads[g](values).argmax())] += 1
        assert int(decided[n]) == counts.index(max(counts))
        kinds.add(tuple(counts))
        shares = (torch.tensor(counts) + 0.5).double()
        torch.testing.assert_close(
            center(observation[n : n + 1]).logits[0].exp(), shares / shares.sum()
        )
    assert len(kinds) >= 4


def test_what_a_certificate_promises():
    """No payload of so many agents, silence included, moves a certified decision."""
    layout = layout_of(1, 1, 1, 1, 1, 1)
    center = center_of(layout, groups=5, classes=2)
    observation = observation_of(layout, 60, missing=0.1, seed=9)
    before = center(observation).logits.argmax(1)
    for corrupted in (1, 2):
        certified = center.certify(observation, corrupted)
        assert 3 < int(certified.sum()) < 60
        moved = torch.zeros_like(certified)
        for bad in itertools.combinations(range(6), corrupted):
            own = torch.zeros_like(observation.observed)
            own[:, list(bad)] = True
            sent = [observation.without(own)]
            for values in itertools.product(
                (-1e6, -2.0, 2.0, torch.inf), repeat=corrupted
            ):
                features = observation.features.clone()
                features[:, list(bad)] = torch.tensor(values).double()
                sent.append(observation.with_features(features))
            for received in sent:
                moved |= center(received).logits.argmax(1) != before
        assert not (moved & certified).any()
        assert moved.any()


def test_a_certificate_covers_silence_as_enumeration_finds_it():
    center = center_of(groups=5)
    observation = observation_of(LAYOUT, 80, missing=0.1, seed=2)
    tolerance = missing_tolerance(
        lambda given: center(given).logits.argmax(1), observation, 3
    )
    for corrupted in (1, 2, 3):
        certified = center.certify(observation, corrupted)
        heard = observation.observed.sum(1)
        assert (tolerance[certified] >= heard[certified].clamp(max=corrupted)).all()
    assert center.certify(observation, 1).any()


def test_refused_blocks_count_as_missing():
    observation = observation_of(LAYOUT, 30, missing=0.1, seed=4)
    center = center_of(classes=2, groups=5)
    features = observation.features.clone()
    features[:, LAYOUT.slices[2].start] = torch.nan
    own = torch.zeros_like(observation.observed)
    own[:, 2] = True
    broken = observation.with_features(features)
    for corrupted in (0, 1, 2):
        assert torch.equal(
            center.certify(broken, corrupted),
            center.certify(observation.without(own), corrupted),
        )
    assert center.certify(observation, 0).all()


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
def test_gradients_reach_whoever_is_heard(heard):
    layout = layout_of(2, 1, 2, 1)
    center = center_of(layout, groups=3)
    observation = observation_of(layout, 3)
    features = observation.features.clone().requires_grad_()
    observation = dataclasses.replace(
        observation, features=features, observed=torch.tensor([heard] * 3)
    )
    logits = center.differentiable_logits(observation)
    assert logits.isfinite().all()
    if not any(heard):
        return
    (gradient,) = torch.autograd.grad(logits[:, 0].sum(), features)
    assert gradient.isfinite().all()
    gradients = torch.stack([gradient[:, s].abs().sum() for s in layout.slices]) > 0
    assert gradients.tolist() == list(heard)


def test_of_each_group_somebody_is_kept():
    observed = torch.rand(3000, 5, generator=seeded()) < 0.7
    kept = _dropped(observed, 3, seeded(1))
    assert not (kept & ~observed).any()
    for g in range(3):
        own = slice(g, None, 3)
        assert torch.equal(kept[:, own].any(1), observed[:, own].any(1))
    # Agent 2 is alone in its group; of two heard ones about a third are dropped.
    assert torch.equal(kept[:, 2], observed[:, 2])
    both = observed[:, 0] & observed[:, 3]
    assert abs(float(kept[both, 0].double().mean()) - 0.75) < 0.05


def test_a_fitted_vote_outlasts_what_brings_the_head_down(training):
    prepared, test, labels = training
    center = PartitionVote().fit(prepared, generator=seeded())
    assert center.facts == {"votes": 5, "certifiable_corrupted_agents": 2}
    flipped = test.features.clone()
    flipped[:, test.layout.slices[4]] *= -20
    attacked = test.with_features(flipped)

    def accuracy(model, observation):
        return (model(observation).logits.argmax(1) == labels).double().mean()

    assert accuracy(center, test) > 0.8
    assert accuracy(center, attacked) > accuracy(prepared.undefended, attacked) + 0.1
    certified = center.certify(test, 1)
    same = center(test).logits.argmax(1) == center(attacked).logits.argmax(1)
    assert certified.double().mean() > 0.3
    assert same[certified].all()
    assert center.certify(test, 2).any()
    assert not center.certify(test, 3).any()


def test_fits_are_seeded_and_groups_are_as_asked_for(training):
    prepared, _, _ = training
    states = [
        PartitionVote(groups=2).fit(prepared, generator=seeded(s)).state_dict()
        for s in (1, 1, 2)
    ]
    first, again, other = ({k: v.clone() for k, v in s.items()} for s in states)
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert not all(torch.equal(first[k], other[k]) for k in first)
    shapes = {v.shape[1] for k, v in first.items() if k.endswith("0.weight")}
    assert shapes == {3 * 5, 2 * 5}
    with pytest.raises(
        OptionError,
        match="groups: expected at most the 5 agents of this data set, got 6",
    ):
        PartitionVote(groups=6).fit(prepared, generator=seeded())

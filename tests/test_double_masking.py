"""Double masking against one pass of the head per mask, and its certificate."""

import dataclasses
import itertools

import pytest
import torch

from cibench import OptionError
from cibench.certify import mask_unions, masked_decision, missing_tolerance
from cibench.embedding import RECIPES, prepare
from cibench.execute.store import ArtifactStore
from cibench_plugins.datasets.synthetic import Synthetic
from cibench_plugins.defenses.double_masking import DoubleMasking, _DoubleMasking
from helpers import layout_of, mlp_head, normal, observation_of, seeded

LAYOUT = layout_of(2, 4, 1, 3, 2)


def center_of(layout=LAYOUT, masked=1, classes=3, scale=1.0):
    """A random head, in float64; its decisions hang less on each agent for small scales."""
    head = mlp_head(layout.width, classes, seed=3)
    head[0].weight *= scale
    fill = normal(layout.width, seed=8)
    return _DoubleMasking(head, fill, *mask_unions(layout.agents, masked))


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


@pytest.mark.parametrize("masked", [1, 2])
@pytest.mark.parametrize("layout", [LAYOUT, layout_of(3, 3, 3, 3, 3)])
def test_answers_are_those_of_one_pass_per_union(layout, masked):
    observation = observation_of(layout, 40, missing=0.6, seed=masked)
    observation.observed[0] = False
    center = center_of(layout, masked)
    expected = [
        center.head(observation.without(union[None]).filled(center.fill))
        for union in center.unions
    ]
    stacked = torch.stack(expected, dim=1)
    torch.testing.assert_close(center.logits(observation, center.unions), stacked)
    decision = center(observation)
    left = (observation.observed[:, None] & ~center.unions).any(dim=2)
    nobody = ~observation.observed.any(dim=1, keepdim=True)
    answers = torch.where(left | nobody, stacked.argmax(2), -1)
    assert torch.equal(center.answers(observation), answers)
    assert (answers < 0).any()
    decided = masked_decision(answers, center.pairs, 3)
    assert torch.equal(decision.logits.argmax(1), decided)
    assert len(decided.unique()) >= 2
    first = stacked[:, : len(center.pairs)]
    spans = first.amax(2, keepdim=True) - first.amin(2, keepdim=True)
    mean = (first * (8 / spans).clamp(max=1)).softmax(2).mean(1)
    torch.testing.assert_close(center.surrogate(observation).exp(), mean)


def test_what_a_masked_agent_sends_is_not_seen_at_all():
    center = center_of(masked=1)
    observation = observation_of(LAYOUT, 20)
    clean = center.logits(observation, center.unions)
    for agent, value in itertools.product(range(5), (1e14, -1e14, 0.0)):
        features = observation.features.clone()
        features[:, LAYOUT.slices[agent]] = value
        found = center.logits(observation.with_features(features), center.unions)
        without = center.unions[:, agent]
        assert torch.equal(found[:, without], clean[:, without])
        assert not torch.equal(found[:, ~without], clean[:, ~without])


@pytest.mark.parametrize("masked", [1, 2])
def test_what_a_certificate_promises(masked):
    """No payload of so many agents, silence included, moves a certified decision."""
    layout = layout_of(1, 1, 1, 1, 1)
    center = center_of(layout, masked, classes=2, scale=0.3)
    observation = observation_of(layout, 60, missing=0.1, seed=9)
    before = center(observation).logits.argmax(1)
    for corrupted in range(1, masked + 1):
        certified = center.certify(observation, corrupted)
        assert 3 < int(certified.sum()) < 60
        moved = torch.zeros_like(certified)
        for bad in itertools.combinations(range(5), corrupted):
            own = torch.zeros_like(observation.observed)
            own[:, list(bad)] = True
            sent = [observation.without(own)]
            for values in itertools.product(
                (-1e6, -9.0, 9.0, torch.inf), repeat=corrupted
            ):
                features = observation.features.clone()
                features[:, list(bad)] = torch.tensor(values).double()
                sent.append(observation.with_features(features))
            for received in sent:
                moved |= center(received).logits.argmax(1) != before
        assert not (moved & certified).any()
        assert moved.any()


def test_a_certificate_covers_silence_as_enumeration_finds_it():
    center = center_of(scale=0.3, masked=2)
    observation = observation_of(LAYOUT, 80, missing=0.1, seed=2)
    tolerance = missing_tolerance(
        lambda given: center(given).logits.argmax(1), observation, 3
    )
    for corrupted in (1, 2):
        certified = center.certify(observation, corrupted)
        assert certified.any()
        heard = observation.observed.sum(1)
        assert (tolerance[certified] >= heard[certified].clamp(max=corrupted)).all()
    assert not center.certify(observation, 3).any()
    assert center.certify(observation, 0).all()


def test_refused_blocks_count_as_missing():
    observation = observation_of(LAYOUT, 30, missing=0.1, seed=4)
    center = center_of(classes=2, scale=0.3)
    features = observation.features.clone()
    features[:, LAYOUT.slices[2].start] = torch.nan
    own = torch.zeros_like(observation.observed)
    own[:, 2] = True
    certified = center.certify(observation.with_features(features), 1)
    assert torch.equal(certified, center.certify(observation.without(own), 1))


def test_nothing_depends_on_the_batch_or_on_missing_values():
    center = center_of(scale=0.3)
    observation = observation_of(LAYOUT, 30, missing=0.3, seed=5)
    whole, certified = center(observation), center.certify(observation, 1)
    hidden = torch.where(LAYOUT.expand(observation.observed), 0.0, torch.nan)
    center.samples_per_chunk = 7
    order = torch.randperm(30, generator=seeded())
    noisy = observation.with_features(observation.features + hidden)[order]
    torch.testing.assert_close(center(noisy).logits, whole.logits[order])
    assert torch.equal(center.certify(noisy, 1), certified[order])


def test_a_fitted_center_outlasts_what_brings_the_head_down(training):
    prepared, test, labels = training
    center = DoubleMasking().fit(prepared, generator=seeded())
    assert center.facts == {
        "masks": 5,
        "answers": 15,
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
    assert not center.certify(test, 2).any()


def test_fits_are_seeded(training):
    prepared, _, _ = training
    states = [
        DoubleMasking().fit(prepared, generator=seeded(s)).head.state_dict()
        for s in (1, 1, 2)
    ]
    first, again, other = ({k: v.clone() for k, v in s.items()} for s in states)
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert not all(torch.equal(first[k], other[k]) for k in first)


def test_masks_that_cannot_work_are_refused(training):
    prepared, _, _ = training
    with pytest.raises(OptionError, match=r"fewer than half of the 5 agents.*got 3"):
        DoubleMasking(masked=3).fit(prepared, generator=seeded())
    wide = Synthetic(agents=16, width=1, rank=2, samples=100)
    many, _, _ = prepare(
        wide.load(),
        dataclasses.replace(RECIPES["identity"], epochs=1),
        seed=0,
        store=ArtifactStore(None),
        device=torch.device("cpu"),
    )
    with pytest.raises(
        OptionError, match="at most 5000 unions of two masks, got 14756"
    ):
        DoubleMasking(masked=3).fit(many, generator=seeded())


def test_memory_is_bounded_by_the_size_of_a_batch():
    layout = layout_of(*(2,) * 10)
    small, large = center_of(layout, 1), center_of(layout, 3)
    assert large.samples_per_chunk < small.samples_per_chunk / 50

"""Agent dropout: a head that outlasts missing agents."""

import dataclasses
import itertools

import pytest
import torch

from cibench import Observation, UndefendedFusionCenter
from cibench.embedding import RECIPES, prepare
from cibench.execute.store import ArtifactStore
from cibench_plugins.datasets.synthetic import Synthetic
from cibench_plugins.defenses import _dropout_head
from cibench_plugins.defenses.agent_dropout import AgentDropout
from helpers import seeded


@pytest.fixture(scope="module")
def training():
    plugin = Synthetic(agents=5, width=4, rank=3, redundancy=0.9, samples=600)
    recipe = RECIPES["identity"]
    return prepare(
        plugin.load(),
        dataclasses.replace(recipe, epochs=40, agent_dropout=0.0, patience=40),
        seed=0,
        store=ArtifactStore(None),
        device=torch.device("cpu"),
    )


def accuracy(center, observation, labels):
    return float((center(observation).logits.argmax(1) == labels).double().mean())


def mean_over_silences(center, test, labels, count):
    """Mean accuracy over every set of `count` agents that falls silent."""
    found = []
    for gone in itertools.combinations(range(5), count):
        mask = torch.zeros_like(test.observed)
        mask[:, list(gone)] = True
        found.append(accuracy(center, test.without(mask), labels))
    return sum(found) / len(found)


def test_dropping_agents_in_training_helps_where_they_are_missing(training):
    prepared, test, labels = training
    trained = {
        chance: AgentDropout(chance=chance).fit(prepared, generator=seeded())
        for chance in (0.0, 0.5)
    }
    missing = {
        chance: mean_over_silences(center, test, labels, 3)
        for chance, center in trained.items()
    }
    assert missing[0.5] > missing[0.0] + 0.02
    assert accuracy(trained[0.5], test, labels) > 0.8


@pytest.mark.parametrize("chance", [0.0, 0.3, 0.7])
def test_the_chance_is_that_of_the_drops(monkeypatch, training, chance):
    prepared, _, _ = training
    drops = []
    original = _dropout_head.drop_agents

    def spy(observed, share, generator):
        kept = original(observed, share, generator)
        drops.append((share, kept))
        return kept

    monkeypatch.setattr(_dropout_head, "drop_agents", spy)
    short = dataclasses.replace(
        prepared, recipe=dataclasses.replace(prepared.recipe, epochs=1)
    )
    AgentDropout(chance=chance).fit(short, generator=seeded())
    steps = [kept for share, kept in drops[3:]]
    assert {share for share, _ in drops[3:]} == {chance}
    dropped = 1 - torch.cat(steps).double().mean()
    # All five at once are put back: chance**5 of the samples.
    assert abs(float(dropped) - (chance - chance**5)) < 0.04


def test_missing_blocks_are_filled_and_nothing_else_is_learned(training):
    prepared, test, _ = training
    center = AgentDropout().fit(prepared, generator=seeded())
    assert isinstance(center, UndefendedFusionCenter)
    torch.testing.assert_close(center.fill, prepared.train.features.mean(0))
    assert not any(p.requires_grad for p in center.parameters())
    gone = torch.zeros_like(test.observed)
    gone[:, 1:3] = True
    hidden = torch.where(test.layout.expand(gone), torch.nan, test.features)
    silent = Observation(hidden, ~gone, test.layout)
    filled = test.with_features(torch.where(hidden.isnan(), center.fill, hidden))
    torch.testing.assert_close(center(silent).logits, center(filled).logits)
    nobody = test.without(torch.ones_like(gone))
    expected = center.head(center.fill).expand(len(test), -1)
    torch.testing.assert_close(center(nobody).logits, expected)


def test_fits_are_seeded_and_leave_training_alone(training):
    prepared, test, _ = training
    short = dataclasses.replace(
        prepared, recipe=dataclasses.replace(prepared.recipe, epochs=3)
    )
    before = prepared.train.features.clone()
    logits = [
        AgentDropout().fit(short, generator=seeded(s))(test).logits for s in (1, 1, 2)
    ]
    assert torch.equal(logits[0], logits[1])
    assert not torch.equal(logits[0], logits[2])
    assert torch.equal(prepared.train.features, before)

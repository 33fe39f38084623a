"""Adversarial training: the inner attack step by step, and what training does with it."""

import dataclasses

import pytest
import torch
from torch import nn

from cibench import Criterion, Observation, ThreatModelError
from cibench.embedding import RECIPES, prepare
from cibench.execute.store import ArtifactStore
from cibench_plugins.datasets.synthetic import Synthetic
from cibench_plugins.defenses import _adversarial
from cibench_plugins.defenses._adversarial import Attack, _median_norms
from cibench_plugins.defenses.adversarial_training import AdversarialTraining
from cibench_plugins.defenses.block_adversarial_training import (
    BlockAdversarialTraining,
)
from helpers import everyone, layout_of, linear_head, mlp_head, observation_of, seeded

LAYOUT = layout_of(2, 4, 3)
FILL = torch.arange(9, dtype=torch.float64)
BOTH = [AdversarialTraining, BlockAdversarialTraining]


def attack_of(**options):
    default = {"fill": FILL, "steps": 4, "step": 0.5, "radius": None}
    return Attack(**{**default, **options})


@pytest.fixture(scope="module")
def training():
    plugin = Synthetic(agents=4, width=3, rank=3, redundancy=0.8, samples=300)
    return prepare(
        plugin.load(),
        dataclasses.replace(RECIPES["identity"], epochs=25, head=16),
        seed=0,
        store=ArtifactStore(None),
        device=torch.device("cpu"),
    )


# The inner attack


@pytest.mark.parametrize("target", [None, 1])
def test_steps_are_plain_gradient_steps_on_cross_entropy(target):
    """One sample at a time, with the softmax written out."""
    head = linear_head(9, 3)
    observation = observation_of(LAYOUT, 12, missing=0.4)
    labels = torch.arange(12) % 3
    goal = None if target is None else torch.full_like(labels, target)
    moved = torch.rand(12, 3, generator=seeded(5)) < 0.6
    found = attack_of()(head, observation, Criterion(labels, goal), moved)
    for n in range(12):
        point = observation.filled(FILL)[n].clone()
        wanted, sign = (labels[n], 1.0) if goal is None else (goal[n], -1.0)
        for _ in range(4):
            probabilities = (head.weight @ point + head.bias).softmax(0)
            gradient = head.weight.T @ (
                probabilities - nn.functional.one_hot(wanted, 3)
            )
            for agent, columns in enumerate(LAYOUT.slices):
                free = moved[n, agent] and observation.observed[n, agent]
                if free and (goal is None or goal[n] != labels[n]):
                    point[columns] += sign * 0.5 * gradient[columns]
        torch.testing.assert_close(found[n], point)


def test_missing_blocks_stay_filled_and_say_nothing():
    observation = observation_of(LAYOUT, 20, missing=0.5)
    assert not observation.observed.all()
    hidden = torch.where(LAYOUT.expand(observation.observed), 0.0, torch.nan)
    noisy = observation.with_features(observation.features + hidden)
    criterion = Criterion(torch.zeros(20, dtype=torch.long))
    moved = torch.ones_like(observation.observed)
    head = mlp_head(9, 2)
    found = attack_of()(head, noisy, criterion, moved)
    assert torch.equal(found, attack_of()(head, observation, criterion, moved))
    fixed = ~LAYOUT.expand(observation.observed)
    assert torch.equal(found[fixed], FILL.expand(20, 9)[fixed])
    # A loss is higher, and neither the observation nor the head was written into.
    clean = observation.filled(FILL)
    losses = [
        nn.functional.cross_entropy(head(x), criterion.labels) for x in (clean, found)
    ]
    assert losses[1] > losses[0] + 0.1
    assert all(p.grad is None for p in head.parameters())


@pytest.mark.parametrize("budget", [0.1, 2.0])
def test_a_budget_holds_block_by_block_and_is_used_up(budget):
    """Towards a linear head the worst point of a ball is known: straight ahead."""
    head = linear_head(9, 2)
    clean = everyone(observation_of(LAYOUT, 10).features, LAYOUT)
    radius = budget * torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
    labels = torch.arange(10) % 2
    moved = torch.ones_like(clean.observed)
    found = attack_of(radius=radius, steps=30)(head, clean, Criterion(labels), moved)
    change = found - clean.features
    torch.testing.assert_close(
        LAYOUT.block_norms(change), radius.expand(10, 3), rtol=1e-5, atol=0
    )
    away = (head.weight[1 - labels] - head.weight[labels]).double()
    cosine = [
        nn.functional.cosine_similarity(change[:, s], away[:, s]) for s in LAYOUT.slices
    ]
    assert torch.stack(cosine).min() > 1 - 1e-9


def test_median_norms_are_those_of_heard_blocks():
    observation = observation_of(LAYOUT, 31, missing=0.4)
    observation.observed[:, 2] = False
    for agent, columns in enumerate(LAYOUT.slices):
        heard = observation.features[observation.observed[:, agent], columns]
        expected = heard.norm(dim=1).median() if len(heard) else 0.0
        found = _median_norms(observation)[agent]
        torch.testing.assert_close(found, torch.as_tensor(expected, dtype=found.dtype))


def test_at_moves_every_observed_block_and_bat_one_at_random():
    observed = torch.rand(6000, 3, generator=seeded()) < 0.7
    assert torch.equal(AdversarialTraining.choose(observed, seeded(1)), observed)
    chosen = BlockAdversarialTraining.choose(observed, seeded(1))
    assert not (chosen & ~observed).any()
    assert torch.equal(chosen.sum(1), observed.any(1).long())
    assert not observed.any(1).all()
    full = chosen[observed.all(1)].double().mean(0)
    assert (full - 1 / 3).abs().max() < 0.05


# Training


def accuracy(model, observation, labels):
    return float((model(observation).logits.argmax(1) == labels).double().mean())


def bounded(model, training, observation, labels, budget, agents=None):
    """The observation under a bounded attack on the model's own head."""
    radius = budget * _median_norms(training.train)
    attack = Attack(fill=model.fill, steps=30, step=1.0, radius=radius)
    moved = torch.ones_like(observation.observed)
    if agents is not None:
        moved[:] = False
        moved[:, agents] = True
    found = attack(model.head, observation, Criterion(labels), moved)
    return observation.with_features(found)


@pytest.mark.parametrize(("defense", "agents"), [(BOTH[0], None), (BOTH[1], [0])])
def test_bounded_training_helps_against_the_attack_it_prepares_for(
    training, defense, agents
):
    prepared, test, labels = training
    budget = 0.25 if agents is None else 1.0
    model = defense(budget=budget, steps=10).fit(prepared, generator=seeded())
    plain = prepared.undefended
    under = [
        accuracy(m, bounded(m, prepared, test, labels, budget, agents), labels)
        for m in (plain, model)
    ]
    assert under[1] > under[0] + 0.03
    assert accuracy(model, test, labels) > 0.7


def test_all_clean_is_ordinary_training(training):
    """With nothing attacked AT, BAT and every attack option give the same head."""
    prepared, _, _ = training
    options = {"clean_fraction": 1.0, "epochs": 3}
    first = AdversarialTraining(**options).fit(prepared, generator=seeded())
    same = AdversarialTraining(step=9.0, steps=2, **options)
    again = same.fit(prepared, generator=seeded())
    attacked = AdversarialTraining(epochs=3).fit(prepared, generator=seeded())
    for a, b, c in zip(
        first.parameters(), again.parameters(), attacked.parameters(), strict=True
    ):
        assert torch.equal(a, b)
        assert not torch.equal(a, c)
    assert accuracy(first, prepared.train, prepared.train_labels) > 0.6


def spied(monkeypatch, training, **options):
    """The loss function given to the optimizer, and the head it trains."""
    seen = {}

    def spy(head, loss, validation_loss, **rest):
        seen.update(head=head, loss=loss, validation_loss=validation_loss, **rest)
        return 0.0

    monkeypatch.setattr(_adversarial, "minimize", spy)
    AdversarialTraining(**options).fit(training, generator=seeded())
    seen["head"].requires_grad_()
    return seen


def gradient_norm(seen, n):
    gradients = torch.autograd.grad(
        seen["loss"](torch.arange(n)), seen["head"].parameters()
    )
    return float(torch.cat([g.flatten() for g in gradients]).norm())


def test_a_gradient_is_clipped_to_its_norm(monkeypatch, training):
    prepared, _, _ = training
    free = gradient_norm(spied(monkeypatch, prepared, clip=1e9), 40)
    for clip in (0.1 * free, 0.9 * free, 1.1 * free):
        found = gradient_norm(spied(monkeypatch, prepared, clip=clip), 40)
        assert found == pytest.approx(min(clip, free), rel=1e-5)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_validation_loss_weighs_clean_and_attacked(monkeypatch, training, share):
    prepared, _, _ = training
    seen = spied(monkeypatch, prepared, clean_fraction=share, steps=3)
    with torch.no_grad():
        found = seen["validation_loss"]()
    labels, fill = prepared.validation_labels, prepared.undefended.fill
    attack = Attack(fill=fill, steps=3, step=0.5, radius=None)
    moved = torch.ones_like(prepared.validation.observed)
    head = seen["head"].requires_grad_(False)
    values = attack(head, prepared.validation, Criterion(labels), moved)
    loss = nn.functional.cross_entropy
    clean = loss(head(prepared.validation.filled(fill)), labels)
    attacked = loss(head(values), labels)
    assert attacked > clean + 0.01
    torch.testing.assert_close(found, share * clean + (1 - share) * attacked)


def test_training_is_bounded_in_epochs(monkeypatch, training):
    prepared, _, _ = training
    assert spied(monkeypatch, prepared, epochs=7)["epochs"] == 7
    assert spied(monkeypatch, prepared, epochs=700)["epochs"] == prepared.recipe.epochs


@pytest.mark.parametrize("defense", BOTH)
def test_fits_are_seeded_and_leave_training_alone(training, defense):
    prepared, test, _ = training
    before = [prepared.train.features.clone(), *prepared.undefended.parameters()]
    before = [tensor.clone() for tensor in before]
    fits = [
        defense(epochs=2, steps=2).fit(prepared, generator=seeded(s)) for s in (1, 1, 2)
    ]
    logits = [fitted(test).logits for fitted in fits]
    assert torch.equal(logits[0], logits[1])
    assert not torch.equal(logits[0], logits[2])
    after = [prepared.train.features, *prepared.undefended.parameters()]
    assert all(map(torch.equal, before, after))
    assert not any(p.requires_grad for p in fits[0].parameters())


@pytest.mark.parametrize("defense", BOTH)
@pytest.mark.parametrize("target", ["any", "other", "0", "1"])
def test_targets_of_the_training_attack(training, defense, target):
    prepared, test, _ = training
    fitted = defense(target=target, epochs=2, steps=3).fit(prepared, generator=seeded())
    nobody = dataclasses.replace(test, observed=torch.zeros_like(test.observed))
    assert fitted(nobody).logits.isfinite().all()
    logits = fitted(test).logits
    hidden = Observation(
        torch.full_like(test.features, torch.nan), nobody.observed, test.layout
    )
    torch.testing.assert_close(fitted(hidden).logits, fitted(nobody).logits)
    assert logits.shape == (len(test), 2)


def test_a_target_is_a_class_of_the_data_set(training):
    with pytest.raises(ThreatModelError, match="target: expected any, other, a class"):
        AdversarialTraining(target="2").fit(training[0], generator=seeded())


def test_two_targets_train_different_heads(training):
    prepared, test, _ = training
    shares = {
        target: float(
            AdversarialTraining(target=target, steps=10)
            .fit(prepared, generator=seeded())(test)
            .logits.argmax(1)
            .double()
            .mean()
        )
        for target in ("0", "1")
    }
    # A head that must resist being driven to a class leans away from it.
    assert shares["0"] > shares["1"]

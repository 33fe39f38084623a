"""Defenses that drop agents, as an adversary who knows them sees them."""

import dataclasses

import pytest
import torch

from cibench import Criterion, Knowledge, Victim
from cibench.embedding import RECIPES, prepare
from cibench.execute.store import ArtifactStore
from cibench_plugins.attacks.pgd import PGD
from cibench_plugins.attacks.replay import Replay
from cibench_plugins.datasets.synthetic import Synthetic
from cibench_plugins.defenses.copur_refit import CoPurRefit
from cibench_plugins.defenses.l0_consensus import L0Consensus
from cibench_plugins.defenses.leave_one_out import LeaveOneOut
from cibench_plugins.defenses.vflip import VFLIP
from helpers import seeded

BAD = (1, 4)


@pytest.fixture(scope="module")
def noisy():
    """Training, clean test embeddings and labels: seven agents that agree loosely."""
    plugin = Synthetic(agents=7, width=6, rank=3, noise=0.6, samples=400)
    training, test, labels = prepare(
        plugin.load(),
        dataclasses.replace(RECIPES["identity"], epochs=20),
        seed=0,
        store=ArtifactStore(None),
        device=torch.device("cpu"),
    )
    return training, test[:60], labels[:60]


@pytest.fixture(
    scope="module",
    params=[CoPurRefit(width=4), L0Consensus(width=4), LeaveOneOut(), VFLIP(epochs=20)],
    ids=lambda defense: defense.name,
)
def center(request, noisy):
    return request.param.fit(noisy[0], generator=seeded()).eval()


def flipped(observation, amplification):
    """The corrupted agents' blocks turned round."""
    factor = torch.ones(observation.layout.agents)
    factor[list(BAD)] = -amplification
    wide = observation.layout.expand(factor[None])
    return observation.with_features(observation.features * wide)


def jacobian(center, observation, of):
    leaf = observation.features.clone().requires_grad_()
    value = of(center, observation.with_features(leaf))
    return torch.autograd.grad(value, leaf)[0]


def test_where_nobody_is_dropped_it_is_the_decisions_own_derivative(center, noisy):
    test = noisy[1]
    kept = (center.rest(test).observed == test.observed).all(dim=1)
    assert kept.sum() > 20
    found, expected = (
        jacobian(center, test[kept], of)
        for of in (
            lambda c, o: c.differentiable_logits(o)[:, 0].sum(),
            lambda c, o: c.inner.surrogate(o)[:, 0].sum(),
        )
    )
    assert torch.equal(found, expected)
    assert (found != 0).any()


@pytest.mark.parametrize("amplification", [1.0, 20.0, 1e4])
def test_a_dropped_block_has_a_derivative(center, noisy, amplification):
    test = flipped(noisy[1], amplification)
    dropped = test.observed & ~center.rest(test).observed
    caught = dropped[:, list(BAD)].all(dim=1)
    assert caught.float().mean() > (0.3 if amplification == 1 else 0.8)
    gradient = jacobian(
        center, test, lambda c, o: c.differentiable_logits(o)[:, 0].sum()
    )
    assert gradient.isfinite().all()
    norms = test.layout.block_norms(gradient)
    assert (norms[caught][:, list(BAD)] > 0).all()


def test_suspicion_rises_with_what_is_sent_and_is_1_at_the_threshold(center, noisy):
    test = noisy[1]
    wide = test.with_features(test.features.double())
    weak, strong = (center.suspicion(flipped(wide, a)) for a in (2.0, 20.0))
    assert weak.shape == test.observed.shape
    assert weak.isfinite().all()
    assert (strong > weak)[:, list(BAD)].double().mean() > 0.95
    quiet = (center.rest(test).observed == test.observed).all(dim=1)
    assert center.suspicion(wide)[quiet].median() < 1 < weak[:, list(BAD)].median()


def test_the_derivative_of_suspicion_against_finite_differences(center, noisy):
    test = flipped(noisy[1][:8], 3.0)
    test = test.with_features(test.features.double())
    gradient = jacobian(center, test, lambda c, o: c.suspicion(o)[:, BAD[0]].sum())
    step = torch.randn(test.features.shape, generator=seeded(1), dtype=torch.float64)
    step = torch.where(test.layout.expand(test.observed), step, 0.0)

    def along(size):
        moved = test.with_features(test.features + size * step)
        return center.suspicion(moved)[:, BAD[0]].sum()

    numeric = (along(1e-5) - along(-1e-5)) / 2e-5
    torch.testing.assert_close((gradient * step).sum(), numeric, rtol=1e-3, atol=1e-5)


def test_knowing_the_defense_beats_asking_it(center, noisy):
    training, test, labels = noisy
    own = torch.zeros_like(test.observed)
    own[:, list(BAD)] = True
    criterion = Criterion.of("any", labels, ("a", "b"))

    def left(attack, knowledge):
        victim = Victim(
            knowledge,
            undefended=training.undefended,
            defended=center,
            own=own,
            recorded=(training.train, training.train_labels),
        )
        sent = attack.run(
            victim, test, criterion, compromised=own, radius=None, generator=seeded()
        )
        return int((center(sent).logits.argmax(1) == labels).sum()), victim

    knowing, victim = left(PGD(), Knowledge.ADAPTIVE)
    asking, _ = left(Replay(donor="search", knowledge="query"), Knowledge.QUERY)
    assert victim.unusable < 0.01 * victim.gradients
    assert knowing < asking

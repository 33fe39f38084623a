"""Collusion against closed forms, a search, and CoPur on manifolds of known constants."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from cibench import Criterion, Decision, FusionCenter, Knowledge, Observation, Victim
from cibench.manifold import differentiable_code, robust_fit
from cibench_plugins.attacks._outweigh import Outweigh
from cibench_plugins.attacks.collusion import Collusion
from cibench_plugins.attacks.flip import Flip
from cibench_plugins.attacks.gaussian import Gaussian
from helpers import affine_manifold, everyone, identical_blocks, normal, seeded

N = 30


class Purifying(FusionCenter):
    """CoPur's first stage, and a linear head on what it finds."""

    def __init__(self, manifold, classes=2):
        super().__init__()
        self.manifold = manifold
        self.weight = normal(manifold.rank, classes, seed=8)

    def _logits(self, code):
        return (code - self.manifold.encode(self.manifold.mean[None])) @ self.weight

    def decide(self, observation):
        return Decision(
            logits=self._logits(robust_fit(self.manifold, observation).code)
        )

    def surrogate(self, observation):
        with torch.no_grad():
            fit = robust_fit(self.manifold, observation)
        return self._logits(differentiable_code(self.manifold, observation, fit.code))


def scene(manifold, *agents):
    """A center, samples on its manifold, their answers, and a mask of the agents."""
    center = Purifying(manifold)
    points = manifold.decode(normal(N, manifold.rank, seed=3))
    clean = everyone(points, manifold.layout)
    criterion = Criterion(center(clean).logits.argmax(dim=1))
    mask = torch.zeros(N, manifold.layout.agents, dtype=torch.bool)
    mask[:, list(agents)] = True
    return center, clean, criterion, mask


def accuracy(attack, center, clean, criterion, mask):
    manifold = center.manifold
    recorded = everyone(
        manifold.decode(normal(200, manifold.rank, seed=9)), manifold.layout
    )
    victim = Victim(
        Knowledge.ADAPTIVE if attack.name == "collusion" else Knowledge.OBLIVIOUS,
        undefended=center,
        defended=center,
        own=mask,
        recorded=(recorded, torch.zeros(200, dtype=torch.long)),
    )
    sent = attack(
        victim, clean, criterion, compromised=mask, radius=None, generator=seeded(1)
    )
    honest = ~manifold.layout.expand(mask)
    assert torch.equal(sent.features[honest], clean.features[honest])
    return float((~criterion.succeeded(center(sent).logits)).double().mean())


@pytest.mark.parametrize("count", [1, 2, 3])
def test_identical_blocks_outweigh_by_their_number(count):
    """Every shift is as long on every block: the ratio is q over M - q."""
    manifold = identical_blocks(5, 3)
    observed = torch.ones(1, 5, dtype=torch.bool)
    corrupted = torch.arange(5)[None] < count
    outweigh = Outweigh(manifold, observed, corrupted)
    theirs, honest = outweigh.sides(outweigh.most(seeded()))
    assert theirs / honest == pytest.approx(count / (5 - count))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_ascent_finds_what_a_search_finds(seed):
    manifold = affine_manifold((2, 3, 2, 3), 3, seed=seed)
    observed = torch.ones(1, 4, dtype=torch.bool)
    corrupted = torch.tensor([[True, False, True, False]])
    outweigh = Outweigh(manifold, observed, corrupted)

    def against(shift):
        theirs, honest = outweigh.sides(torch.from_numpy(shift)[None])
        return -float(theirs / honest)

    rng = np.random.default_rng(seed)
    options = {"maxiter": 4000, "xatol": 1e-9, "fatol": 1e-12}
    searched = max(
        -minimize(
            against, rng.normal(size=3), method="Nelder-Mead", options=options
        ).fun
        for _ in range(8)
    )
    theirs, honest = outweigh.sides(outweigh.most(seeded()))
    assert float(theirs / honest) == pytest.approx(searched, rel=1e-4)


def test_a_direction_honest_agents_do_not_see_is_found():
    manifold = affine_manifold((2, 2, 6), 5)
    corrupted = torch.tensor([[False, False, True]])
    outweigh = Outweigh(manifold, torch.ones(1, 3, dtype=torch.bool), corrupted)
    theirs, honest = outweigh.sides(outweigh.most(seeded()))
    assert theirs / honest > 1e4


def test_the_slope_of_the_excess_is_its_derivative():
    manifold = affine_manifold((2, 3, 2), 3)
    corrupted = torch.tensor([[True, False, False]]).expand(4, 3)
    outweigh = Outweigh(manifold, torch.ones(4, 3, dtype=torch.bool), corrupted)
    shift, step = normal(4, 3, seed=1), 1e-6
    value, slope = outweigh.excess(shift, 1.1)
    for column in range(3):
        ahead = shift.clone()
        ahead[:, column] += step
        difference = (outweigh.excess(ahead, 1.1)[0] - value) / step
        assert torch.allclose(slope[:, column], difference, atol=1e-4)


@pytest.mark.parametrize("seed", [1, 4])
def test_it_defeats_copur_where_its_condition_fails_and_flips_and_noise_do_not(seed):
    """The corrupted blocks of some shift outweigh the honest ones: c(T) below 1/2."""
    manifold = affine_manifold((4,) * 6, 8, seed=seed)
    center, clean, criterion, mask = scene(manifold, 4, 5)
    outweigh = Outweigh(manifold, clean.observed, mask)
    theirs, honest = outweigh.sides(outweigh.most(seeded()))
    assert (1 / (1 + theirs / honest) < 0.5).all()
    assert accuracy(Collusion(width=8), center, clean, criterion, mask) < 0.2
    assert accuracy(Flip(), center, clean, criterion, mask) > 0.95
    assert accuracy(Gaussian(), center, clean, criterion, mask) > 0.95


@pytest.mark.parametrize("count", [1, 2])
def test_where_the_condition_holds_nothing_moves_copur(count):
    """Identical blocks of five agents: c = 1 - q / 5, above 1/2 for one and two."""
    agents = range(5 - count, 5)
    center, clean, criterion, mask = scene(identical_blocks(5, 3), *agents)
    for attack in (Collusion(width=3), Flip(), Gaussian()):
        assert accuracy(attack, center, clean, criterion, mask) == 1.0


def test_three_of_five_identical_agents_decide():
    center, clean, criterion, mask = scene(identical_blocks(5, 3), 2, 3, 4)
    assert accuracy(Collusion(width=3), center, clean, criterion, mask) == 0.0


def test_without_a_width_it_tries_several_and_keeps_the_best():
    manifold = affine_manifold((4,) * 6, 8, seed=4)
    center, clean, criterion, mask = scene(manifold, 3, 4, 5)
    assert accuracy(Collusion(steps=10), center, clean, criterion, mask) < 0.3


def test_a_missing_agent_is_on_neither_side():
    manifold = identical_blocks(5, 3)
    observed = torch.tensor([[True, True, False, True, True]])
    corrupted = torch.tensor([[False, False, True, True, True]])
    outweigh = Outweigh(manifold, observed, corrupted)
    theirs, honest = outweigh.sides(normal(1, 3))
    assert theirs == pytest.approx(float(honest))


def test_a_budget_is_kept_while_it_chooses():
    manifold = identical_blocks(5, 3)
    center, clean, criterion, mask = scene(manifold, 2, 3, 4)
    victim = Victim(
        Knowledge.ADAPTIVE, undefended=center, defended=center, own=mask,
        recorded=(clean, criterion.labels),
    )  # fmt: skip
    radius = torch.full((5,), 0.05, dtype=torch.float64)
    sent = Collusion(width=3).run(
        victim, clean, criterion, compromised=mask, radius=radius, generator=seeded(1)
    )
    change = manifold.layout.block_norms(sent.features - clean.features)
    assert (change <= 0.05).all()
    assert isinstance(sent, Observation)

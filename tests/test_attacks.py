"""The shipped attacks against closed forms and plain re-implementations."""

from functools import partial

import pytest
import torch

from cibench import Criterion, Knowledge, Observation, Victim
from cibench_plugins.attacks._descent import Adam, Steepest, block_scale, descend
from cibench_plugins.attacks.flip import Flip
from cibench_plugins.attacks.missing import Missing
from cibench_plugins.attacks.none import NoAttack
from cibench_plugins.attacks.pgd import PGD
from cibench_plugins.attacks.pgd_paper import PaperPGD
from helpers import (
    Plain,
    everyone,
    layout_of,
    linear_head,
    mlp_head,
    normal,
    observation_of,
    seeded,
)

LAYOUT = layout_of(2, 4, 3)


def mask_of(samples, *agents, layout=LAYOUT):
    mask = torch.zeros(samples, layout.agents, dtype=torch.bool)
    mask[:, list(agents)] = True
    return mask


def launch(attack, center, clean, criterion, compromised, radius=None, seed=0):
    """The result, and the victim with its counts."""
    victim = Victim(
        attack.threat.knowledge,
        undefended=center,
        defended=center,
    )
    result = attack(
        victim,
        clean,
        criterion,
        compromised=compromised,
        radius=radius,
        generator=seeded(seed),
    )
    return result, victim


def answers_of(center, clean):
    return center(clean).logits.argmax(dim=1)


@pytest.fixture
def linear():
    """A linear center, clean samples and their answers as labels."""
    center = Plain(linear_head(LAYOUT.width, 2, seed=1))
    clean = observation_of(LAYOUT, 25, seed=2)
    return center, clean, Criterion(answers_of(center, clean))


@pytest.fixture
def curved():
    center = Plain(mlp_head(LAYOUT.width, 3, seed=3))
    clean = observation_of(LAYOUT, 25, seed=4)
    return center, clean, Criterion(answers_of(center, clean))


ATTACKS = [
    NoAttack(),
    Flip(),
    Missing(),
    PGD(steps=3, restarts=2),
    PGD(steps=3, loss="ce", knowledge="fusion"),
    PaperPGD(steps=3, target="any"),
]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda a: a.name)
def test_without_compromised_agents_nothing_changes(attack, curved):
    center, clean, criterion = curved
    result, _ = launch(attack, center, clean, criterion, mask_of(25))
    assert torch.equal(result.features, clean.features)
    assert torch.equal(result.observed, clean.observed)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda a: a.name)
def test_honest_blocks_and_missing_agents_stay(attack, curved):
    center, _, criterion = curved
    clean = observation_of(LAYOUT, 25, missing=0.3, seed=4)
    hidden = ~LAYOUT.expand(clean.observed)
    clean = clean.with_features(clean.features.masked_fill(hidden, torch.nan))
    result, _ = launch(attack, center, clean, criterion, mask_of(25, 0, 2))
    honest = LAYOUT.expand(mask_of(25, 1))
    kept = torch.where(hidden, 0.0, result.features)[honest]
    assert torch.equal(kept, torch.where(hidden, 0.0, clean.features)[honest])
    assert not (result.observed & ~clean.observed).any()
    assert torch.isfinite(center(result).logits).all()


def test_none_knows_nobody():
    assert NoAttack().threat.agents.fixed(LAYOUT) == ()
    assert not NoAttack().may_corrupt


@pytest.mark.parametrize("amplification", [1.0, 20.0])
def test_flip_sends_the_negative_amplified(amplification, linear):
    center, clean, criterion = linear
    attack = Flip(amplification=amplification)
    result, victim = launch(attack, center, clean, criterion, mask_of(25, 1))
    assert torch.equal(result.features[:, 2:6], -amplification * clean.features[:, 2:6])
    assert (victim.queries, victim.gradients) == (0, 0)
    assert attack.threat.knowledge is Knowledge.OBLIVIOUS


def test_missing_silences_and_sends_nothing(linear):
    center, clean, criterion = linear
    result, victim = launch(Missing(), center, clean, criterion, mask_of(25, 0, 2))
    assert torch.equal(result.observed, mask_of(25, 1))
    assert torch.equal(result.features, clean.features)
    assert (victim.queries, victim.gradients) == (0, 0)
    assert (Missing.may_drop, Missing.may_corrupt) == (True, False)


# PGD


@pytest.mark.parametrize("loss", ["margin", "ce"])
@pytest.mark.parametrize("agents", [(1,), (0, 2)])
@pytest.mark.parametrize("size", [0.3, 3.0])
def test_pgd_finds_the_optimum_of_a_linear_center(linear, agents, size, loss):
    """Each block along the difference of the two classes' weights, at the radius."""
    center, clean, criterion = linear
    radius = size * torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
    attack = PGD(budget=1.0, loss=loss)
    mask = mask_of(25, *agents)
    result, _ = launch(attack, center, clean, criterion, mask, radius)
    weight = center.head.weight
    sign = torch.where(criterion.labels == 1, 1.0, -1.0).double()
    towards = sign[:, None] * (weight[0] - weight[1])
    best = clean.features.clone()
    for agent in agents:
        own = LAYOUT.slices[agent]
        unit = torch.nn.functional.normalize(towards[:, own], dim=1)
        best[:, own] += radius[agent] * unit
    optimum = criterion.margin(center(clean.with_features(best)).logits)
    reached = criterion.margin(center(result).logits)
    before = criterion.margin(center(clean).logits)
    share = (before - reached) / (before - optimum)
    assert (share > 0.99).all()
    assert (share < 1 + 1e-9).all()
    assert (LAYOUT.block_norms(result.features - clean.features) <= radius).all()


def test_pgd_breaks_an_undefended_network_through_one_agent():
    layout = layout_of(6, 6, 6, 6)
    center = Plain(mlp_head(24, 5, seed=5, hidden=32))
    clean = observation_of(layout, 200, seed=6)
    criterion = Criterion(answers_of(center, clean))
    result, _ = launch(PGD(), center, clean, criterion, mask_of(200, 3, layout=layout))
    survived = ~criterion.succeeded(center(result).logits)
    assert survived.double().mean() < 0.02


@pytest.mark.parametrize("unit", [1e-4, 1e4])
def test_pgd_does_not_depend_on_the_units_of_an_embedding(unit):
    layout = layout_of(6, 6, 6)
    head = mlp_head(18, 3, seed=5, hidden=32)
    clean = observation_of(layout, 50, seed=6)
    criterion = Criterion(answers_of(Plain(head), clean))

    class Scaled(torch.nn.Module):
        def forward(self, features):
            return head(features / unit)

    run = partial(launch, PGD(steps=10), compromised=mask_of(50, 2))
    here, _ = run(Plain(head), clean, criterion)
    there, _ = run(
        Plain(Scaled()), clean.with_features(unit * clean.features), criterion
    )
    torch.testing.assert_close(
        there.features / unit, here.features, rtol=1e-6, atol=1e-6
    )


def test_pgd_reaches_a_target(curved):
    center, clean, criterion = curved
    target = (criterion.labels + 1) % 3
    goal = Criterion(criterion.labels, target)
    result, _ = launch(PGD(target="1"), center, clean, goal, mask_of(25, 0, 1, 2))
    assert torch.equal(center(result).logits.argmax(1), target)


def test_pgd_counts_its_gradients_and_is_reproducible(curved):
    center, clean, criterion = curved
    run = partial(launch, PGD(steps=4, restarts=3), center, clean, criterion)
    first, victim = run(mask_of(25, 1))
    assert (victim.gradients, victim.queries) == (3 * 5 * 25, 0)
    assert torch.equal(run(mask_of(25, 1))[0].features, first.features)
    assert not torch.equal(run(mask_of(25, 1), seed=1)[0].features, first.features)


def test_more_restarts_never_hurt(curved):
    center, clean, criterion = curved
    margins = [
        criterion.margin(
            center(
                launch(
                    PGD(steps=3, restarts=restarts, step=0.1),
                    center,
                    clean,
                    criterion,
                    mask_of(25, 1),
                )[0]
            ).logits
        )
        for restarts in (1, 4, 8)
    ]
    assert (margins[1] <= margins[0]).all()
    assert (margins[2] <= margins[1]).all()
    assert (margins[2] < margins[0]).any()


def test_restarts_are_judged_inside_the_budget(curved):
    """A random start far outside of the ball must not count as the best iterate."""
    center, clean, criterion = curved
    radius = torch.full((3,), 0.05, dtype=torch.float64)
    mask = mask_of(25, 1)
    found = {}
    for restarts in (1, 5):
        attack = PGD(budget=1.0, steps=1, restarts=restarts)
        result, _ = launch(attack, center, clean, criterion, mask, radius)
        found[restarts] = criterion.margin(center(result).logits)
    assert (found[5] <= found[1] + 1e-12).all()


class Scripted:
    """A victim whose margins follow a script, whatever it is shown."""

    def __init__(self, margins):
        self.margins = iter(margins)
        self.seen = []

    def loss_gradient(self, observation, loss):
        self.seen.append(observation.features.clone())
        margin = next(self.margins)
        logits = torch.stack([margin, torch.zeros_like(margin)], dim=1)
        loss(logits)
        return torch.ones_like(observation.features), logits


@pytest.mark.parametrize("rule", [Steepest(0.5), Adam(torch.tensor(0.5))])
def test_the_best_iterate_is_kept_sample_by_sample(rule):
    """The loss of the first sample rises after step 2, that of the second falls on."""
    script = torch.tensor([[1, 0.5, -2, 0.3, 4], [1, 2, 0.9, 0.8, -0.25]]).double().T
    victim = Scripted(script)
    clean = everyone(normal(2, 9), LAYOUT)
    best, margin = descend(
        victim,
        clean,
        Criterion(torch.zeros(2, dtype=torch.long)),
        start=clean.features,
        movable=LAYOUT.expand(mask_of(2, 1)),
        steps=4,
        rule=rule,
        loss=Criterion.margin,
        radius=None,
    )
    assert margin.tolist() == [-2.0, -0.25]
    assert torch.equal(best[0], victim.seen[2][0])
    assert torch.equal(best[1], victim.seen[4][1])
    assert not torch.equal(victim.seen[2][0], clean.features[0])


def test_a_gradient_that_is_not_finite_moves_nothing():
    class Broken(Scripted):
        def loss_gradient(self, observation, loss):
            gradient, logits = super().loss_gradient(observation, loss)
            return gradient * torch.nan, logits

    clean = everyone(normal(2, 9), LAYOUT)
    best, _ = descend(
        Broken(torch.ones(4, 2).double()),
        clean,
        Criterion(torch.zeros(2, dtype=torch.long)),
        start=clean.features,
        movable=LAYOUT.expand(mask_of(2, 1)),
        steps=3,
        rule=Adam(torch.tensor(0.5)),
        loss=Criterion.margin,
        radius=torch.ones(3),
    )
    assert torch.equal(best, clean.features)


def test_block_scale_is_the_root_mean_square_of_what_was_observed():
    features = torch.tensor(
        [[3.0, 4, 1, 1, 1, 1, 2, 2, 2], [9] * 2 + [3] * 4 + [9] * 3]
    )
    observed = torch.tensor([[True, True, True], [False, True, False]])
    scale = block_scale(Observation(features, observed, LAYOUT))
    expected = [12.5**0.5] * 2 + [5**0.5] * 4 + [2.0] * 3
    assert scale.tolist() == pytest.approx(expected)


def test_adam_against_torch():
    """The same updates as torch.optim.Adam on the normalized gradient."""
    point = torch.nn.Parameter(torch.zeros(1, 4, dtype=torch.float64))
    optimizer = torch.optim.Adam([point], lr=0.3, eps=1e-12)
    rule, ours = Adam(torch.tensor(0.3)), torch.zeros(1, 4, dtype=torch.float64)
    for step in range(6):
        gradient = normal(1, 4, seed=step)
        point.grad = gradient / gradient.norm()
        optimizer.step()
        ours = ours + rule(7.0 * gradient)
    torch.testing.assert_close(ours, point.detach())


# The paper's PGD


@pytest.mark.parametrize("target", ["any", "1"])
def test_pgd_paper_takes_plain_gradient_steps(curved, target):
    center, clean, criterion = curved
    if target == "1":
        criterion = Criterion(criterion.labels, torch.ones_like(criterion.labels))
    attack = PaperPGD(target=target, steps=6, step=0.4)
    mask = mask_of(25, 0, 2)
    result, victim = launch(attack, center, clean, criterion, mask)
    own = LAYOUT.expand(mask)

    point, iterates, margins = clean.features.clone(), [], []
    for _ in range(7):
        leaf = point.clone().requires_grad_()
        logits = center.head(leaf)
        probability = torch.log_softmax(logits, dim=1)
        if target == "1":
            loss = -probability[:, 1].sum()
        else:
            loss = probability[torch.arange(25), criterion.labels].sum()
        iterates.append(point)
        margins.append(criterion.margin(logits.detach()))
        (gradient,) = torch.autograd.grad(loss, leaf)
        point = point - 0.4 * gradient * own
    best = torch.stack(margins).argmin(dim=0)
    expected = torch.stack(iterates)[best, torch.arange(25)]
    torch.testing.assert_close(result.features, expected)
    assert victim.gradients == 7 * 25
    assert (best > 0).any()


def test_pgd_paper_attacks_the_undefended_center():
    undefended = Plain(mlp_head(9, 2, seed=1))
    defended = Plain(mlp_head(9, 2, seed=2))
    clean = observation_of(LAYOUT, 10, seed=4)
    criterion = Criterion(answers_of(undefended, clean))
    attack = PaperPGD(target="any", steps=30)
    assert attack.threat.knowledge is Knowledge.FUSION
    victim = Victim(Knowledge.FUSION, undefended=undefended, defended=defended)
    result = attack(
        victim,
        clean,
        criterion,
        compromised=mask_of(10, 0, 1, 2),
        radius=None,
        generator=seeded(),
    )
    before = criterion.margin(undefended(clean).logits)
    assert (criterion.margin(undefended(result).logits) < before).all()


def test_defaults_are_those_of_the_paper():
    attack = PaperPGD()
    assert (attack.steps, attack.step, attack.target) == (30, 0.5, "other")
    assert Flip().amplification == 10.0
    assert PGD().threat.knowledge is Knowledge.ADAPTIVE
    assert PGD(knowledge="fusion").threat.knowledge is Knowledge.FUSION

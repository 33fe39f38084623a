"""What a cell's draws and probes show: successes lost, steps without effect, chance."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch

from cibench import AbstractAttack, Decision, FusionCenter
from cibench.probing import Signs, in_reach, probed
from cibench.references import decide, predictions
from cibench.scenario import Scenario
from cibench_plugins.attacks.flip import Flip
from cibench_plugins.attacks.nes import NES
from cibench_plugins.attacks.pgd import PGD
from helpers import Plain, layout_of, linear_head, mlp_head, observation_of

LAYOUT = layout_of(3, 4, 2)
CLASSES, N = 3, 64
ASKED = {"answers_differ", "gradient_cosine", "gradient_descends", "planted_missed"}


@dataclass(frozen=True, kw_only=True)
class Steps(AbstractAttack):
    """Runs any function of victim, observation, criterion and compromised agents."""

    name: ClassVar[str] = "steps"

    do: Callable[..., object]
    knowledge: str = "adaptive"
    target: str = "any"

    def run(self, victim, observation, criterion, *, compromised, radius, generator):
        return self.do(victim, observation, criterion, compromised)


def pushed(victim, observation, criterion, compromised):
    """Far along one gradient: succeeds on a linear head."""
    gradient, _ = victim.loss_gradient(observation, criterion.margin)
    own = observation.layout.expand(compromised)
    return observation.with_features(
        torch.where(own, observation.features - 1e3 * gradient, observation.features)
    )


def fails_quietly(victim, observation, criterion, compromised):
    victim.logits(pushed(victim, observation, criterion, compromised))
    return observation


def averages(victim, observation, criterion, compromised):
    victim.loss_gradient(observation, criterion.margin)
    return pushed(victim, observation, criterion, compromised)


def signs_of(center, *attack, wrong=0):
    """What is measured, with the standing samples; `wrong` samples are so when clean."""
    clean = observation_of(LAYOUT, N, seed=30)
    labels = center(clean).logits.argmax(1)
    labels[:wrong] = (labels[:wrong] + 1) % CLASSES
    scenario = Scenario(
        clean=clean, labels=labels, attack=attack,
        specs=tuple(f"{part.name}:{i}" for i, part in enumerate(attack)),
        median_norms=torch.ones(LAYOUT.agents, dtype=torch.float64),
        class_names=("red", "green", "blue"), dataset="tiny", seed=0,
    )  # fmt: skip
    signs = Signs(scenario, center(clean).logits, center)
    standing = torch.ones(N, dtype=torch.bool)
    for draw in scenario.draws():
        watches = []
        sent, cost = scenario.run(
            draw, undefended=center, defended=center, watches=watches
        )
        assert len(watches) == len(attack)
        decision, _ = decide(center, sent)
        decided = predictions(decision)
        standing &= decided == labels
        signs.add(draw, watches, sent, decision.logits, decided)
    assert probed(scenario, cost.gradients)
    return signs.measured(center, standing)


@pytest.fixture
def center():
    return Plain(linear_head(LAYOUT.width, CLASSES, seed=5))


def test_a_sound_attack_on_an_open_defense_has_no_sign(center):
    for agents in ("2", "all", "random:2", "worst:1"):
        found = signs_of(center, PGD(agents=agents, steps=10))
        assert set(found) == ASKED | {"broken_late", "lost_success", "no_progress"}
        assert found["gradient_cosine"] == pytest.approx(1.0, abs=1e-6)
        assert found["gradient_descends"] == 1.0
        for name in set(found) - {"gradient_cosine", "gradient_descends"}:
            assert found[name] == 0.0, name


def test_lost_success_is_counted_over_the_samples_left_standing(center):
    found = signs_of(center, Steps(agents="2", do=fails_quietly), wrong=16)
    # Samples that are wrong when clean are wrong in the end, and nothing was lost.
    assert found["lost_success"] == (N - 16) / N
    assert found["no_progress"] == 1.0
    assert signs_of(center, Steps(agents="2", do=pushed))["lost_success"] == 0.0


def test_a_part_before_the_last_has_its_own_watch(center):
    found = signs_of(center, Flip(agents="1"), Steps(agents="2", do=fails_quietly))
    assert found["lost_success"] > 0.1  # of what the first part left standing
    assert "planted_missed" not in found


class Chance(Plain):
    """Adds noise that nobody can foresee."""

    def decide(self, observation):
        features = observation.filled()
        noisy = observation.with_features(features + torch.randn_like(features))
        return super().decide(noisy)


class Seeded(Plain):
    """Adds noise that is seeded by what arrives, to the last digit."""

    def decide(self, observation):
        features = observation.filled()
        noise = (1e9 * features).sin()
        return super().decide(observation.with_features(features + noise.detach()))


@pytest.mark.parametrize("kind", [Chance, Seeded])
def test_answers_by_chance_are_seen_and_so_is_averaging(kind):
    center = kind(linear_head(LAYOUT.width, CLASSES, seed=5))
    for do, averaged in ((pushed, 0.0), (averages, 1.0)):
        found = signs_of(center, Steps(agents="2", do=do))
        assert found["answers_differ"] > 0.5
        assert found["answers_differ_averaged"] == averaged
        assert "gradient_cosine" not in found


class Halting(FusionCenter):
    """Decides on the mean of the blocks after some steps towards it."""

    def __init__(self, steps):
        super().__init__()
        self.steps = steps
        self.head = mlp_head(LAYOUT.width, CLASSES)

    def with_effort(self, factor):
        return Halting(factor * self.steps)

    def decide(self, observation):
        share = 1 - 0.5**self.steps
        return Decision(logits=self.head(observation.filled() * (share - 0.4)))


def test_more_solver_steps_are_tried_where_a_defense_offers_them(center):
    assert signs_of(Halting(1), PGD(agents="2", steps=2))["more_solver_steps"] > 0.01
    assert signs_of(Halting(50), PGD(agents="2", steps=2))["more_solver_steps"] == 0.0
    assert center.with_effort(10) is None


def test_only_adaptive_attacks_by_gradients_are_probed(center):
    clean = observation_of(LAYOUT, N)
    for attack, gradients, expected in (
        (PGD(), 5, True),
        (PGD(), 0, False),
        (PGD(knowledge="fusion"), 5, False),
        (NES(), 0, False),
        (Flip(), 0, False),
    ):
        scenario = Scenario(
            clean=clean, labels=torch.zeros(N, dtype=torch.long), attack=(attack,),
            specs=("x",), median_norms=torch.ones(3), class_names=("red", "green", "blue"),
            dataset="tiny", seed=0,
        )  # fmt: skip
        assert probed(scenario, gradients) is expected


def test_measuring_twice_gives_the_same(center):
    attack = PGD(agents="random:1", steps=4)
    assert signs_of(center, attack) == signs_of(center, attack)


def test_samples_whose_agent_recorded_nothing_are_out_of_reach():
    clean = observation_of(LAYOUT, 4)
    observed = clean.observed.clone()
    observed[2:, 1] = False
    labels = torch.tensor([0, 1, 2, 0])
    scenario = Scenario(
        clean=replace(clean, observed=observed), labels=labels,
        attack=(Flip(agents="2"),), specs=("flip:agents=2",),
        median_norms=torch.ones(3), class_names=("a", "b", "c"), dataset="d", seed=0,
    )  # fmt: skip
    hit = torch.tensor([[False, True, False]]).repeat(4, 1)
    decided = torch.tensor([0, 0, 2, 0])  # one of the two in reach stands
    assert in_reach(hit, decided, scenario) == {"undefended_in_reach": 0.5}
    # Nothing is out of reach, or everything: there is nothing to tell apart.
    assert in_reach(hit.roll(1, dims=1) | hit.roll(-1, dims=1), decided, scenario) == {}
    assert in_reach(hit & False, decided, scenario) == {}
    assert in_reach(None, decided, scenario) == {}

"""`combined` against compositions, and against brute force over pairs of sets."""

import itertools
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from cibench import (
    AbstractDefense,
    Criterion,
    FusionCenter,
    Knowledge,
    ThreatModelError,
    Training,
    UndefendedFusionCenter,
    Victim,
)
from cibench._errors import OptionError
from cibench.embedding import RECIPES
from cibench.execute.describe import median_norms
from cibench.execute.store import ArtifactStore
from cibench.references import decide, predictions
from cibench.scenario import Scenario
from cibench.spec import Spec, build
from cibench_plugins.attacks.combined import MOST_AGENTS, Combined
from cibench_plugins.attacks.flip import Flip
from cibench_plugins.attacks.missing import Missing
from cibench_plugins.attacks.pgd import PGD
from helpers import (
    Plain,
    fitted_and_evaluated,
    layout_of,
    linear_head,
    mlp_head,
    normal,
    observation_of,
    seeded,
)

LAYOUT = layout_of(2, 3, 1, 2)
CLASSES, N = 3, 60
FLIP = {"payload": "flip", "knowledge": "query"}
DEFENDED = Plain(mlp_head(LAYOUT.width, CLASSES, seed=5))


@dataclass(frozen=True, kw_only=True)
class Given(AbstractDefense):
    """Deploys a given fusion center."""

    name: ClassVar[str] = "given"

    center: FusionCenter

    def fit(self, training, *, generator):
        return self.center


@pytest.fixture(scope="module")
def training():
    head, fill = linear_head(LAYOUT.width, CLASSES), normal(LAYOUT.width, seed=8)
    undefended = UndefendedFusionCenter(head, fill).eval()
    train = observation_of(LAYOUT, 30, missing=0.1, seed=20)
    labels = undefended(train).logits.argmax(1)
    return Training(
        train=train, train_labels=labels, validation=train, validation_labels=labels,
        classes=CLASSES, undefended=undefended, recipe=RECIPES["identity"], key="key",
        seed=0, store=ArtifactStore(None),
    )  # fmt: skip


def scenario_of(training, *attack, missing=0.15):
    clean = observation_of(LAYOUT, N, missing=missing, seed=30)
    return Scenario(
        clean=clean, labels=predictions(decide(DEFENDED, clean)[0]), attack=attack,
        specs=tuple(f"{part.name}:{i}" for i, part in enumerate(attack)),
        median_norms=median_norms(training.train),
        class_names=("red", "green", "blue"), dataset="tiny", seed=0,
    )  # fmt: skip


def sent_by(training, *attack, missing=0.15):
    """What arrives in the first draw, and the cost."""
    scenario = scenario_of(training, *attack, missing=missing)
    return scenario.run(
        next(scenario.draws()), undefended=training.undefended, defended=DEFENDED
    )


def evaluated(training, *attack):
    scenario = scenario_of(training, *attack)
    return fitted_and_evaluated(scenario, Given(center=DEFENDED), training)


def assert_same(first, second):
    assert torch.equal(first.observed, second.observed)
    assert torch.equal(first.features, second.features)


# Named silent agents.


@pytest.mark.parametrize("budget", [None, 0.5])
@pytest.mark.parametrize(
    ("agents", "silent", "corrupting"),
    [("2/4", "2", "4"), ("1-4", "1/3", "2/4"), ("2/4", "last", "2"), ("all", "a", "2-4")],
)  # fmt: skip
def test_named_silent_agents_equal_the_composition(
    training, agents, silent, corrupting, budget
):
    combined = Combined(
        agents=agents, silent=silent, payload="flip", knowledge="oblivious",
        budget=budget, amplification=3.0,
    )  # fmt: skip
    flip = Flip(agents=corrupting, amplification=3.0)
    if budget is not None:
        object.__setattr__(flip, "budget", budget)
    named = "4" if silent == "last" else silent
    expected, _ = sent_by(training, Missing(agents=named), flip)
    result, cost = sent_by(training, combined)
    assert_same(result, expected)
    assert (cost.queries, cost.gradients) == (0, 0)
    assert combined.threat.knowledge is Knowledge.OBLIVIOUS


def test_with_nobody_and_with_everybody_silent(training):
    common = {"agents": "2/4", "payload": "flip", "knowledge": "oblivious"}
    nobody, _ = sent_by(training, Combined(silent="none", **common))
    assert_same(nobody, sent_by(training, Flip(agents="2/4"))[0])
    everybody, _ = sent_by(training, Combined(silent="all", **common))
    assert_same(everybody, sent_by(training, Missing(agents="2/4"))[0])


def test_pgd_with_named_silent_agents_is_that_of_the_composition(training):
    """The same descent, from the clean embedding: one start needs no randomness."""
    combined = Combined(agents="2/4", silent="2", steps=6, restarts=1)
    result, cost = sent_by(training, combined, missing=0.0)
    expected, _ = sent_by(
        training, Missing(agents="2"), PGD(agents="4", steps=6, restarts=1), missing=0.0
    )
    assert_same(result, expected)
    assert (cost.gradients, cost.queries) == (7 * N, 0)
    assert combined.threat.knowledge is Knowledge.ADAPTIVE


def test_silent_agents_of_a_worst_rule_are_those_of_each_set(training):
    attack = Combined(
        agents="worst:2", silent="2", payload="flip", knowledge="oblivious"
    )
    scenario = scenario_of(training, attack)
    for draw in scenario.draws():
        sent, _ = scenario.run(
            draw, undefended=training.undefended, defended=training.undefended
        )
        silent = 1 in draw.sets[0]
        expected = scenario.clean.observed[:, 1] & (not silent)
        assert torch.equal(sent.observed[:, 1], expected)


def test_a_silent_agent_must_be_compromised(training):
    attack = Combined(agents="3/4", silent="2/4", payload="flip", knowledge="oblivious")
    with pytest.raises(
        ThreatModelError, match=r"silent=2/4: expected compromised .* b"
    ):
        sent_by(training, attack)


# Every split.


def every_split(agents):
    return [
        (silent, tuple(a for a in agents if a not in silent))
        for count in range(len(agents) + 1)
        for silent in itertools.combinations(agents, count)
    ]


def numbers(agents):
    return "/".join(str(agent + 1) for agent in agents) or "none"


@pytest.mark.parametrize("count", [1, 2, 3])
def test_worst_sets_with_every_split_are_eq_3(training, count):
    """Broken by some pair of disjoint sets, |U| + |T| = q, exactly where found broken."""
    found = evaluated(training, Combined(agents=f"worst:{count}", **FLIP))
    scenario = scenario_of(training)
    correct = torch.ones(N, dtype=torch.bool)
    for agents in itertools.combinations(range(LAYOUT.agents), count):
        for silent, corrupting in every_split(agents):
            sent, _ = sent_by(
                training,
                Missing(agents=numbers(silent)),
                Flip(agents=numbers(corrupting)),
            )
            decided = predictions(decide(DEFENDED, sent)[0])
            correct &= decided == scenario.labels
    attacked = torch.tensor(found.outcomes.attacked) == scenario.labels
    assert torch.equal(attacked, correct)
    assert correct.sum() > 0 or count == 3


@pytest.mark.parametrize("agents", ["4", "2/4", "1-3", "random:2"])
def test_no_split_is_better_for_the_adversary(training, agents):
    scenario = scenario_of(training, Combined(agents=agents, **FLIP))
    (draw,) = scenario.draws()
    sent, cost = scenario.run(draw, undefended=training.undefended, defended=DEFENDED)
    margin = scenario.criterion.margin(DEFENDED(sent).logits)
    compromised = draw.compromised & scenario.clean.observed
    clean = scenario.clean
    worst = torch.full((N,), torch.inf, dtype=torch.float64)
    for bits in itertools.product([False, True], repeat=LAYOUT.agents):
        silent = compromised & torch.tensor(bits)
        own = LAYOUT.expand(compromised & ~silent)
        tried = clean.with_features(
            torch.where(own, -10.0 * clean.features, clean.features)
        ).without(silent)
        worst = worst.minimum(scenario.criterion.margin(DEFENDED(tried).logits))
    torch.testing.assert_close(margin, worst)
    splits = 2 ** int(compromised.sum(dim=1).max())
    assert (cost.queries, cost.gradients) == (splits * N, 0)


@pytest.mark.parametrize("payload", ["flip", "pgd"])
def test_combined_is_at_least_as_strong_as_its_parts(training, payload):
    options = FLIP if payload == "flip" else {"steps": 8, "restarts": 1}
    part = Flip if payload == "flip" else PGD
    rest = {} if payload == "flip" else options
    for agents in ("2/3", "worst:2"):
        both = evaluated(training, Combined(agents=agents, **options)).outcomes
        for attack in (Missing(agents=agents), part(agents=agents, **rest)):
            alone = evaluated(training, attack).outcomes
            for mine, theirs, label in zip(
                both.attacked, alone.attacked, both.labels, strict=True
            ):
                assert mine != label or theirs == label


def test_splits_are_judged_inside_the_budget(training):
    attack = Combined(agents="1-3", budget=0.2, **FLIP)
    scenario = scenario_of(training, attack)
    (draw,) = scenario.draws()
    sent, _ = scenario.run(draw, undefended=training.undefended, defended=DEFENDED)
    margin = scenario.criterion.margin(DEFENDED(sent).logits)
    for silent, corrupting in every_split((0, 1, 2)):
        flip = Flip(agents=numbers(corrupting))
        object.__setattr__(flip, "budget", 0.2)
        tried, _ = sent_by(training, Missing(agents=numbers(silent)), flip)
        other = scenario.criterion.margin(DEFENDED(tried).logits)
        assert (margin <= other + 1e-12).all()


def test_the_model_it_asks_is_the_one_its_knowledge_grants(training):
    sent = {
        knowledge: sent_by(
            training, Combined(agents="1-3", payload="flip", knowledge=knowledge)
        )[0]
        for knowledge in ("fusion", "query", "adaptive")
    }
    assert_same(sent["query"], sent["adaptive"])
    assert not torch.equal(sent["query"].observed, sent["fusion"].observed)
    scenario = scenario_of(training)
    for knowledge, model in (("fusion", training.undefended), ("query", DEFENDED)):
        other = "query" if knowledge == "fusion" else "fusion"
        mine, theirs = (
            scenario.criterion.margin(model(sent[name]).logits)
            for name in (knowledge, other)
        )
        assert (mine <= theirs + 1e-12).all()


def test_a_sample_that_only_falls_silent_asks_for_no_gradient(training):
    """With agent 4 unheard only the silent agent 2 is left: no unusable gradient."""
    for silent in ("2", "any"):
        attack = Combined(agents="2/4", silent=silent, steps=3, restarts=1)
        scenario = scenario_of(training, attack, missing=0.5)
        alone = scenario.clean.observed[:, 1] & ~scenario.clean.observed[:, 3]
        assert alone.any()
        sent, cost = scenario.run(
            next(scenario.draws()), undefended=training.undefended, defended=DEFENDED
        )
        assert cost.gradients > 0
        assert cost.unusable == 0
        if silent == "2":
            assert not sent.observed[:, 1].any()


def test_too_many_agents_to_try_every_split():
    widths = (1,) * 11
    layout = layout_of(*widths)
    clean = observation_of(layout, 3)
    center = Plain(linear_head(layout.width, 2))
    compromised = torch.ones(3, layout.agents, dtype=torch.bool)
    assert layout.agents == MOST_AGENTS + 1
    attack = Combined(agents="all", **FLIP)
    with pytest.raises(ThreatModelError, match=r"at most 10 compromised .* got 11"):
        attack(
            Victim(Knowledge.QUERY, undefended=center, defended=center), clean,
            Criterion(torch.zeros(3, dtype=torch.long)), compromised=compromised,
            radius=None, generator=seeded(),
        )  # fmt: skip


# Options.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("knowledge=query", "fusion or adaptive with payload=pgd and silent=any"),
        ("knowledge=oblivious,silent=1", "fusion or adaptive with payload=pgd"),
        ("payload=flip,knowledge=oblivious", "query or fusion or adaptive with payload"),
        ("payload=flip,silent=1", "expected oblivious with payload=flip and silent=1"),
        ("silent=worst:1", "silent: expected any, none, all, last or agents"),
        ("silent=random:1", "silent: expected any, none, all, last or agents"),
        ("silent=worst:0", "silent: expected any, none, all, last or agents"),
    ],
)  # fmt: skip
def test_options_that_are_refused(options, message):
    with pytest.raises(OptionError, match=f"attack combined: .*{message}"):
        build("attack", Combined, Spec.parse(f"combined:{options}"))


def test_defaults_need_no_option():
    attack = Combined()
    assert attack.threat.may_drop
    assert attack.threat.may_corrupt
    assert attack.threat.knowledge is Knowledge.ADAPTIVE
    assert (attack.silent, attack.steps, attack.restarts) == (
        "any", PGD().steps, PGD().restarts,
    )  # fmt: skip

"""One cell against brute force on hand-made fusion centers, defenses and attacks."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import msgspec
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score

from cibench import (
    AbstractAttack,
    AbstractDefense,
    ContractError,
    Criterion,
    Decision,
    FusionCenter,
    Knowledge,
    Observation,
    ThreatModelError,
    Training,
    UndefendedFusionCenter,
)
from cibench.embedding import RECIPES
from cibench.execute.describe import median_norms
from cibench.execute.store import ArtifactStore
from cibench.flags import FLAGS, OF_ATTACKS, OF_MASKING, OF_ROWS, raise_flags
from cibench.grid import expand
from cibench.metrics import balanced_accuracy, majority_share, proportion
from cibench.references import decide, predictions
from cibench.registry import default_registry
from cibench.results import (
    AttackPart,
    CellRecord,
    Component,
    Metrics,
    Outcomes,
    Proportion,
    Timings,
)
from cibench.scenario import Scenario, audit
from cibench_plugins.attacks.flip import Flip
from cibench_plugins.attacks.missing import Missing
from cibench_plugins.attacks.none import NoAttack
from cibench_plugins.attacks.pgd import PGD
from helpers import (
    Plain,
    fitted_and_evaluated,
    layout_of,
    linear_head,
    normal,
    observation_of,
    run_cells,
    seeded,
)

LAYOUT = layout_of(2, 3, 1, 2)
CLASSES = 3
N = 90


@dataclass(frozen=True, kw_only=True)
class Given(AbstractDefense):
    """Deploys a given fusion center, or what a function makes of the training data."""

    name: ClassVar[str] = "given"

    center: FusionCenter | Callable

    def fit(self, training, *, generator):
        if isinstance(self.center, FusionCenter):
            return self.center
        return self.center(training)


@dataclass(frozen=True, kw_only=True)
class Cheat(AbstractAttack):
    """Runs any function of the arguments of `run`."""

    name: ClassVar[str] = "cheat"
    may_drop: ClassVar[bool] = True

    do: Callable[..., object]
    knowledge: str = "oblivious"
    target: str = "any"

    def run(
        self, victim, observation, criterion, *, compromised, radius, generator
    ) -> Observation:
        return self.do(victim, observation, criterion, compromised, radius)


class Timid(Plain):
    """Abstains where the first block is small."""

    def decide(self, observation):
        small = observation.layout.block_norms(observation.filled(0.0))[:, 0] < 1.0
        return replace(super().decide(observation), abstained=small)


class Clipping(Plain):
    """Purifies by clipping."""

    def decide(self, observation):
        purified = observation.filled(0.0).clamp(-1.5, 1.5)
        status = (purified.abs().amax(dim=1) >= 1.5).to(torch.uint8)
        return Decision(logits=self.head(purified), purified=purified, status=status)


@pytest.fixture(scope="module")
def training():
    head, fill = linear_head(LAYOUT.width, CLASSES), normal(LAYOUT.width, seed=8)
    undefended = UndefendedFusionCenter(head, fill).eval()
    train = observation_of(LAYOUT, 30, missing=0.1, seed=20)
    return Training(
        train=train,
        train_labels=undefended(train).logits.argmax(1),
        validation=train,
        validation_labels=undefended(train).logits.argmax(1),
        classes=CLASSES,
        undefended=undefended,
        recipe=RECIPES["identity"],
        key="key",
        seed=0,
        store=ArtifactStore(None),
    )


def scenario_of(training, *attack, seed=0, missing=0.15):
    clean = observation_of(LAYOUT, N, missing=missing, seed=30)
    truth = training.undefended(clean).logits.argmax(1)
    noisy = torch.rand(N, generator=seeded(4)) < 0.15
    labels = torch.where(noisy, (truth + 1) % CLASSES, truth)
    return Scenario(
        clean=clean,
        labels=labels,
        attack=attack,
        specs=tuple(f"{part.name}:{i}" for i, part in enumerate(attack)),
        median_norms=median_norms(training.train),
        class_names=("red", "green", "blue"),
        dataset="tiny",
        seed=seed,
    )


def run(training, scenario, center=None):
    center = center or Clipping(linear_head(LAYOUT.width, CLASSES, seed=5))
    return fitted_and_evaluated(scenario, Given(center=center), training)


def by_hand(center, observation):
    """Decisions sample by sample, without the harness."""
    found = []
    for i in range(len(observation)):
        decision = center.decide(observation[i : i + 1])
        if decision.abstained is not None and decision.abstained[0]:
            found.append(-1)
        else:
            found.append(int(decision.logits.argmax()))
    return found


def mask_of(*agents):
    mask = torch.zeros(N, LAYOUT.agents, dtype=torch.bool)
    mask[:, list(agents)] = True
    return mask


def flipped(observation, agents, amplification=10.0):
    own = LAYOUT.expand(mask_of(*agents))
    return observation.with_features(
        torch.where(own, -amplification * observation.features, observation.features)
    )


def share(found, labels, counted=None):
    counted = [True] * len(labels) if counted is None else counted
    chosen = [f == w for f, w, c in zip(found, labels, counted, strict=True) if c]
    return Proportion(successes=sum(chosen), n=len(chosen))


# Reference rows and metrics.


@pytest.mark.parametrize("kind", [Plain, Timid, Clipping])
def test_rows_and_metrics_against_brute_force(training, kind):
    scenario = scenario_of(training, Flip(agents="2/4"))
    center = kind(linear_head(LAYOUT.width, CLASSES, seed=5))
    found = run(training, scenario, center)
    metrics, outcomes = found.metrics, found.outcomes
    clean, labels = scenario.clean, scenario.labels.tolist()
    sent = flipped(clean, (1, 3))
    told = clean.without(mask_of(1, 3))
    expected = {
        "clean_undefended": by_hand(training.undefended, clean),
        "clean": by_hand(center, clean),
        "attacked_undefended": by_hand(training.undefended, sent),
        "attacked": by_hand(center, sent),
        "genie": by_hand(training.undefended, told),
    }
    assert outcomes.labels == labels
    assert outcomes.counted == [True] * N
    for name, decisions in expected.items():
        assert getattr(outcomes, name) == decisions
        assert getattr(metrics, name) == share(decisions, labels)
    assert 0.7 < metrics.clean_undefended.value < 0.95
    assert len({str(d) for d in expected.values()}) == 5  # the rows do differ
    for name in ("clean", "attacked"):
        recall = [
            share([d for d, w in zip(expected[name], labels, strict=True) if w == c],
                  [c] * labels.count(c)).value
            for c in range(CLASSES)
        ]  # fmt: skip
        value = getattr(metrics, f"balanced_{name}")
        assert value == pytest.approx(sum(recall) / CLASSES)
    right = [d == w for d, w in zip(expected["clean"], labels, strict=True)]
    wrong = [d != w for d, w in zip(expected["attacked"], labels, strict=True)]
    assert metrics.success_rate == Proportion(
        successes=sum(r and w for r, w in zip(right, wrong, strict=True)), n=sum(right)
    )
    assert metrics.majority_share == max(map(labels.count, range(CLASSES))) / N
    assert metrics.universal == metrics.attacked
    assert metrics.universal_set == ["b", "d"]
    assert set(outcomes.compromised) == {0b1010}
    assert metrics.queries == metrics.gradients == metrics.rejected_blocks == 0
    assert found.transfer_breaks is None
    assert found.unusable_gradients is None


def test_recovery_error_and_solver_status_against_brute_force(training):
    scenario = scenario_of(training, Flip(agents="2"))
    found = run(training, scenario)
    clean, errors, statuses = scenario.clean, [], []
    train = training.train
    known = LAYOUT.expand(train.observed)
    fill = torch.where(known, train.features, torch.nan).nanmean(0)
    for i, row in enumerate(flipped(clean, (1,)).filled(0.0)):
        heard = LAYOUT.expand(clean.observed)[i]
        purified = row.clamp(-1.5, 1.5)
        distance = (purified - clean.features[i])[heard].norm()
        errors.append(float(distance / (clean.features[i] - fill)[heard].norm()))
        statuses.append(int(row.abs().max() >= 1.5))
    assert found.outcomes.recovery_error == pytest.approx(errors, rel=1e-5)
    assert found.metrics.recovery_error == pytest.approx(sum(errors) / N)
    assert found.metrics.recovery_error_clean < found.metrics.recovery_error
    assert found.outcomes.solver_status == statuses
    assert found.metrics.solver_not_converged == pytest.approx(sum(statuses) / N)


def test_without_purifier_and_solver_there_is_no_such_number(training):
    found = run(training, scenario_of(training, Flip()), training.undefended)
    metrics, outcomes = found.metrics, found.outcomes
    assert metrics.recovery_error is metrics.recovery_error_clean is None
    assert metrics.solver_not_converged is None
    assert outcomes.recovery_error is outcomes.solver_status is None


@pytest.mark.parametrize("seed", range(5))
def test_balanced_accuracy_agrees_with_scikit_learn(seed):
    labels = torch.randint(0, 4, (50,), generator=seeded(seed))
    predicted = torch.randint(0, 4, (50,), generator=seeded(seed + 100))
    expected = balanced_accuracy_score(labels, predicted)
    assert balanced_accuracy(predicted, labels, 4) == pytest.approx(expected)
    # A class that does not occur does not count.
    assert balanced_accuracy(predicted, labels, 6) == pytest.approx(expected)


def test_small_metrics():
    assert majority_share(torch.tensor([0, 2, 2, 1])) == 0.5
    holds = torch.tensor([True, True, False, False])
    assert proportion(holds) == Proportion(successes=2, n=4)
    counted = torch.tensor([True, False, True, False])
    assert proportion(holds, counted) == Proportion(successes=1, n=2)
    assert Proportion(successes=0, n=0).value == 0


def test_abstaining_is_wrong_and_serves_an_untargeted_adversary(training):
    class Silent(Plain):
        def decide(self, observation):
            heard = observation.layout.block_norms(observation.filled(0.0))[:, 1]
            return replace(super().decide(observation), abstained=heard > 3)

    center = Silent(training.undefended.head)
    scenario = scenario_of(training, Flip(agents="2", amplification=1e6), missing=0.0)
    found = run(training, scenario, center)
    assert set(found.outcomes.attacked) == {-1}
    assert found.metrics.attacked.successes == 0
    assert found.metrics.success_rate.value == 1
    assert -1 in found.outcomes.clean
    aimed = Cheat(
        do=lambda v, o, c, m, r: flipped(o, (1,), 1e6), agents="2", target="red"
    )
    found = run(training, scenario_of(training, aimed, missing=0.0), center)
    assert found.metrics.attacked.successes == 0
    assert found.metrics.success_rate.value == 0


def test_targeted_attacks_do_not_count_samples_of_the_target(training):
    attack = PGD(agents="2", target="green", steps=15)
    scenario = scenario_of(training, attack)
    center = Plain(linear_head(LAYOUT.width, CLASSES, seed=5))
    found = run(training, scenario, center)
    labels, metrics, outcomes = scenario.labels.tolist(), found.metrics, found.outcomes
    counted = [label != 1 for label in labels]
    assert outcomes.counted == counted
    for name in ("attacked_undefended", "attacked", "genie"):
        decisions = getattr(outcomes, name)
        assert getattr(metrics, name) == share(decisions, labels, counted)
    for name in ("clean_undefended", "clean"):
        assert getattr(metrics, name).n == N
    hit = [
        attacked == 1
        for attacked, clean, label in zip(
            outcomes.attacked, outcomes.clean, labels, strict=True
        )
        if label != 1 and clean == label
    ]
    assert metrics.success_rate == Proportion(successes=sum(hit), n=len(hit))
    assert metrics.success_rate.value > 0.5
    recall = [
        share(
            [d for d, w in zip(outcomes.attacked, labels, strict=True) if w == c],
            [c] * labels.count(c),
        ).value
        for c in (0, 2)
    ]
    expected = sum(recall) / 2  # no sample of class 1 counts
    assert metrics.balanced_attacked == pytest.approx(expected)
    assert metrics.universal == metrics.attacked


# Sets of agents.


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("attack", [Flip, Missing])
def test_worst_sets_against_brute_force(training, attack, count):
    scenario = scenario_of(training, attack(agents=f"worst:{count}"))
    center = Clipping(linear_head(LAYOUT.width, CLASSES, seed=5))
    found = run(training, scenario, center)
    labels = scenario.labels.tolist()
    sets = list(itertools.combinations(range(LAYOUT.agents), count))
    right: dict[str, list[list[bool]]] = {"attacked": [], "undefended": [], "genie": []}
    for agents in sets:
        told = scenario.clean.without(mask_of(*agents))
        sent = told if attack is Missing else flipped(scenario.clean, agents)
        for name, model, given in (
            ("attacked", center, sent),
            ("undefended", training.undefended, sent),
            ("genie", training.undefended, told),
        ):
            decisions = by_hand(model, given)
            right[name].append([d == w for d, w in zip(decisions, labels, strict=True)])

    def under_every_set(name):
        return Proportion(successes=sum(map(all, zip(*right[name], strict=True))), n=N)

    metrics, outcomes = found.metrics, found.outcomes
    assert metrics.attacked == under_every_set("attacked")
    assert metrics.attacked_undefended == under_every_set("undefended")
    assert metrics.genie == under_every_set("genie")
    totals = [sum(row) for row in right["attacked"]]
    hardest = totals.index(min(totals))
    assert metrics.universal == Proportion(successes=totals[hardest], n=N)
    assert metrics.universal_set == [LAYOUT.names[i] for i in sets[hardest]]
    assert metrics.attacked.successes <= metrics.universal.successes
    # The set kept for a sample is the first that breaks it, or the last of all.
    for i in range(N):
        broken = [
            s for s, row in zip(sets, right["attacked"], strict=True) if not row[i]
        ]
        shown = (broken or sets[-1:])[0]
        assert outcomes.compromised[i] == sum(1 << agent for agent in shown)
    if count < 3:  # samples do break under different sets
        assert metrics.attacked.successes < metrics.universal.successes


def test_no_compromised_agent_means_clean_exactly(training):
    center = Timid(linear_head(LAYOUT.width, CLASSES, seed=5))
    for attack in (
        NoAttack(), Flip(agents="none"), PGD(agents="none", steps=2, restarts=2)
    ):  # fmt: skip
        found = run(training, scenario_of(training, attack), center)
        outcomes, metrics = found.outcomes, found.metrics
        assert outcomes.attacked == outcomes.clean
        assert outcomes.attacked_undefended == outcomes.clean_undefended
        assert outcomes.genie == outcomes.clean_undefended
        assert set(outcomes.compromised) == {0}
        assert metrics.success_rate.successes == 0
        assert metrics.universal_set == []


def test_random_sets_are_the_same_for_every_defense_and_differ_between_seeds(training):
    attack = Flip(agents="random:2")
    centers = [Plain(linear_head(LAYOUT.width, CLASSES, seed=s)) for s in (5, 6)]
    first, second = (
        run(training, scenario_of(training, attack), c).outcomes for c in centers
    )
    assert first.compromised == second.compromised
    assert first.attacked != second.attacked
    assert {bits.bit_count() for bits in first.compromised} == {2}
    assert len(set(first.compromised)) == 6  # every pair of four agents
    other = run(training, scenario_of(training, attack, seed=1), centers[0]).outcomes
    assert other.compromised != first.compromised
    # The genie is told each sample's own agents.
    scenario = scenario_of(training, attack)
    (draw,) = scenario.draws()
    told = scenario.clean.without(draw.compromised)
    assert first.genie == by_hand(training.undefended, told)


def test_parts_of_a_composed_attack_draw_apart(training):
    attack = Missing(agents="random:1")
    (draw,) = scenario_of(training, attack).draws()
    scenario = scenario_of(training, Missing(agents="none"), attack)
    (composed,) = scenario.draws()
    assert not torch.equal(draw.masks[0], composed.masks[1])


def test_composition_of_missing_and_pgd(training):
    scenario = scenario_of(
        training, Missing(agents="1"), PGD(agents="2", steps=10, knowledge="fusion")
    )
    (draw,) = scenario.draws()
    sent, cost = scenario.run(
        draw, undefended=training.undefended, defended=training.undefended
    )
    clean = scenario.clean
    assert not sent.observed[:, 0].any()
    assert torch.equal(sent.observed[:, 1:], clean.observed[:, 1:])
    moved = (sent.features != clean.features).any(0)
    assert moved.tolist() == [False] * 2 + [True] * 3 + [False] * 3
    assert cost.gradients == PGD().restarts * 11 * N
    found = run(training, scenario)
    told = clean.without(mask_of(0, 1))
    assert found.outcomes.genie == by_hand(training.undefended, told)
    assert set(found.outcomes.compromised) == {0b11}
    assert found.metrics.universal_set == ["a", "b"]
    silent = run(training, scenario_of(training, Missing(agents="1")))
    harm = [m.attacked_undefended.successes for m in (found.metrics, silent.metrics)]
    assert harm[0] < harm[1]


def test_composition_with_worst_leaves_out_sets_that_overlap(training):
    scenario = scenario_of(training, Missing(agents="1"), Flip(agents="worst:2"))
    sets = [draw.sets for draw in scenario.draws()]
    assert sets == [((0,), (1, 2)), ((0,), (1, 3)), ((0,), (2, 3))]
    clash = scenario_of(training, Missing(agents="1"), Flip(agents="1"))
    with pytest.raises(ThreatModelError, match="parts with different agents"):
        list(clash.draws())


# What attack and defense may not do.


def attacked_by(training, do, *, agents="2", budget=None, knowledge="oblivious"):
    attack = Cheat(do=do, agents=agents, knowledge=knowledge)
    if budget is not None:
        object.__setattr__(attack, "budget", budget)
    return scenario_of(training, attack)


def ruin(victim, observation, criterion, compromised, radius):
    """Write into everything that is within reach, and return garbage."""
    observation.features.fill_(torch.nan)
    observation.observed.fill_(value=False)
    compromised.fill_(value=True)
    criterion.labels.zero_()
    if radius is not None:
        radius.fill_(1e9)
    return observation


def test_a_cheating_attack_stays_contained(training):
    honest = scenario_of(training, Missing(agents="2"))
    scenario = attacked_by(training, ruin)
    before = [t.clone() for t in (scenario.clean.features, scenario.clean.observed)]
    labels = scenario.labels.clone()
    found, expected = run(training, scenario), run(training, honest)
    assert torch.equal(scenario.clean.features, before[0])
    assert torch.equal(scenario.clean.observed, before[1])
    assert torch.equal(scenario.labels, labels)
    # All it got is silence of the agent it controls.
    assert found.outcomes.attacked == expected.outcomes.attacked
    assert found.outcomes.labels == expected.outcomes.labels
    assert found.metrics.clean == expected.metrics.clean


def test_a_cheating_attack_gains_no_budget(training):
    def huge(victim, observation, criterion, compromised, radius):
        radius.fill_(1e9)
        return observation.with_features(observation.features + 1e6)

    scenario = attacked_by(training, huge, budget=0.5)
    (draw,) = scenario.draws()
    models = {"undefended": training.undefended, "defended": training.undefended}
    try:
        sent, _ = scenario.run(draw, **models)
    except ContractError as error:
        assert "norm at most" in str(error)  # noqa: PT017
    else:
        change = LAYOUT.block_norms(sent.features - scenario.clean.features)
        assert (change <= scenario.radius(0) * (1 + 1e-6)).all()


def test_the_opinion_of_an_attack_is_not_asked(training):
    def boast(victim, observation, criterion, compromised, radius):
        object.__setattr__(criterion, "target", criterion.labels)
        return observation

    found = run(training, attacked_by(training, boast))
    assert found.outcomes.attacked == found.outcomes.clean
    assert found.outcomes.counted == [True] * N


@pytest.mark.parametrize("knowledge", list(Knowledge))
def test_an_attack_may_call_what_its_knowledge_grants(training, knowledge):
    def ask(victim, observation, criterion, compromised, radius):
        victim.logits(observation)
        victim.loss_gradient(observation, criterion.margin)
        return observation

    scenario = attacked_by(training, ask, knowledge=str(knowledge))
    if knowledge in (Knowledge.OBLIVIOUS, Knowledge.QUERY):
        with pytest.raises(ContractError, match=r"Victim\..* expected knowledge of"):
            run(training, scenario)
    else:
        found = run(training, scenario)
        assert found.metrics.queries == found.metrics.gradients == N


def test_every_violation_of_the_threat_model_is_refused(training):
    clean = observation_of(LAYOUT, N, missing=0.2, seed=30)
    clean.features[5, 6] = torch.nan
    compromised = mask_of(1)
    radius = torch.full((LAYOUT.agents,), 2.0, dtype=torch.float64)
    corrupts, drops = Flip(), Missing()
    heard = int(clean.observed[:, 1].nonzero()[0])
    unheard = int((~clean.observed[:, 1]).nonzero()[0])

    def moved(sample, column, change=1.0):
        features = clean.features.clone()
        features[sample, column] += change
        return replace(clean, features=features)

    def masked(sample, agent, value):
        observed = clean.observed.clone()
        observed[sample, agent] = value
        return replace(clean, observed=observed)

    def refuse(attacked, attack=corrupts, limit=None, match=""):
        with pytest.raises(ContractError, match=f"attack {attack.name}: .*{match}"):
            audit(clean, attacked, compromised, limit, attack)

    def accept(attacked, attack=corrupts, limit=None):
        audit(clean, attacked, compromised, limit, attack)

    accept(clean)  # NaN in an honest block equals itself
    accept(moved(heard, 3))
    accept(masked(heard, 1, value=False), drops)
    accept(moved(heard, 3, 2.0), limit=radius)
    refuse(moved(heard, 0), match="does not control changed in 1 sample")
    refuse(moved(heard, 6, 1e-12), match="does not control changed")
    refuse(moved(5, 6).with_features(clean.features.nan_to_num(0.0)), match="changed")
    refuse(moved(unheard, 3), match="changed")
    refuse(moved(heard, 3), drops, match="does not control changed")
    refuse(masked(heard, 0, value=False), drops, match="may not silence are missing")
    refuse(masked(heard, 1, value=False), match="may not silence are missing")
    refuse(masked(unheard, 1, value=True), match="missing agents appeared")
    refuse(masked(unheard, 1, value=True), drops, match="missing agents appeared")
    refuse(moved(heard, 3, 2.01), limit=radius, match="norm at most")
    refuse(moved(heard, 3, torch.nan), limit=radius, match="norm at most")
    refuse(moved(heard, 3, torch.inf), limit=radius, match="norm at most")


def test_zero_and_negative_zero_are_different_blocks():
    layout = layout_of(1, 1)
    clean = Observation(torch.zeros(1, 2), torch.ones(1, 2, dtype=torch.bool), layout)
    with pytest.raises(ContractError, match="changed"):
        audit(
            clean, clean.with_features(-clean.features),
            torch.tensor([[False, True]]), None, Flip(),
        )  # fmt: skip


def test_a_fusion_center_that_writes_into_what_it_receives_is_refused(training):
    class Writes(Plain):
        def forward(self, observation):
            decision = super().forward(observation)
            observation.features[0, 0] = 7.0
            return decision

    class Silences(Plain):
        def forward(self, observation):
            observation.observed[:, 0] = False
            return super().forward(observation)

    for kind in (Writes, Silences):
        center = kind(linear_head(LAYOUT.width, CLASSES))
        with pytest.raises(ContractError, match=f"{kind.__name__}: .*left unchanged"):
            run(training, scenario_of(training, Flip()), center)


def test_what_decide_writes_stays_with_it(training):
    class Scribbles(Plain):
        def decide(self, observation):
            decision = super().decide(observation)
            observation.features.zero_()
            observation.observed.zero_()
            return decision

    head = linear_head(LAYOUT.width, CLASSES, seed=5)
    scenario = scenario_of(training, Flip())
    found, expected = (run(training, scenario, k(head)) for k in (Scribbles, Plain))
    assert found.outcomes == expected.outcomes


@pytest.mark.parametrize(
    ("center", "message"),
    [
        (lambda training: None, "expected a FusionCenter from fit, got NoneType"),
        (lambda training: training.undefended.head, "FusionCenter from fit, got"),
        (
            lambda training: Plain(linear_head(LAYOUT.width, 2)),
            "expected logits of 3 classes, got 2",
        ),
    ],
)
def test_what_is_no_fusion_center_is_refused(training, center, message):
    with pytest.raises(ContractError, match=message):
        run(training, scenario_of(training, Flip()), center)


def test_infinite_blocks_count_as_missing_and_are_reported(training):
    def infinite(victim, observation, criterion, compromised, radius):
        return observation.with_features(
            torch.full_like(observation.features, torch.inf)
        )

    scenario = attacked_by(training, infinite)
    found = run(training, scenario)
    silent = run(training, scenario_of(training, Missing(agents="2")))
    assert found.outcomes.attacked == silent.outcomes.attacked
    assert found.metrics.rejected_blocks == int(scenario.clean.observed[:, 1].sum())


def test_decisions_do_not_depend_on_the_batch(training):
    clean = scenario_of(training, Flip()).clean
    center = Clipping(linear_head(LAYOUT.width, CLASSES))
    whole = predictions(decide(center, clean)[0])
    center.samples_per_chunk = 7
    parts, _ = decide(center, clean)
    assert torch.equal(predictions(parts), whole)
    assert parts.purified.shape == clean.features.shape
    assert len(parts.status) == N


# Adaptive attacks and transfer.


def test_an_adaptive_attack_is_compared_with_the_transferred_one(training):
    class Opaque(Plain):
        """Gradients through it are useless; its decisions are the undefended ones."""

        def surrogate(self, observation):
            return super().surrogate(observation) * 0.0

    center = Opaque(training.undefended.head)
    scenario = scenario_of(training, PGD(agents="2/3", steps=20), missing=0.0)
    found = run(training, scenario, center)
    assert found.unusable_gradients == 1
    assert found.transfer_breaks > 0.5
    assert found.metrics.attacked.successes == found.metrics.clean.successes
    assert found.metrics.gradients == PGD().restarts * 21 * N
    open_center = Plain(training.undefended.head)
    found = run(training, scenario, open_center)
    assert found.transfer_breaks == 0
    # Attacks that do not know the defense are not run twice.
    blind = scenario_of(training, PGD(agents="2/3", steps=20, knowledge="fusion"))
    assert run(training, blind, center).transfer_breaks is None


def records_of(
    attack, *defenses, dataset="synthetic:agents=4,rank=2,samples=200,width=6"
):
    cells = expand(
        default_registry(),
        datasets=[dataset], attacks=[attack], defenses=defenses, seeds=[0],
        embedding="identity:epochs=20,batch=20",
    )  # fmt: skip
    return {record.defense.name: record for _, record, _ in run_cells(cells)}


def test_an_adversary_who_controls_everyone_wins():
    found = records_of("pgd:agents=all", "none", "copur")
    for record in found.values():
        assert record.status == "ok"
        assert record.metrics.clean.value > 0.9
        assert record.metrics.attacked.value <= 0.05


def test_a_larger_budget_and_more_steps_never_help_the_defense():
    def attacked(attack):
        return records_of(attack, "none")["none"].metrics.attacked.successes

    budgets = [attacked(f"pgd:steps=20,budget={b}") for b in (0.001, 0.3, 1, 1000)]
    assert budgets == sorted(budgets, reverse=True)
    assert budgets[0] > budgets[-1]
    steps = [attacked(f"pgd:steps={s},step=0.01") for s in (1, 5, 40)]
    assert steps == sorted(steps, reverse=True)


# Flags.


def record_of(
    attacks=("pgd",), defense="copur", knowledge="adaptive", budget=None, probes=(), **m
):
    def component(name):
        return Component(
            name=name, spec=name, options={}, distribution="d", version="1", source="s"
        )

    def percent(value):
        return Proportion(successes=value, n=1000)

    metrics = {
        "clean_undefended": 900, "clean": 890, "attacked_undefended": 40,
        "attacked": 500, "genie": 800, "universal": 500,
    }  # fmt: skip
    metrics |= {k: v for k, v in m.items() if k in metrics}
    rest = {
        "universal_set": [], "balanced_clean": 0.9, "balanced_attacked": 0.5,
        "success_rate": percent(1), "majority_share": 0.5, "recovery_error": None,
        "recovery_error_clean": None, "solver_not_converged": None,
        "rejected_blocks": 0, "queries": 0, "gradients": 10,
    } | {k: v for k, v in m.items() if k not in metrics}  # fmt: skip
    return CellRecord(
        protocol=1, cell="c", key="k", status="ok", dataset=component("d"),
        fingerprint="f", agents=["a"], classes=["x", "y"], embedding={},
        attack=[
            AttackPart(
                component=component(name), sets=[["a"]],
                agents="none" if name == "none" else "last",
                knowledge=knowledge, target="any", corrupts=name != "none", budget=budget,
                radius=None,
            )
            for name in attacks
        ],
        defense=component(defense), seed=0,
        metrics=Metrics(**{k: percent(v) for k, v in metrics.items()}, **rest),
        timings=Timings(
            fit_seconds=0, attack_seconds=0, predict_seconds=0, milliseconds_per_sample=1
        ),
        environment={}, device="cpu", created="now", probes=dict(probes),
    )  # fmt: skip


def flags_of(given):
    options = {
        "partial": False, "test_statistics": False, "transfer_breaks": None,
        "unusable_gradients": None, "oracle": False, "undefended": False,
        "optimizes": False,
    }  # fmt: skip
    measured = {k: given.pop(k) for k in list(given) if k in options}
    return set(raise_flags(record_of(**given), **{**options, **measured}))


def probed(**values):
    return {"probes": tuple(values.items())}


CASES = {
    "attack-too-weak": (
        [{"attacked_undefended": 51}, {"attacks": ("missing", "pgd"),
         "attacked_undefended": 999},
         {"attacked_undefended": 0} | probed(undefended_in_reach=0.051)],
        [{"attacked_undefended": 50},
         {"attacked_undefended": 900} | probed(undefended_in_reach=0.05),
         {"attacked_undefended": 900, "budget": 1.0},
         {"attacked_undefended": 900, "knowledge": "oblivious"},
         {"attacked_undefended": 900, "gradients": 0}],
    ),
    "not-adaptive": (
        [{"knowledge": "fusion"}, {"knowledge": "oblivious", "attacks": ("flip",)},
         {"knowledge": "fusion", "defense": "none"}],
        [{}, {"knowledge": "fusion", "undefended": True},
         {"knowledge": "oblivious", "attacks": ("none",)}],
    ),
    "transfer-beats-adaptive": (
        [{"transfer_breaks": 0.011}],
        [{"transfer_breaks": 0.01}, {"transfer_breaks": 0.0}],
    ),
    "gradient-unusable": (
        [{"unusable_gradients": 0.011}, {"unusable_gradients": 1.0}],
        [{"unusable_gradients": 0.01}],
    ),
    "solver-not-converged": (
        [{"solver_not_converged": 0.02}],
        [{"solver_not_converged": 0.01}, {"solver_not_converged": 0.0}],
    ),
    "clean-drop": ([{"clean": 879}], [{"clean": 881}, {"clean": 950}]),
    "below-majority": (
        [{"clean": 500}, {"majority_share": 0.95}],
        [{"clean": 501}],
    ),
    "blocks-rejected": ([{"rejected_blocks": 1}], [{"rejected_blocks": 0}]),
    "oracle-information": ([{"oracle": True}], [{}]),
    "gradient-wrong": (
        [probed(gradient_cosine=0.89), probed(gradient_descends=0.74),
         probed(gradient_cosine=1.0, gradient_descends=0.5)],
        [probed(gradient_cosine=0.9, gradient_descends=0.75), probed()],
    ),
    "randomized-without-eot": (
        [probed(answers_differ=0.02, answers_differ_averaged=0.0)],
        [probed(answers_differ=0.01), probed(answers_differ=0.0),
         probed(answers_differ=1.0, answers_differ_averaged=1.0)],
    ),
    "lost-success": ([probed(lost_success=0.02)], [probed(lost_success=0.01)]),
    "no-progress": ([probed(no_progress=0.06)], [probed(no_progress=0.05)]),
    "attack-not-converged": ([probed(broken_late=0.02)], [probed(broken_late=0.01)]),
    "attack-misses-planted": (
        [probed(planted_missed=0.06)], [probed(planted_missed=0.05)],
    ),
    "planted-not-tried": ([probed(planted_failed=1.0)], [probed(planted_missed=0.0)]),
    "solver-budget": (
        [probed(more_solver_steps=0.02)], [probed(more_solver_steps=0.01)],
    ),
    "static-reference": (
        [{"optimizes": True, "attacked": 40}],
        [{"optimizes": True, "attacked": 41}, {"attacked": 40},
         {"optimizes": True, "attacked": 40, "knowledge": "fusion"}],
    ),
    "test-statistics": ([{"test_statistics": True}], [{}]),
    "partial": ([{"partial": True}], [{}]),
}  # fmt: skip


def test_every_flag_has_a_case_and_a_meaning():
    assert set(CASES) | OF_ROWS == set(FLAGS)
    assert not set(CASES) & OF_ROWS
    assert set(FLAGS) > OF_ATTACKS | OF_MASKING
    for meaning in FLAGS.values():
        assert meaning.raised_if
        assert meaning.meaning
        assert meaning.remedy


def test_a_good_record_has_no_flag():
    assert flags_of({}) == set()


@pytest.mark.parametrize("flag", list(CASES))
def test_flag(flag):
    raised, not_raised = CASES[flag]
    for given in raised:
        assert flag in flags_of(dict(given)), given
    for given in not_raised:
        assert flag not in flags_of(dict(given)), given


def test_flags_of_a_cell_that_did_not_finish():
    failed = msgspec.structs.replace(record_of(), metrics=None, status="failed")
    assert raise_flags(
        failed, partial=True, test_statistics=True, transfer_breaks=1.0,
        unusable_gradients=1.0,
    ) == ()  # fmt: skip


def test_flags_are_sorted():
    flags = raise_flags(
        record_of(rejected_blocks=3), partial=True, test_statistics=True,
        transfer_breaks=1.0, unusable_gradients=1.0,
    )  # fmt: skip
    assert list(flags) == sorted(flags)
    assert len(flags) == 5


def test_criterion_of_a_composed_attack_is_that_of_its_targeted_part(training):
    attack = Flip(agents="1"), PGD(agents="2", target="blue")
    criterion = scenario_of(training, *attack).criterion
    assert isinstance(criterion, Criterion)
    assert set(criterion.target.tolist()) == {2}


def test_success_of_a_targeted_attack_is_counted_over_every_set():
    """A sample broken by one set and driven to the target by another was reached."""
    from cibench.evaluate import Worst
    from cibench.scenario import Draw

    labels, target = torch.tensor([0, 0]), torch.tensor([2, 2])
    worst = Worst(labels, target)
    draw = Draw((torch.zeros(2, 3, dtype=torch.bool),), ((),))
    everyone = torch.tensor([True, True])
    worst.add(torch.tensor([1, 0]), draw, everyone)
    worst.add(torch.tensor([2, 2]), draw, everyone)
    assert worst.prediction.tolist() == [1, 2]
    assert worst.reached.tolist() == [True, True]


def test_gradients_are_judged_over_the_adversary_s_own_blocks(training):
    class Deaf(Plain):
        """Answers without the second agent: no gradient reaches its block."""

        def surrogate(self, observation):
            silenced = torch.zeros_like(observation.observed)
            silenced[:, 1] = True
            return super().surrogate(observation.without(silenced))

    center = Deaf(training.undefended.head)
    for agents, share in (("2", 1.0), ("1", 0.0)):
        scenario = scenario_of(training, PGD(agents=agents, steps=3), missing=0.0)
        assert run(training, scenario, center).unusable_gradients == share


def test_trying_every_set_of_silent_agents_is_exact_and_carries_no_flag():
    records = records_of("missing:agents=worst:1", "copur")
    assert "not-adaptive" not in records["copur"].flags
    records = records_of("missing:agents=1", "copur")
    assert "not-adaptive" in records["copur"].flags


def test_an_attack_is_not_weak_for_leaving_the_target_class_as_it_is():
    record = record_of(attacked_undefended=510)
    labels = [1] * 500 + [0] * 500
    moved = [1] * 990 + [0] * 10  # the target class stays, ten others do too
    part = msgspec.structs.replace(record.attack[0], target="y", counts_target=True)
    outcomes = Outcomes(
        labels=labels, counted=[True] * 1000, clean_undefended=labels, clean=labels,
        attacked_undefended=moved, attacked=moved, genie=labels,
        compromised=[1] * 1000, recovery_error=None, solver_status=None,
    )  # fmt: skip

    def weak(**changes):
        given = msgspec.structs.replace(record, outcomes=outcomes, **changes)
        flags = raise_flags(
            given, partial=False, test_statistics=False, transfer_breaks=None,
            unusable_gradients=None,
        )  # fmt: skip
        return "attack-too-weak" in flags

    assert weak()
    for target in ("y", "1"):
        part = msgspec.structs.replace(part, target=target)
        assert not weak(attack=[part])
    assert weak(attack=[msgspec.structs.replace(part, target="0")])
    assert weak(attack=[msgspec.structs.replace(part, target="other")])

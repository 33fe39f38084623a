"""Recordings, samples of the target class that count, fusion centers that are told."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import ModuleType
from typing import ClassVar

import pytest
import torch

from cibench import (
    AbstractAttack,
    AbstractDefense,
    Capabilities,
    ContractError,
    Criterion,
    Decision,
    FusionCenter,
    Knowledge,
    KnowledgeError,
    Observation,
    OracleFusionCenter,
    ThreatModelError,
    Training,
    UndefendedFusionCenter,
    Victim,
    hookimpl,
)
from cibench.defense import sanitize
from cibench.embedding import RECIPES
from cibench.execute import answer
from cibench.execute.describe import median_norms
from cibench.execute.store import ArtifactStore
from cibench.grid import expand, source_hash
from cibench.references import refer
from cibench.registry import PluginEntry, Registry, default_registry
from cibench.scenario import Scenario
from cibench_plugins.attacks.flip import Flip
from cibench_plugins.attacks.pgd import PGD
from helpers import (
    Plain,
    everyone,
    fitted_and_evaluated,
    layout_of,
    linear_head,
    normal,
    observation_of,
    run_cells,
    seeded,
)

LAYOUT = layout_of(2, 3, 1)
CLASSES, N = 3, 60


def mask_of(*agents, samples=N):
    mask = torch.zeros(samples, LAYOUT.agents, dtype=torch.bool)
    mask[:, list(agents)] = True
    return mask


# Recordings.


def victim_of(knowledge, *, own=None, recorded=None):
    center = Plain(linear_head(LAYOUT.width, CLASSES))
    return Victim(
        knowledge, undefended=center, defended=center, own=own, recorded=recorded
    )


def recorded_of(samples=40):
    recorded = observation_of(LAYOUT, samples, missing=0.3, seed=3)
    return recorded, torch.arange(samples) % CLASSES


@pytest.mark.parametrize("knowledge", list(Knowledge))
def test_recordings_show_what_the_knowledge_allows(knowledge):
    recorded, labels = recorded_of()
    # Agent c for one sample, agent b for another: the adversary knows both.
    own = mask_of(samples=5)
    own[0, 2] = own[3, 1] = True
    shown, known = victim_of(
        knowledge, own=own, recorded=(recorded, labels)
    ).recordings()
    visible = recorded.observed.clone()
    if knowledge in (Knowledge.OBLIVIOUS, Knowledge.QUERY):
        visible[:, 0] = False
    assert torch.equal(shown.observed, visible)
    assert torch.equal(known, labels)
    columns = LAYOUT.expand(visible)
    assert torch.equal(shown.features[columns], recorded.features[columns])
    assert shown.features[~columns].isnan().all()
    assert (~columns).any()


def test_an_adversary_who_controls_nobody_recorded_nothing():
    own = mask_of(samples=5)
    victim = victim_of(Knowledge.OBLIVIOUS, own=own, recorded=recorded_of())
    shown, _ = victim.recordings()
    assert not shown.observed.any()
    assert shown.features.isnan().all()


def test_recordings_are_copies():
    recorded, labels = recorded_of()
    before = [recorded.features.clone(), recorded.observed.clone(), labels.clone()]
    victim = victim_of(Knowledge.ADAPTIVE, own=mask_of(1), recorded=(recorded, labels))
    shown, known = victim.recordings()
    shown.features.fill_(7.0)
    shown.observed.fill_(value=True)
    known.zero_()
    for tensor, old in zip(
        (recorded.features, recorded.observed, labels), before, strict=True
    ):
        assert torch.equal(tensor, old)
    assert victim.queries == victim.gradients == 0


def test_without_recordings_there_is_an_error():
    with pytest.raises(KnowledgeError, match=r"recordings: expected clean training"):
        victim_of(Knowledge.ADAPTIVE).recordings()


# The harness.


@dataclass(frozen=True, kw_only=True)
class Cheat(AbstractAttack):
    """Runs any function of victim, observation and criterion."""

    name: ClassVar[str] = "cheat"

    do: Callable[..., Observation]
    knowledge: str = "oblivious"
    target: str = "any"
    count_target: bool = False

    def run(
        self, victim, observation, criterion, *, compromised, radius, generator
    ) -> Observation:
        return self.do(victim, observation, criterion)


@dataclass(frozen=True, kw_only=True)
class Given(AbstractDefense):
    """Deploys a given fusion center."""

    name: ClassVar[str] = "given"

    center: FusionCenter

    def fit(self, training, *, generator):
        return self.center


class Oracle(Given):
    name = "oracle"
    capabilities = Capabilities(needs_corrupted_agents=True)


class Drops(OracleFusionCenter):
    """The truth about the corrupted agents, used: their blocks count as missing."""

    def __init__(self, head):
        super().__init__()
        self.head = head
        self.sizes = []

    @property
    def facts(self):
        return {"kind": "drops"}

    def decide_told(self, observation, corrupted):
        self.sizes.append(len(observation))
        kept = observation.without(corrupted)
        purified = kept.filled(0.0)
        status = corrupted.any(dim=1).to(torch.uint8)
        return Decision(logits=self.head(purified), purified=purified, status=status)


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


def scenario_of(training, *attack):
    clean = observation_of(LAYOUT, N, missing=0.15, seed=30)
    return Scenario(
        clean=clean, labels=training.undefended(clean).logits.argmax(1), attack=attack,
        specs=tuple(f"{part.name}:{i}" for i, part in enumerate(attack)),
        median_norms=median_norms(training.train),
        class_names=("red", "green", "blue"), dataset="tiny", seed=0,
        recorded=(training.train, training.train_labels),
    )  # fmt: skip


def evaluated(training, attack, defense):
    return fitted_and_evaluated(scenario_of(training, attack), defense, training)


def test_the_harness_hands_out_its_training_embeddings(training):
    seen = []

    def look(victim, observation, criterion):
        seen.append(victim.recordings())
        return observation

    scenario = scenario_of(training, Cheat(do=look, agents="2"))
    refer(scenario, training.undefended)
    ((shown, labels),) = seen
    visible = training.train.observed & mask_of(1, samples=30)
    assert torch.equal(shown.observed, visible)
    columns = LAYOUT.expand(visible)
    assert torch.equal(shown.features[columns], training.train.features[columns])
    assert torch.equal(labels, training.train_labels)


# Samples already labelled as the target.


def test_a_criterion_counts_the_target_where_it_is_told_to():
    labels, target = torch.tensor([0, 1, 2]), torch.tensor([1, 1, 1])
    leaving = Criterion(labels, target)
    counting = Criterion(labels, target, counts_target=True)
    assert leaving.eligible.tolist() == [True, False, True]
    assert counting.eligible.tolist() == [True] * 3
    assert counting.copy().counts_target
    assert counting[1:].counts_target
    assert counting[1:].eligible.tolist() == [True, True]
    assert Criterion(labels).eligible.tolist() == [True] * 3
    names = ("red", "green", "blue")
    for target_name in ("green", "1"):
        found = Criterion.of(target_name, labels, names, counts_target=True)
        assert found.counts_target
    two = Criterion.of("other", labels[:2], names[:2], counts_target=True)
    assert two.counts_target


def test_counting_the_target_changes_what_is_counted_and_nothing_else(training):
    # Right about most samples, those of the target included.
    defense = Given(center=Plain(training.undefended.head))
    found = {
        counts: evaluated(
            training, PGD(agents="2", target="green", steps=8, count_target=counts),
            defense,
        )
        for counts in (False, True)
    }  # fmt: skip
    without, counted = found[False], found[True]
    labels = torch.tensor(without.outcomes.labels)
    assert without.outcomes.counted == (labels != 1).tolist()
    assert counted.outcomes.counted == [True] * N
    assert counted.outcomes.attacked == without.outcomes.attacked
    attacked = torch.tensor(counted.outcomes.attacked)
    assert counted.metrics.attacked.n == N
    assert counted.metrics.attacked.successes == int((attacked == labels).sum())
    assert without.metrics.attacked.n == int((labels != 1).sum())
    # Reaching the target is no success where it is the truth.
    assert counted.metrics.success_rate == without.metrics.success_rate
    assert counted.metrics.attacked.value > without.metrics.attacked.value


def records_of(registry, attack, *defenses):
    cells = expand(
        registry, datasets=["synthetic:agents=4,rank=2,samples=200,width=6"],
        attacks=[attack], defenses=defenses, seeds=[0],
        embedding="identity:epochs=10,batch=20",
    )  # fmt: skip
    return [record for _, record, _ in run_cells(cells)]


@pytest.mark.parametrize("counts", [False, True])
def test_the_record_says_whether_the_target_counts(counts):
    option = ",count_target=true" if counts else ""
    spec = f"pgd-paper:steps=3,target=other{option}"
    (record,) = records_of(default_registry(), spec, "none")
    assert record.status == "ok"
    (part,) = record.attack
    assert part.counts_target is counts
    # The other class is nobody's own: the switch leaves a two-class target as it is.
    assert record.outcomes.counted == [True] * len(record.outcomes.labels)
    (record,) = records_of(
        default_registry(), f"pgd-paper:steps=3,target=0{option}", "none"
    )
    kept = [counts or label != 0 for label in record.outcomes.labels]
    assert record.outcomes.counted == kept


# Fusion centers that are told.


def test_told_and_untold():
    center = Drops(linear_head(LAYOUT.width, CLASSES)).eval()
    received = observation_of(LAYOUT, N, missing=0.2)
    corrupted = torch.rand(N, LAYOUT.agents, generator=seeded(3)) < 0.5
    plain = Plain(center.head)
    assert torch.equal(center(received).logits, plain(received).logits)
    told = center.told(corrupted)
    expected = plain(received.without(corrupted)).logits
    assert torch.equal(told(received).logits, expected)
    assert told(received).status.tolist() == corrupted.any(dim=1).tolist()
    assert told.facts == {"kind": "drops"}
    assert isinstance(told, FusionCenter)
    assert not isinstance(told, OracleFusionCenter)


def test_told_in_chunks_it_answers_the_same():
    center = Drops(linear_head(LAYOUT.width, CLASSES)).eval()
    received = observation_of(LAYOUT, 23, missing=0.2)
    corrupted = torch.rand(23, LAYOUT.agents, generator=seeded(3)) < 0.5
    told = center.told(corrupted)
    whole, gradient = told(received), told.differentiable_logits(received)
    assert center.sizes == [23, 23]
    center.samples_per_chunk, center.sizes = 7, []
    parts = told(received)
    assert center.sizes == [7, 7, 7, 2]
    # Matrix products of other shapes may differ in the last digit.
    torch.testing.assert_close(parts.logits, whole.logits, rtol=1e-12, atol=1e-12)
    assert torch.equal(parts.purified, whole.purified)
    assert torch.equal(parts.status, whole.status)
    torch.testing.assert_close(
        told.differentiable_logits(received), gradient, rtol=1e-12, atol=1e-12
    )


def test_told_about_no_samples_it_answers_none():
    center = Drops(linear_head(LAYOUT.width, CLASSES)).eval()
    nothing = observation_of(LAYOUT, 5)[:0]
    told = center.told(torch.zeros(0, LAYOUT.agents, dtype=torch.bool))
    assert told(nothing).logits.shape == (0, CLASSES)
    assert told.differentiable_logits(nothing).shape == (0, CLASSES)


def test_told_it_shows_its_own_surrogate():
    class Surrogate(Drops):
        def surrogate_told(self, observation, corrupted):
            return corrupted.double()

    center = Surrogate(linear_head(LAYOUT.width, CLASSES))
    received = observation_of(LAYOUT, 9)
    corrupted = torch.rand(9, LAYOUT.agents, generator=seeded(3)) < 0.5
    shown = center.told(corrupted).differentiable_logits(received)
    assert torch.equal(shown, corrupted.double())
    assert not center.differentiable_logits(received).any()


def test_told_of_other_samples_it_refuses():
    center = Drops(linear_head(LAYOUT.width, CLASSES))
    told = center.told(mask_of(1, samples=9))
    for call in (told, told.differentiable_logits):
        with pytest.raises(
            ContractError, match=r"Drops: expected the 9 samples .* got 4"
        ):
            call(observation_of(LAYOUT, 4))


def test_the_harness_tells_each_sample_s_own_agents(training):
    """Random sets, and every set in turn: each decision knows its own draw."""
    center = Drops(training.undefended.head).eval()
    for rule in ("random:1", "worst:1"):
        attack = Flip(agents=rule, amplification=1e4)
        scenario = scenario_of(training, attack)
        correct = torch.ones(N, dtype=torch.bool)
        for draw in scenario.draws():
            told = Plain(center.head)(scenario.clean.without(draw.compromised))
            correct &= told.logits.argmax(1) == scenario.labels
        found = evaluated(training, attack, Oracle(center=center))
        attacked = torch.tensor(found.outcomes.attacked) == scenario.labels
        assert torch.equal(attacked, correct)
        assert found.fitted == {"kind": "drops"}
        # Without an attack nobody is corrupted, and nobody is dropped.
        clean = Plain(center.head)(scenario.clean).logits.argmax(1)
        assert found.outcomes.clean == clean.tolist()
        untold = evaluated(training, attack, Given(center=Plain(center.head)))
        assert untold.metrics.attacked.successes < found.metrics.attacked.successes


def test_an_adaptive_adversary_attacks_what_was_told(training):
    """Gradients of an oracle that drops the corrupted block are zero there."""
    center = Drops(training.undefended.head).eval()
    found = evaluated(training, PGD(agents="2", steps=3), Oracle(center=center))
    heard = scenario_of(training, Flip()).clean.observed[:, 1]
    assert found.unusable_gradients == float(heard.double().mean())
    assert found.metrics.gradients > 0


@pytest.mark.parametrize(
    ("kind", "center"), [(Given, Drops), (Oracle, Plain)], ids=["silent", "boasting"]
)
def test_declaration_and_class_must_agree(training, kind, center):
    defense = kind(center=center(linear_head(LAYOUT.width, CLASSES)))
    message = f"expected an OracleFusionCenter .* got {center.__name__}"
    with pytest.raises(ContractError, match=message):
        evaluated(training, Flip(), defense)


@dataclass(frozen=True, kw_only=True)
class Dropper(AbstractDefense):
    """Fits an oracle; configured through a registry."""

    name: ClassVar[str] = "dropper"
    capabilities: ClassVar[Capabilities] = Capabilities(needs_corrupted_agents=True)

    def fit(self, training, *, generator):
        return Drops(training.undefended.head)


@hookimpl
def cibench_defenses():
    return [Dropper]


class WithDropper(Registry):
    """The shipped plugins and `dropper`, in a module `dropper_plugin`."""

    def __init__(self):
        super().__init__()
        entry = PluginEntry("defense", "dropper", "dropper_plugin", "cibench", "0")
        self.entries = (*default_registry().entries, entry)


def test_a_record_of_an_oracle_carries_its_flag(monkeypatch):
    module = ModuleType("dropper_plugin")
    module.__file__ = __file__
    module.cibench_defenses = cibench_defenses
    monkeypatch.setitem(sys.modules, module.__name__, module)
    registry = WithDropper()
    monkeypatch.setattr(answer, "default_registry", lambda: registry)
    dropper, none = records_of(registry, "flip", "dropper", "none")
    assert {dropper.status, none.status} == {"ok"}
    assert "oracle-information" in dropper.flags
    assert "oracle-information" not in none.flags


# Blocks of subnormal numbers.


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_subnormal_value_makes_a_block_unusable(dtype):
    tiny = torch.finfo(dtype).tiny
    features = normal(4, LAYOUT.width).to(dtype)
    features[0, 3] = tiny / 2
    features[1, 5] = -tiny / 4
    features[2, 0] = 0.0
    features[3, 1] = tiny
    received = everyone(features, LAYOUT)
    clean, rejected = sanitize(received)
    expected = mask_of(samples=4)
    expected[0, 1] = expected[1, 2] = True
    assert torch.equal(rejected, expected)
    assert torch.equal(clean.observed, ~expected)
    assert not clean.features[LAYOUT.expand(expected)].any()
    center = Plain(linear_head(LAYOUT.width, CLASSES).to(dtype))
    silent = center(replace(received, observed=~expected))
    assert torch.equal(center(received).logits, silent.logits)


def test_counting_the_target_class_needs_a_target_class():
    with pytest.raises(ThreatModelError, match="count_target: expected false without"):
        PGD(count_target=True)


def test_the_source_of_a_plugin_in_a_namespace_package_is_its_own(
    tmp_path, monkeypatch
):
    package = tmp_path / "shared_space" / "mine"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("A = 1")
    (tmp_path / "shared_space" / "theirs.py").write_text("B = 1")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert len(source_hash("shared_space.mine")) == 16
    assert source_hash("shared_space.theirs") != source_hash("shared_space.mine")

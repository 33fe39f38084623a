"""Searches for the worst set of agents against brute force, in cells and in records."""

import itertools
import json
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import ClassVar

import msgspec
import pytest
import torch
from torch import nn

from cibench import (
    AbstractAttack,
    AbstractDefense,
    AgentSelection,
    Capabilities,
    ContractError,
    OracleFusionCenter,
    ThreatModelError,
    Training,
    UndefendedFusionCenter,
    agent_search,
    cli,
)
from cibench.agent_search import BATCH, FINALISTS, PULLS, bandit, greedy
from cibench.embedding import RECIPES
from cibench.execute.describe import attack_parts, median_norms
from cibench.execute.store import ArtifactStore
from cibench.leaderboard.command import board_title, compromised, who
from cibench.leaderboard.places import Threat
from cibench.leaderboard.worst import by_agent
from cibench.references import refer, reference_tensors, references_from
from cibench.results import Proportion, RunFolder
from cibench.results.table import threat_notes
from cibench.scenario import Cost, Scenario
from cibench.submission.across import across_findings
from cibench.submission.recount import record_findings
from cibench.submission.replay import replay
from cibench_plugins.attacks.combined import Combined
from cibench_plugins.attacks.flip import Flip
from cibench_plugins.attacks.missing import Missing
from cibench_plugins.attacks.pgd import PGD
from cibench_plugins.attacks.witness import Witness
from helpers import (
    Plain,
    fitted_and_evaluated,
    layout_of,
    mlp_head,
    observation_of,
    seeded,
)
from helpers_submission import run as run_cli

AGENTS = 5
LAYOUT = layout_of(*(1,) * AGENTS)
#: How many samples each agent alone can break, in every defense that hears it.
HARM = (3, 9, 5, 12, 7)
N = sum(HARM)
RULES = ("greedy", "bandit")


# The searches themselves.


def additive(harm, samples):
    """A judge for whom the harm of a set is the sum of its agents' harms."""
    owner = torch.repeat_interleave(torch.arange(len(harm)), torch.tensor(harm))
    owner = torch.cat([owner, torch.full((samples - len(owner),), -1)])
    calls = []

    def judge(agents, batch=None):
        calls.append((agents, None if batch is None else batch.tolist()))
        some = owner if batch is None else owner[batch]
        return int((~torch.isin(some, torch.tensor(agents))).sum()), 0.0

    return judge, calls


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_both_find_the_worst_set_where_harm_adds_up(count, seed):
    places = torch.randperm(8, generator=seeded(seed)).tolist()
    harm = [(3 * place) ** 2 // 8 for place in places]  # all differ, from 0 to 55
    judge, calls = additive(harm, sum(harm) + 20)
    sets = list(itertools.combinations(range(8), count))
    worst = min(sets, key=judge)
    calls.clear()
    assert greedy(range(8), count, judge) == worst
    assert (
        len(calls)
        == len({agents for agents, _ in calls})
        == sum(8 - taken for taken in range(count))
    )
    calls.clear()
    samples = sum(harm) + 20
    options = {"samples": samples, "generator": seeded(seed)}
    assert bandit(range(8), count, judge, **options) == worst
    pulls = [batch for _, batch in calls if batch is not None]
    assert len(pulls) == PULLS
    assert all(len(set(batch)) == len(batch) == BATCH for batch in pulls)
    assert 1 <= len(calls) - PULLS <= FINALISTS
    first, calls[:] = list(calls), []
    bandit(range(8), count, judge, samples=samples, generator=seeded(seed))
    assert calls == first
    calls.clear()
    bandit(range(8), count, judge, samples=samples, generator=seeded(seed + 9))
    assert calls != first


def test_only_candidates_are_chosen_and_the_first_of_equals():
    judge, calls = additive([4, 4, 9, 4, 4], 30)
    assert greedy((0, 1, 3, 4), 2, judge) == (0, 1)
    found = bandit((1, 3, 4), 2, judge, samples=30, generator=seeded())
    assert set(found) < {1, 3, 4}
    assert not any(2 in agents for agents, _ in calls)


def test_a_margin_decides_where_as_many_samples_stand():
    """Two agents that do harm only together: the margin of each alone shows the way."""

    def judge(agents, samples=None):
        together = {1, 3} & set(agents)
        return 10 if len(together) < 2 else 0, -float(len(together))

    assert greedy(range(5), 2, judge) == (1, 3)


# Cells.


class Breaks(nn.Module):
    """Class 1 wherever some agent that is heard sends a negative value, else class 0."""

    def __init__(self, *deaf):
        super().__init__()
        self.register_buffer("deaf", torch.zeros(AGENTS, dtype=torch.bool))
        self.deaf[list(deaf)] = True

    def forward(self, features):
        broken = ((features < 0) & ~self.deaf).any(dim=1).double()
        return torch.stack([1.0 - broken, broken], dim=1)


@dataclass(frozen=True, kw_only=True)
class Given(AbstractDefense):
    name: ClassVar[str] = "given"

    center: object

    @property
    def capabilities(self):
        return Capabilities(
            needs_corrupted_agents=isinstance(self.center, OracleFusionCenter)
        )

    def fit(self, training, *, generator):
        return self.center


@dataclass(frozen=True, kw_only=True)
class Negated(AbstractAttack):
    """Flips signs; asks once, so that there is something to count."""

    name: ClassVar[str] = "negated"
    knowledge: str = "query"
    target: str = "any"

    def run(
        self, victim, observation, criterion, *, compromised, radius, generator
    ):  # fmt: skip
        victim.logits(observation)
        seen.append((observation.features, compromised, criterion.labels))
        own = observation.layout.expand(compromised)
        features = torch.where(own, -observation.features, observation.features)
        return observation.with_features(features)


seen: list = []


@pytest.fixture(autouse=True)
def _forget():
    seen.clear()


def clean_of(harm):
    """Samples that one agent each can break: its block is 1, all others are 0."""
    owner = torch.repeat_interleave(torch.arange(AGENTS), torch.tensor(harm))
    features = nn.functional.one_hot(owner, AGENTS).double()
    clean = observation_of(LAYOUT, len(owner), seed=0)
    return replace(clean, features=features, observed=clean.observed | True)


def training_of(undefended):
    train = clean_of(HARM)
    labels = torch.zeros(N, dtype=torch.long)
    return Training(
        train=train, train_labels=labels, validation=train, validation_labels=labels,
        classes=2, undefended=undefended, recipe=RECIPES["identity"], key="key", seed=0,
        store=ArtifactStore(None),
    )  # fmt: skip


def scenario_of(*attack, harm=HARM, seed=0, labels=None):
    clean = clean_of(harm)
    return Scenario(
        clean=clean,
        labels=torch.zeros(len(clean), dtype=torch.long) if labels is None else labels,
        attack=attack,
        specs=tuple(f"{part.name}:{i}" for i, part in enumerate(attack)),
        median_norms=median_norms(clean),
        class_names=("whole", "broken"),
        dataset="tiny",
        seed=seed,
    )


@pytest.fixture(scope="module")
def training():
    """The undefended hears agents 0 to 2 only; whom it does not hear it takes for -1."""
    fill = torch.zeros(LAYOUT.width, dtype=torch.float64)
    fill[2] = -1.0
    return training_of(UndefendedFusionCenter(Breaks(3, 4), fill).eval())


def names(*agents):
    return [LAYOUT.names[agent] for agent in agents]


@pytest.mark.parametrize("rule", RULES)
def test_a_cell_finds_the_set_that_exhaustion_finds(training, rule):
    """Every number of a cell by hand: harms add up, each defense meets its own set."""
    center = Plain(Breaks())
    found = fitted_and_evaluated(
        scenario_of(Negated(agents=f"{rule}:2")), Given(center=center), training
    )
    searched, attacked = seen[:-1], seen[-1]
    worst = fitted_and_evaluated(
        scenario_of(Negated(agents="worst:2")), Given(center=center), training
    )
    metrics = found.metrics
    left = N - HARM[1] - HARM[3]
    assert metrics.attacked == metrics.universal == Proportion(successes=left, n=N)
    assert metrics.universal == worst.metrics.universal
    assert metrics.universal_set == worst.metrics.universal_set == names(1, 3)
    assert set(found.outcomes.compromised) == {0b01010}
    assert [draw.sets for draw in found.draws] == [((1, 3),)]
    assert attacked[1].all(dim=0).tolist() == [False, True, False, True, False]
    # The undefended meets the set that is worst for it: agents 1 and 2.
    assert metrics.attacked_undefended.successes == N - HARM[1] - HARM[2]
    # The genie is told agents 1 and 3; told 1 and 2 it would take all for broken.
    assert metrics.genie.successes == N
    # Under the same agents the undefended breaks nothing that the defense withstands.
    assert found.transfer_breaks == 0.0
    if rule == "greedy":  # what the attack asks, and what the search does
        assert metrics.queries == 2 * (5 + 4) * N + N
        assert len(searched) >= 9
    else:
        assert metrics.queries > 2 * PULLS * BATCH
        assert (metrics.queries - 2 * PULLS * BATCH - N) % (2 * N) == 0
    assert metrics.gradients == 0


@pytest.mark.parametrize("rule", RULES)
def test_the_undefended_meets_the_set_of_its_references(training, rule):
    scenario = scenario_of(Negated(agents=f"{rule}:2"))
    references = refer(scenario, training.undefended)
    asked = len(seen)
    assert references.found == (1, 2)
    found = fitted_and_evaluated(scenario, Given(center=training.undefended), training)
    assert len(seen) == 2 * asked  # one search, by `refer`
    assert found.metrics.queries == references.cost.queries > 0
    assert found.metrics.universal_set == names(1, 2)
    assert found.metrics.attacked == found.metrics.attacked_undefended
    # Stored references keep the set.
    tensors = reference_tensors(references, scenario)
    again = references_from(tensors, scenario)
    assert again.found == references.found
    assert again.cost == references.cost
    assert [d.sets for d in again.draws] == [((1, 2),)]
    for one, other in zip(again.observations, references.observations, strict=True):
        assert torch.equal(one.features, other.features)
    told = refer(scenario, training.undefended, (0, 4))
    assert told.found == (0, 4)
    assert told.cost == Cost(queries=N)


@pytest.mark.parametrize(
    ("rule", "seed"), [("greedy", 1), ("greedy", 2), ("greedy", 3), ("bandit", 1)]
)
def test_no_search_beats_exhaustion(rule, seed):
    center = Plain(mlp_head(LAYOUT.width, 3, seed=seed))
    clean = observation_of(LAYOUT, 40, seed=seed)
    undefended = UndefendedFusionCenter(
        mlp_head(LAYOUT.width, 3, seed=seed + 20), torch.zeros(LAYOUT.width).double()
    )
    training = replace(training_of(undefended), classes=3)
    labels = center(clean).logits.argmax(dim=1)
    metrics = {}
    for agents in (f"{rule}:2", "worst:2"):
        attack = PGD(agents=agents, budget=0.8, steps=3, restarts=1)
        scenario = replace(
            scenario_of(attack, labels=labels),
            clean=clean, median_norms=median_norms(clean), class_names=("a", "b", "c"),
        )  # fmt: skip
        found = fitted_and_evaluated(scenario, Given(center=center), training)
        metrics[agents.partition(":")[0]] = found.metrics
    one, every = metrics[rule], metrics["worst"]
    assert every.attacked.successes <= every.universal.successes < 40
    assert one.attacked == one.universal
    assert every.universal.successes <= one.attacked.successes
    assert one.gradients > every.gradients / 3
    assert one.queries > 0 == every.queries


def test_a_search_knows_few_samples_the_same_for_every_defense(training):
    """Of 300 samples 128 that count, whatever the defense decides; another seed, others."""
    harm = (40, 50, 60, 70, 80)
    labels = torch.zeros(300, dtype=torch.long)
    labels[::2] = 1  # are of the target class already
    attack = Negated(agents="greedy:1", target="broken")
    known = []
    for seed, center in (
        (0, Plain(Breaks())),
        (0, Plain(Breaks(4))),
        (1, Plain(Breaks())),
    ):
        seen.clear()
        scenario = scenario_of(attack, harm=harm, seed=seed, labels=labels)
        fitted_and_evaluated(scenario, Given(center=center), training)
        trials = [features for features, *_ in seen if len(features) < 300]
        assert {len(features) for features in trials} == {agent_search.SAMPLES}
        assert all((kept == 0).all() for f, _, kept in seen if len(f) < 300)
        assert all(torch.equal(features, trials[0]) for features in trials)
        known.append(trials[0])
    assert torch.equal(known[0], known[1])
    assert not torch.equal(known[0], known[2])


def test_of_as_many_agents_as_there_are_nothing_is_asked(training):
    scenario = scenario_of(Negated(agents="greedy:5"))
    found = fitted_and_evaluated(scenario, Given(center=Plain(Breaks())), training)
    assert found.metrics.queries == N
    assert found.metrics.attacked.successes == 0


class Told(OracleFusionCenter):
    """Believes honest agents only, but agent 4 even when it is told."""

    def __init__(self):
        super().__init__()
        self.head = Breaks()
        self.sizes = set()

    def decide_told(self, observation, corrupted):
        self.sizes.add(len(corrupted))
        deaf = corrupted.clone()
        deaf[:, 4] = False
        return Plain(self.head).decide(observation.without(deaf))


@pytest.mark.parametrize("rule", RULES)
def test_an_oracle_is_told_each_set_that_is_tried(training, rule):
    center = Told()
    scenario = scenario_of(Negated(agents=f"{rule}:1"))
    found = fitted_and_evaluated(scenario, Given(center=center), training)
    assert found.metrics.universal_set == names(4)
    assert found.metrics.attacked.successes == N - HARM[4]
    assert center.sizes == ({N} if rule == "greedy" else {N, BATCH})


# Composition, and rules that do not fit.


def test_a_part_that_searches_leaves_the_agents_of_others_alone(training):
    scenario = scenario_of(Flip(agents="4"), Negated(agents="greedy:1"))
    assert scenario.searched == 1
    assert scenario.candidates() == (0, 1, 2, 4)
    assert scenario.misfit() is None
    found = fitted_and_evaluated(scenario, Given(center=Plain(Breaks())), training)
    assert [draw.sets for draw in found.draws] == [((3,), (1,))]
    assert found.metrics.universal_set == names(1, 3)
    for others, least in ((Flip(agents="1-4"), 1), (Flip(agents="random:1"), 0)):
        clash = scenario_of(others, Negated(agents="greedy:2"))
        message = f"agents=greedy:2 that no other part.*sample, got {least}"
        assert str(clash.misfit())
        with pytest.raises(ThreatModelError, match=message):
            clash.candidates()


def test_what_cannot_ask_the_defense_cannot_search(tmp_path):
    asks = "expected an attack with knowledge of query or adaptive, for the search asks"
    for make in (
        lambda: Missing(agents="greedy:1"),
        lambda: Flip(agents="bandit:2"),
        lambda: PGD(agents="greedy:1", knowledge="fusion"),
    ):
        with pytest.raises(ThreatModelError, match=f"{asks}.*got"):
            make()
    file = tmp_path / "w.safetensors"
    file.write_bytes(b"")
    with pytest.raises(ThreatModelError, match="witness: expected one set of agents"):
        Witness(agents="greedy:1", file=str(file))
    PGD(agents="greedy:1")
    Combined(agents="bandit:2", silent="2", payload="pgd")


def test_rules():
    for text, search in (("greedy:2", True), ("bandit:1", True), ("worst:2", False)):
        rule = AgentSelection(text)
        assert (rule.is_searched, rule.is_fixed) == (search, False)
    assert AgentSelection("2-3").is_fixed
    rule = AgentSelection("bandit:2")
    assert list(rule.sets(LAYOUT, (1, 4))) == [(1, 4)]
    with pytest.raises(ThreatModelError, match="the set that a search found, got none"):
        next(rule.masks(LAYOUT, 3, seeded()))
    with pytest.raises(ThreatModelError, match="got 'greedy:0'"):
        AgentSelection("greedy:0")
    for text in ("greedy:6", "bandit:6"):
        with pytest.raises(
            ThreatModelError, match=f"agents={text}: expected at most 5"
        ):
            AgentSelection(text).check(LAYOUT)
    assert str(scenario_of(Negated(agents="greedy:6")).misfit()).startswith(
        "agents=greedy:6: expected at most 5"
    )


def test_a_greedy_search_of_too_many_sets_is_refused(monkeypatch):
    monkeypatch.setattr("cibench.agents.MAX_SETS", 11)
    AgentSelection("greedy:2").check(LAYOUT)
    message = "greedy:3: expected a search of at most 11 sets, got 12; choose bandit:3"
    with pytest.raises(ThreatModelError, match=message):
        AgentSelection("greedy:3").check(LAYOUT)


def test_before_a_search_no_set_is_known():
    scenario = scenario_of(Negated(agents="greedy:1"))
    with pytest.raises(ThreatModelError, match="it depends on the defense"):
        next(scenario.draws())


# Witnesses.


def test_a_witness_of_a_search_is_played_again(training):
    from cibench.witness import save

    center = Plain(Breaks())
    scenario = scenario_of(Negated(agents="greedy:2"))
    found = fitted_and_evaluated(scenario, Given(center=center), training)

    def played(tensors):
        return replay(scenario, training, fusion_center=center, witness=save(tensors))

    kept = {**found.witness, "features": found.witness["features"].float()}
    decided = played(kept)
    assert decided["attacked"] == found.outcomes.attacked
    assert decided["genie"] == found.outcomes.genie
    assert "attacked_undefended" not in decided
    other = kept["compromised"].clone()
    other[0] = other[0].roll(1)
    with pytest.raises(
        ContractError, match="one set for all samples as agents=greedy:2"
    ):
        played({**kept, "compromised": other, "features": kept["features"] * 0})
    other = kept["compromised"].clone()
    other[3, 0] = True
    with pytest.raises(
        ContractError, match="that the harness draws, got others in 1 of"
    ):
        played({**kept, "compromised": other})


# Records of the command line.


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    attacks = [f"pgd:agents={rule}:1,steps=2,restarts=1" for rule in RULES]
    folder = tmp_path_factory.mktemp("records")
    return run_cli(folder, attacks, ("none", "norm-clip"))


@pytest.fixture(scope="module")
def records(ran):
    return RunFolder(ran).read()


def test_records_name_the_set_and_agree_with_themselves(records):
    assert len(records) == 4
    for record in records:
        (part,) = record.attack
        assert part.searched
        assert part.sets == [record.metrics.universal_set]
        assert len(part.sets[0]) == 1
        place = record.agents.index(part.sets[0][0])
        assert set(record.outcomes.compromised) == {1 << place}
        assert record.metrics.gradients > 0
        assert record.metrics.queries > 0
        assert record_findings(record) == []
        assert "(searched for against each defense) of 3" in threat_notes(record)[0]
        lies = ([], [["agent1", "agent2"]], [["agent1"], ["agent2"]], [["nobody"]])
        for sets in lies:
            lie = msgspec.structs.replace(part, sets=sets)
            changed = msgspec.structs.replace(record, attack=[lie])
            assert any(
                "expected one set of 1 agents" in f for f in record_findings(changed)
            )
        others = [[name] for name in record.agents if [name] not in part.sets]
        lie = msgspec.structs.replace(part, sets=others[:1])
        changed = msgspec.structs.replace(record, attack=[lie])
        assert any("expected agents as" in f for f in record_findings(changed))


def test_records_of_a_search_share_what_does_not_depend_on_the_set(records):
    assert across_findings(records) == []
    same = [r for r in records if r.attack[0].agents == "greedy:1"]
    first, second = same
    part = first.attack[0]
    changed = msgspec.structs.replace(
        second, attack=[part],
        outcomes=msgspec.structs.replace(
            second.outcomes,
            genie=[1 - g for g in first.outcomes.genie],
            attacked_undefended=[1 - a for a in first.outcomes.attacked_undefended],
        ),
    )  # fmt: skip
    found = " ".join(across_findings([first, changed]))
    assert "genie: expected the same" in found
    assert "attacked_undefended: expected the same" in found
    elsewhere = msgspec.structs.replace(part, sets=[["another"]])
    changed = msgspec.structs.replace(changed, attack=[elsewhere])
    found = " ".join(across_findings([first, changed]))
    assert "genie: expected the same" not in found
    assert "attacked_undefended: expected the same" in found


def test_a_submission_of_searches_is_verified(ran, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CIBENCH_CACHE", str(ran.parent / "cache"))
    monkeypatch.chdir(tmp_path)
    assert cli.invoke(["submit", str(ran), "--author", "Ada", "-o", "b.zip"]) == 0
    capsys.readouterr()
    options = ("--isolation", "none", "--cached", "-q", "--json")
    assert cli.invoke(["verify", "b.zip", *options]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["findings"], told["verification"]["replayed"]) == ([], 4)


def test_the_set_is_not_known_to_a_plan(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CIBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    data = "synthetic:agents=3,rank=2,samples=60,width=3"
    wanted = ("-d", "none", "--dataset", data, "-a", "pgd:agents=greedy:2")
    assert cli.invoke(["plan", *wanted, "--seeds", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["cells"]
    for rule, said in (
        (
            "greedy:1+pgd:agents=bandit:1",
            "at most one part with agents=worst:q, greedy:q",
        ),
        ("greedy:4", "agents=greedy:4: expected at most 3 compromised agents"),
        (
            "greedy:1,knowledge=fusion",
            "the search asks the defense, got pgd with fusion",
        ),
    ):
        code = cli.invoke(
            ["run", *wanted[:4], "--isolation", "none", "-a", f"pgd:agents={rule}"]
        )
        assert code == 2
        assert said in " ".join(capsys.readouterr().err.split())


def test_what_a_board_calls_a_search():
    assert who("greedy:2", 9) == "the worst two agents that a greedy search finds"
    assert compromised("bandit:3", LAYOUT.names) == 3
    title = board_title("d", Threat("bandit:1", "any", False, 0.0), 9, corrupts=True)
    assert title == "d, the worst one agent that a bandit search finds sends anything"
    # Who is compromised is up to the defense: nothing is said of each agent.
    for rule in ("greedy:1", "last+bandit:2"):
        group = SimpleNamespace(threat=Threat(rule, "any", False, 0.0))
        found = SimpleNamespace(clean=True)
        assert by_agent(group, None, found, None, oracle=False) == {}


def test_parts_of_records_without_a_search_have_no_sets():
    scenario = scenario_of(Negated(agents="greedy:1"))

    class Part:
        configured = scenario.attack[0]
        component = None

    class Cell:
        attack = (Part,)

    (part,) = attack_parts(Cell, scenario)
    assert (part.agents, part.sets) == ("greedy:1", [])

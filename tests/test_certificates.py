"""Certificates in records: against brute force, only where nobody is compromised."""

import itertools

import pytest
import torch

from cibench import ContractError, Observation
from cibench.certificates import certificates
from cibench.grid import expand
from cibench.registry import default_registry
from cibench.results.record import Certificate, decode, encode
from cibench.scenario import Scenario
from cibench_plugins.attacks.flip import Flip
from cibench_plugins.attacks.missing import Missing
from cibench_plugins.attacks.none import NoAttack
from helpers import Plain, layout_of, linear_head, observation_of, run_cells

LAYOUT = layout_of(2, 1, 2, 1)
N = 4
SET = "synthetic:agents=4,rank=2,samples=60,width=3"


class Certifying(Plain):
    """Certifies what a table says: `standing[q - 1]` for q corrupted agents."""

    def __init__(self, standing):
        super().__init__(linear_head(LAYOUT.width, 3))
        self.standing = standing
        self.asked = []

    def certify(self, observation, corrupted):
        self.asked.append(corrupted)
        answer = self.standing[corrupted - 1]
        return torch.tensor(answer) if isinstance(answer, list) else answer


class Smoothed(Plain):
    """A radius for each sample, and the class it is for."""

    def __init__(self, radii, *, off=(), alpha=None):
        super().__init__(linear_head(LAYOUT.width, 3))
        self.radii, self.off, self.alpha = radii, off, alpha

    @property
    def facts(self):
        return {} if self.alpha is None else {"alpha": self.alpha}

    def radius(self, observation):
        classes = self(observation).logits.argmax(1)
        for sample in self.off:
            classes[sample] = (classes[sample] + 1) % 3
        radii = self.radii
        return torch.tensor(radii) if isinstance(radii, list) else radii, classes


def scenario_of(*attack):
    clean = observation_of(LAYOUT, N, seed=3)
    return Scenario(
        clean=clean, labels=torch.zeros(N, dtype=torch.long), attack=attack,
        specs=tuple(part.name for part in attack), median_norms=torch.ones(4),
        class_names=("r", "g", "b"), dataset="tiny", seed=0,
    )  # fmt: skip


def test_the_radius_is_how_many_agents_in_a_row_are_certified():
    yes, no = [True] * N, [False] * N
    center = Certifying([[True, True, False, True], [True, False, True, True], yes, no])
    (found,) = certificates(center, scenario_of(NoAttack()))
    # The third sample stands for two agents but not for one, which proves nothing.
    assert found == Certificate(kind="agents", radius=[3, 1, 0, 3], confidence=1.0)
    assert center.asked == [1, 2, 3, 4]


def test_nothing_more_is_asked_once_nothing_stands():
    center = Certifying([[True] * N, [False] * N])
    (found,) = certificates(center, scenario_of(NoAttack()))
    assert found.radius == [1.0] * N
    assert center.asked == [1, 2]


def test_an_l2_radius_counts_for_the_class_that_is_decided():
    center = Smoothed([0.5, 1.25, 0.0, 1 / 3], off=[1], alpha=0.01)
    (found,) = certificates(center, scenario_of(NoAttack()))
    assert found.kind == "l2"
    assert found.radius == [0.5, 0.0, 0.0, 0.333333]
    assert found.confidence == pytest.approx(0.99)
    (found,) = certificates(Smoothed([0.0] * N), scenario_of(NoAttack()))
    assert found.confidence == pytest.approx(0.999)


def test_both_kinds_stand_side_by_side():
    class Both(Smoothed):
        def certify(self, observation, corrupted):
            return torch.zeros(N, dtype=torch.bool)

    found = certificates(Both([1.0] * N), scenario_of(NoAttack()))
    assert [one.kind for one in found] == ["agents", "l2"]


@pytest.mark.parametrize(
    "attack",
    [
        (Flip(),),
        (Missing(agents="worst:1"),),
        (Flip(agents="random:1"),),
        (NoAttack(), Flip()),
    ],
    ids=lambda attack: "+".join(part.agents for part in attack),
)
def test_a_cell_that_compromises_anyone_has_none(attack):
    center = Certifying([[True] * N] * 4)
    assert certificates(center, scenario_of(*attack)) == []
    assert center.asked == []


def test_a_defense_that_certifies_nothing_has_none():
    plain = Plain(linear_head(LAYOUT.width, 3))
    assert certificates(plain, scenario_of(NoAttack())) == []


@pytest.mark.parametrize(
    ("center", "says"),
    [
        (Certifying([[True] * 3]), r"Certifying.certify: expected .* shape \(4,\)"),
        (Certifying(["yes"]), "got str"),
        (Smoothed([1.0]), r"Smoothed.radius: expected .* got torch.Size\(\[1\]\)"),
        (Smoothed(torch.ones(N, 1)), "Smoothed.radius: expected"),
        (Smoothed([1.0, torch.inf, 0.0, 0.0]), "expected finite radii"),
        (Smoothed([1.0, torch.nan, 0.0, 0.0]), "expected finite radii"),
    ],
)
def test_an_answer_of_another_form_fails_the_cell(center, says):
    with pytest.raises(ContractError, match=says):
        certificates(center, scenario_of(NoAttack()))


# Real defenses.


@pytest.fixture(scope="module")
def records():
    cells = expand(
        default_registry(), datasets=[SET], attacks=["none", "flip"], seeds=[0],
        defenses=["randomized-ablation:keep=1", "randomized-smoothing", "genie", "none"],
        embedding="identity:epochs=10,batch=20",
    )  # fmt: skip
    found = run_cells(cells)
    assert all(record.status == "ok" for _, record, _ in found)
    return {(r.defense.name, r.attack[0].component.name): r for _, r, _ in found}


def test_records_of_clean_cells_keep_certificates_and_others_have_none(records):
    kinds = {
        place: [one.kind for one in record.certificates]
        for place, record in records.items()
    }
    assert kinds == {
        **{(defense, "flip"): [] for defense, _ in kinds},
        ("randomized-ablation", "none"): ["agents"],
        ("randomized-smoothing", "none"): ["l2"],
        ("genie", "none"): [],
        ("none", "none"): [],
    }
    for record in records.values():
        n = len(record.outcomes.labels)
        assert all(len(one.radius) == n for one in record.certificates)
        assert decode(encode(record)) == record


def fusion_center(monkeypatch):
    """The ablation's fusion center and its clean test embeddings."""
    from cibench.execute import runner

    kept = []

    def catch(center, scenario):
        kept.append((center, scenario))
        return certificates(center, scenario)

    monkeypatch.setattr(runner, "certificates", catch)
    cells = expand(
        default_registry(), datasets=[SET], attacks=["none"], seeds=[0],
        defenses=["randomized-ablation:keep=1"],
        embedding="identity:epochs=10,batch=20",
    )  # fmt: skip
    ((_, record, _),) = run_cells(cells)
    ((center, scenario),) = kept
    return center, scenario.clean, record


def test_certified_agents_hold_against_every_vote_they_could_cast(monkeypatch):
    center, clean, record = fusion_center(monkeypatch)
    (certificate,) = record.certificates
    agents = clean.layout.agents
    classes = center(clean).logits.shape[1]
    # With one agent to a subset the votes are the agents' own: an adversary casts any.
    alone = [
        center(Observation(clean.features, only, clean.layout))
        .logits.argmax(1)
        .tolist()
        for only in (
            clean.observed & (torch.arange(agents) == agent) for agent in range(agents)
        )
    ]
    assert clean.observed.all()
    expected = []
    for votes in zip(*alone, strict=True):
        before = leader(votes, classes)
        largest = 0
        for q in range(1, agents + 1):
            sets = itertools.combinations(range(agents), q)
            if not all(withstands(votes, bad, before, classes) for bad in sets):
                break
            largest = q
        expected.append(largest)
    assert certificate.radius == expected
    assert len(set(expected)) > 1


def leader(votes, classes):
    """The majority; `max` returns the first of equal ones."""
    return max(range(classes), key=lambda c: (list(votes).count(c), -c))


def withstands(votes, bad, before, classes):
    honest = [vote for agent, vote in enumerate(votes) if agent not in bad]
    choices = itertools.product(range(classes), repeat=len(bad))
    return all(leader([*honest, *cast], classes) == before for cast in choices)


def test_no_attack_of_the_grid_breaks_a_certified_sample(records):
    clean = records["randomized-ablation", "none"]
    attacked = records["randomized-ablation", "flip"]
    (certificate,) = clean.certificates
    held = [
        (a == b)
        for a, b, radius in zip(
            clean.outcomes.clean, attacked.outcomes.attacked, certificate.radius,
            strict=True,
        )
        if radius >= 1
    ]  # fmt: skip
    assert held
    assert all(held)

"""Certified accuracy of a fitted defense: against tables, brute force and closed forms."""

import itertools
import math

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from cibench import AgentLayout, ContractError, DataError, Observation
from cibench._errors import UsageError
from cibench.certification.certifying import Certified
from cibench.certification.figure import drawn
from cibench.certification.matrix import (
    ceiling,
    decoder_bounds,
    keep_direction,
    layout_of,
    read_matrix,
)
from cibench.certification.reasons import after_fit, before_fit, check_budgets
from cibench.certification.recovery import Recovery, recovery
from cibench.certification.standing import (
    ANYTHING,
    RECOVERY,
    SILENCE,
    Standing,
    parts,
    standing,
)
from cibench.certification.sweep import sweeps
from cibench.manifold import AffineManifold
from cibench.references import predictions
from cibench_plugins.defenses.copur import CoPur
from cibench_plugins.defenses.copur_smoothed import CoPurSmoothed
from cibench_plugins.defenses.double_masking import DoubleMasking
from cibench_plugins.defenses.partition_vote import PartitionVote
from cibench_plugins.defenses.randomized_ablation import RandomizedAblation
from helpers import Plain, linear_head, normal, observation_of
from helpers import layout_of as agents_of

LAYOUT = agents_of(2, 1, 2, 1)
N = 5


class Certifying(Plain):
    """Certifies what a table says: `table[q - 1]` for q corrupted agents."""

    def __init__(self, table, facts=None):
        super().__init__(linear_head(LAYOUT.width, 3))
        self.table, self.told, self.asked = table, facts or {}, []

    @property
    def facts(self):
        return self.told

    def certify(self, observation, corrupted):
        self.asked.append(corrupted)
        answer = self.table[corrupted - 1]
        return torch.tensor(answer) if isinstance(answer, list) else answer


class Recovering(Certifying):
    """A purifier with the numbers of its certificate."""

    def __init__(self, table, manifold, found=None):
        super().__init__(table)
        self.manifold, self.found = manifold, found or {}

    @property
    def purifies_onto(self):
        return self.manifold

    def certificate_parts(self, observation, corrupted):
        return {k: torch.as_tensor(v).expand(N) for k, v in self.found.items()}


class Smoothed(Plain):
    def __init__(self):
        super().__init__(linear_head(LAYOUT.width, 3))

    def radius(self, observation):
        return torch.ones(len(observation)), torch.zeros(len(observation)).long()


def clean_of():
    return observation_of(LAYOUT, N, seed=3)


def decided_by(center, clean):
    return predictions(center(clean))


def test_a_sample_counts_if_it_is_right_and_stands_against_all_numbers_up_to_it():
    table = [[True, True, True, False, True], [True, False, True, True, True]]
    center, clean = Certifying(table), clean_of()
    labels = decided_by(center, clean)
    labels[0] = (labels[0] + 1) % 3
    found = standing(center, clean, labels, corrupted=[1, 2])
    assert (found.samples, found.clean) == (5, 0.8)
    assert found.corrupted == {1: 0.6, 2: 0.4}
    assert (found.reasons, found.confidence) == ({}, 1.0)
    assert found.assumptions == (ANYTHING,)


def test_numbers_are_tried_until_nothing_stands():
    none = [False] * N
    center, clean = Certifying([[True] * N, none, [True] * N]), clean_of()
    found = standing(center, clean, decided_by(center, clean))
    assert found.corrupted == {1: 1.0, 2: 0.0}
    assert center.asked == [1, 2]
    assert found.reasons == {2: "no right decision stands against 2"}


def test_what_fell_is_not_asked_again():
    center, clean = Certifying([[False] * N] * 3), clean_of()
    found = standing(center, clean, decided_by(center, clean), corrupted=[1, 3])
    assert (found.corrupted, center.asked) == ({1: 0.0, 3: 0.0}, [1])


def test_decisions_that_stand_and_are_wrong_certify_nothing():
    center, clean = Certifying([[True] * N]), clean_of()
    labels = (decided_by(center, clean) + 1) % 3
    found = standing(center, clean, labels)
    assert (found.clean, found.corrupted) == (0.0, {1: 0.0})
    assert found.assumptions == ()


@pytest.mark.parametrize(
    ("center", "reason"),
    [
        (Plain(linear_head(LAYOUT.width, 3)), "it has no certificate"),
        (Smoothed(), "it certifies an l2 radius, and agents may send anything"),
    ],
)
def test_a_defense_without_a_certificate_has_a_reason(center, reason):
    clean = clean_of()
    found = standing(center, clean, decided_by(center, clean), corrupted=[1, 2])
    assert found.corrupted == {1: 0.0, 2: 0.0}
    assert found.reasons == {0: reason}
    assert standing(center, clean, decided_by(center, clean)).corrupted == {}


def test_confidence_is_that_of_a_certificate_by_chance():
    center, clean = Certifying([[True] * N], {"certify_alpha": 0.001}), clean_of()
    labels = decided_by(center, clean)
    assert standing(center, clean, labels, corrupted=[1]).confidence == 0.999
    nothing = Certifying([[False] * N], {"certify_alpha": 0.001})
    assert standing(nothing, clean, labels, corrupted=[1]).confidence == 1.0


def test_what_is_known_is_not_asked():
    center, clean = Certifying([[True] * N] * 3), clean_of()
    known = {2: "two are too many"}
    found = standing(center, clean, decided_by(center, clean), known=known)
    assert (found.corrupted, found.reasons) == ({1: 1.0, 2: 0.0}, known)
    assert center.asked == [1]


def test_more_sets_than_can_be_tried_are_a_reason():
    class Large(Certifying):
        def certify(self, observation, corrupted):
            if corrupted > 1:
                raise UsageError("sets of agents: expected at most 10, got 11")
            return super().certify(observation, corrupted)

    center, clean = Large([[True] * N]), clean_of()
    found = standing(center, clean, decided_by(center, clean))
    assert found.corrupted == {1: 1.0, 2: 0.0}
    assert found.reasons == {2: "sets of agents: expected at most 10, got 11"}


@pytest.mark.parametrize(
    "answer", [[True] * (N - 1), [1.0] * N, None], ids=["length", "type", "nothing"]
)
def test_another_answer_breaks_the_contract(answer):
    center, clean = Certifying([answer]), clean_of()
    with pytest.raises(ContractError, match=r"certify: expected 5 booleans, got"):
        standing(center, clean, decided_by(center, clean))


def test_missing_agents_are_enumerated_as_by_brute_force():
    center, clean = Plain(linear_head(LAYOUT.width, 3)), observation_of(LAYOUT, 40)
    decided = decided_by(center, clean)
    found = standing(center, clean, decided, missing=2)
    stands = torch.ones(40, dtype=torch.bool)
    for number in (1, 2):
        for gone in itertools.combinations(range(4), number):
            mask = torch.zeros(40, 4, dtype=torch.bool)
            mask[:, list(gone)] = True
            stands &= decided_by(center, clean.without(mask)) == decided
        assert found.missing[number] == float(stands.double().mean())
    assert 0 < found.missing[2] < found.missing[1] < 1
    assert found.assumptions == (SILENCE,)


def test_chance_cannot_be_enumerated():
    center, clean = Plain(linear_head(LAYOUT.width, 3)), clean_of()
    labels = decided_by(center, clean)
    found = standing(center, clean, labels, missing=1, randomized=True)
    assert found.missing == {}
    assert "depend on chance" in found.assumptions[0]


def equal_blocks(agents=4, width=2):
    """A manifold of which every agent sees the same: c = 1 - q / M."""
    layout = AgentLayout(tuple("abcd"[:agents]), (width,) * agents)
    basis = torch.eye(width, dtype=torch.float64).repeat(agents, 1) / agents**0.5
    return AffineManifold(layout, torch.zeros(agents * width).double(), basis)


def test_honest_agents_that_miss_a_direction_are_told_before_certifying(monkeypatch):
    basis = torch.eye(6, 3, dtype=torch.float64)  # agents a and b see all of it
    manifold = AffineManifold(LAYOUT, torch.zeros(6).double(), basis)
    center, clean = Recovering([[True] * N], manifold), clean_of()
    found = standing(center, clean, decided_by(center, clean))
    assert found.corrupted == {1: 0.0}
    assert found.reasons[1].startswith("the honest agents have rank below 3")
    assert center.asked == []
    # Other decoders reach less than their last layer does.
    manifold.family = "mlp"
    assert after_fit(center, LAYOUT, 1) is None
    # Without parts its certificate may rest on something else.
    manifold.family = "affine"
    assert after_fit(center, LAYOUT, 1) is not None
    monkeypatch.delattr(Recovering, "certificate_parts")
    assert after_fit(center, LAYOUT, 1) is None


def test_a_fact_explains_and_rules_nothing_out():
    facts = {"certifiable_corrupted_agents": 1}
    nobody, clean = [False] * N, clean_of()
    tied = Certifying([[True] * N, [True] + [False] * 4, nobody], facts)
    found = standing(tied, clean, decided_by(tied, clean))
    assert found.corrupted == {1: 1.0, 2: 0.2, 3: 0.0}
    assert found.reasons == {3: "it outlasts 1 corrupted agent at most, ties aside"}
    fewer = Certifying([nobody], facts)
    found = standing(fewer, clean, decided_by(fewer, clean))
    assert found.reasons == {1: "no right decision stands against 1"}


def test_a_shortfall_is_told_in_lengths():
    layout = agents_of(2, 2, 2, 2)
    clean = observation_of(layout, N, seed=1)

    class Wide(Recovering):
        def __init__(self, found):
            super().__init__([[False] * N], equal_blocks(), found)
            self.head = linear_head(8, 3)

    center = Wide({"distance": 2.5, "radius": 0.5})
    labels = torch.zeros(N, dtype=torch.long)
    found = standing(center, clean, labels, corrupted=[1])
    assert found.reasons[1] == (
        "the purified point may move by 2.5 or more, decisions stand within 0.5 at most"
    )
    wide = Wide({"distance": 2.5, "lead": -1.0})
    found = standing(wide, clean, labels, corrupted=[1])
    assert found.reasons[1].endswith("further than any right decision stands")
    endless = Wide({"distance": math.inf})
    found = standing(endless, clean, labels, corrupted=[1])
    assert found.reasons[1] == "the recovery rate is not above 0 for 1 corrupted"


def test_a_certificate_that_takes_recovery_for_granted_says_so():
    layout = agents_of(2, 2, 2, 2)
    center = Recovering([[True] * N], equal_blocks())
    center.head = linear_head(8, 3)
    clean = observation_of(layout, N, seed=1)
    found = standing(center, clean, decided_by(center, clean), corrupted=[1])
    assert found.assumptions == (ANYTHING, RECOVERY)


def test_parts_are_checked():
    center = Recovering([], equal_blocks(), {"rate": math.nan})
    with pytest.raises(ContractError, match=r"expected rate to be 5 numbers, got"):
        parts(center, clean_of(), 1)


def test_recovery_of_equal_blocks_is_the_closed_form():
    layout, manifold = agents_of(2, 2, 2, 2), equal_blocks()
    features = normal(20, 8, seed=4)
    clean = Observation(features, torch.ones(20, 4, dtype=torch.bool), layout)
    center = Certifying([])

    class Purifier(Plain):
        @property
        def purifies_onto(self):
            return manifold

    labels = torch.zeros(20, dtype=torch.long)
    found = recovery(Purifier(linear_head(8, 3)), clean, 1, labels)
    assert found.rank == 2
    assert found.leverage == pytest.approx((0.75, 0.75), abs=1e-3)
    gamma = (4 - 2) / 4**0.5
    assert found.rate == pytest.approx(gamma, rel=1e-2)
    assert found.rate <= gamma
    blocks = features.reshape(20, 4, 2)
    delta = (blocks - blocks.mean(1, keepdim=True)).norm(dim=2).sum(1).sort().values
    assert found.residual == pytest.approx((float(delta[9]), float(delta[17])))
    assert found.distance == pytest.approx(
        tuple(2 * d / found.rate for d in found.residual)
    )
    assert (found.limit, found.deployed) == (None, None)
    assert recovery(center, clean, 1, labels) is None
    lost = recovery(Purifier(linear_head(8, 3)), clean, 2, labels)
    assert lost.leverage[1] <= 0.5 + 1e-9
    assert (lost.rate, lost.distance) == (0.0, (math.inf, math.inf))


def test_recovery_takes_the_purifiers_own_numbers():
    own = {"residual": 1.0, "gap": 0.5, "rate": 0.25, "distance": 10.0}
    center = Recovering([], equal_blocks(), own)
    clean = observation_of(agents_of(2, 2, 2, 2), N)
    found = recovery(center, clean, 1, torch.zeros(N).long())
    assert (found.rate, found.distance) == (0.25, (10.0, 10.0))
    assert found.residual == (1.0, 1.0)
    assert (found.limit, found.deployed) == (None, None)


def test_what_a_limit_certifies_counts_right_decisions_alone():
    class Limited(Recovering):
        @property
        def facts(self):
            return {"residual_limit": 2.5}

    own = {"residual": 1.0, "rate": 0.25, "distance": 10.0, "deployed": 1.0}
    center = Limited([], equal_blocks(3), own)
    clean = observation_of(agents_of(2, 2, 2), N)
    labels = decided_by(center, clean)
    labels[0] = (labels[0] + 1) % 2
    found = recovery(center, clean, 1, labels)
    assert (found.limit, found.deployed) == (2.5, (N - 1) / N)


def certified_of(value, seed=0, *, clean=0.9, share=0.5, apart=None, **changed):
    """A certified cell of a defense with the option `width`, one corrupted agent."""
    found = Standing(10, clean, {1: share}, reasons={} if share else {1: "why"})
    given = {"standing": found, "recovery": () if apart is None else ((1, apart),)}
    options = {"width": value, "tau": 1.0}
    spec = f"copur:tau=1.0,width={value}"
    return Certified("data", spec, seed, 4, options, **(given | changed))


def recovered(rank, rate=1.0):
    distance = (2 / rate, 4 / rate) if rate else (math.inf, math.inf)
    return Recovery(rank, (1.0, 2.0), (0.6, 0.7), rate, distance)


def test_points_are_means_over_seeds_and_values_in_order():
    rows = [
        certified_of(8, 0, clean=0.8, share=0.5, apart=recovered(8, 1.0)),
        certified_of(2, 0, share=0.0),
        certified_of(8, 3, clean=0.9, share=0.7, apart=recovered(8, 2.0)),
        certified_of(2, 3, share=0.0),
    ]
    (found,) = sweeps(rows, "width", [1], "rank")
    assert (found.dataset, found.defense) == ("data", "copur:tau=1.0")
    assert (found.option, found.seeds, found.numbers) == ("rank", (0, 3), [1])
    low, high = found.points
    assert (low.value, low.certified, low.reason) == (2, 0.0, "why")
    assert (high.value, high.reason, high.recovery.rate) == (8, "", 1.5)
    assert high.clean == pytest.approx(0.85)
    assert high.certified == pytest.approx(0.6)
    assert high.recovery.distance == pytest.approx((1.5, 3.0))


def test_nothing_is_averaged_over_what_survived():
    failed = certified_of(2, 1, standing=None, recovery=(), error="it broke")
    (found,) = sweeps([certified_of(2), failed], "width", [1])
    (point,) = found.points
    assert (point.clean, point.certified) == (None, None)
    assert point.reason == "seed 1: it broke"
    assert found.best(1) is None


@pytest.mark.parametrize(
    ("cells", "best"),
    [
        ([(2, 0.9, 0.5), (4, 0.8, 0.6), (8, 0.9, 0.5)], 4),
        ([(2, 0.8, 0.5), (4, 0.9, 0.5), (8, 0.7, 0.5)], 4),
        ([(8, 0.9, 0.5), (4, 0.9, 0.5), (2, 0.9, 0.4)], 4),
        ([(2, 0.9, 0.0), (4, 0.9, 0.0)], None),
    ],
    ids=["certified", "then clean", "then smaller", "nothing"],
)
def test_the_best_value(cells, best):
    rows = [certified_of(v, clean=c, share=s) for v, c, s in cells]
    (found,) = sweeps(rows, "width", [1])
    point = found.best(1)
    assert (None if point is None else point.value) == best


def test_a_figure_shows_every_number_and_leaves_infinite_ones_out():
    pytest.importorskip("matplotlib")
    rows = [
        certified_of(2, clean=0.7, share=0.5, apart=recovered(2, 0.5)),
        certified_of(4, clean=0.9, share=0.0, apart=recovered(4, 0.0)),
    ]
    figure = drawn(sweeps(rows, "width", [1]))
    lines = [[list(line.get_ydata()) for line in axes.lines] for axes in figure.axes]
    residual, constant, rate, distance, accuracy = lines
    assert residual == [[1.0, 1.0], [2.0, 2.0]]
    assert constant[0] == [0.6, 0.6]
    assert rate == [[0.5, 0.0]]
    assert distance[0][0] == 4.0
    assert math.isnan(distance[0][1])
    assert accuracy == [[50.0, 0.0], [70.0, 90.0]]
    assert any("infinite" in text.get_text() for text in figure.texts)
    plain = drawn(sweeps([certified_of(2), certified_of(4)], "width", [1]))
    assert (len(plain.axes), plain.texts) == (1, [])


def test_numbers_that_leave_nobody_are_refused():
    check_budgets(LAYOUT, 4, 3, 3, "d")
    with pytest.raises(
        UsageError, match=r"--corrupted: expected fewer than the 4 agents"
    ):
        check_budgets(LAYOUT, 4, 4, 0, "d")
    with pytest.raises(
        UsageError, match=r"--missing: .* 3 agents that are present at mos"
    ):
        check_budgets(LAYOUT, 3, 0, 3, "d")


def test_a_defense_may_rule_numbers_out_before_its_fit():
    class Own:
        def uncertifiable(self, layout, corrupted):
            return f"{corrupted} of {layout.agents}" if corrupted > 1 else None

    assert before_fit(Own(), LAYOUT, 1) is None
    assert before_fit(Own(), LAYOUT, 2) == "2 of 4"
    assert before_fit(object(), LAYOUT, 2) is None


@pytest.mark.parametrize("kind", ["npy", "npz", "csv", "safetensors"])
def test_a_matrix_is_read_from_every_kind_of_file(kind, tmp_path):
    path, matrix = tmp_path / f"W.{kind}", normal(6, 2)
    if kind == "npy":
        np.save(path, matrix.numpy())
    elif kind == "npz":
        np.savez(path, W=matrix.numpy(), bias=np.zeros(6))
    elif kind == "csv":
        np.savetxt(path, matrix.numpy(), delimiter=",", fmt="%.17g")
    else:
        save_file({"W": matrix, "bias": torch.zeros(6)}, path)
    found = read_matrix(path)
    assert found.dtype == torch.float64
    assert torch.equal(found, matrix)


def test_half_precision_is_read_and_complex_numbers_are_not(tmp_path):
    matrix = normal(6, 2).to(torch.bfloat16)
    save_file({"W": matrix}, tmp_path / "W.safetensors")
    assert torch.equal(read_matrix(tmp_path / "W.safetensors"), matrix.double())
    save_file(
        {"W": (1j * normal(6, 2)).to(torch.complex64)}, tmp_path / "Z.safetensors"
    )
    with pytest.raises(DataError, match="a matrix to read, got complex numbers"):
        read_matrix(tmp_path / "Z.safetensors")


def test_files_without_one_matrix_are_refused(tmp_path):
    several = tmp_path / "W.npz"
    np.savez(several, a=np.zeros((2, 1)), b=np.ones((2, 1)), c=np.ones(3))
    with pytest.raises(UsageError, match=r"one of them with --key, got a \(2, 1\)"):
        read_matrix(several)
    assert read_matrix(several, "b").tolist() == [[1.0], [1.0]]
    with pytest.raises(UsageError, match=r"--key c: expected the name of a matrix in"):
        read_matrix(several, "c")
    with pytest.raises(UsageError, match=r"expected a file that ends in \.npy, \.npz"):
        read_matrix(tmp_path / "W.txt")
    with pytest.raises(DataError, match="expected a matrix to read, got No such file"):
        read_matrix(tmp_path / "none.npy")
    for name in ("bad.npy", "bad.safetensors", "bad.csv"):
        (tmp_path / name).write_text("a,b\n")
        with pytest.raises(DataError, match="expected a matrix to read"):
            read_matrix(tmp_path / name)
    objects = tmp_path / "objects.npy"
    np.save(objects, np.array([[None]]), allow_pickle=True)
    with pytest.raises(DataError, match="expected a matrix to read"):
        read_matrix(objects)
    np.save(tmp_path / "nan.npy", np.full((2, 2), np.nan))
    with pytest.raises(DataError, match="expected finite numbers"):
        read_matrix(tmp_path / "nan.npy")
    np.save(tmp_path / "flat.npy", np.zeros(3))
    with pytest.raises(UsageError, match=r"expected a matrix, got  \(3,\)"):
        read_matrix(tmp_path / "flat.npy")


def test_bounds_of_equal_blocks_are_the_closed_form(tmp_path):
    weight = torch.eye(2, dtype=torch.float64).repeat(5, 1)
    layout = layout_of("2/2/2/2/2")
    one, two, three = decoder_bounds(weight, layout, [1, 2, 3])
    for number, found in ((1, one), (2, two)):
        for bound in found.leverage:
            assert bound == pytest.approx(1 - number / 5, abs=1e-3)
        gamma = (5 - 2 * number) / 5**0.5
        assert found.rate[0] <= gamma * (1 + 1e-9)
        assert found.rate[1] >= gamma * (1 - 1e-9)
        assert found.rate == pytest.approx((gamma, gamma), rel=1e-2)
        assert (len(found.worst), found.reason) == (number, "")
        assert found.sets == math.comb(5, number)
    assert three.rate == (0.0, 0.0)
    assert "above 1/2" in three.reason
    assert ceiling(weight, layout) == 2
    (absent,) = decoder_bounds(weight, layout, [1], missing=2)
    assert absent.leverage == pytest.approx((2 / 3, 2 / 3), abs=1e-3)
    assert (absent.sets, len(absent.absent)) == (30, 2)
    keep_direction(two.direction, tmp_path / "z.npy")
    z = torch.from_numpy(np.load(tmp_path / "z.npy"))
    norms = layout.block_norms(weight @ z)
    bad = [layout.names.index(name) for name in two.worst]
    share = 1 - float(norms[bad].sum() / norms.sum())
    assert share == pytest.approx(two.leverage[1], abs=1e-9)


@pytest.mark.parametrize("text", ["", "3/", "3/x", "0/2", "3,2"])
def test_widths_that_are_none(text):
    with pytest.raises(UsageError, match="--widths: expected a width for each agent"):
        layout_of(text)


@pytest.mark.parametrize(
    ("defense", "never", "perhaps"),
    [
        (RandomizedAblation(keep=4), 2, 1),
        (RandomizedAblation(keep=2), 3, 2),
        (PartitionVote(), 6, 5),
        (PartitionVote(groups=4), 3, 2),
        (DoubleMasking(masked=2), 3, 2),
        (CoPur(), 1, None),
        (CoPur(gap=1e-3), 5, 4),
        (CoPurSmoothed(), 1, None),
        (CoPurSmoothed(gap=1e-3), 5, 4),
        (DoubleMasking(masked=5), 1, None),
        (RandomizedAblation(keep=10), 1, None),
    ],
)
def test_shipped_defenses_say_what_cannot_be_certified(defense, never, perhaps):
    layout = agents_of(*(3,) * 10)
    if never is not None:
        assert defense.uncertifiable(layout, never)
    if perhaps is not None:
        assert defense.uncertifiable(layout, perhaps) is None

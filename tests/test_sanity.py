"""Flags between cells: pure functions of the records of a row."""

import msgspec
import pytest

from cibench.flags import OF_ROWS
from cibench.results import (
    AttackPart,
    CellRecord,
    Component,
    Metrics,
    Outcomes,
    Proportion,
    Timings,
)
from cibench.results.table import tables
from cibench.sanity import flagged
from cibench.submission.raised import flag_faults

N = 100


def component(name, **options):
    given = ",".join(f"{k}={v}" for k, v in options.items())
    spec = f"{name}:{given}" if given else name
    return Component(
        name=name, spec=spec, options=options, distribution="d", version="1", source="s"
    )


def share(successes):
    return Proportion(successes=successes, n=N)


def cell(attack, survive, *, seed=0, defense="some", gradients=1, first=False, **part):
    """A record of which the last `survive` samples (the `first`) are left standing."""
    name, options = attack
    right = [at < survive if first else at >= N - survive for at in range(N)]
    attacked = [int(not r) for r in right]
    zeros = [0] * N
    proportions = (
        "clean_undefended", "clean", "attacked_undefended", "attacked", "genie",
        "universal", "success_rate",
    )  # fmt: skip
    given = {
        "agents": options.get("agents", "last"), "sets": [["b"]], "target": "any",
        "knowledge": "adaptive", "corrupts": True, "budget": options.get("budget"),
        "radius": None,
    } | part  # fmt: skip
    return CellRecord(
        protocol=1, cell=f"{name} {survive}", key="k", status="ok",
        dataset=component("data"), fingerprint="f", agents=["a", "b", "c"],
        classes=["x", "y"], embedding={"kind": "identity"},
        attack=[AttackPart(component=component(name, **options), **given)],
        defense=component(defense), seed=seed,
        metrics=Metrics(
            **{name: share(survive if name == "attacked" else N) for name in proportions},
            universal_set=[], balanced_clean=1.0, balanced_attacked=1.0,
            majority_share=0.5, recovery_error=None, recovery_error_clean=None,
            solver_not_converged=None, rejected_blocks=0, queries=0, gradients=gradients,
        ),
        outcomes=Outcomes(
            labels=zeros, counted=[True] * N, clean_undefended=zeros, clean=zeros,
            attacked_undefended=zeros, attacked=attacked, genie=zeros, compromised=zeros,
            recovery_error=None, solver_status=None,
        ),
        timings=Timings(
            fit_seconds=0, attack_seconds=0, predict_seconds=0, milliseconds_per_sample=1
        ),
        environment={}, device="cpu", created="now",
    )  # fmt: skip


def pgd(**options):
    return "pgd", {"steps": 10, "agents": "last"} | options


ALL = {"sets": [["a", "b", "c"]]}


def oblivious(name, survive, **rest):
    given = {"agents": "last"}
    return cell((name, given), survive, gradients=0, knowledge="oblivious", **rest)


def raised(*records):
    return [set(record.flags) for record in flagged(records)]


def test_a_sound_row_has_no_flag():
    row = (
        cell(pgd(), 40), cell(pgd(agents="all"), 0, **ALL),
        cell(pgd(budget=1.0), 60), cell(pgd(steps=20), 39),
        cell(pgd(budget=2.0), 50), oblivious("gaussian", 90),
        cell(("none", {"agents": "none"}), N, gradients=0, sets=[[]]),
    )  # fmt: skip
    assert raised(*row) == [set()] * len(row)
    assert flagged(row) == list(row)
    assert flagged([]) == []


@pytest.mark.parametrize(("survive", "broken"), [(2, False), (3, True)])
def test_who_controls_all_agents_must_win(survive, broken):
    row = (
        cell(pgd(agents="all"), survive, **ALL),
        cell(pgd(), 40),
        cell(pgd(steps=99), 40),
    )
    expected = {"attack-broken"} if broken else set()
    assert raised(*row) == [expected, expected, set()]


def test_a_bounded_or_blind_control_says_nothing():
    bounded = cell(pgd(agents="all", budget=1.0), 50, **ALL)
    blind = oblivious("noise", 50)
    blind = msgspec.structs.replace(
        blind, attack=[msgspec.structs.replace(blind.attack[0], agents="all", **ALL)]
    )
    assert raised(bounded, blind) == [set(), set()]


@pytest.mark.parametrize(("more", "raises"), [(41, False), (42, True)])
def test_a_larger_budget_must_not_help_the_defense(more, raises):
    expected = {"not-monotone"} if raises else set()
    for large in (2.0, None):
        row = cell(pgd(budget=1.0), 40), cell(pgd(budget=large), more)
        assert raised(*row) == [set(), expected]
        assert raised(*row[::-1]) == [expected, set()]


def test_more_of_the_same_agents_must_not_help_the_defense():
    one, two = {"sets": [["b"]]}, {"sets": [["a", "b"]]}
    row = cell(pgd(agents="2"), 40, **one), cell(pgd(agents="1-2"), 50, **two)
    assert raised(*row) == [set(), {"not-monotone"}]
    other = cell(pgd(agents="3"), 40, sets=[["c"]]), row[1]
    assert raised(*other) == [set(), set()]
    drawn = cell(pgd(agents="random:1"), 40, sets=[]), row[1]
    assert raised(*drawn) == [set(), set()]


@pytest.mark.parametrize("knowledge", ["oblivious", "query", "fusion"])
def test_weaker_knowledge_must_not_win(knowledge):
    adaptive = cell(pgd(), 40)
    weaker = cell(("replay", {}), 60, gradients=0, first=True, knowledge=knowledge)
    # It breaks the last forty samples, all of which the other leaves standing.
    assert raised(adaptive, weaker) == [{"beaten-by-weaker"}, set()]
    # A second attack that breaks those makes up for it.
    more = cell(("apgd", {}), 60, first=True)
    assert raised(adaptive, weaker, more) == [set(), set(), set()]


def test_only_the_same_threat_is_compared():
    adaptive = cell(pgd(), 40)
    for part in (
        {"budget": 1.0}, {"sets": [["a"]]}, {"target": "y"}, {"agents": "1"},
    ):  # fmt: skip
        weaker = cell(
            ("replay", {}), 60, gradients=0, first=True, knowledge="query", **part
        )
        assert raised(adaptive, weaker) == [set(), set()]


@pytest.mark.parametrize(
    ("strong", "weak", "compared"),
    [
        ({"corrupts": True}, {"corrupts": False, "drops": True}, False),
        ({"corrupts": True, "drops": True}, {"corrupts": False, "drops": True}, True),
        ({"corrupts": True, "drops": True}, {"corrupts": True}, True),
        ({"corrupts": True}, {"corrupts": True, "drops": True}, False),
    ],
)
def test_who_may_not_fall_silent_is_not_behind_who_may(strong, weak, compared):
    adaptive = cell(pgd(), 40, **strong)
    weaker = cell(
        ("missing", {}), 60, gradients=0, first=True, knowledge="oblivious", **weak
    )
    expected = {"beaten-by-weaker"} if compared else set()
    assert raised(adaptive, weaker) == [expected, set()]


@pytest.mark.parametrize("option", ["steps", "restarts"])
def test_more_effort_must_not_help_the_defense(option):
    few, many = {option: 1}, {option: 50}
    row = cell(pgd(**few), 40), cell(pgd(**many), 50), cell(pgd(**many, x=1), 60)
    assert raised(*row) == [set(), {"more-steps-weaker"}, set()]


@pytest.mark.parametrize(
    ("steps", "survive", "raises"),
    [(20, 38, True), (20, 39, False), (19, 10, False), (40, 10, True)],
)
def test_twice_the_effort_must_not_hurt_it_much(steps, survive, raises):
    row = cell(pgd(steps=10), 40), cell(pgd(steps=steps), survive)
    assert raised(*row) == [{"attack-not-converged"} if raises else set(), set()]


def test_nobody_changes_nothing():
    nobody = ("none", {"agents": "none"})
    steady = cell(nobody, N, gradients=0, sets=[[]])
    moody = cell(nobody, N - 1, gradients=0, sets=[[]])
    assert raised(steady, moody) == [set(), {"changes-without-attack"}]


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"fingerprint": "g"},
        {"device": "cuda"},
        {"protocol": 2},
        {"embedding": {"kind": "mlp"}},
        {"defense": component("other")},
        {"status": "failed"},
        {"outcomes": None},
    ],
)
def test_rows_are_apart(change):
    weaker = cell(pgd(budget=1.0), 40)
    stronger = cell(pgd(budget=2.0), 90)
    assert raised(weaker, stronger)[1] == {"not-monotone"}
    apart = msgspec.structs.replace(weaker, **change)
    assert raised(apart, stronger) == [set(), set()]


def test_other_samples_are_not_compared():
    weaker, stronger = cell(pgd(budget=1.0), 40), cell(pgd(budget=2.0), 90)
    outcomes = msgspec.structs.replace(weaker.outcomes, labels=[0] * (N - 1) + [1])
    weaker = msgspec.structs.replace(weaker, outcomes=outcomes)
    assert raised(weaker, stronger) == [set(), set()]


def test_flags_are_added_sorted_and_shown_in_tables():
    weaker = cell(pgd(budget=1.0), 40)
    stronger = msgspec.structs.replace(
        cell(pgd(), 90), flags=["no-progress", "partial"]
    )
    shown = flagged([weaker, stronger])[1].flags
    assert shown == ["no-progress", "not-monotone", "partial"]
    assert flagged(flagged([weaker, stronger])) == flagged([weaker, stronger])
    notes = [note for table in tables([weaker, stronger]) for note in table.notes]
    assert any(note.startswith("not-monotone: ") for note in notes)
    assert set(shown) & OF_ROWS == {"not-monotone"}


def test_no_record_holds_a_flag_of_its_row():
    honest = msgspec.structs.replace(cell(pgd(), 40), flags=["below-majority"])
    for flag in sorted(OF_ROWS):
        record = msgspec.structs.replace(honest, flags=[flag])
        faults = list(flag_faults(record, record.metrics, record.outcomes))
        assert f"flags: expected known ones, got '{flag}'" in faults


def test_a_record_holds_the_flags_that_its_probes_raise():
    record = msgspec.structs.replace(cell(pgd(), 40), probes={"planted_missed": 0.5})

    def faults(*flags):
        given = msgspec.structs.replace(record, flags=list(flags))
        return list(flag_faults(given, given.metrics, given.outcomes))

    expected = (
        "flags: expected attack-misses-planted, which its numbers raise, got none"
    )
    assert expected in faults("attack-too-weak")
    assert not any("misses" in fault for fault in faults("attack-misses-planted"))
    assert any("expected no lost-success" in fault for fault in faults("lost-success"))


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ((300, 300), "the attack asked for 3 gradients per sample"),
        ((300, 600), "the attack asked for 3 to 6 gradients per sample"),
        ((0, 0), None),
    ],
)
def test_the_cost_of_the_attack_stands_below_the_table(asked, text):
    records = [
        cell(pgd(), 40, defense=name, gradients=gradients)
        for name, gradients in zip(("one", "two"), asked, strict=True)
    ]
    (table,) = tables(records)
    found = [note for note in table.notes if note.startswith("the attack asked")]
    assert found == ([] if text is None else [text])

"""Numbers of real records agree with their samples; changed ones are found out."""

import msgspec
import pytest

from cibench.results import Proportion, RunFolder
from cibench.results.record import Certificate
from cibench.submission.across import across_findings
from cibench.submission.drawn import draw_findings
from cibench.submission.inputs import cell_key
from cibench.submission.recount import record_findings
from helpers_submission import run

pytestmark = pytest.mark.xdist_group("submission recount")

ATTACKS = (
    "none",
    "pgd:agents=random:1",
    "flip:agents=worst:1",
    "pgd:agents=worst:2,budget=1,target=0",
    "pgd:agents=worst:1,target=other",
    "pgd-paper:agents=last,target=class1",
    "missing:agents=1+gaussian:agents=2/3",
    "nonfinite:agents=2-3",
)


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    folder = tmp_path_factory.mktemp("records")
    out = run(folder, ATTACKS, ("none", "copur", "randomized-ablation:keep=2"))
    return RunFolder(out).read()


def only(records, attack, defense):
    (found,) = (
        r
        for r in records
        if r.defense.name == defense
        and "+".join(p.component.spec for p in r.attack).startswith(attack)
    )
    return found


def found_out(record, match, **changes):
    """Whether some finding of the changed record matches."""
    changed = msgspec.structs.replace(record, **changes)
    found = record_findings(changed)
    assert any(match in text and record.cell in text for text in found), found


def outcomes(record, **changes):
    return {"outcomes": msgspec.structs.replace(record.outcomes, **changes)}


def test_records_of_a_run_agree_with_themselves(records):
    assert len(records) == 24
    assert {record.status for record in records} == {"ok"}
    for record in records:
        assert record_findings(record) == []
        assert draw_findings(record) == []
        assert cell_key(record.inputs) == record.key
    assert across_findings(records) == []


SHARES = (
    "clean_undefended clean attacked_undefended attacked genie universal success_rate"
)


@pytest.mark.parametrize("name", SHARES.split())
def test_every_share_that_is_edited(records, name):
    for record in records:
        said = getattr(record.metrics, name)
        if name in ("universal", "success_rate") and "worst" in record.attack[0].agents:
            other = Proportion(successes=said.n + 1, n=said.n + 1)  # beyond the bounds
        else:
            other = Proportion(successes=(said.successes + 1) % (said.n + 1), n=said.n)
        if other == said:  # nothing is counted
            continue
        metrics = msgspec.structs.replace(record.metrics, **{name: other})
        found_out(record, f"{name}: claims", metrics=metrics)


@pytest.mark.parametrize(
    "name",
    [
        "balanced_clean",
        "balanced_attacked",
        "majority_share",
        "recovery_error",
        "solver_not_converged",
    ],
)
def test_every_mean_that_is_edited(records, name):
    record = only(records, "pgd:agents=random:1", "copur")
    value = getattr(record.metrics, name)
    absent = () if name in ("balanced_clean", "majority_share") else (None,)
    for other in (value * 1.001 + 1e-6, *absent):
        metrics = msgspec.structs.replace(record.metrics, **{name: other})
        found_out(record, f"{name}: claims", metrics=metrics)


@pytest.mark.parametrize(
    "name", ["clean_undefended", "clean", "attacked_undefended", "attacked", "genie"]
)
def test_every_outcome_that_is_flipped(records, name):
    for record in records:
        counted = record.outcomes.counted
        values = list(getattr(record.outcomes, name))
        at = next((i for i, c in enumerate(counted) if c), None)
        if at is None:
            continue
        label = record.outcomes.labels[at]
        values[at] = 1 - label if values[at] == label else label
        found_out(record, f"{name}: claims", **outcomes(record, **{name: values}))


def test_lists_that_are_none(records):
    record = only(records, "pgd:agents=random:1", "copur")
    kept = record.outcomes
    for name, value, match in (
        ("attacked", kept.attacked[:-1], "expected 18 values"),
        ("attacked", [2, *kept.attacked[1:]], "-1 or a class"),
        ("attacked", [-2, *kept.attacked[1:]], "-1 or a class"),
        ("labels", [5, *kept.labels[1:]], "expected classes from 0 to 1"),
        ("compromised", [3, *kept.compromised[1:]], "as random:1 allows"),
        ("compromised", [8, *kept.compromised[1:]], "as random:1 allows"),
        ("compromised", [-1, *kept.compromised[1:]], "as random:1 allows"),
        ("counted", [False, *kept.counted[1:]], "what the target class gives"),
    ):
        found_out(record, match, **outcomes(record, **{name: value}))


@pytest.mark.parametrize(
    ("attack", "bits"),
    [
        ("none", 1),
        ("flip:agents=worst:1", 3),
        ("pgd-paper", 1),
        ("missing", 3),
        ("nonfinite", 2),
    ],
)
def test_agents_that_the_rule_does_not_allow(records, attack, bits):
    record = only(records, attack, "copur")
    found_out(
        record, "compromised: expected", **outcomes(record, compromised=[bits] * 18)
    )


def test_agents_that_were_not_drawn(records):
    record = only(records, "pgd:agents=random:1", "copur")
    chosen = outcomes(record, compromised=[1] * 18)
    (found,) = draw_findings(msgspec.structs.replace(record, **chosen))
    assert "that the harness draws for seed 0" in found


def test_sets_that_were_left_out(records):
    record = only(records, "flip:agents=worst:1", "copur")
    part = msgspec.structs.replace(record.attack[0], sets=record.attack[0].sets[:-1])
    found_out(record, "every set of 1 agents", attack=[part])


def test_flags_that_are_removed_added_or_unknown(records):
    for record in records:
        for flag in set(record.flags) - {
            "gradient-unusable",
            "transfer-beats-adaptive",
        }:
            left = [name for name in record.flags if name != flag]
            alike = (
                record.outcomes.clean == record.outcomes.clean_undefended
                and record.outcomes.attacked == record.outcomes.attacked_undefended
            )
            if flag == "not-adaptive" and alike:
                continue
            found_out(record, f"expected {flag}", flags=left)
        for flag in {"below-majority", "clean-drop"} - set(record.flags):
            found_out(record, f"no {flag}", flags=sorted([*record.flags, flag]))
        found_out(record, "known ones", flags=["zzz"])


def test_inputs_that_do_not_fit(records):
    record = only(records, "pgd:agents=random:1", "copur")
    found_out(record, "key: claims", key="0" * 40)
    found_out(record, "inputs: seed", seed=7)
    found_out(record, "inputs: data", fingerprint="0" * 64)
    found_out(record, "inputs: device", device="cuda")
    found_out(record, "inputs: embedding", embedding={})
    found_out(record, "expected what the key", inputs={})
    other = msgspec.structs.replace(record.defense, spec="copur:tau=2")
    found_out(record, "options of its spec", defense=other)
    part = msgspec.structs.replace(record.attack[0], budget=1.0)
    found_out(record, "claims budget=1.0", attack=[part])


def test_certificates_that_cannot_be(records):
    record = only(records, "none", "randomized-ablation")
    (one,) = record.certificates
    for changed, match in (
        ({"radius": one.radius[:-1]}, "expected 18 radii"),
        ({"radius": [-1.0, *one.radius[1:]]}, "0 and more"),
        ({"radius": [0.5, *one.radius[1:]]}, "whole numbers"),
        ({"radius": [4.0, *one.radius[1:]]}, "whole numbers"),
        ({"confidence": 1.5}, "at most 1"),
    ):
        other = msgspec.structs.replace(one, **changed)
        found_out(record, match, certificates=[other])
    found_out(record, "each kind once", certificates=[one, one])
    attacked = only(records, "pgd:agents=random:1", "copur")
    l2 = Certificate(kind="l2", radius=[1.0] * 18, confidence=0.99)
    found_out(attacked, "where no agent is compromised", certificates=[l2])


def test_failed_cells_have_no_numbers(records):
    record = only(records, "none", "copur")
    found_out(record, "expected no numbers", status="failed")
    found_out(record, "expected metrics", metrics=None)


def test_records_that_disagree_with_each_other(records):
    defended = only(records, "pgd:agents=random:1", "copur")

    def disagree(name, match):
        values = [1 - value for value in getattr(defended.outcomes, name)]
        changed = msgspec.structs.replace(
            defended, **outcomes(defended, **{name: values})
        )
        found = across_findings([changed if r is defended else r for r in records])
        assert any(match in text for text in found), found

    disagree("labels", "shares a data set")
    disagree("clean_undefended", "shares a data set and seed")
    disagree("genie", "shares a scenario")
    disagree("attacked_undefended", "shares a scenario")
    disagree("compromised", "shares a scenario")
    disagree("clean", "shares a defense and seed")

"""`run -c study.toml -d X -a Y`: the command line beats the file."""

import tomllib

import pytest

from cibench._errors import (
    EmptySelectionError,
    SpecError,
    UnknownPluginError,
    UsageError,
)
from cibench._study_override import override
from cibench.study import belongs, check_study
from cibench.suites import load_suite, study_of, suite_names

TEXT = """
title = "T"
[figure]
label = "A"

[[scenarios]]
label = "weak"
attack = "flip:agents=1,amplification=2"
x = 1
[[scenarios]]
label = "strong"
attack = "missing:agents=2+flip"
x = 2
datasets = ["mfeat"]
[[scenarios]]
label = "far"
attack = "flip"
x = 3
protocols = ["q"]
datasets = ["extrasensory"]

[[protocols]]
name = "p"
datasets = ["mfeat", "synthetic:agents=4"]
embedding = "identity"
[protocols.defenses]
none = "none"
"none (plain head)" = "none:head=plain"
purified = "copur:tau=2,solver=paper"
[[protocols]]
name = "q"
datasets = ["extrasensory:standardize=paper", "mfeat"]
[protocols.defenses]
none = "none"
raw = "none"
clipped = "norm-clip"

[[published]]
scenario = "weak"
defense = "purified"
dataset = "mfeat"
mean = 50
[[published]]
scenario = "strong"
defense = "none"
dataset = "mfeat"
mean = 40
[[published]]
scenario = "far"
defense = "clipped"
dataset = "extrasensory"
mean = 30

[[claims]]
text = "CoPur helps"
scenario = "weak"
dataset = "synthetic"
better = "purified"
than = ["none", "none (plain head)"]
[[claims]]
text = "clipping is flat"
scenario = "weak"
dataset = "mfeat"
better = "clipped"
loses_at_most = 3
"""


@pytest.fixture
def study():
    return study_of(tomllib.loads(TEXT))


def defenses(study):
    return {p.name: dict(p.defenses) for p in study.protocols}


def labels(study):
    return [scenario.label for scenario in study.scenarios]


def runs(study):
    return {
        s.label: {(p.name, d) for p in study.protocols for d in p.datasets
                  if belongs(s, p, d)}
        for s in study.scenarios
    }  # fmt: skip


def said(study):
    return (
        [(p.scenario, p.defense) for p in study.published],
        [claim.text for claim in study.claims],
    )


def test_nothing_selected_is_the_file(study):
    assert override(study) == study
    for name in suite_names():
        assert override(load_suite(name)) == load_suite(name)


# Defenses.


def test_a_label_keeps_its_entry(study):
    found = override(study, defenses=["purified", "none"])
    assert defenses(found) == {
        "p": {"purified": "copur:tau=2,solver=paper", "none": "none"},
        "q": {"none": "none"},
    }
    assert said(found) == ([("weak", "purified"), ("strong", "none")], [])


def test_a_spec_keeps_the_entries_that_have_it(study):
    found = override(study, defenses=["copur[solver=paper, tau=2]", "none:head=plain"])
    assert defenses(found) == {
        "p": {
            "purified": "copur:tau=2,solver=paper",
            "none (plain head)": "none:head=plain",
        }
    }
    # A label comes first: `none` is an entry of its own beside `raw`.
    assert defenses(override(study, defenses=["none"]))["q"] == {"none": "none"}
    assert defenses(override(study, defenses=["norm-clip"])) == {
        "q": {"clipped": "norm-clip"}
    }


def test_a_defense_of_its_own_joins_every_protocol(study):
    found = override(study, defenses=["copur", "none (plain head)", "copur"])
    plain = {"none (plain head)": "none:head=plain"}
    assert defenses(found) == {
        "p": {"copur": "copur"} | plain,
        "q": {"copur": "copur"},
    }
    found = override(study, defenses=["copur:tau=3,width=2", "copur[width=2,tau=3]"])
    assert defenses(found)["q"] == {"copur:tau=3,width=2": "copur:tau=3,width=2"}
    assert found.figure == study.figure


def test_globs_and_all_match_labels_first(study):
    assert defenses(override(study, defenses=["all"])) == defenses(study)
    found = override(study, defenses=["none*", "*aw"])
    assert [list(d) for d in defenses(found).values()] == [
        ["none", "none (plain head)"], ["none", "raw"]
    ]  # fmt: skip
    found = override(study, defenses=["randomized-smooth*"])
    both = ["randomized-smoothing", "randomized-smoothing-block"]
    assert [list(d) for d in defenses(found).values()] == [both, both]
    with pytest.raises(EmptySelectionError, match=r"'z\*': expected a pattern"):
        override(study, defenses=["z*"])


# Attacks.


def test_a_scenario_by_label_or_attack(study):
    found = override(study, attacks=["missing[agents=2]+flip", "weak"])
    assert found.scenarios == [study.scenarios[1], study.scenarios[0]]
    assert found.figure == study.figure
    assert said(found)[0] == [("weak", "purified"), ("strong", "none")]
    assert labels(override(study, attacks=["flip"])) == ["far"]
    assert labels(override(study, attacks=["*ak", "*a*"])) == ["weak", "far"]
    assert labels(override(study, attacks=["all"])) == labels(study)


def test_an_attack_of_its_own_runs_everywhere_and_has_no_figure(study):
    found = override(study, attacks=["pgd:steps=2+flip", "weak"])
    assert labels(found) == ["pgd:steps=2+flip", "weak"]
    assert len(runs(found)["pgd:steps=2+flip"]) == 4
    assert found.figure is None
    assert labels(override(study, attacks=["pgd*"])) == ["pgd", "pgd-paper"]


def test_an_attack_asked_for_that_no_defense_is_left_for(study):
    with pytest.raises(
        UsageError, match=r"'far': expected a defense .* protocols \(q\)"
    ):
        override(study, attacks=["far"], defenses=["purified"])
    assert labels(override(study, defenses=["purified"])) == ["weak", "strong"]


# Data sets.


def test_a_data_set_of_the_file_keeps_the_scenarios_that_belong_to_it(study):
    found = override(study, datasets=["mfeat"])
    assert [p.datasets for p in found.protocols] == [["mfeat"], ["mfeat"]]
    assert labels(found) == ["weak", "strong"]
    assert said(found) == (
        [("weak", "purified"), ("strong", "none")], ["clipping is flat"]
    )  # fmt: skip
    assert found.scenarios[1].datasets == ["mfeat"]


def test_a_new_data_set_opens_what_would_run_nowhere(study):
    found = override(study, datasets=["sensor-array", "mfeat", "mfeat"])
    assert runs(found) == {
        "weak": {(p, d) for p in "pq" for d in ("sensor-array", "mfeat")},
        "strong": {("p", "mfeat"), ("q", "mfeat")},
        "far": {("q", "sensor-array")},
    }
    lifted = runs(override(study, datasets=["sensor-array:agents=9"]))
    spec = "sensor-array:agents=9"
    assert lifted["strong"] == {("p", spec), ("q", spec)}


def test_a_restriction_is_lifted_for_what_is_asked_for_or_alone(study):
    asked = override(study, attacks=["far", "weak"], datasets=["mfeat"])
    assert runs(asked)["far"] == {("q", "mfeat")}
    suite = load_suite("copur-figure3")
    found = override(suite, datasets=["nuswide"])
    assert labels(found) == labels(suite)
    assert found.published == found.claims == []


def test_globs_choose_among_the_files_data_sets(study):
    found = override(study, datasets=["extra*"])
    assert [(p.name, p.datasets) for p in found.protocols] == [
        ("q", ["extrasensory:standardize=paper"])
    ]
    assert labels(found) == ["weak", "far"]
    assert override(study, datasets=["all"]) == study
    found = override(study, datasets=["sensor*"])
    assert {d for p in found.protocols for d in p.datasets} == {"sensor-array"}


def test_a_suite_on_one_of_its_data_sets():
    suite = load_suite("copur-table1")
    found = override(suite, datasets=["extrasensory"])
    assert "NUS-WIDE" not in "".join(labels(found))
    assert {p.dataset for p in found.published} == {"extrasensory"}
    assert {claim.dataset for claim in found.claims} == {"extrasensory"}


# All of it.


def test_an_embedding_replaces_each_protocols(study):
    found = override(study, embedding="linear-32:epochs=2")
    assert {p.embedding for p in found.protocols} == {"linear-32:epochs=2"}
    assert said(found) == said(study)


def test_everything_at_once_passes_the_checks(study):
    found = override(
        study, datasets=["synthetic:agents=5", "mfeat"], attacks=["strong", "mimic"],
        defenses=["none", "copur"], embedding="identity",
    )  # fmt: skip
    check_study(found)
    assert runs(found) == {
        "strong": {("p", "mfeat"), ("q", "mfeat")},
        "mimic": {(p, d) for p in "pq" for d in ("synthetic:agents=5", "mfeat")},
    }
    assert said(found) == ([("strong", "none")], [])


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        ({"defenses": ["purifed"]}, UnknownPluginError,
         r"unknown defense 'purifed'.*labels of the study are none, none \(plain head\), "
         r"purified, raw, clipped \(did you mean 'purified'\?\)"),
        ({"defenses": ["none (plain hed)"]}, SpecError, r"mean 'none \(plain head\)'\?"),
        ({"defenses": [""]}, SpecError, "expected name"),
        ({"attacks": ["strnog"]}, UnknownPluginError, "did you mean 'strong'"),
        ({"attacks": ["weak+pgd"]}, UnknownPluginError, "unknown attack 'weak'"),
        ({"datasets": ["mfaet"]}, UnknownPluginError, r"mean 'mfeat'.*\)$"),
        ({"datasets": ["z*"]}, EmptySelectionError, "dataset"),
    ],
)  # fmt: skip
def test_what_is_asked_for_must_be_there(study, given, error, says):
    with pytest.raises(error, match=says):
        override(study, **given)


def test_a_study_with_a_malformed_spec_is_still_selected_from(study):
    broken = study_of(tomllib.loads(TEXT.replace('"copur:tau=2', '"copur:tau:')))
    assert defenses(override(broken, defenses=["norm-clip"])) == {
        "q": {"clipped": "norm-clip"}
    }

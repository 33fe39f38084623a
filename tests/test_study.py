"""Studies: what a file may say, and that the shipped ones say what the paper does."""

import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cibench._errors import UsageError
from cibench.registry import default_registry
from cibench.spec import Spec, canonical
from cibench.study import Study, StudyPart, StudyRun, belongs
from cibench.suites import load_suite, read_study, study_of, suite_names

SMALL = """
title = "T"

[figure]
label = "A"

[[scenarios]]
label = "one"
attack = "flip"
x = 1

[[scenarios]]
label = "two"
attack = "flip:amplification=2"
x = 2.5
datasets = ["mfeat"]

[[protocols]]
name = "p"
datasets = ["mfeat", "synthetic:agents=4"]
[protocols.defenses]
none = "none"
copur = "copur"

[[protocols]]
name = "q"
datasets = ["mfeat"]
embedding = "identity"
[protocols.defenses]
none = "none"

[[published]]
scenario = "one"
defense = "copur"
dataset = "mfeat"
mean = 50

[[claims]]
text = "CoPur helps"
scenario = "two"
dataset = "mfeat"
better = "copur"
than = ["none"]
"""


@pytest.fixture
def read(tmp_path):
    def from_text(text):
        path = tmp_path / "s.toml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_study(path)

    return from_text


def test_a_study_is_read_with_its_defaults(read):
    study = read(SMALL)
    assert (study.seeds, study.source, study.figure.scale) == (5, "", "linear")
    assert [s.x for s in study.scenarios] == [1.0, 2.5]
    assert list(study.protocols[0].defenses) == ["none", "copur"]
    assert study.protocols[1].embedding == "identity"
    assert study.published[0].std is None


def test_protocols_and_data_sets_restrict_a_scenario(read):
    study = read(SMALL.replace("x = 1", 'x = 1\nprotocols = ["p"]'))
    runs = [
        (s.label, p.name, d)
        for s in study.scenarios
        for p in study.protocols
        for d in p.datasets
        if belongs(s, p, d)
    ]
    assert runs == [
        ("one", "p", "mfeat"),
        ("one", "p", "synthetic:agents=4"),
        ("two", "p", "mfeat"),
        ("two", "q", "mfeat"),
    ]


def swapped(old, new, at=-1):
    """The small study with one text replaced; the last occurrence by default."""
    found = [m.start() for m in re.finditer(re.escape(old), SMALL)]
    return SMALL[: found[at]] + new + SMALL[found[at] + len(old) :]


WRONG = {
    "an unknown key": (
        'titel = "x"\n' + SMALL,
        r"s\.toml, line 1: unknown key 'titel' \(did you mean 'title'\?\); expected one of",
    ),
    "an unknown key further down": (
        swapped("label", "lable", 0),
        r"s\.toml, line 5: figure: unknown key 'lable' \(did you mean 'label'\?\)",
    ),
    "an unknown key in a list": (
        swapped("text =", "txt ="),
        r"claims\[0\]: unknown key 'txt' \(did you mean 'text'\?\); .* loses_at_most$",
    ),
    "a key too few": (
        swapped('better = "copur"', ""),
        r"claims\[0\]: expected the key 'better', got none",
    ),
    "a number for a text": (
        swapped('"copur"', "3", 0),
        r"protocols\[0\]\.defenses\.\*: expected `str`, got `int`",
    ),
    "no data set": (
        swapped('["mfeat"]\nembedding', "[]\nembedding"),
        r"protocols\[1\]\.datasets: expected `array` of length >= 1",
    ),
    "an empty label": (swapped('"one"', '""', 0), r"scenarios\[0\]\.label: expected"),
    "seeds": ("seeds = 0\n" + SMALL, r"seeds: expected `int` >= 1"),
    "a share above 100": (swapped("50", "101"), r"published\[0\]\.mean: .* <= 100"),
    "not a number": (
        swapped("50", "nan"),
        r"published\[0\]\.mean: expected a finite number, got nan",
    ),
    "an infinite place": (swapped("2.5", "-inf"), r"scenarios\[1\]\.x: .* got -inf"),
    "another scale": (
        swapped('"A"', '"A"\nscale = "log2"'),
        r"figure\.scale: invalid enum value 'log2'",
    ),
    "no place on the axis": (
        swapped("x = 2.5", ""),
        r"scenarios\[1\]\.x: expected a number, its place on the figure's axis, got none",
    ),
    "a label twice": (
        swapped('label = "two"', 'label = "one"'),
        r"scenarios\[1\]\.label: expected 'one' once, got it twice",
    ),
    "a protocol twice": (
        swapped('"q"', '"p"'),
        r"protocols\[1\]\.name: expected 'p' once, got it twice",
    ),
    "a data set twice": (
        swapped('"synthetic:agents=4"', '"mfeat"'),
        r"protocols\[0\]\.datasets\[1\]: expected 'mfeat' once",
    ),
    "a defense label twice": (
        swapped("copur =", "none =", 0),
        "got: Cannot overwrite a value .*line 23",
    ),
    "a published number twice": (
        SMALL + SMALL[SMALL.index("[[published]]") : SMALL.index("[[claims]]")],
        r"published\[1\]: expected 'one / copur / mfeat' once",
    ),
    "an unknown protocol": (
        swapped("x = 1", 'x = 1\nprotocols = ["paper"]'),
        r"scenarios\[0\]\.protocols: unknown protocol 'paper'; expected one of p, q",
    ),
    "an unknown data set": (
        swapped('["mfeat"]', '["mfaet"]', 0),
        r"scenarios\[1\]\.datasets: unknown data set 'mfaet' \(did you mean 'mfeat'\?\)",
    ),
    "a scenario that never runs": (
        swapped('["mfeat"]', '["synthetic"]\nprotocols = ["q"]', 0),
        r"scenarios\[1\]: expected a protocol with a data set that it belongs to, got none",
    ),
    "a published scenario": (
        swapped('scenario = "one"', 'scenario = "oen"'),
        r"published\[0\]\.scenario: unknown scenario 'oen' \(did you mean 'one'\?\)",
    ),
    "a published defense": (
        swapped('defense = "copur"', 'defense = "coper"'),
        r"published\[0\]\.defense: unknown defense label 'coper' \(did you mean 'copur'",
    ),
    "a published data set": (
        swapped('dataset = "mfeat"', 'dataset = "digits"', 0),
        r"published\[0\]\.dataset: unknown data set of that scenario 'digits'",
    ),
    "a claim on a data set its scenario leaves out": (
        swapped('dataset = "mfeat"', 'dataset = "synthetic"'),
        r"claims\[0\]\.dataset: unknown .* 'synthetic'; expected one of mfeat$",
    ),
    "a claim's scenario": (
        swapped('scenario = "two"', 'scenario = "tow"'),
        r"claims\[0\]\.scenario: unknown scenario 'tow'",
    ),
    "a claim's winner": (
        swapped('better = "copur"', 'better = "x"'),
        r"claims\[0\]\.better: unknown defense label 'x'; expected one of copur, none",
    ),
    "a claim's loser": (
        swapped('than = ["none"]', 'than = ["nome"]'),
        r"claims\[0\]\.than: unknown defense label 'nome' \(did you mean 'none'\?\)",
    ),
    "a claim against itself": (
        swapped('than = ["none"]', 'than = ["none", "copur"]'),
        r"claims\[0\]\.than: expected other defenses than 'copur', got it too",
    ),
    "a claim of nothing": (
        swapped('than = ["none"]', ""),
        r"claims\[0\]: expected than or loses_at_most, got neither",
    ),
    "a claim of two kinds": (
        SMALL + "loses_at_most = 3\n",
        r"claims\[0\]: expected than or loses_at_most, got both",
    ),
    "a number of workers": (
        SMALL + "[run]\njobs = 0\n",
        r"line 45: run\.jobs: expected `int` >= 1",
    ),
    "no TOML": ("title = \n", r"s\.toml: expected TOML, got: .*line 1, column 9"),
    "no text": (
        b"title = '\xff'",
        r"expected text in UTF-8, got byte 255 at position 9",
    ),
}


@pytest.mark.parametrize(("text", "says"), WRONG.values(), ids=WRONG)
def test_a_mistake_is_one_line_with_file_and_place(read, text, says):
    with pytest.raises(UsageError, match=says) as caught:
        read(text)
    assert re.match(r"study \S+s\.toml(, line \d+)?: ", str(caught.value))
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UsageError, match="expected a TOML file, got No such file"):
        read_study(tmp_path / "none.toml")
    with pytest.raises(UsageError, match="expected a TOML file, got Is a directory"):
        read_study(tmp_path)


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused(text):
    path = type("Text", (), {"read_bytes": lambda _: text.encode(errors="replace")})()
    with pytest.raises(UsageError, match="study "):
        read_study(path)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=3),
        lambda inner: (
            st.lists(inner, max_size=2)
            | st.dictionaries(
                st.sampled_from(
                    [f.name for f in msgspec.structs.fields(Study)] + ["label", "name"]
                ),
                inner,
                max_size=4,
            )
        ),
        max_leaves=8,
    )
)
def test_any_data_is_converted_or_refused_with_a_place(data):
    try:
        said = repr(study_of(data))
    except UsageError as error:
        said = str(error)
    assert "$" not in said


def test_an_unknown_suite_suggests_the_nearest():
    says = r"unknown suite 'copur-tabel1' \(did you mean 'copur-table1'\?\).*ls suites"
    with pytest.raises(UsageError, match=says):
        load_suite("copur-tabel1")
    with pytest.raises(UsageError, match=r"unknown suite '\.\./x'"):
        load_suite("../x")


def test_what_a_run_keeps_survives_json(read):
    study = read(SMALL)
    part = StudyPart(
        protocol="p", dataset="mfeat", dataset_name="mfeat", embedding={"head": 3},
        scenario="one", attack="flip", x=1.0, defenses={"none": "none"},
    )  # fmt: skip
    run = StudyRun(name="s", study=study, parts=[part], unavailable={"a": "no file"})
    assert msgspec.json.decode(msgspec.json.encode(run), type=StudyRun) == run


# The shipped suites against the paper.

LABELS = (
    "none", "manifold-projection", "randomized-smoothing", "randomized-smoothing-block",
    "randomized-ablation", "adversarial-training", "block-adversarial-training", "copur",
)  # fmt: skip


PAPER = [
    "copur-figure2a", "copur-figure2b", "copur-figure3", "copur-table1", "copur-table2",
]  # fmt: skip


def test_the_papers_five_experiments_and_two_suites_of_our_own_are_shipped():
    assert suite_names() == ["adaptive", *PAPER, "standard"]


def test_the_adaptive_suite_sets_every_defense_of_the_boards_against_both():
    suite, standard = load_suite("adaptive"), load_suite("standard")
    ours, theirs = suite.protocols[0], standard.protocols[0]
    assert (suite.seeds, ours.datasets) == (5, theirs.datasets)
    assert ours.defenses == theirs.defenses
    attacks = [scenario.attack for scenario in suite.scenarios]
    assert {"none", "ensemble:agents=random:1", "pgd:agents=all"} < set(attacks)
    registry = default_registry()
    for spec in map(Spec.parse, attacks):
        assert canonical(registry.configure("attack", spec)) == str(spec)


def test_the_standard_suite_has_every_kind_of_attack_and_speaks_for_no_paper():
    suite = load_suite("standard")
    (protocol,) = suite.protocols
    assert suite.seeds == 5
    assert protocol.datasets == ["mfeat", "synthetic", "extrasensory"]
    assert not suite.claims
    assert not suite.published
    registry = default_registry()
    own = [e for e in registry.entries if e.distribution == "cibench"]
    attacks = [Spec.parse(scenario.attack) for scenario in suite.scenarios]
    # A witness is brought by whoever has one; these are members of the ensemble.
    members = {
        "ablation-votes", "apgd", "collusion", "interpolate", "nes", "square-blocks",
    }  # fmt: skip
    assert {a.name for a in attacks} | {"witness"} | members == {
        e.name for e in own if e.kind == "attack"
    }
    assert {f"ensemble:agents=random:{q}" for q in (1, 2, 3)} < set(map(str, attacks))
    assert {Spec.parse(spec).name for spec in protocol.defenses.values()} == {
        e.name for e in own if e.kind == "defense"
    }
    # Boards look attacks up by their canonical specs.
    for spec in attacks:
        assert canonical(registry.configure("attack", spec)) == str(spec)


@pytest.fixture(params=PAPER)
def suite(request):
    return load_suite(request.param)


def test_a_suite_has_both_protocols_with_the_papers_defenses(suite):
    assert suite.seeds == 5
    protocols = {p.name: p for p in suite.protocols}
    assert {"paper", "clean"} <= set(protocols)
    for protocol in suite.protocols:
        assert protocol.description
        assert set(LABELS) <= set(protocol.defenses)
        for label, spec in protocol.defenses.items():
            assert label.partition(" ")[0] == Spec.parse(spec).name
    assert set(protocols["paper"].defenses) == set(LABELS)
    assert protocols["paper"].embedding == "copur-extrasensory"
    assert protocols["paper"].datasets == ["extrasensory:standardize=paper"]
    assert protocols["clean"].embedding is None
    assert "extrasensory" in protocols["clean"].datasets


def test_every_paper_scenario_has_claims(suite):
    ours = {s.label for s in suite.scenarios if s.protocols == ["clean"]}
    ours = {label for label in ours if re.search("stronger|adaptive", label)}
    assert {c.scenario for c in suite.claims} == {
        s.label for s in suite.scenarios
    } - ours
    assert {c.better for c in suite.claims} >= {"copur"}


PUBLISHED = {
    ("copur-table1", "nuswide"): (
        (4.5, 0.3), (81.3, 1.2), (41.8, 6.3), (48.7, 10.1), (65.3, 5.3), (8.0, 1.9),
        (7.3, 1.2), (83.7, 0.9),
    ),
    ("copur-table1", "extrasensory"): (
        (40.4, 16.9), (53.6, 35.7), (42.4, 17.9), (42.0, 17.8), (59.6, 27.5),
        (19.8, 34.1), (0.0, 0.0), (79.0, 5.0),
    ),
    ("copur-table2", "extrasensory"): (
        (38.3, 15.7), (52.6, 38.9), (50.5, 1.3), (51.0, 2.5), (60.3, 28.1),
        (24.6, 26.8), (0.1, 0.1), (79.1, 4.5),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("name", "dataset"), PUBLISHED)
def test_the_published_tables(name, dataset):
    found = [p for p in load_suite(name).published if p.dataset == dataset]
    for scenario in {p.scenario for p in found}:
        rows = {p.defense: (p.mean, p.std) for p in found if p.scenario == scenario}
        expected = dict(zip(LABELS, PUBLISHED[name, dataset], strict=True))
        if "through the defense" in scenario:
            # Where the paper's attacker differentiates the head that the defense trained.
            assert set(rows) == {
                "none",
                "adversarial-training",
                "block-adversarial-training",
            }
        else:
            assert set(rows) == set(LABELS)
        assert rows == {label: expected[label] for label in rows}
    assert found


def test_every_published_ranking_that_is_claimed_holds_in_the_published_numbers():
    for name in ("copur-table1", "copur-table2"):
        study = load_suite(name)
        means = {(p.scenario, p.defense): p.mean for p in study.published}
        for claim in study.claims:
            for other in claim.than:
                ahead = means[claim.scenario, claim.better]
                assert ahead > means[claim.scenario, other], claim


ATTACKS = {
    "copur-figure2a": [
        (a, f"flip:agents=8-10,amplification={a}") for a in (1, 3, 5, 10, 20)
    ],
    "copur-figure2b": [
        (a, f"missing:agents=7+flip:agents=10,amplification={a}")
        for a in (1, 3, 5, 10, 20)
    ],
    "copur-figure3": [
        (1, "flip:agents=10,amplification=10"),
        (2, "flip:agents=9-10,amplification=10"),
        (3, "flip:agents=8-10,amplification=10"),
        (4, "flip:agents=7-10,amplification=10"),
    ],
}


@pytest.mark.parametrize("name", ATTACKS)
def test_the_figures_attacks(name):
    study = load_suite(name)
    assert [(s.x, s.attack) for s in study.scenarios] == ATTACKS[name]
    assert study.figure is not None
    assert study.published == []
    rankings = [claim for claim in study.claims if claim.loses_at_most is None]
    assert [claim.scenario for claim in rankings] == [s.label for s in study.scenarios]
    for claim in rankings:
        assert (claim.better, {"copur", *claim.than}) == ("copur", set(LABELS))
    # Figure 3 shows a clear drop at four agents.
    flat = [claim for claim in study.claims if claim.loses_at_most is not None]
    assert {(c.better, c.loses_at_most, *c.than) for c in flat} == {("copur", 3)}
    assert [claim.scenario for claim in flat] == [
        s.label for s in study.scenarios if s.label != "agents 7-10 flip"
    ]

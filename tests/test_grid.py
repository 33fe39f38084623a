"""What is run: names, globs, varied options and exclusions become cells."""

import dataclasses
import itertools
import pickle
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Annotated, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta

from cibench._errors import (
    EmptySelectionError,
    OptionError,
    PluginError,
    SpecError,
    ThreatModelError,
    UnknownPluginError,
    UsageError,
)
from cibench.grid import Plugin, expand
from cibench.parameters import Parameter
from cibench.registry import PluginEntry, Registry, default_registry
from cibench.spec import LOCATION, Spec


def threat(target="any", worst=False):
    agents = SimpleNamespace(is_worst=worst, is_searched=False)
    return SimpleNamespace(target=target, agents=agents)


@dataclass(frozen=True)
class Mean:
    name: ClassVar[str] = "mean"
    tau: Annotated[float, Meta(gt=0)] = 1.0
    mode: str = "a"

    def __post_init__(self):
        if self.mode == "b" and self.tau > 5:
            raise ValueError("expected tau up to 5 in mode b")


@dataclass(frozen=True)
class Other(Mean):
    name: ClassVar[str] = "other.x"


@dataclass(frozen=True)
class Plain:
    name: ClassVar[str] = "none"
    head: str = "own"


@dataclass(frozen=True)
class Needy:
    name: ClassVar[str] = "needy"
    rank: int = dataclasses.field()


@dataclass(frozen=True)
class Listed:
    name: ClassVar[str] = "listed"
    ranks: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Explodes:
    name: ClassVar[str] = "explodes"

    def __post_init__(self):
        raise SystemExit("no")


class Bare:
    name = "bare"


@dataclass(frozen=True)
class Push:
    name: ClassVar[str] = "push"
    size: float = 1.0
    target: str = "any"
    threat = property(lambda self: threat(self.target))


@dataclass(frozen=True)
class Drop(Push):
    name: ClassVar[str] = "drop"


@dataclass(frozen=True)
class Worst:
    name: ClassVar[str] = "worst"
    threat = threat(worst=True)


@dataclass(frozen=True)
class Still:
    name: ClassVar[str] = "none"
    threat = threat()


@dataclass(frozen=True)
class Data:
    name: ClassVar[str] = "data"
    files_needed: ClassVar[str] = "data.csv in the data folder"
    agents: int = 3
    path: str | None = field(default=None, metadata=LOCATION)


@dataclass(frozen=True)
class More(Data):
    name: ClassVar[str] = "more"


@dataclass(frozen=True)
class File:
    name: ClassVar[str] = "file"
    files_needed: ClassVar[str] = "a file: file:path=..."
    path: str | None = field(default=None, metadata=LOCATION)


GOOD = {
    "defense": (Mean, Other, Plain),
    "attack": (Push, Drop, Worst, Still),
    "dataset": (Data, More),
}


class Fake(Registry):
    """Classes of this module in place of installed ones; some fail to import."""

    def __init__(self, broken=(), twice=(), **more):
        super().__init__()
        self.broken = broken
        self.classes = {
            (kind, cls.name): cls
            for kind in GOOD
            for cls in (*GOOD[kind], *more.get(kind, ()))
        }
        entries = [
            PluginEntry(kind, name, __name__, "fake", "1")
            for kind, name in self.classes
        ]
        entries += [
            PluginEntry(kind, name, "absent", "sad", "2") for kind, name in broken
        ]
        entries += [
            PluginEntry(kind, name, __name__, "rival", "3") for kind, name in twice
        ]
        self.entries = tuple(sorted(entries))

    def load(self, kind, name):
        entry = self.entry(kind, name)
        if (kind, name) in self.broken:
            raise PluginError(f"{entry.title} cannot be loaded: no")
        return self.classes[kind, name]


@pytest.fixture
def cells():
    def of(registry=None, **given):
        chosen = {
            "datasets": ["data"], "attacks": ["push"], "defenses": ["mean"], "seeds": [0],
        } | given  # fmt: skip
        return expand(registry or Fake(), **chosen)

    return of


def identity(cell):
    return cell.dataset.spec, cell.seed, cell.attack_spec, cell.defense.spec


def specs(cells, of="defense"):
    words = {
        "defense": lambda cell: cell.defense.spec,
        "attack": lambda cell: cell.attack_spec,
        "dataset": lambda cell: cell.dataset.spec,
        "seed": lambda cell: cell.seed,
    }
    return list(dict.fromkeys(map(words[of], cells)))


# The product.


def test_a_product_of_all_axes_each_cell_once_in_order(cells):
    found = cells(
        datasets=["more", "data:agents=3", "data"],
        attacks=["push", "drop+push[size=2]", "push:size=1"],
        defenses=["none", "mean:tau=2", "mean:tau=2.0"],
        seeds=[4, 1, 4],
        embedding="linear-3",
    )
    assert [identity(cell) for cell in found] == list(
        itertools.product(
            ("more", "data"), (1, 4), ("push", "drop+push:size=2.0"),
            ("none", "mean:tau=2.0"),
        )
    )  # fmt: skip
    assert {cell.embedding for cell in found} == {"linear-3"}
    assert found[-1].title == "data · drop+push:size=2.0 · mean:tau=2.0 · seed 4"


def test_a_plugin_remembers_the_spec_it_is_from(cells):
    (cell,) = cells(
        datasets=["data:path=here,agents=5"], attacks=["push:size=2+drop"], parameters=[
            "mean.tau=3"
        ],
    )  # fmt: skip
    given = ["data:agents=5,path=here", "push:size=2", "drop", "mean:tau=3"]
    assert [str(plugin.given) for plugin in cell.plugins] == given
    assert cell.dataset.spec == "data:agents=5"


def test_plugins_are_shared_and_described_once(cells):
    found = cells(defenses=["mean", "none"], seeds=range(3))
    assert len({id(plugin) for cell in found for plugin in cell.plugins}) == 4
    assert found[0].defense.component is found[2].defense.component
    assert found[0].title is found[0].title
    assert pickle.loads(pickle.dumps(found)) == found


def test_one_data_set_at_two_places_is_refused(cells):
    with pytest.raises(UsageError, match="data: expected one place to read it from"):
        cells(datasets=["data:path=a", "data:path=b"])


def test_no_axis_may_be_empty(cells):
    for axis in ("datasets", "attacks", "defenses", "seeds"):
        with pytest.raises(EmptySelectionError, match="matches no cell"):
            cells(**{axis: []}, exclude=["mean"])


def test_parts_of_a_composition_must_agree(cells):
    with pytest.raises(ThreatModelError, match="one target, got 1, 2"):
        cells(attacks=["push:target=1+drop:target=2"])
    with pytest.raises(ThreatModelError, match="at most one part with agents=worst"):
        cells(attacks=["worst+worst"])


# Globs, and plugins that cannot be used.


def test_globs_match_names(cells):
    found = cells(defenses=["*e*"], attacks=["?ush", "all"])
    assert specs(found) == ["mean", "none", "other.x"]
    assert specs(found, "attack") == ["push", "drop", "none", "worst"]
    assert not any(cell.defense.typed for cell in found)
    with pytest.raises(EmptySelectionError, match=r"'z\*': .* none of mean, none, oth"):
        cells(defenses=["z*"])


def test_a_plugin_that_is_also_typed_counts_as_typed(cells):
    for defenses in (["all", "mean"], ["mean", "all"]):
        typed = {c.defense.spec for c in cells(defenses=defenses) if c.defense.typed}
        assert typed == {"mean"}
    found = cells(attacks=["all", "push"])
    assert [c.attack_spec for c in found if c.attack[0].typed] == ["push"]


def test_a_broken_plugin_under_a_glob_is_a_cell_with_its_error(cells):
    registry = Fake(
        broken=[("defense", "sad"), ("attack", "awry"), ("dataset", "lost")]
    )
    found = cells(registry, defenses=["all"], attacks=["a*"], datasets=["l*", "data"])
    assert specs(found) == ["mean", "none", "other.x", "sad"]
    assert specs(found, "attack") == ["awry"]
    sad = found[3].defense
    assert (sad.configured, sad.typed, str(sad.given)) == (None, False, "sad")
    assert "defense sad" in sad.error
    assert "from sad 2" in sad.error
    assert (sad.component.distribution, sad.component.options) == ("sad", {})
    assert "lost · awry · sad · seed 0" in {cell.title for cell in found}


def test_a_broken_plugin_that_is_typed_raises(cells):
    registry = Fake(broken=[("defense", "sad")])
    for defenses in (["sad"], ["all", "sad"]):
        with pytest.raises(PluginError, match=r"defense sad .* cannot be loaded"):
            cells(registry, defenses=defenses)
    with pytest.raises(PluginError, match="cannot be loaded"):
        cells(registry, defenses=["all"], parameters=["sad.tau=1"])


def test_a_name_of_two_distributions(cells):
    registry = Fake(twice=[("defense", "mean")])
    found = cells(registry, defenses=["m*", "none"])
    assert [bool(cell.defense.error) for cell in found] == [True, False]
    assert "claimed by fake 1 and rival 3" in found[0].defense.error
    with pytest.raises(PluginError, match="claimed by fake 1 and rival 3"):
        cells(registry, defenses=["mean"])


@pytest.mark.parametrize("cls", [Explodes, Bare])
def test_a_class_that_cannot_be_configured(cells, cls):
    registry = Fake(defense=[cls])
    found = {c.defense.spec: c.defense.error for c in cells(registry, defenses=["all"])}
    assert {name for name, error in found.items() if error} == {cls.name}
    assert "cannot be configured" in found[cls.name]
    assert "fake 1" in found[cls.name]
    with pytest.raises(PluginError, match="cannot be configured"):
        cells(registry, defenses=[cls.name])


def test_what_needs_options_is_left_out_of_a_glob(cells):
    registry = Fake(defense=[Needy, Listed], dataset=[File])
    found = cells(registry, defenses=["all"], datasets=["all"])
    assert specs(found)[0].startswith("listed")
    assert specs(found)[1:] == ["mean", "none", "other.x"]
    assert specs(found, "dataset") == ["data", "more"]
    with pytest.raises(OptionError, match="needy: expected the option rank, got none"):
        cells(registry, defenses=["nee*"])
    with pytest.raises(OptionError, match="needy: expected the option rank, got none"):
        cells(registry, defenses=["needy"])
    with pytest.raises(OptionError, match=r"file: expected a file: file:path=\.\.\."):
        cells(registry, datasets=["fi*"])
    # Typed, it is for the data set itself to say what it lacks.
    assert specs(cells(registry, datasets=["file"]), "dataset") == ["file"]
    varied = cells(registry, defenses=["n*"], parameters=["needy.rank=1,2"])
    assert specs(varied) == ["needy:rank=1", "needy:rank=2", "none"]


def test_all_of_what_is_installed_expands():
    found = expand(
        default_registry(),
        datasets=["all"],
        attacks=["all"],
        defenses=["all"],
        seeds=[0],
    )
    assert {"mfeat", "synthetic"} <= set(specs(found, "dataset"))
    assert not {"table", "features"} & set(specs(found, "dataset"))
    assert [
        plugin.error for cell in found for plugin in cell.plugins if plugin.error
    ] == []


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        ({"defenses": ["maen"]}, UnknownPluginError, r"unknown defense 'maen' \(did"),
        ({"defenses": ["mean:tao=1"]}, OptionError, r"'tao' \(did you mean 'tau'\?\)"),
        (
            {"defenses": ["mean:tau=x"]},
            OptionError,
            "tau: number > 0 expected, got 'x'",
        ),
        ({"defenses": ["mean:"]}, SpecError, "expected option=value"),
    ],
)
def test_what_is_typed_must_be_right(cells, given, error, says):
    with pytest.raises(error, match=says):
        cells(**given)


# Varied options.


def test_a_parameter_makes_one_plugin_per_value(cells):
    found = cells(defenses=["none", "mean", "other.x"], parameters=["mean.tau=1,2, 3"])
    assert specs(found) == ["none", "mean", "mean:tau=2.0", "mean:tau=3.0", "other.x"]


def test_parameters_of_one_plugin_are_crossed(cells):
    found = cells(parameters=["mean.mode=a,b", "mean.tau=2,3"])
    assert specs(found) == [
        "mean:tau=2.0", "mean:tau=3.0", "mean:mode=b,tau=2.0", "mean:mode=b,tau=3.0"
    ]  # fmt: skip


def test_parameters_join_the_options_of_a_spec(cells):
    found = cells(defenses=["mean:tau=2", "mean:tau=3"], parameters=["mean.mode=a,b"])
    assert specs(found) == [
        "mean:tau=2.0", "mean:mode=b,tau=2.0", "mean:tau=3.0", "mean:mode=b,tau=3.0"
    ]  # fmt: skip


def test_parameters_reach_parts_of_attacks_data_sets_and_dotted_names(cells):
    found = cells(
        datasets=["data", "more"], attacks=["drop", "drop+push", "push+push"],
        defenses=["other.x"],
        parameters=["push.size=1,2", "data.path=a.csv", "other.x.tau=2"],
    )  # fmt: skip
    assert specs(found, "attack") == [
        "drop", "drop+push", "drop+push:size=2.0", "push+push",
        "push:size=2.0+push:size=2.0",
    ]  # fmt: skip
    assert specs(found) == ["other.x:tau=2.0"]
    assert {str(cell.dataset.given) for cell in found} == {"data:path=a.csv", "more"}
    assert found[0].dataset.typed


def test_parameters_reach_what_a_glob_matched(cells):
    found = cells(defenses=["all"], parameters=["mean.tau=1,2"])
    assert specs(found) == ["mean", "mean:tau=2.0", "none", "other.x"]
    assert [c.defense.typed for c in found] == [True, True, False, False]


def test_a_kind_tells_plugins_of_one_name_apart(cells):
    one = cells(defenses=["none"], parameters=["none.head=x"])
    assert specs(one) == ["none:head=x"]
    both = {"attacks": ["none"], "defenses": ["none"]}
    found = cells(**both, parameters=["defense:none.head=x,y"])
    assert specs(found) == ["none:head=x", "none:head=y"]
    says = (
        "expected attack:none.head=... or defense:none.head=..., got a name of several"
    )
    with pytest.raises(UsageError, match=says):
        cells(**both, parameters=["none.head=x"])


@pytest.mark.parametrize(
    "text",
    ["", "mean", "mean.tau", "mean.tau=", "mean.tau=1,", "mean=1", ".tau=1", "mean.1=2",
     "thing:mean.tau=1", "mean.tau=[1]", "mean:tau=1", "mean.tau=,1", "mean .tau=1"],
)  # fmt: skip
def test_malformed_parameters(cells, text):
    with pytest.raises(UsageError, match=r"-P: expected NAME\.option=value or .*got"):
        cells(parameters=[text])


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        (["maen.tau=1"], r"-P maen\.tau=1: expected a selected plugin, got 'maen' \(did "
         r"you mean 'mean'\?\); selected are data, mean, push"),
        (["attack:mean.tau=1"], "expected a selected attack, got 'mean'.*are push$"),
        (["mean.tao=1"], r"defense mean: unknown option 'tao' \(did you mean 'tau'\?\)"),
        (["mean.tau=1,x"], "option tau: number > 0 expected, got 'x'"),
        (["mean.tau=0"], "option tau"),
        (["mean.tau=6", "mean.mode=b"], "mean: expected tau up to 5 in mode b"),
        (["mean.tau=1", "mean.tau=2"], "the option tau of mean once, got it twice"),
        (["defense:mean.tau=1", "mean.tau=2"], "tau of mean once, got it twice"),
    ],
)  # fmt: skip
def test_wrong_parameters(cells, texts, says):
    with pytest.raises(UsageError, match=says):
        cells(parameters=texts)


def test_an_option_that_a_spec_sets_cannot_be_varied(cells):
    says = "no spec sets, got 'tau', which mean:tau=2 sets"
    with pytest.raises(UsageError, match=says):
        cells(defenses=["mean", "mean:tau=2"], parameters=["mean.tau=3"])


@given(
    st.from_regex(r"[A-Za-z][A-Za-z0-9._-]{0,4}", fullmatch=True),
    st.from_regex(r"[a-z_]{1,4}", fullmatch=True),
    st.lists(
        st.text("ab1.=:+-/ ", min_size=1).filter(str.strip), min_size=1, max_size=3
    ),
    st.sampled_from(["", "dataset:", "attack:", "defense:"]),
)
def test_parameters_are_read_as_they_are_written(name, option, values, kind):
    parsed = Parameter.parse(f"{kind}{name}.{option}={','.join(values)}")
    assert (parsed.kind or "") + ":" * bool(parsed.kind) == kind
    assert (parsed.name, parsed.option) == (name, option)
    assert list(parsed.values) == list(dict.fromkeys(v.strip() for v in values))


# Exclusions.

WIDE = {
    "datasets": ["data", "more:agents=4"],
    "attacks": ["push", "drop:size=2+push", "none"],
    "defenses": ["mean:tau=2,mode=b", "none", "other.x"],
    "seeds": [0, 3, 13],
}


@pytest.mark.parametrize(
    ("pattern", "dropped"),
    [
        ("seed=3", lambda d, s, a, f: s == 3),
        ("seed=*3", lambda d, s, a, f: s in (3, 13)),
        ("none", lambda d, s, a, f: "none" in (a, f)),
        ("defense:none", lambda d, s, a, f: f == "none"),
        ("attack:n?ne", lambda d, s, a, f: a == "none"),
        ("push", lambda d, s, a, f: "push" in a),
        ("drop", lambda d, s, a, f: "drop" in a),
        ("drop+push", lambda d, s, a, f: "drop" in a),
        ("drop:size=2+push", lambda d, s, a, f: "drop" in a),
        ("drop:size=2.0", lambda d, s, a, f: "drop" in a),
        ("mean[tau=2, mode=b]", lambda d, s, a, f: f.startswith("mean")),
        ("mean:mode=b,tau=2.0", lambda d, s, a, f: f.startswith("mean")),
        ("mean:*tau=2*", lambda d, s, a, f: f.startswith("mean")),
        ("more", lambda d, s, a, f: d.startswith("more")),
        ("more:agents=4/seed=0", lambda d, s, a, f: d.startswith("more") and s == 0),
        ("data / none / none", lambda d, s, a, f: d == "data" and "none" in (a, f)),
        (
            "attack:none/defense:none/seed=3",
            lambda d, s, a, f: (a, f, s) == ("none", "none", 3),
        ),
    ],
)  # fmt: skip
def test_cells_that_match_every_term_are_left_out(cells, pattern, dropped):
    every = [identity(cell) for cell in cells(**WIDE)]
    kept = [one for one in every if not dropped(*one)]
    assert 0 < len(kept) < len(every) == 54
    assert [identity(c) for c in cells(**WIDE, exclude=[pattern])] == kept


def test_exclusions_add_up_and_may_overlap(cells):
    found = cells(**WIDE, exclude=["seed=3", "seed=*3/push", "other*"])
    assert len(found) == 2 * 2 * (3 + 1)
    with pytest.raises(EmptySelectionError, match="--exclude drops all"):
        cells(**WIDE, exclude=["seed=*"])


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        (
            "meen",
            r"--exclude meen: expected dataset or .* got 'meen' \(did you mean 'mean'",
        ),
        ("mean:tau=3", r"got 'mean:tau=3' \(did you mean 'mean:mode=b,tau=2'\?\)"),
        ("push/seed=4", r"expected a seed of the run \(0, 13, 3\), got 'seed=4'"),
        ("attack:mean", r"expected attack of the run .*names: drop, none, push\)"),
        ("push/", "got ''"),
        ("", "got ''"),
        ("seed=0/seed=3", "terms that match a cell together"),
    ],
)
def test_an_exclusion_that_drops_nothing_is_a_mistake(cells, pattern, says):
    with pytest.raises(UsageError, match=says):
        cells(**WIDE, exclude=[pattern])


def test_a_broken_plugin_can_be_excluded(cells):
    registry = Fake(broken=[("defense", "sad")])
    assert "sad" not in specs(cells(registry, defenses=["all"], exclude=["sad"]))


def test_a_hundred_thousand_cells(cells):
    found = cells(
        datasets=["data"], attacks=["push"], seeds=range(10),
        parameters=[
            "data.agents=" + ",".join(map(str, range(10))),
            "push.size=" + ",".join(map(str, range(20))),
            "mean.tau=" + ",".join(map(str, range(1, 51))),
        ],
        exclude=["seed=3/mean:tau=4*"],
    )  # fmt: skip
    assert len(found) == 100_000 - 10 * 20 * 11
    assert len({id(plugin) for cell in found for plugin in cell.plugins}) == 80


def test_a_plugin_may_be_made_without_a_given_spec():
    entry = PluginEntry("defense", "mean", __name__, "fake", "1")
    plugin = Plugin(entry, Mean(tau=2.0))
    assert (plugin.spec, plugin.given, plugin.error) == ("mean:tau=2.0", None, "")
    assert Spec.parse(plugin.spec).name == "mean"

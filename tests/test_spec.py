import re
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import Meta

from cibench._errors import OptionError, SpecError
from cibench.spec import (
    LOCATION,
    Spec,
    build,
    canonical,
    describe_type,
    option_defaults,
    option_types,
    resolved,
)

names = st.from_regex(r"[A-Za-z][A-Za-z0-9._-]{0,8}", fullmatch=True)
keys = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True)
values = (
    st.text(
        st.characters(exclude_characters=",[]\n", exclude_categories=["Cs"]),
        min_size=1,
        max_size=8,
    )
    .map(str.strip)
    .filter(bool)
)
options = st.dictionaries(keys, values, max_size=4)
specs = st.builds(
    lambda name, given: Spec(name, tuple(sorted(given.items()))), names, options
)
#: Values in which no plus sign can be taken for the start of another spec.
plain = st.dictionaries(keys, values.filter(lambda v: "+" not in v), max_size=4)
plain_specs = st.builds(
    lambda name, given: Spec(name, tuple(sorted(given.items()))), names, plain
)
#: Time says nothing about a parser on a busy machine.
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@dataclass(frozen=True, kw_only=True)
class Toy:
    name: ClassVar[str] = "toy"
    tau: Annotated[float, Meta(gt=0)] = 1.0
    steps: Annotated[int, Meta(ge=1, le=9)] = 3
    width: Annotated[int, Meta(ge=1)] | None = None
    mode: Literal["fast", "slow"] = "fast"
    auto: int | Literal["auto"] = "auto"
    verbose: bool = False
    label: str = "x"
    folder: str = field(default="here", metadata=LOCATION)

    def __post_init__(self):
        if self.label == "bad":
            raise ValueError("label: expected a good one, got 'bad'")


@dataclass(frozen=True)
class Bare:
    name: ClassVar[str] = "bare"


# The grammar.


@patient
@given(specs)
def test_the_canonical_form_round_trips(spec):
    assert Spec.parse(str(spec)) == spec


@patient
@given(specs)
def test_brackets_and_colon_are_two_ways_to_write_one_thing(spec):
    inner = ",".join(f"{key}={value}" for key, value in spec.options)
    assert Spec.parse(f"{spec.name}[{inner}]") == spec


@patient
@given(specs, st.randoms(use_true_random=False))
def test_order_and_space_do_not_matter(spec, random):
    shuffled = list(spec.options)
    random.shuffle(shuffled)
    inner = " , ".join(f" {key} = {value} " for key, value in shuffled)
    assert Spec.parse(f"  {spec.name}[{inner}]  ") == spec
    assert str(Spec(spec.name, tuple(shuffled))) == str(spec)


@patient
@given(st.lists(plain_specs, min_size=1, max_size=4))
def test_a_composition_round_trips(parts):
    joined = "+".join(str(part) for part in parts)
    assert Spec.parse_composition(joined) == tuple(parts)


@patient
@given(st.text(max_size=20))
def test_any_text_is_a_spec_or_a_spec_error(text):
    for parse in (Spec.parse, Spec.parse_composition):
        try:
            parse(text)
        except SpecError as error:
            assert "expected" in str(error)  # noqa: PT017


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("missing:agents=7+pgd:agents=10", ["missing:agents=7", "pgd:agents=10"]),
        ("missing[agents=7] + pgd[agents=10]", ["missing:agents=7", "pgd:agents=10"]),
        ("none+flip", ["none", "flip"]),
        ("a:x=1e+3", ["a:x=1e+3"]),
        ("a:x=1e+3+b", ["a:x=1e+3", "b"]),
        ("a:agents=1+2", ["a:agents=1+2"]),
    ],
)
def test_a_plus_splits_where_a_name_follows(text, parts):
    assert [str(spec) for spec in Spec.parse_composition(text)] == parts


@pytest.mark.parametrize("text", ["a[]", "a[ ]", " a "])
def test_no_options(text):
    assert Spec.parse(text) == Spec("a")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected name, name:option=value,... or name[option=value,...], got ''"),
        ("9lives", "got '9lives'"),
        ("a b", "got 'a b'"),
        ("a[x=1", "got 'a[x=1'"),
        ("a:", "a: expected option=value, got '' in 'a:'"),
        ("a:x", "a: expected option=value, got 'x' in 'a:x'"),
        ("a:x=", "a: expected option=value, got 'x=' in 'a:x='"),
        ("a:=1", "a: expected option=value, got '=1'"),
        ("a:1x=1", "a: expected option=value, got '1x=1'"),
        ("a:x=1,", "a: expected option=value, got ''"),
        ("a:x=1,x=2", "a: expected option x once, got it twice"),
        ("a:x=[1]", "a: expected a value without brackets or commas, got '[1]'"),
        ("a[x=1]]", "a: expected a value without brackets or commas, got '1]'"),
    ],
)
def test_text_that_is_no_spec(text, message):
    with pytest.raises(SpecError, match=re.escape(message)) as caught:
        Spec.parse(text)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("text", ["a+", "+a", "a++b", "+"])
def test_text_that_is_no_composition(text):
    with pytest.raises(SpecError, match="expected"):
        Spec.parse_composition(text)


# Configuring.


def toy(text):
    return build("defense", Toy, Spec.parse(text))


@pytest.mark.parametrize(
    ("text", "attribute", "value"),
    [
        ("toy:tau=2", "tau", 2.0),
        ("toy:tau=1e+3", "tau", 1000.0),
        ("toy:steps=9", "steps", 9),
        ("toy:width=4", "width", 4),
        ("toy:width=none", "width", None),
        ("toy:width=NULL", "width", None),
        ("toy:mode=slow", "mode", "slow"),
        ("toy:auto=auto", "auto", "auto"),
        ("toy:auto=5", "auto", 5),
        ("toy:verbose=true", "verbose", True),
        ("toy:verbose=false", "verbose", False),
        ("toy:label=none", "label", "none"),
        ("toy:label=3", "label", "3"),
        ("toy:label=a=b", "label", "a=b"),
    ],
)
def test_values_are_converted(text, attribute, value):
    got = getattr(toy(text), attribute)
    assert got == value
    assert type(got) is type(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "toy:tua=1",
            "unknown option 'tua' (did you mean 'tau'?); expected one of auto,",
        ),
        ("toy:zzzz=1", "unknown option 'zzzz'; expected one of auto, folder, label,"),
        ("toy:name=x", "unknown option 'name'"),
        ("toy:tau=big", "option tau: number > 0 expected, got 'big'"),
        ("toy:tau=0", "option tau: number > 0 expected, got '0'"),
        ("toy:tau=none", "option tau: number > 0 expected, got 'none'"),
        ("toy:steps=1.5", "option steps: integer >= 1 and <= 9 expected, got '1.5'"),
        ("toy:steps=10", "option steps: integer >= 1 and <= 9 expected, got '10'"),
        ("toy:width=0", "option width: integer >= 1 or none expected, got '0'"),
        ("toy:mode=fats", "option mode: fast or slow expected, got 'fats'"),
        ("toy:verbose=si", "option verbose: true or false expected, got 'si'"),
        ("toy:label=bad", "label: expected a good one, got 'bad'"),
    ],
)
def test_wrong_options(text, message):
    message = f"defense toy: {message}"
    with pytest.raises(OptionError, match=re.escape(message)) as caught:
        toy(text)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_numbers_are_finite(value):
    with pytest.raises(OptionError, match=r"option tau: .*number > 0"):
        toy(f"toy:tau={value}")


def test_a_plugin_without_options():
    assert build("attack", Bare, Spec("bare")) == Bare()
    message = (
        "attack bare: unknown option 'x'; expected one of none (it has no options)"
    )
    with pytest.raises(OptionError, match=re.escape(message)):
        build("attack", Bare, Spec("bare", (("x", "1"),)))


# Back to text.


def test_resolved_holds_every_option_but_locations():
    assert resolved(toy("toy:tau=2,folder=there")) == {
        "auto": "auto",
        "label": "x",
        "mode": "fast",
        "steps": 3,
        "tau": 2.0,
        "verbose": False,
        "width": None,
    }


def test_canonical_leaves_out_defaults_and_locations():
    assert canonical(Toy()) == "toy"
    assert canonical(Toy(tau=1.0, folder="there")) == "toy"
    assert canonical(Toy(tau=2, verbose=True)) == "toy:tau=2,verbose=true"
    assert canonical(Toy(width=3, tau=0.1)) == "toy:tau=0.1,width=3"


@patient
@given(
    st.builds(
        Toy,
        tau=st.floats(min_value=0, exclude_min=True, allow_infinity=False),
        steps=st.integers(1, 9),
        width=st.none() | st.integers(1, 99),
        mode=st.sampled_from(["fast", "slow"]),
        auto=st.integers() | st.just("auto"),
        verbose=st.booleans(),
        label=values.filter(lambda v: v != "bad"),
    )
)
def test_canonical_configures_the_same_plugin(plugin):
    assert toy(canonical(plugin)) == plugin


def test_options_and_defaults_are_the_fields():
    assert set(option_types(Toy)) == set(option_defaults(Toy)) == {
        "tau", "steps", "width", "mode", "auto", "verbose", "label", "folder"
    }  # fmt: skip
    assert option_defaults(Toy)["tau"] == 1.0
    assert option_types(Spec.parse) == option_defaults(Spec.parse) == {}


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("tau", "number > 0"),
        ("steps", "integer >= 1 and <= 9"),
        ("width", "integer >= 1 or none"),
        ("mode", "fast or slow"),
        ("auto", "integer or auto"),
        ("verbose", "true or false"),
        ("label", "text"),
    ],
)
def test_types_in_words(option, text):
    assert describe_type(option_types(Toy)[option]) == text

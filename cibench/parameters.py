"""Options that a run varies: `-P copur.tau=1,2` is one copur per value."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ._errors import UsageError
from ._selection import Wanted
from .spec import Spec, did_you_mean

_NAME, _KEY = r"[A-Za-z][A-Za-z0-9._-]*", r"[A-Za-z_][A-Za-z0-9_]*"
_FORM = re.compile(
    rf"(?:(dataset|attack|defense):)?({_NAME})\.({_KEY})=(.*)", re.DOTALL
)


@dataclass(frozen=True)
class Parameter:
    """One option of one plugin and the values it takes.

    Args:
        kind: the plugin's kind; None where the text leaves it open.
        name: the plugin.
        option: its option.
        values: as text.
        text: as it was given, for messages.
    """

    kind: str | None
    name: str
    option: str
    values: tuple[str, ...]
    text: str

    @classmethod
    def parse(cls, text: str) -> Parameter:
        """Parse `NAME.option=v1,v2` or `KIND:NAME.option=v1,v2`.

        Raises:
            UsageError: the text does not follow this form.
        """
        match = _FORM.fullmatch(text.strip())
        values = [value.strip() for value in match[4].split(",")] if match else []
        if not match or not all(values) or set("[]\n") & set(match[4]):
            raise UsageError(
                f"-P: expected NAME.option=value or NAME.option=value,value,... (as in"
                f" copur.tau=1,2), got {text!r}"
            )
        return cls(match[1], match[2], match[3], tuple(dict.fromkeys(values)), text)


def vary(
    selected: Mapping[str, Sequence[Wanted]], texts: Sequence[str]
) -> dict[str, list[Wanted]]:
    """Replace every plugin that a parameter names by one per value.

    Several parameters of one plugin make a cross product. A composition whose parts have
    one name takes the same value in each. What a parameter names counts as typed.

    Args:
        selected: what is wanted of each kind.
        texts: as `Parameter.parse` reads them.

    Raises:
        UsageError: a text is malformed, names what is not selected or sets an option that
            is already set.
    """
    by_kind: dict[str, list[Parameter]] = {kind: [] for kind in selected}
    for parameter in map(Parameter.parse, texts):
        earlier = by_kind[_kind(parameter, selected)]
        if any(
            (parameter.name, parameter.option) == (e.name, e.option) for e in earlier
        ):
            raise UsageError(
                f"-P {parameter.text}: expected the option {parameter.option} of"
                f" {parameter.name} once, got it twice; list its values after one ="
            )
        earlier.append(parameter)
    return {
        kind: [
            varied for one in wanted for varied in _variants(one, by_kind[kind])
        ]
        for kind, wanted in selected.items()
    }  # fmt: skip


def _kind(parameter: Parameter, selected: Mapping[str, Sequence[Wanted]]) -> str:
    """The kind of plugin that a parameter speaks of."""
    names = {
        kind: sorted({spec.name for one in wanted for spec in one.specs})
        for kind, wanted in selected.items()
        if parameter.kind in (None, kind)
    }
    found = [kind for kind, known in names.items() if parameter.name in known]
    what = parameter.kind or "plugin"
    if not found:
        known = sorted({name for group in names.values() for name in group})
        raise UsageError(
            f"-P {parameter.text}: expected a selected {what}, got {parameter.name!r}"
            f"{did_you_mean(parameter.name, known)}; selected are {', '.join(known)}"
        )
    if len(found) > 1:
        either = " or ".join(f"{kind}:{parameter.name}.{parameter.option}=..."
                             for kind in found)  # fmt: skip
        raise UsageError(
            f"-P {parameter.text}: expected {either}, got a name of several kinds"
        )
    return found[0]


def _variants(one: Wanted, parameters: Sequence[Parameter]) -> Iterator[Wanted]:
    names = {spec.name for spec in one.specs}
    mine = [parameter for parameter in parameters if parameter.name in names]
    if not mine:
        yield one
        return
    for values in itertools.product(*(parameter.values for parameter in mine)):
        chosen = list(zip(mine, values, strict=True))
        yield Wanted(tuple(_with(spec, chosen) for spec in one.specs), typed=True)


def _with(spec: Spec, chosen: Sequence[tuple[Parameter, str]]) -> Spec:
    given = dict(spec.options)
    for parameter, value in chosen:
        if parameter.name != spec.name:
            continue
        if parameter.option in dict(spec.options):
            raise UsageError(
                f"-P {parameter.text}: expected an option that no spec sets, got"
                f" {parameter.option!r}, which {spec} sets; leave it out of one of them"
            )
        given[parameter.option] = value
    return Spec(spec.name, tuple(sorted(given.items())))

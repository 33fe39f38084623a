"""Specs: `copur:tau=2,solver=paper` to and from a configured plugin.

Grammar, with brackets as another way to write the options:

    composition = spec ("+" spec)*
    spec        = name [":" options] | name "[" options "]"
    options     = key "=" value ("," key "=" value)*

A value may hold anything but `,` `[` `]` and surrounding space; a `+` belongs to the value
unless it begins another spec (`1e+3` is one value).
"""

from __future__ import annotations

import dataclasses
import math
import re
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from ._errors import OptionError, SpecError

_NAME = r"[A-Za-z][A-Za-z0-9._-]*"
_HEAD = re.compile(rf"({_NAME})(?:\[(.*)\]|:(.*))?", re.DOTALL)
_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_FORBIDDEN = set(",[]\n")

T = TypeVar("T")

#: Metadata of an option that says where files are: it never enters a record or a key.
LOCATION = types.MappingProxyType({"cibench_location": True})


@dataclasses.dataclass(frozen=True)
class Spec:
    """A plugin's name and the options given for it, as text.

    Example:
        >>> str(Spec.parse("copur[tau=2, solver=paper]"))
        'copur:solver=paper,tau=2'
    """

    name: str
    options: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        """Canonical form: options sorted by key."""
        if not self.options:
            return self.name
        joined = ",".join(f"{key}={value}" for key, value in sorted(self.options))
        return f"{self.name}:{joined}"

    @classmethod
    def parse(cls, text: str) -> Spec:
        """Parse one spec.

        Raises:
            SpecError: the text does not follow the grammar.
        """
        match = _HEAD.fullmatch(text.strip())
        if not match:
            raise SpecError(
                f"expected name, name:option=value,... or name[option=value,...],"
                f" got {text!r}"
            )
        name, bracketed, listed = match.groups()
        body = bracketed if bracketed is not None else listed
        if body is None or (bracketed is not None and not body.strip()):
            return cls(name)
        options: dict[str, str] = {}
        for part in body.split(","):
            key, equals, value = (piece.strip() for piece in part.partition("="))
            if not equals or not value or not _KEY.fullmatch(key):
                raise SpecError(
                    f"{name}: expected option=value, got {part.strip()!r} in {text!r}"
                )
            if _FORBIDDEN & set(value):
                raise SpecError(
                    f"{name}: expected a value without brackets or commas, got {value!r}"
                )
            if key in options:
                raise SpecError(f"{name}: expected option {key} once, got it twice")
            options[key] = value
        return cls(name, tuple(sorted(options.items())))

    @classmethod
    def parse_composition(cls, text: str) -> tuple[Spec, ...]:
        """Parse specs joined by `+`.

        Raises:
            SpecError: a part does not follow the grammar.
        """
        # A part ends at a plus that a name follows, outside brackets and not inside a
        # number such as 1e+3.
        parts = re.split(rf"\+(?=\s*{_NAME}\s*(?:[:\[+]|$))", text)
        return tuple(cls.parse(part) for part in parts)


def build(kind: str, cls: type[T], spec: Spec) -> T:
    """Configure a plugin class from a spec, converting and checking every option.

    Args:
        kind: the word for error messages, such as `defense`.
        cls: the plugin's dataclass.
        spec: name and options as text.

    Raises:
        OptionError: an option is unknown, of the wrong type or out of range.
    """
    known = option_types(cls)
    given: dict[str, Any] = {}
    for key, value in spec.options:
        if key not in known:
            raise OptionError(
                f"{kind} {spec.name}: unknown option {key!r}{_nearest(key, known)};"
                f" expected one of {', '.join(sorted(known)) or 'none (it has no options)'}"
            )
        empty = value.lower() in ("none", "null") and _accepts_none(known[key])
        given[key] = None if empty else value
    for key, value in given.items():
        try:
            given[key] = msgspec.convert(value, known[key], strict=False)
        except msgspec.ValidationError as error:
            raise OptionError(
                f"{kind} {spec.name}: option {key}: {describe_type(known[key])} expected,"
                f" got {value!r} ({str(error).partition(' - at')[0]})"
            ) from None
        if isinstance(given[key], float) and not math.isfinite(given[key]):
            raise OptionError(
                f"{kind} {spec.name}: option {key}: expected a finite"
                f" {describe_type(known[key])}, got {value}"
            )
    try:
        return cls(**given)
    except ValueError as error:
        raise OptionError(f"{kind} {spec.name}: {error}") from error


def resolved(plugin: Any) -> dict[str, Any]:
    """Every option with its value, defaults included, as plain data.

    Options that only locate files (`LOCATION`) are left out.
    """
    return {
        field.name: msgspec.to_builtins(getattr(plugin, field.name))
        for field in sorted(dataclasses.fields(plugin), key=lambda field: field.name)
        if field.init and not field.metadata.get("cibench_location")
    }


def canonical(plugin: Any, *, located: bool = False) -> str:
    """The shortest spec that configures this plugin: options that differ from defaults.

    Args:
        plugin: a configured plugin.
        located: with the options that only locate files (`LOCATION`), too.
    """
    defaults = {f.name: f.default for f in dataclasses.fields(plugin)}
    options = resolved(plugin)
    if located:
        options = {name: getattr(plugin, name) for name in option_types(type(plugin))}
    changed = tuple(
        (key, _text(msgspec.to_builtins(value)))
        for key, value in sorted(options.items())
        if value != defaults[key]
    )
    return str(Spec(plugin.name, changed))


def option_types(cls: type) -> dict[str, Any]:
    """The options of a plugin class: its dataclass fields and their types."""
    if not dataclasses.is_dataclass(cls):
        return {}
    hints = typing.get_type_hints(cls, include_extras=True)
    return {f.name: hints[f.name] for f in dataclasses.fields(cls) if f.init}


def option_defaults(cls: type) -> Mapping[str, Any]:
    """The default of each option."""
    if not dataclasses.is_dataclass(cls):
        return {}
    return {f.name: f.default for f in dataclasses.fields(cls) if f.init}


def describe_type(hint: Any) -> str:
    """A type as a user reads it: `number > 0`, `converged or paper`, `integer or auto`."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        limits = [
            f" {sign} {value:g}"
            for meta in arguments[1:]
            for sign, value in (
                (">", meta.gt), (">=", meta.ge), ("<", meta.lt), ("<=", meta.le)
            )
            if value is not None
        ]  # fmt: skip
        return describe_type(arguments[0]) + " and".join(limits)
    if origin is typing.Literal:
        return " or ".join(str(value) for value in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(describe_type(part) for part in arguments)
    names: dict[Any, str] = {
        float: "number",
        int: "integer",
        str: "text",
        bool: "true or false",
    }
    if hint is type(None):
        return "none"
    return names.get(hint) or str(getattr(hint, "__name__", hint))


def _accepts_none(hint: Any) -> bool:
    return type(None) in typing.get_args(hint)


def _text(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value) if isinstance(value, float) else str(value)


def _nearest(word: str, known: Mapping[str, Any]) -> str:
    return did_you_mean(word, list(known))


def did_you_mean(word: str, known: list[str]) -> str:
    """`" (did you mean ...?)"` for the nearest known word, or an empty string."""
    import difflib

    near = difflib.get_close_matches(word, known, n=1, cutoff=0.55)
    return f" (did you mean {near[0]!r}?)" if near else ""

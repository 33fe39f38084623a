"""The shipped studies, one TOML file each, and reading any study from a file."""

from __future__ import annotations

import math
import re
import tomllib
import typing
from pathlib import Path
from typing import Any

import msgspec

from .._errors import UsageError
from ..spec import did_you_mean
from ..study import Protocol, Study, check_study
from ._lines import line_of as line_of

_FOLDER = Path(__file__).parent


def suite_names() -> list[str]:
    """Names of the shipped suites, sorted."""
    return sorted(path.stem for path in _FOLDER.glob("*.toml"))


def load_suite(name: str) -> Study:
    """The shipped suite of a name.

    Raises:
        UsageError: there is none.
    """
    known = suite_names()
    if name not in known:
        raise UsageError(
            f"unknown suite {name!r}{did_you_mean(name, known)}; expected one of"
            f" {', '.join(known)} (see: cibench ls suites; a file is run with -c)"
        )
    return read_study(_FOLDER / f"{name}.toml")


def read_study(path: Path) -> Study:
    """A study from a TOML file, checked as far as that needs no plugin.

    Raises:
        UsageError: the file cannot be read, is not TOML, has unknown keys or values of a
            wrong type, or names what it does not have.
    """
    try:
        text = path.read_bytes().decode("utf-8")
        data = tomllib.loads(text)
    except OSError as error:
        raise UsageError(
            f"study {path}: expected a TOML file, got {error.strerror}"
        ) from error
    except UnicodeDecodeError as error:
        raise UsageError(
            f"study {path}: expected text in UTF-8, got byte {error.object[error.start]}"
            f" at position {error.start}"
        ) from error
    except RecursionError:
        raise UsageError(
            f"study {path}: expected TOML, got too deep a nesting"
        ) from None
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"study {path}: expected TOML, got: {error}") from error
    try:
        return study_of(data)
    except _MistakeError as error:
        line = line_of(text, error.path)
        at = "" if line is None else f", line {line}"
        raise UsageError(f"study {path}{at}: {error}") from error


class _MistakeError(UsageError):
    """A mistake in a study, with the keys that lead to it."""

    def __init__(self, message: str, path: tuple[str | int, ...] = ()) -> None:
        super().__init__(message)
        self.path = path


def study_of(data: Any) -> Study:
    """A study from plain data, checked as far as that needs no plugin.

    Raises:
        UsageError: as `read_study`, without the file's name.
    """
    try:
        _finite(data, "")
        study = msgspec.convert(data, Study)
    except RecursionError:
        raise _MistakeError("expected a study, got too deep a nesting") from None
    except msgspec.ValidationError as error:
        raise _explained(str(error), data) from error
    try:
        check_study(study)
    except UsageError as error:
        # Its messages begin with the path, which holds no label.
        raise _MistakeError(str(error), _path(str(error).partition(":")[0])) from error
    return study


def _finite(value: Any, where: str, *path: str | int) -> None:
    """TOML knows nan and inf; no number of a study is one, and JSON has neither."""
    if isinstance(value, float) and not math.isfinite(value):
        raise _MistakeError(f"{where}: expected a finite number, got {value}", path)
    if isinstance(value, dict):
        for key, part in value.items():
            _finite(part, f"{where}.{key}" if where else key, *path, key)
    elif isinstance(value, list):
        for index, part in enumerate(value):
            _finite(part, f"{where}[{index}]", *path, index)


def _explained(message: str, data: Any) -> _MistakeError:
    """A msgspec message with the key path in front and a suggestion for unknown keys."""
    text, _, where = message.partition(" - at `$")
    place = re.sub(r"\[\.\.\.\]", ".*", where.rstrip("`")).lstrip(".")
    prefix = f"{place}: " if place else ""
    path = _path(place)
    unknown = re.fullmatch(r"Object contains unknown field `(.*)`", text, re.DOTALL)
    if unknown:
        known = [field.name for field in msgspec.structs.fields(_struct_at(place))]
        near = did_you_mean(unknown[1], known)
        return _MistakeError(
            f"{prefix}unknown key {unknown[1]!r}{near}; expected one of"
            f" {', '.join(known)}",
            (*path, unknown[1]),
        )
    missing = re.fullmatch(r"Object missing required field `(.*)`", text)
    if missing:
        return _MistakeError(f"{prefix}expected the key {missing[1]!r}, got none", path)
    if place.endswith(".*"):
        path += _culprit(data, path, message)
    return _MistakeError(prefix + text[:1].lower() + text[1:], path)


def _path(place: str) -> tuple[str | int, ...]:
    """Keys and indices of a place such as `scenarios[0].label`."""
    steps = re.findall(r"([a-z_]+)|\[(\d+)\]", place)
    return tuple(key or int(index) for key, index in steps)


def _culprit(data: Any, path: tuple[str | int, ...], message: str) -> tuple[str, ...]:
    """The key of a table's wrong value, which msgspec does not tell."""
    for step in path[:-1]:
        data = data[step]
    for key, value in data[path[-1]].items():
        try:
            msgspec.convert({**data, path[-1]: {key: value}}, Protocol)
        except msgspec.ValidationError as error:
            expected = f"{message.partition(' - at')[0]} - at `$.{path[-1]}[...]`"
            if str(error) == expected:
                return (key,)
    return ()


def _struct_at(place: str) -> type[msgspec.Struct]:
    """The structure whose keys stand at a path such as `scenarios[0]`."""
    struct: type[msgspec.Struct] = Study
    for key in re.findall(r"[a-z_]+", place):
        hint = typing.get_type_hints(struct)[key]
        (struct,) = (t for t in (hint, *typing.get_args(hint)) if _is_struct(t))
    return struct


def _is_struct(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, msgspec.Struct)

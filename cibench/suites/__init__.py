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
from ..study import Study, check_study

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
        data = tomllib.loads(path.read_bytes().decode("utf-8"))
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
    except UsageError as error:
        raise UsageError(f"study {path}: {error}") from error


def study_of(data: Any) -> Study:
    """A study from plain data, checked as far as that needs no plugin.

    Raises:
        UsageError: as `read_study`, without the file's name.
    """
    _finite(data, "")
    try:
        study = msgspec.convert(data, Study)
    except msgspec.ValidationError as error:
        raise UsageError(_explained(str(error))) from error
    check_study(study)
    return study


def _finite(value: Any, where: str) -> None:
    """TOML knows nan and inf; no number of a study is one, and JSON has neither."""
    if isinstance(value, float) and not math.isfinite(value):
        raise UsageError(f"{where}: expected a finite number, got {value}")
    if isinstance(value, dict):
        for key, part in value.items():
            _finite(part, f"{where}.{key}" if where else key)
    elif isinstance(value, list):
        for index, part in enumerate(value):
            _finite(part, f"{where}[{index}]")


def _explained(message: str) -> str:
    """A msgspec message with the key path in front and a suggestion for unknown keys."""
    text, _, where = message.partition(" - at `$")
    place = re.sub(r"\[\.\.\.\]", ".*", where.rstrip("`")).lstrip(".")
    prefix = f"{place}: " if place else ""
    unknown = re.fullmatch(r"Object contains unknown field `(.*)`", text)
    if unknown:
        known = [field.name for field in msgspec.structs.fields(_struct_at(place))]
        near = did_you_mean(unknown[1], known)
        return (
            f"{prefix}unknown key {unknown[1]!r}{near}; expected one of"
            f" {', '.join(known)}"
        )
    missing = re.fullmatch(r"Object missing required field `(.*)`", text)
    if missing:
        return f"{prefix}expected the key {missing[1]!r}, got none"
    return prefix + text[:1].lower() + text[1:]


def _struct_at(place: str) -> type[msgspec.Struct]:
    """The structure whose keys stand at a path such as `scenarios[0]`."""
    struct: type[msgspec.Struct] = Study
    for key in re.findall(r"[a-z_]+", place):
        hint = typing.get_type_hints(struct)[key]
        (struct,) = (t for t in (hint, *typing.get_args(hint)) if _is_struct(t))
    return struct


def _is_struct(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, msgspec.Struct)

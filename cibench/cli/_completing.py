"""What a shell offers to complete: plugins, their options and values, suites, cells.

Names come from metadata; a plugin is imported when its options are asked for, after a `:`.
A plugin that cannot be loaded has nothing to offer: `cibench ls plugins` says why.
"""

from __future__ import annotations

import contextlib
import re
import typing
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from .._errors import CibenchError

Completer = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def specs(kind: str, *, options: bool = True, every: bool = True) -> Completer:
    """Specs of plugins of a kind, as far as they are typed.

    Args:
        kind: `defense`, `attack` or `dataset`.
        options: whether options may follow the name.
        every: whether `all` is a word.
    """

    def complete(
        ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        before, part = "", incomplete
        if kind == "attack":
            # A plus inside a number such as 1e+3 joins nothing.
            joint = re.match(r"(.*(?<![\deE]e)\+)(.*)", incomplete, re.DOTALL)
            before, part = joint.groups() if joint else ("", incomplete)
        head = re.match(r"([\w.-]+)([:\[])(.*)", part, re.DOTALL)
        if head and options:
            name, sign, body = head.groups()
            return _options(kind, name, body, before + name + sign)
        names = [*_names([kind]), *(["all"] if every and not before else [])]
        return _starting(part, names, before)

    return complete


def plugins(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Names of plugins of every kind."""
    from ..registry import KINDS

    return _starting(incomplete, _names(KINDS))


def parameters(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """`NAME.OPTION=` of `-P`."""
    from ..registry import KINDS

    names = _names(KINDS)
    # A name may have dots of its own; the longest one is meant.
    known = [found for found in names if incomplete.startswith(f"{found}.")]
    if not known:
        return _starting(incomplete, [f"{found}." for found in names])
    name = max(known, key=len)
    body = incomplete.removeprefix(f"{name}.")
    if "=" in body:
        option, _, values = body.partition("=")
        done = values.rpartition(",")[0]
        before = f"{name}.{option}={done}," if done else f"{name}.{option}="
        last = values.rpartition(",")[2]
        return [
            item
            for kind in _kinds_of(name)
            for item in _starting(last, _values(kind, name, option), before)
        ]
    found = [f"{option}=" for kind in _kinds_of(name) for option in _types(kind, name)]
    return _starting(body, found, f"{name}.")


def suites(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Names of shipped studies."""
    from ..suites import suite_names

    return _starting(incomplete, suite_names())


def cells(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Cells of the run that is named before."""
    run = ctx.params.get("run")
    if run is None:
        return []
    from ..results import RunFolder

    return _starting(incomplete, sorted(RunFolder(Path(run)).names()))


def _options(kind: str, name: str, body: str, before: str) -> list[CompletionItem]:
    done, comma, last = body.rpartition(",")
    before += done + comma
    option, equals, value = last.partition("=")
    if equals:
        return _starting(value, _values(kind, name, option), f"{before}{option}=")
    used = {part.partition("=")[0].strip() for part in done.split(",")}
    free = [f"{option}=" for option in _types(kind, name) if option not in used]
    return _starting(last, free, before)


def _starting(
    typed: str, words: Iterable[str], before: str = ""
) -> list[CompletionItem]:
    return [CompletionItem(before + word) for word in words if word.startswith(typed)]


def _names(kinds: Iterable[str]) -> list[str]:
    from ..registry import default_registry

    registry = default_registry()
    return sorted({name for kind in kinds for name in registry.names(kind)})


def _kinds_of(name: str) -> list[str]:
    from ..registry import KINDS, default_registry

    return [kind for kind in KINDS if name in default_registry().names(kind)]


def _types(kind: str, name: str) -> dict[str, Any]:
    from ..registry import default_registry
    from ..spec import option_types

    with contextlib.suppress(CibenchError):
        return option_types(default_registry().load(kind, name))
    return {}


def _values(kind: str, name: str, option: str) -> list[str]:
    """What a type allows, where that can be listed."""

    def listed(hint: Any) -> list[str]:
        if typing.get_origin(hint) is typing.Literal:
            return [str(value) for value in typing.get_args(hint)]
        if hint is bool:
            return ["true", "false"]
        if hint is type(None):
            return ["none"]
        inner = typing.get_args(hint)
        if typing.get_origin(hint) is typing.Annotated:
            inner = inner[:1]
        return [value for part in inner for value in listed(part)]

    hint = _types(kind, name).get(option)
    return [] if hint is None else listed(hint)

"""Checks as cases of pytest."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any

from .._errors import EnvironmentFault
from .check import Check, NotApplicable, checks_of


def parametrize_with_checks(
    plugins: Iterable[Any], *, fast: bool = False
) -> Callable[[Callable[[Any, Any], None]], Callable[[Any, Any], None]]:
    """Make a test of `plugin` and `check` run for every pair of both.

    A failure that a class declares in `known_failures` is an expected one, and fails if it
    does not happen; a check that says nothing of a plugin is skipped.

    Args:
        plugins: configured plugins, such as `[MyDefense(), MyDefense(width=3)]`.
        fast: leave out checks that take long.

    Raises:
        UsageError: something is no configured plugin.
        EnvironmentFault: pytest is not installed.
    """
    try:
        import pytest
    except ImportError as error:
        raise EnvironmentFault(
            "conformance: expected pytest, which runs these tests, got none; pip install"
            " pytest (or use: cibench check)"
        ) from error
    from ..spec import canonical

    cases = []
    for plugin in plugins:
        declared = dict(getattr(plugin, "known_failures", {}))
        known = {each.name for each in checks_of(plugin)}
        for name in sorted(set(declared) - known):
            raise ValueError(
                f"{plugin.name}: known_failures: expected names of checks, got {name!r}"
            )
        for each in checks_of(plugin, fast=fast):
            marks = []
            if each.name in declared:
                reason = declared[each.name]
                marks = [pytest.mark.xfail(reason=reason, strict=True)]
            case = f"{canonical(plugin)}-{each.name}"
            cases.append(pytest.param(plugin, _skipping(each), id=case, marks=marks))
    return pytest.mark.parametrize(("plugin", "check"), cases)


def _skipping(each: Check) -> Callable[[Any], None]:
    """The check, where a plugin that it says nothing of skips the test."""

    @wraps(each.body)
    def tried(plugin: Any) -> None:
        import pytest

        try:
            each(plugin)
        except NotApplicable as reason:
            pytest.skip(str(reason))

    return tried

"""Conformance: what every plugin of a kind promises, tried on any plugin.

Attributes:
    check_plugin: try one configured plugin, check by check.
    checks_of: the checks of a configured plugin.
    parametrize_with_checks: a pytest decorator, one test for each plugin and check.

Example:
    from cibench.conformance import parametrize_with_checks
    from mydef import MyDefense

    @parametrize_with_checks([MyDefense()])
    def test_conformance(plugin, check):
        check(plugin)
"""

from .check import Check as Check
from .check import ConformanceError as ConformanceError
from .check import NotApplicable as NotApplicable
from .check import Result as Result
from .check import check_plugin as check_plugin
from .check import checks_of as checks_of
from .parametrize import parametrize_with_checks as parametrize_with_checks

__all__ = [
    "Check",
    "ConformanceError",
    "NotApplicable",
    "Result",
    "check_plugin",
    "checks_of",
    "parametrize_with_checks",
]

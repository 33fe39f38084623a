"""What a check is, how it fails, and how a plugin's checks are run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from .._errors import ContractError, UsageError
from ..attack import AbstractAttack
from ..dataset import AbstractDataset
from ..defense import AbstractDefense

Status = Literal["passed", "failed", "skipped", "known failure"]

#: The base class of each plugin kind.
BASES: dict[str, type] = {
    "defense": AbstractDefense,
    "attack": AbstractAttack,
    "dataset": AbstractDataset,
}


class ConformanceError(ContractError, AssertionError):
    """A plugin does not keep what its kind promises; the text says how to mend it."""


class NotApplicable(Exception):
    """A check says nothing of this plugin; the text says why."""


class Broken(Exception):
    """What a check expected of the plugin, and what came."""

    def __init__(self, expected: str, got: str) -> None:
        super().__init__(f"expected {expected}, got {got}")


def expect(holds: bool, expected: str, got: str) -> None:
    """Raise `Broken` unless something holds."""
    if not holds:
        raise Broken(expected, got)


@dataclass(frozen=True)
class Check:
    """One promise of a plugin kind, and the trial that shows whether it is kept.

    Args:
        name: what a known failure is declared under.
        why: what goes wrong for users of a plugin that breaks the promise.
        mend: what its author is to do.
        slow: left out of a fast run.
    """

    name: str
    kind: str
    why: str
    mend: str
    slow: bool
    body: Callable[[Any], None]

    def __str__(self) -> str:
        return self.name

    def __call__(self, plugin: Any) -> None:
        """Try a configured plugin.

        Raises:
            ConformanceError: the promise is broken.
            NotApplicable: it does not apply to this plugin.
        """
        from ..execute.put_back import kept_generators
        from .trial import trial_of

        try:
            with kept_generators():
                self.body(trial_of(self.kind, plugin))
        except (KeyboardInterrupt, NotApplicable):
            raise
        except Broken as error:
            raise ConformanceError(self._text(plugin, str(error))) from error
        except BaseException as error:  # a stranger's code may raise anything
            if _is_ours(error):
                raise
            said = " ".join(str(error).split())
            raise ConformanceError(
                self._text(
                    plugin, f"expected no exception, got {type(error).__name__}: {said}"
                )
            ) from error

    def _text(self, plugin: Any, found: str) -> str:
        name = getattr(plugin, "name", type(plugin).__name__)
        return (
            f"{self.kind} {name}: {self.name}: {found}\n  why it matters: {self.why}\n"
            f"  to mend it: {self.mend}"
        )


@dataclass(frozen=True, kw_only=True)
class Result:
    """What one check found of one plugin.

    Args:
        detail: the failure, the reason of a known failure, or why nothing was checked.
        seconds: wall-clock time.
    """

    kind: str
    plugin: str
    check: str
    status: Status
    detail: str
    seconds: float


_checks: list[Check] = []


def check(
    kind: str, *, why: str, mend: str, slow: bool = False
) -> Callable[[Callable[[Any], None]], Callable[[Any], None]]:
    """Make a function a check of a plugin kind; its name is the check's."""

    def add(body: Callable[[Any], None]) -> Callable[[Any], None]:
        name = getattr(body, "__name__", repr(body))
        _checks.append(Check(name, kind, why, mend, slow, body))
        return body

    return add


def kind_of(plugin: Any) -> str:
    """The kind of a configured plugin.

    Raises:
        UsageError: it is none.
    """
    for kind, base in BASES.items():
        if isinstance(plugin, base):
            return kind
    raise UsageError(
        "conformance: expected a configured plugin such as MyDefense(), an object of"
        f" a class derived from {', '.join(b.__name__ for b in BASES.values())}, got"
        f" {plugin!r}"
    )


def checks_of(plugin: Any, *, fast: bool = False) -> tuple[Check, ...]:
    """The checks a configured plugin is to pass, in order.

    Args:
        fast: leave out those that take long.

    Raises:
        UsageError: it is no plugin.
    """
    from . import common, fits, answers, declared, secrets, certified  # noqa: F401, I001
    from . import attacks, strength, datasets  # noqa: F401

    kind = kind_of(plugin)
    return tuple(c for c in _checks if c.kind == kind and not (fast and c.slow))


def check_plugin(plugin: Any, *, fast: bool = False) -> Iterator[Result]:
    """Try a configured plugin; yield what each check found, as it is found.

    A failure that the plugin's class declares in `known_failures` is one with its reason;
    a declared failure that does not happen, or of an unknown check, fails.

    Args:
        fast: leave out checks that take long.

    Raises:
        UsageError: it is no plugin.
    """
    kind, name = kind_of(plugin), str(getattr(plugin, "name", type(plugin).__name__))
    declared = dict(getattr(plugin, "known_failures", {}))
    unknown = set(declared) - {each.name for each in checks_of(plugin)}
    if unknown:
        yield Result(
            kind=kind,
            plugin=name,
            check="known_failures",
            status="failed",
            detail=f"{kind} {name}: known_failures: expected names of checks, got"
            f" {', '.join(sorted(unknown))}; remove what is not one",
            seconds=0.0,
        )
    for each in checks_of(plugin, fast=fast):
        started = time.perf_counter()
        status, detail = _tried(each, plugin, declared.get(each.name))
        yield Result(
            kind=kind,
            plugin=name,
            check=each.name,
            status=status,
            detail=detail,
            seconds=time.perf_counter() - started,
        )


def _tried(each: Check, plugin: Any, declared: str | None) -> tuple[Status, str]:
    try:
        each(plugin)
    except NotApplicable as reason:
        return "skipped", str(reason)
    except ConformanceError as error:
        if declared is not None:
            return "known failure", declared
        return "failed", str(error)
    if declared is not None:
        return "failed", (
            f"{each.kind} {getattr(plugin, 'name', '')}: {each.name}: declared as a known"
            " failure, but it passes; remove it from known_failures"
        )
    return "passed", ""


def _is_ours(error: BaseException) -> bool:
    """Whether an exception arose in a check itself: a defect of the check."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    here = Path(__file__).parent
    return frame is not None and Path(frame.tb_frame.f_code.co_filename).parent == here

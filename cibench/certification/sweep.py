"""Certificates against an option of a defense: points over seeds, and the best value."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

from ..spec import Spec
from ..statistics import mean
from .certifying import Certified
from .recovery import Recovery


@dataclass(frozen=True)
class Point:
    """One value of an option against a number of corrupted agents: means over seeds.

    Args:
        value: of the option.
        corrupted: number of corrupted agents.
        clean: accuracy without corruption; None where nothing could be fitted.
        certified: certified accuracy, the same.
        recovery: what the certificate is made of, for a purifier.
        reason: why nothing is certified; empty if something is.
    """

    value: Any
    corrupted: int
    clean: float | None = None
    certified: float | None = None
    recovery: Recovery | None = None
    reason: str = ""


@dataclass(frozen=True)
class Sweep:
    """A defense on a data set, by the values of one of its options.

    Args:
        dataset: its spec.
        defense: its spec without the option.
        option: that varies, as it is called.
        seeds: of the repetitions.
        points: by number of corrupted agents, then by value.
    """

    dataset: str
    defense: str
    option: str
    seeds: tuple[int, ...]
    points: tuple[Point, ...] = field(default=())

    @property
    def numbers(self) -> list[int]:
        """Numbers of corrupted agents."""
        return list(dict.fromkeys(point.corrupted for point in self.points))

    def at(self, corrupted: int) -> list[Point]:
        """The points of a number of corrupted agents."""
        return [point for point in self.points if point.corrupted == corrupted]

    def best(self, corrupted: int) -> Point | None:
        """The value with the largest certified accuracy; None if nothing is certified.

        Ties go to the larger clean accuracy, then to the earlier value: the smaller one
        where values are numbers.
        """
        some = [point for point in self.at(corrupted) if point.certified]
        # `max` keeps the first of equal ones.
        return max(
            some,
            key=lambda point: (point.certified or 0.0, point.clean or 0.0),
            default=None,
        )


def sweeps(
    rows: Sequence[Certified], option: str, numbers: Sequence[int], label: str = ""
) -> list[Sweep]:
    """Gather certified cells into sweeps.

    Args:
        rows: of `certified`, with certificates taken apart.
        option: that varies between them.
        numbers: of corrupted agents.
        label: what the option is called; its own name if empty.
    """
    groups: dict[tuple[str, str], list[Certified]] = {}
    for row in rows:
        groups.setdefault((row.dataset, _without(row.defense, option)), []).append(row)
    found = []
    for (dataset, defense), group in groups.items():
        values = list(dict.fromkeys(row.options[option] for row in group))
        if all(isinstance(value, Real) for value in values):
            values.sort(key=float)  # type: ignore[arg-type]
        points = [
            _point([r for r in group if r.options[option] == value], value, number)
            for number in numbers
            for value in values
        ]
        seeds = tuple(sorted({row.seed for row in group}))
        found.append(Sweep(dataset, defense, label or option, seeds, tuple(points)))
    return found


def _without(defense: str, option: str) -> str:
    """A spec without one of its options."""
    spec = Spec.parse(defense)
    kept = tuple((key, value) for key, value in spec.options if key != option)
    return str(Spec(spec.name, kept))


def _point(rows: Sequence[Certified], value: object, number: int) -> Point:
    failed = next((row for row in rows if row.standing is None), None)
    if failed is not None:  # nothing is averaged over what survived
        return Point(value, number, reason=f"seed {failed.seed}: {failed.error}")
    proved = [row.standing for row in rows if row.standing is not None]
    certified = mean([found.corrupted[number] for found in proved])
    reasons = [found.reasons.get(number, found.reasons.get(0)) for found in proved]
    apart = [dict(row.recovery)[number] for row in rows if row.recovery]
    return Point(
        value,
        number,
        clean=mean([found.clean for found in proved]),
        certified=certified,
        recovery=_mean(apart) if apart else None,
        reason=""
        if certified
        else next(filter(None, reasons), "nothing stands against fewer"),
    )


def _mean(found: Sequence[Recovery]) -> Recovery:
    def pair(pick: Callable[[Recovery], tuple[float, float]]) -> tuple[float, float]:
        first, second = zip(*map(pick, found), strict=True)
        return mean(first), mean(second)

    def known(pick: Callable[[Recovery], float | None]) -> float | None:
        told = [value for value in map(pick, found) if value is not None]
        return mean(told) if len(told) == len(found) else None

    return Recovery(
        rank=round(mean([each.rank for each in found])),
        residual=pair(lambda each: each.residual),
        leverage=pair(lambda each: each.leverage),
        rate=mean([each.rate for each in found]),
        distance=pair(lambda each: each.distance),
        reason=next((each.reason for each in found if each.reason), ""),
        limit=known(lambda each: each.limit),
        deployed=known(lambda each: each.deployed),
    )

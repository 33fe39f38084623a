"""A sweep as a figure: a row of panels per data set and defense."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ..report.style import FONT, empty_figure, style
from .sweep import Point, Sweep

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: A number of a point, not a number where there is none.
Pick = Callable[[Point], float]
_NAN = float("nan")


def drawn(sweeps: Sequence[Sweep]) -> Figure:
    """Residual, leverage constant, recovery rate, distance and accuracies, by value.

    A colour and marker per number of corrupted agents. Of the leverage constant the band
    between both bounds is filled, and the line at 1/2 is what recovery needs. Infinite
    distances are left out. Only accuracies are drawn for defenses without a manifold.
    """
    empty_figure(1, 1)  # whether there is matplotlib at all
    import matplotlib as mpl

    # Labels are names, not formulas: a dollar is a dollar.
    with mpl.rc_context({"text.parse_math": False}):
        return _figure(sweeps)


def _figure(sweeps: Sequence[Sweep]) -> Figure:
    apart = any(point.recovery for each in sweeps for point in each.points)
    columns = 5 if apart else 1
    figure = empty_figure(2.9 * columns + 0.8, 2.7 * len(sweeps) + 0.4)
    axes = figure.subplots(len(sweeps), columns, squeeze=False)
    for row, each in zip(axes, sweeps, strict=True):
        if apart:
            _residual(row[0], each)
            _leverage(row[1], each)
            _lines(row[2], each, _of(lambda p: p.rate), "recovery rate gamma")
            _lines(row[3], each, _of(lambda p: p.distance[0]), "distance Delta, median")
        _accuracy(row[-1], each)
        row[0].text(
            *(0.0, 1.16, f"{each.dataset} · {each.defense}"),
            transform=row[0].transAxes,
            fontsize=FONT,
            weight="bold",
        )
    if apart and any(math.isinf(_distance(p)) for each in sweeps for p in each.points):
        figure.text(
            *(
                0.01,
                -0.04,
                "no marker: the recovery rate is 0 and the distance infinite",
            ),
            fontsize=FONT - 2,
            va="top",
        )
    # No tight layout: a long title would push the panels apart.
    figure.subplots_adjust(wspace=0.28, hspace=0.75)
    return figure


def _distance(point: Point) -> float:
    return 0.0 if point.recovery is None else point.recovery.distance[0]


def _of(pick: Callable[..., float]) -> Pick:
    """A number of a point's recovery; infinite ones are none."""

    def found(point: Point) -> float:
        value = _NAN if point.recovery is None else pick(point.recovery)
        return value if math.isfinite(value) else _NAN

    return found


def _residual(axes: Axes, sweep: Sweep) -> None:
    """Median and 90 % quantile; once where they do not depend on who is corrupted."""
    drawn: list[list[float]] = []
    for number in sweep.numbers:
        points = sweep.at(number)
        median, most = (
            [_of(lambda p, at=at: p.residual[at])(point) for point in points]
            for at in (0, 1)
        )
        if median not in drawn:
            drawn.append(median)
            _plot(axes, median, 2 * len(drawn) - 2, f"median, {number} corrupted")
            _plot(axes, most, 2 * len(drawn) - 1, f"90 % quantile, {number} corrupted")
    _finish(axes, sweep, "residual delta")
    axes.set_ylim(bottom=0)


def _leverage(axes: Axes, sweep: Sweep) -> None:
    for index, number in enumerate(sweep.numbers):
        points = sweep.at(number)
        lower = [_of(lambda p: p.leverage[0])(point) for point in points]
        upper = [_of(lambda p: p.leverage[1])(point) for point in points]
        colour = style(index)[0]
        axes.fill_between(
            range(len(points)), lower, upper, color=colour, alpha=0.25, linewidth=0
        )
        _plot(axes, lower, index, f"{number} corrupted")
    axes.axhline(0.5, color="#aaaaaa", linewidth=1, zorder=0)
    _finish(axes, sweep, "leverage constant c")
    axes.set_ylim(-0.03, 1.03)


def _lines(axes: Axes, sweep: Sweep, pick: Pick, title: str) -> None:
    for index, number in enumerate(sweep.numbers):
        values = [pick(point) for point in sweep.at(number)]
        _plot(axes, values, index, f"{number} corrupted")
    _finish(axes, sweep, title)
    axes.set_ylim(bottom=0)


def _accuracy(axes: Axes, sweep: Sweep) -> None:
    numbers = sweep.numbers
    for index, number in enumerate(numbers):
        values = [_percent(point.certified) for point in sweep.at(number)]
        _plot(axes, values, index, f"certified, {number} corrupted")
    clean = [_percent(point.clean) for point in sweep.at(numbers[0])]
    _plot(axes, clean, len(numbers), "clean")
    _finish(axes, sweep, "accuracy (%)")
    axes.set_ylim(-3, 103)


def _percent(share: float | None) -> float:
    return _NAN if share is None else 100 * share


def _plot(axes: Axes, values: Sequence[float], index: int, label: str) -> None:
    colour, marker, line = style(index)
    axes.plot(
        range(len(values)), values, color=colour, marker=marker, linestyle=line,
        linewidth=1.4, markersize=5, label=label,
    )  # fmt: skip


def _finish(axes: Axes, sweep: Sweep, title: str) -> None:
    values = [point.value for point in sweep.at(sweep.numbers[0])]
    axes.set_xticks(range(len(values)), [str(value) for value in values])
    axes.set_title(title, fontsize=FONT, loc="left")
    axes.set_xlabel(sweep.option, fontsize=FONT)
    axes.tick_params(labelsize=FONT - 1)
    axes.grid(axis="y", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=FONT - 2, frameon=False)

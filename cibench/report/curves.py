"""Accuracy under attack along an axis of scenarios: a panel per protocol and data set."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from ..study import Axis
from .model import Panel, Row
from .style import FONT, Line, empty_figure, short, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLUMNS = 2
#: Bands of more lines cover one another.
_MOST_BANDS = 8
#: More lines than these are spread over several panels.
_MOST_LINES = 10


def curves(panels: Sequence[Panel], axis: Axis, labels: Sequence[str]) -> Figure:
    """A line per defense: mean over seeds.

    Bands reach from the lowest to the highest seed, whiskers are 95 % intervals over seeds
    and samples, hollow markers are published means.

    Args:
        panels: those with an `x`.
        axis: label and scale of `x`.
        labels: every defense; its place in the list decides its colour and marker.
    """
    places: dict[str, list[Panel]] = {}
    for panel in sorted(panels, key=lambda panel: panel.x or 0.0):
        places.setdefault(panel.place, []).append(panel)
    present = {
        place: [
            label
            for label in labels
            if any(row.label == label for panel in found for row in panel.rows)
        ]
        for place, found in places.items()
    }
    everywhere = set.intersection(*(set(shown) for shown in present.values()))
    parts = [
        (place, part, shown)
        for place in dict.fromkeys(panel.place for panel in panels)
        for part, shown in enumerate(_spread(present[place], everywhere))
    ]
    columns = min(_COLUMNS, len(parts))
    rows = -(-len(parts) // columns)
    fewest = min(len(shown) for _, _, shown in parts)
    figure = empty_figure(4.6 * columns + 0.6, 3.5 * rows + 0.4)
    axes = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for index, (place, part, shown) in enumerate(parts):
        spot = axes[index // columns][index % columns]
        _panel(spot, places[place], axis, labels, shown)
        of = len(_spread(present[place], everywhere))
        title = f"{place} ({part + 1} of {of})" if of > 1 else place
        spot.set_title(title, fontsize=FONT, loc="left")
    for index in range(len(parts), rows * columns):
        axes[index // columns][index % columns].set_axis_off()
    for row in axes:
        row[0].set_ylabel("accuracy under attack (%)", fontsize=FONT)
    _legend(figure, panels, labels)
    published = any(row.published for panel in panels for row in panel.rows)
    figure.text(
        *(0.0, -0.01),
        "line: mean over seeds"
        f"{' · band: lowest to highest seed' if fewest <= _MOST_BANDS else ''}"
        f"{' · ' if columns > 1 else chr(10)}"
        "whisker: 95 % interval over seeds and samples"
        f"{' · hollow: published' if published else ''} · grey line: largest class",
        fontsize=FONT - 2,
        va="top",
    )
    figure.tight_layout()
    return figure


def _spread(shown: list[str], everywhere: set[str]) -> list[list[str]]:
    """Labels by panel: those that every place has first, so that these compare."""
    if len(shown) <= _MOST_LINES:
        return [shown]
    first = [label for label in shown if label in everywhere]
    rest = [label for label in shown if label not in everywhere]
    return [
        group[at : at + _MOST_LINES]
        for group in (first, rest)
        for at in range(0, len(group), _MOST_LINES)
    ]


def _panel(
    axes: Axes,
    panels: Sequence[Panel],
    axis: Axis,
    labels: Sequence[str],
    shown: Sequence[str],
) -> None:
    xs = [panel.x or 0.0 for panel in panels]
    log = axis.scale == "log" and min(xs) > 0
    if log:
        axes.set_xscale("log")
    for index, label in enumerate(shown):
        points = [
            (panel.x or 0.0, row)
            for panel in panels
            for row in panel.rows
            if row.label == label
        ]
        # Whiskers stand beside one another, not on top.
        aside = (index - (len(shown) - 1) / 2) / max(1, len(shown))
        drawn = [(_aside(x, xs, aside, log), row) for x, row in points]
        _line(axes, drawn, style(labels.index(label)), len(shown) <= _MOST_BANDS)
    majority = next((p.majority for p in panels if p.majority is not None), None)
    if majority is not None:
        axes.axhline(100 * majority, color="#aaaaaa", linewidth=1, zorder=0)
    axes.set_xlabel(axis.label, fontsize=FONT)
    axes.set_xticks(xs, [f"{x:g}" for x in xs])
    axes.minorticks_off()
    axes.set_ylim(-3, 103)
    axes.tick_params(labelsize=FONT - 1, labelleft=True)
    axes.grid(axis="y", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def _aside(x: float, xs: Sequence[float], share: float, log: bool) -> float:
    if log:
        steps = [b / a for a, b in pairwise(xs) if b > a]
        return float(x * min(steps, default=2.0) ** (0.25 * share))
    gaps = [b - a for a, b in pairwise(xs) if b > a]
    return x + 0.25 * share * min(gaps, default=1.0)


def _line(
    axes: Axes,
    points: Sequence[tuple[float, Row]],
    look: tuple[str, str, Line],
    band: bool,
) -> None:
    colour, marker, line = look
    # A point without a number leaves a gap: no line is drawn across what failed.
    xs = [x for x, _ in points]
    means = [
        float("nan") if row.accuracy is None else 100 * row.accuracy
        for _, row in points
    ]
    axes.plot(
        xs, means, color=colour, marker=marker, linestyle=line, linewidth=1.4,
        markersize=5,
    )  # fmt: skip
    done = [(x, row) for x, row in points if row.accuracy is not None]
    if band and any(len(row.values) > 1 for _, row in done):
        axes.fill_between(
            xs,
            [100 * min(row.values, default=float("nan")) for _, row in points],
            [100 * max(row.values, default=float("nan")) for _, row in points],
            color=colour, alpha=0.13, linewidth=0,
        )  # fmt: skip
    for x, row in done:
        if row.interval is not None:
            axes.vlines(
                x, 100 * row.interval[0], 100 * row.interval[1], color=colour,
                linewidth=1,
            )  # fmt: skip
    published = [(x, row.published) for x, row in points if row.published is not None]
    axes.plot(
        [x for x, _ in published], [number.mean for _, number in published],
        color=colour, marker=marker, linestyle="none", markersize=8,
        markerfacecolor="none", markeredgewidth=1.2,
    )  # fmt: skip


def _legend(figure: Figure, panels: Sequence[Panel], labels: Sequence[str]) -> None:
    """Below the panels, in the order of the last values of the first panel."""
    from matplotlib.lines import Line2D

    last = max(
        (panel for panel in panels if panel.place == panels[0].place),
        key=lambda panel: panel.x or 0.0,
    )
    order = [row.label for row in last.rows]
    order += [label for label in labels if label not in order]
    present = {
        row.label
        for panel in panels
        for row in panel.rows
        if row.accuracy is not None or row.published is not None
    }
    handles = []
    for label in (label for label in order if label in present):
        colour, marker, line = style(labels.index(label))
        # matplotlib leaves out labels that begin with an underscore.
        text = short(label).replace("_", " _", label.startswith("_"))
        handles.append(
            Line2D(
                [], [], color=colour, marker=marker, linestyle=line, label=text,
                markersize=5, linewidth=1.4,
            )
        )  # fmt: skip
    figure.legend(
        handles=handles, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False,
        fontsize=FONT, handlelength=3,
    )  # fmt: skip

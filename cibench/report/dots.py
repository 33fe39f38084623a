"""Accuracy under attack as dots: a row per defense, a panel per scenario."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..statistics import mean
from .model import Panel, Row
from .style import COLOURS, FONT, empty_figure, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLUMNS = 3
_OURS, _PUBLISHED = COLOURS[0], COLOURS[1]


def dots(panels: Sequence[Panel]) -> Figure:
    """One place's scenarios beside one another, defenses in the same order in all.

    A filled dot is the mean over seeds with its 95 % interval, small dots are the seeds, a
    hollow diamond is the published mean with its deviation, the grey line is always
    answering the largest class.
    """
    order = _order(panels)
    columns = min(_COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    figure = empty_figure(1.6 + 3.1 * columns, rows * (0.7 + 0.3 * len(order)) + 0.3)
    axes = figure.subplots(rows, columns, squeeze=False, sharey=True, sharex=True)
    for index, panel in enumerate(panels):
        _panel(axes[index // columns][index % columns], panel, order)
    for index in range(len(panels), rows * columns):
        axes[index // columns][index % columns].set_axis_off()
    # Below the lowest panel of each column, as the last row may have gaps.
    for index in range(max(0, len(panels) - columns), len(panels)):
        beneath = axes[index // columns][index % columns]
        beneath.set_xlabel("accuracy under attack (%)", fontsize=FONT)
        beneath.tick_params(labelbottom=True)
    figure.text(0.01, 1.0, panels[0].place, fontsize=FONT, va="bottom", weight="bold")
    legend = [
        "filled: mean over seeds with 95 % interval",
        "small: each seed",
        *(
            ["hollow: published ± deviation"]
            if any(row.published for panel in panels for row in panel.rows)
            else []
        ),
        "grey line: largest class",
    ]
    figure.text(0.01, -0.01, " · ".join(legend), fontsize=FONT - 2, va="top")
    figure.tight_layout()
    return figure


def _order(panels: Sequence[Panel]) -> list[str]:
    """Labels by their mean over the scenarios, best first; those without numbers last."""
    found: dict[str, list[float]] = {}
    for panel in panels:
        for row in panel.rows:
            values = found.setdefault(row.label, [])
            if row.accuracy is not None:
                values.append(row.accuracy)
    return sorted(
        found,
        key=lambda label: (
            not found[label],
            -mean(found[label]) if found[label] else 0.0,
            label,
        ),
    )


def _panel(axes: Axes, panel: Panel, order: Sequence[str]) -> None:
    for row in panel.rows:
        _row(axes, row, order.index(row.label))
    if panel.majority is not None:
        axes.axvline(100 * panel.majority, color="#aaaaaa", linewidth=1, zorder=0)
    axes.set_title(short(panel.scenario, 44), fontsize=FONT, loc="left")
    axes.set_yticks(range(len(order)), [short(label) for label in order])
    axes.set_ylim(len(order) - 0.4, -0.6)
    axes.set_xlim(-3, 103)
    axes.tick_params(labelsize=FONT - 1)
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def _row(axes: Axes, row: Row, y: int) -> None:
    if row.published is not None:
        spread = row.published.std
        axes.errorbar(
            row.published.mean, y + 0.22, xerr=spread, color=_PUBLISHED, marker="D",
            markerfacecolor="white", markersize=5, linewidth=1, capsize=2,
        )  # fmt: skip
    if row.accuracy is None:
        axes.text(
            50, y, row.trouble, fontsize=FONT - 2, color="#555555", ha="center",
            va="center", style="italic",
        )  # fmt: skip
        return
    if row.interval is not None:
        low, high = row.interval
        axes.hlines(y, 100 * low, 100 * high, color=_OURS, linewidth=2)
    axes.plot(100 * row.accuracy, y, color=_OURS, marker="o", markersize=6)
    if len(row.values) > 1:
        axes.plot(
            [100 * value for value in row.values], [y - 0.22] * len(row.values),
            color="#555555", marker="o", markersize=2.5, linestyle="none", alpha=0.7,
        )  # fmt: skip

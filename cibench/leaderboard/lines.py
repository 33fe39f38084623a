"""Figures with lines: accuracy against an attack's strength, and against a radius."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, TypeVar

from ..report.style import FONT, empty_figure, short, style
from .bars import titled
from .model import Board, Curve, Line
from .text import shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Lines that one panel can hold, panels of a figure, and lines whose bands stay apart.
_MOST_LINES, _MOST_PANELS, _MOST_BANDS = 8, 4, 6
_COLUMNS = 2
T = TypeVar("T")


def security_curve(curve: Curve, labels: Sequence[str]) -> Figure:
    """Accuracy of every defense against the strength of one kind of attack.

    Args:
        curve: what is drawn; a gap where there is no number.
        labels: every defense of all curves; its place decides colour and marker.
    """
    groups = _groups(curve.lines)
    figure, spots = _panels(len(groups))
    log = curve.log and min(curve.xs, default=0) > 0
    for axes, lines in zip(spots, groups, strict=False):
        for line in lines:
            _line(axes, curve.xs, line, labels, len(lines) <= _MOST_BANDS)
        if log:
            axes.set_xscale("log")
        axes.set_xticks(curve.xs, [f"{x:g}" for x in curve.xs])
        axes.minorticks_off()
        _finished(axes, shown(curve.axis), "accuracy under attack (%)")
    title = short(shown(curve.title, 120), 110)
    return _titled(figure, title + _left_out(len(curve.lines)))


def certified(board: Board, kind: Literal["agents", "l2"]) -> Figure:
    """Certified accuracy of a board's rows against the radius, as far as it is proved."""
    found = [
        (row.label, one)
        for row in board.rows
        for one in row.certified
        if one.kind == kind
    ]
    labels = sorted({row.label for row in board.rows})
    groups = _groups(found)
    figure, spots = _panels(len(groups))
    for axes, part in zip(spots, groups, strict=False):
        for label, one in part:
            colour, marker, dashes = style(labels.index(label))
            values = [100 * value for value in one.accuracy]
            if kind == "agents":
                axes.plot(
                    one.radii, values, color=colour, marker=marker, linestyle=dashes,
                    linewidth=1.4, markersize=5, label=_label(label),
                )  # fmt: skip
                continue
            axes.step(
                [*one.radii, *one.radii[-1:]], [*values, 0.0], where="pre",
                color=colour, linestyle=dashes, linewidth=1.4, label=_label(label),
            )  # fmt: skip
        unit = (
            "compromised agents" if kind == "agents" else "l2 radius of the embedding"
        )
        if kind == "agents":
            axes.set_xticks(range(len(board.agents) + 1))
        _finished(axes, unit, "certified accuracy (%)")
    return _titled(figure, f"Proved: {titled(board, len(board.rows))}")


def _groups(lines: Sequence[T]) -> list[Sequence[T]]:
    """Lines by panel, of about the same number; not more than a figure holds."""
    kept = lines[: _MOST_LINES * _MOST_PANELS]
    panels = max(1, -(-len(kept) // _MOST_LINES))
    size = max(1, -(-len(kept) // panels))
    return [kept[at : at + size] for at in range(0, len(kept), size)] or [[]]


def _left_out(lines: int) -> str:
    left = lines - _MOST_LINES * _MOST_PANELS
    return f" (and {left} more)" if left > 0 else ""


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    columns = min(_COLUMNS, count)
    rows = -(-count // columns)
    figure = empty_figure(6.4 * columns, 3.4 * rows + 0.3)
    spots = list(figure.subplots(rows, columns, squeeze=False, sharey=True).flat)
    for axes in spots[count:]:
        axes.set_axis_off()
    return figure, spots[:count]


def _line(
    axes: Axes, xs: Sequence[float], line: Line, labels: Sequence[str], band: bool
) -> None:
    colour, marker, dashes = style(labels.index(line.label))
    gap = float("nan")
    values = [gap if s is None else 100 * s.value for s in line.shares]
    lows = [gap if s is None else 100 * s.low for s in line.shares]
    highs = [gap if s is None else 100 * s.high for s in line.shares]
    axes.plot(
        xs, values, color=colour, marker=marker, linestyle=dashes, linewidth=1.4,
        markersize=5, label=_label(line.label),
    )  # fmt: skip
    if band:
        axes.fill_between(xs, lows, highs, color=colour, alpha=0.13, linewidth=0)
    axes.vlines(xs, lows, highs, color=colour, linewidth=0.8)


def _label(text: str) -> str:
    """Matplotlib leaves out labels that begin with an underscore."""
    label = short(shown(text))
    return f" {label}" if label.startswith("_") else label


def _finished(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x, fontsize=FONT)
    axes.set_ylabel(y, fontsize=FONT)
    axes.set_ylim(-3, 103)
    axes.tick_params(labelsize=FONT - 1, labelleft=True)
    axes.grid(axis="y", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(
            loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False,
            fontsize=FONT - 1, handlelength=3,
        )  # fmt: skip


def _titled(figure: Figure, title: str) -> Figure:
    figure.suptitle(title, fontsize=FONT, x=0.02, ha="left")
    figure.tight_layout()
    return figure

"""Figures of one board: a forest plot of its rows, and a heatmap defense x attack."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..report.style import COLOURS, FONT, empty_figure, short
from .model import Board, Row, Share
from .text import shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Rows and columns that a figure can hold and a reader can read.
MOST_ROWS = 40
MOST_COLUMNS = 30
_RANKED, _UNSURE, _ORACLE, _CLEAN = COLOURS[0], COLOURS[1], COLOURS[2], "#777777"
_ROLES = {"": "", "undefended": " (undefended)", "genie": " (oracle)"}


def forest(board: Board) -> Figure:
    """Worst-case accuracy of every row with its 95 % interval, as the board is sorted."""
    rows = board.rows[:MOST_ROWS]
    figure = empty_figure(7.2, 1.1 + 0.27 * len(rows))
    axes = figure.subplots()
    for y, row in enumerate(rows):
        _row(axes, row, y)
    for row in rows:
        if row.role and row.best_known is not None:
            axes.axvline(
                100 * row.best_known.value, color=_colour(row), linewidth=0.8,
                linestyle=":", zorder=0,
            )  # fmt: skip
    axes.axvline(100 * board.majority, color="#aaaaaa", linewidth=1, zorder=0)
    axes.set_yticks(range(len(rows)), [name(row) for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(-3, 103)
    axes.set_xlabel(f"accuracy (%), {board.n} test samples", fontsize=FONT)
    axes.set_title(titled(board, len(rows)), fontsize=FONT, loc="left")
    axes.tick_params(labelsize=FONT - 1)
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    _legend(figure, rows)
    return figure


def heatmap(board: Board) -> Figure:
    """Accuracy by defense and attack, clean and worst case beside them."""
    rows, columns = board.rows[:MOST_ROWS], board.columns[:MOST_COLUMNS]
    heads = ["clean", *(short(shown(column.label)) for column in columns), "worst case"]
    cells = [
        [
            row.clean,
            *(
                row.results[column.attack].share
                if column.attack in row.results
                else None
                for column in columns
            ),
            row.best_known,
        ]
        for row in rows
    ]
    figure = empty_figure(1.8 + 0.42 * len(heads), 1.9 + 0.25 * len(rows))
    axes = figure.subplots()
    values = [
        [float("nan") if cell is None else 100 * cell.value for cell in line]
        for line in cells
    ]
    mesh = axes.pcolormesh(
        values, cmap="cividis", vmin=0, vmax=100, edgecolors="white", linewidth=0.6
    )
    for y, line in enumerate(cells):
        for x, cell in enumerate(line):
            _number(axes, x, y, cell)
    axes.invert_yaxis()
    axes.set_xticks(
        [at + 0.5 for at in range(len(heads))], heads, rotation=60, ha="left",
        rotation_mode="anchor",
    )  # fmt: skip
    axes.xaxis.tick_top()
    axes.set_yticks([at + 0.5 for at in range(len(rows))], [name(row) for row in rows])
    axes.tick_params(labelsize=FONT - 1, length=0)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(mesh, ax=axes, fraction=0.03, pad=0.02)
    bar.ax.tick_params(labelsize=FONT - 2)
    bar.outline.set_visible(False)
    axes.set_xlabel(
        "accuracy (%); -: no number, the board's page says why", fontsize=FONT - 2
    )
    axes.set_title(titled(board, len(rows)), fontsize=FONT, loc="left")
    return figure


def titled(board: Board, rows: int) -> str:
    """A board's title; how many of its rows there are, where not all."""
    left = len(board.rows) - rows
    return short(shown(board.title), 90) + (
        f" (and {left} more rows)" if left > 0 else ""
    )


def name(row: Row) -> str:
    """A row's label and role."""
    return short(shown(row.label)) + _ROLES[row.role]


def _colour(row: Row) -> str:
    if row.oracle:
        return _ORACLE
    return _UNSURE if row.adaptive in ("none", "misled") else _RANKED


def _row(axes: Axes, row: Row, y: int) -> None:
    if row.clean is not None:
        axes.plot(
            100 * row.clean.value, y, color=_CLEAN, marker="|", markersize=8,
            linestyle="none",
        )  # fmt: skip
    found = row.best_known
    if found is None:
        text = short(shown(row.trouble), 60) or "no number"
        axes.text(
            2, y, text, fontsize=FONT - 2, color="#555555", va="center", style="italic"
        )
        return
    colour, marker = _colour(row), "D" if row.oracle else "o"
    if row.standard is not None and row.standard != found:
        axes.plot(
            100 * row.standard.value, y, color=colour, marker=marker, markersize=6,
            markerfacecolor="white", linestyle="none",
        )  # fmt: skip
    axes.hlines(y, 100 * found.low, 100 * found.high, color=colour, linewidth=2)
    hollow = row.adaptive in ("none", "misled") and not row.oracle
    axes.plot(
        100 * found.value, y, color=colour, marker="s" if hollow else marker,
        markersize=5, linestyle="none",
    )  # fmt: skip


def _legend(figure: Figure, rows: list[Row]) -> None:
    from matplotlib.lines import Line2D

    def handle(colour: str, marker: str, label: str, face: str = "") -> Line2D:
        return Line2D(
            [], [], color=colour, marker=marker, linestyle="none", markersize=5,
            markerfacecolor=face or colour, label=label,
        )  # fmt: skip

    handles = [handle(_RANKED, "o", "worst case, 95 % interval")]
    shown_rows = [row for row in rows if row.best_known is not None]
    if any(r.adaptive in ("none", "misled") and not r.oracle for r in shown_rows):
        handles.append(handle(_UNSURE, "s", "the same, not adaptive or misled"))
    if any(row.oracle for row in shown_rows):
        handles.append(handle(_ORACLE, "D", "the same, told the compromised agents"))
    if any(row.standard not in (None, row.best_known) for row in shown_rows):
        handles.append(handle(_RANKED, "o", "standard suite alone", "white"))
    handles.append(handle(_CLEAN, "|", "clean"))
    handles.append(
        Line2D([], [], color="#aaaaaa", linewidth=1, label="always the largest class")
    )
    if any(row.role for row in shown_rows):
        handles.append(
            Line2D(
                [], [], color="#555555", linewidth=0.8, linestyle=":",
                label="undefended, genie",
            )
        )  # fmt: skip
    figure.legend(
        handles=handles, loc="center left", bbox_to_anchor=(0.93, 0.5), frameon=False,
        fontsize=FONT - 1,
    )  # fmt: skip


def _number(axes: Axes, x: int, y: int, cell: Share | None) -> None:
    text = "-" if cell is None else f"{100 * cell.value:.0f}"
    dark = cell is not None and cell.value < 0.55
    axes.text(
        x + 0.5, y + 0.52, text, ha="center", va="center", fontsize=FONT - 2,
        color="white" if dark else "black",
    )  # fmt: skip

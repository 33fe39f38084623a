"""What all figures share: colours, markers, text and deterministic files."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from .._errors import EnvironmentFault
from .model import Report

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Line = Literal["-", "--", ":", "-."]

#: Okabe and Ito's colours without yellow, which paper swallows: told apart by every kind of
#: colour vision. Markers and lines differ as well, for print without colour.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h", "*", "d", "H", "8")
LINES: tuple[Line, ...] = ("-", "--", ":", "-.")
#: Points per line of text; the figures are as wide as a page.
FONT = 9


def style(index: int) -> tuple[str, str, Line]:
    """Colour, marker and line of the defense of this index."""
    line = LINES[(index + 2 * (index // len(COLOURS))) % len(LINES)]
    return COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)], line


def labels(report: Report) -> list[str]:
    """Every defense of a report once, in the order of a study or of the alphabet."""
    found = dict.fromkeys(row.label for panel in report.panels for row in panel.rows)
    return sorted(found)


def empty_figure(width: float, height: float) -> Figure:
    """A figure without pyplot: no window, no global state.

    Raises:
        EnvironmentFault: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise EnvironmentFault(
            "figures: expected matplotlib to be installed, got none;"
            ' pip install "cibench[report]"'
        ) from error
    return Figure(figsize=(width, height))


def figures(report: Report) -> dict[str, Figure]:
    """All figures by a name fit for a file.

    Curves where the study has an axis; for other scenarios a dot plot per protocol and data
    set.
    """
    empty_figure(1, 1)  # whether there is matplotlib at all
    import matplotlib as mpl

    # Labels are names, not formulas: a dollar is a dollar.
    with mpl.rc_context({"text.parse_math": False}):
        return _figures(report)


def _figures(report: Report) -> dict[str, Figure]:
    from .curves import curves
    from .dots import dots

    found: dict[str, Figure] = {}
    on_axis = [
        panel
        for panel in report.panels
        if report.axis is not None and panel.x is not None
    ]
    if report.axis is not None and any(panel.done for panel in on_axis):
        found["curves"] = curves(on_axis, report.axis, labels(report))
    others = [panel for panel in report.panels if panel not in on_axis and panel.done]
    for place in dict.fromkeys(panel.place for panel in others):
        name = re.sub(r"[^A-Za-z0-9]+", "-", place).strip("-").lower()[:80] or "run"
        while f"dots-{name}" in found:
            name += "-2"
        found[f"dots-{name}"] = dots([p for p in others if p.place == place])
    return found


def rendered(figure: Figure, kind: str) -> bytes:
    """A figure as `svg` or `png`; the same bytes each time."""
    import matplotlib as mpl

    target = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "cibench"}):
        figure.savefig(
            target,
            format=kind,
            dpi=160,
            bbox_inches="tight",
            facecolor="white",
            metadata={"Date": None} if kind == "svg" else None,
        )
    return target.getvalue()


def write_figures(report: Report, folder: Path, kind: str) -> Sequence[Path]:
    """Write every figure of a report into a folder; the files, in order."""
    from ..results.folder import write_atomically

    paths = []
    for name, figure in figures(report).items():
        paths.append(folder / f"{name}.{kind}")
        write_atomically(paths[-1], rendered(figure, kind))
    return paths


def short(text: str, length: int = 34) -> str:
    """A label cut to a length, the end kept by an ellipsis."""
    return text if len(text) <= length else text[: length - 1] + "…"

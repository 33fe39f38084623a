"""Figures of the boards as SVG files: the same bytes each time, on a white ground."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..report.style import empty_figure, rendered
from .model import Leaderboard
from .standing import anchor, file_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def figure_files(leaderboard: Leaderboard) -> dict[str, bytes]:
    """Every figure by its path in the published folder.

    Raises:
        EnvironmentFault: matplotlib is not installed.
    """
    empty_figure(1, 1)  # whether there is matplotlib at all
    with _own_look():
        return {
            f"figures/{name}.svg": rendered(figure, "svg")
            for name, figure in drawn(leaderboard)
        }


def drawn(leaderboard: Leaderboard) -> Iterator[tuple[str, Figure]]:
    """Every figure with its name."""
    from .bars import forest, heatmap
    from .lines import certified, security_curve

    for board in leaderboard.boards:
        name = anchor(board)
        if board.rows:
            yield f"{name}-forest", forest(board)
            yield f"{name}-heatmap", heatmap(board)
        for kind in sorted({one.kind for row in board.rows for one in row.certified}):
            yield f"{name}-certified-{kind}", certified(board, kind)
    labels = sorted(
        {line.label for curve in leaderboard.curves for line in curve.lines}
    )
    for curve in leaderboard.curves:
        yield f"curve-{file_name(curve.id)}", security_curve(curve, labels)


@contextmanager
def _own_look() -> Iterator[None]:
    """Matplotlib without the settings of a user, and with labels that are no formulas."""
    import matplotlib as mpl

    with mpl.rc_context(), warnings.catch_warnings():
        mpl.rcdefaults()
        mpl.rcParams["text.parse_math"] = False
        # A letter that the font lacks is drawn as a box.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        warnings.filterwarnings(
            "ignore", message="Matplotlib currently does not support"
        )
        yield

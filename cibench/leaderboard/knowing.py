"""Parts of a board's page: what knowing the defense is worth, and what the control left."""

from __future__ import annotations

from .model import Board, Result
from .tables import defense, points, share, table
from .text import markdown


def told(result: Result, board: Board) -> str:
    """A share, or why there is none."""
    if result.share is not None:
        return share(result.share, n=board.n)
    return markdown(result.trouble, 120)


def knowledge(board: Board) -> list[str]:
    """What not knowing the defense is worth to it."""
    rows = [
        [
            defense(row, plain=True),
            share(row.clean, n=board.n),
            share(row.unaware, n=board.n),
            share(row.best_known, n=board.n),
            points(row.best_known.value - row.unaware.value),
        ]
        for row in board.rows
        if row.unaware is not None and row.best_known is not None
    ]
    columns = [
        "defense", "clean (%)", "defense unknown (%)", "worst case (%)",
        "difference (points)",
    ]  # fmt: skip
    return [
        "## What knowing the defense is worth",
        "Worst case over the suite's attacks that do not know the defense, as most"
        " published numbers are, beside the worst case over all attacks.",
        table(columns, rows, "lrrrr"),
    ] * bool(rows)


def control(board: Board) -> list[str]:
    """What is left where nothing may be."""
    rows = [
        [defense(row, plain=True), told(row.control, board)]
        for row in board.rows
        if row.control is not None
    ]
    return [
        "## Control",
        f"{markdown(board.control)}: whatever is not near zero here says that the attack on"
        " that defense is broken (`attack-broken`), not that the defense is strong. An"
        " oracle is told that nobody can be believed, and no attack moves that.",
        table(["defense", "accuracy (%)"], rows, "lr"),
    ] * bool(rows)

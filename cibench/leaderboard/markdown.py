"""`README.md`: the published boards as a code host shows them."""

from __future__ import annotations

from collections.abc import Sequence

from .model import Board, Leaderboard
from .standing import abbreviations, about, address_of, anchor, file_name, standing
from .tables import (
    NOTHING,
    defense,
    items,
    link,
    percent,
    table,
)
from .text import code, markdown

HOW_TO_READ = [
    "A **board** is a data set under a threat model: who is compromised, what they know,"
    " what they may send and what they want. Numbers of two boards do not compare.",
    "**worst case**: share of test samples decided rightly without attack and"
    " under every attack known: for each sample the strongest counts. Mean over seeds with"
    " its 95 % interval. Rows are ranked by it.",
    "**defense unknown**: the same over the attacks of the suite that do not know the"
    " defense, as most published numbers are; the rest of the way down to the worst case is"
    " what knowing it is worth.",
    "**standard suite**: the same over the attacks that every row must face, where a"
    " stronger attack has lowered the row since; the old number stays.",
    "**rank**: 95 % interval of the rank; `1-3` is a tie of the first three places.",
    "**adaptive**: whether an attack that knows the defense was run. `exact`: the attack"
    " tries all there is. `misled`: an attack that does not know the defense breaks more,"
    " so the number is too high. Rows that were not adaptively evaluated come last.",
    "**certified**: proved of clean embeddings, whatever the compromised agents send. A"
    " proof and a measurement are never in one column.",
    "**badge**: `claimed`, the records agree with themselves; `re-scored`, what the attacks"
    " sent was replayed through the defense; `reproduced`, cells were run again.",
    "**oracle**: told which agents are compromised, which nobody can deploy: shown for"
    " reference and never ranked. The **genie** is the undefended fusion center told so.",
    "A defense with a failed or missing cell has its reason in place of a number, and no"
    " rank.",
]


def readme(leaderboard: Leaderboard) -> str:
    """The page of all boards."""
    head = [
        f"# {markdown(leaderboard.title, 200)}",
        _facts(leaderboard),
        "Written by `cibench leaderboard build` from the reviewed records in"
        " [entries](entries); a number changes only when a record does. The same as a page"
        " to sort, filter and search, with all curves: download"
        " [site/index.html](site/index.html) and open it.",
    ]
    if leaderboard.boards:
        titles = [
            f"[{markdown(board.title, 200)}](#{anchor(board)})"
            for board in leaderboard.boards
        ]
        head += ["## Boards", items(titles)]
    else:
        head.append("No board is published yet.")
    head += [
        "## How to read",
        items(HOW_TO_READ),
        "## How to challenge an entry",
        "A stronger attack lowers a row, keeps the old number and names its author;"
        " [CONTRIBUTING.md](CONTRIBUTING.md) says how to enter one, and how to add a"
        " defense. What was found wrong is in [CORRECTIONS.md](CORRECTIONS.md).",
    ]
    short = abbreviations(leaderboard.flags)
    body = [part for board in leaderboard.boards for part in _board(board, short)]
    body += _curves(leaderboard)
    body += _legend(leaderboard, short)
    body += _entries(leaderboard)
    return "\n\n".join([*head, *body]) + "\n"


def _facts(leaderboard: Leaderboard) -> str:
    owner = link(markdown(leaderboard.owner), leaderboard.link)
    parts = [
        f"Newest record: {markdown(leaderboard.date) or NOTHING}",
        f"protocol {leaderboard.protocol}",
        f"suite {code(leaderboard.suite)}",
        f"kept by {owner}",
    ]
    return " · ".join(parts)


def _board(board: Board, short: dict[str, str]) -> list[str]:
    name = anchor(board)
    parts = [
        f'<a id="{name}"></a>',
        f"## {markdown(board.title, 200)}",
        f"{about(board)} [Threat model, every attack, costs and how to run it again]"
        f"(boards/{name}.md).",
        standing(board, short),
    ]
    lowered = [
        f"{defense(row, plain=True)}: lowered from {percent(step.before.value)} to"
        f" {percent(step.after.value)} by {code(step.attack)} of"
        f" {markdown(step.author)} ({markdown(step.badge)}), {markdown(step.date)}"
        for row in board.rows
        for step in row.lowered
    ]
    if lowered:
        parts += ["↓ Lowered by attacks beyond the suite:", items(lowered)]
    if board.rows:
        parts.append(
            f"![Worst-case accuracy of every defense with its interval]"
            f"(figures/{name}-forest.svg)"
        )
    return parts


def _curves(leaderboard: Leaderboard) -> list[str]:
    drawn = [
        f"![{markdown(curve.title, 200)}](figures/curve-{file_name(curve.id)}.svg)"
        for curve in leaderboard.curves
    ]
    return ["## Security curves", *drawn] if drawn else []


def _legend(leaderboard: Leaderboard, short: dict[str, str]) -> list[str]:
    if not leaderboard.flags:
        return []
    rows = [
        [short[flag], markdown(flag), markdown(meaning, 500)]
        for flag, meaning in sorted(leaderboard.flags.items())
    ]
    return ["## Flags", table(["short", "flag", "meaning"], rows, "lll")]


def _entries(leaderboard: Leaderboard) -> list[str]:
    rows: Sequence[Sequence[str]] = [
        [
            f"[{markdown(entry.name)}](entries/{address_of(entry.name)})",
            link(markdown(entry.title), entry.link),
            markdown(entry.author),
            markdown(entry.created),
            markdown(entry.badge),
            markdown(entry.verified, 120),
            f"{entry.records}",
        ]
        for entry in leaderboard.entries
    ]
    columns = ["entry", "title", "author", "date", "badge", "verified", "records"]
    return ["## Entries", table(columns, rows, "llllllr")] if rows else []

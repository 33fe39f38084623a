"""The table that a board is: a row per defense, and what its cells say."""

from __future__ import annotations

import re

from .model import Board, Certified, Column, Row
from .tables import (
    ADAPTIVE,
    NOTHING,
    address,
    defense,
    number,
    percent,
    rank,
    share,
    table,
)
from .text import code, markdown, slug

_INITIALS = re.compile(r"(?:^|-)([a-z0-9])")
_NUMBER = re.compile(r":(\d+)$")


def standing(board: Board, short: dict[str, str], *, full: bool = False) -> str:
    """The rows of a board as they are sorted.

    Args:
        board: whose rows.
        short: abbreviations of flags.
        full: with the spec and the author of each row.
    """
    proved = any(certified_here(row) for row in board.rows)
    apart = any(row.unaware is not None for row in board.rows)
    columns = {
        "rank": "l",
        "defense": "l",
        **({"spec": "l"} if full else {}),
        "distribution": "l",
        "clean (%)": "r",
        f"worst case (%) [95 % interval], n={board.n}": "r",
        "standard suite (%)": "r",
        **({"defense unknown (%)": "r"} if apart else {}),
        "adaptive": "l",
        **(
            {f"certified (proved{compromised_agents(board)}) (%)": "r"}
            if proved
            else {}
        ),
        "flags": "l",
        "fit (s)": "r",
        "ms/sample": "r",
        "x undefended": "r",
        "oracle": "l",
        "seeds ± points": "r",
        "badge": "l",
        **({"author": "l"} if full else {}),
        "date": "l",
    }
    rows = [_row(row, board, short, proved, apart, full) for row in board.rows]
    return table(list(columns), rows, "".join(columns.values()))


def _row(
    row: Row, board: Board, short: dict[str, str], proved: bool, apart: bool, full: bool
) -> list[str]:
    here = certified_here(row)
    return [
        rank(row),
        defense(row),
        *([code(row.spec, 200)] if full else []),
        markdown(f"{row.distribution} {row.version}"),
        share(row.clean, n=board.n),
        worst(row, board),
        standard(row, board),
        *([share(row.unaware, n=board.n)] if apart else []),
        ADAPTIVE[row.adaptive],
        *([share(here.here, n=board.n) if here else NOTHING] if proved else []),
        flagged(row, short),
        *cost(row),
        "yes" if row.oracle else "no",
        seeds(row),
        row.badge,
        *([markdown(row.author)] if full else []),
        markdown(row.date),
    ]


def anchor(board: Board) -> str:
    """Where a board begins on the page; also its file's name."""
    return file_name(board.id)


def file_name(identity: str) -> str:
    """An id as a name of a file, whatever made the id."""
    safe = re.fullmatch(r"[A-Za-z0-9]+(?:-+[A-Za-z0-9]+)*", identity)
    return identity if safe and len(identity) <= 120 else slug(identity)


def about(board: Board) -> str:
    """A board's data set in a sentence."""
    return (
        f"Data set {code(board.dataset, 200)}, {board.n} test samples,"
        f" {len(board.agents)} agents, {len(board.classes)} classes,"
        f" {len(board.seeds)} seeds; always answering the largest class is right for"
        f" {percent(board.majority)} %."
    )


def abbreviations(flags: dict[str, str]) -> dict[str, str]:
    """Initials of every flag; the flag itself where two have the same."""
    initials = {flag: "".join(_INITIALS.findall(flag)).upper() for flag in flags}
    taken = list(initials.values())
    return {
        flag: short if short and taken.count(short) == 1 else markdown(flag)
        for flag, short in initials.items()
    }


def flagged(part: Row | Column, short: dict[str, str]) -> str:
    """Flags of a row or an attack, abbreviated."""
    return ", ".join(short.get(flag, markdown(flag)) for flag in part.flags) or "none"


def certified_here(row: Row) -> Certified | None:
    """The row's certificate at what the board's adversary may do."""
    return next((one for one in row.certified if one.here is not None), None)


def compromised_agents(board: Board) -> str:
    """` by q agents` where the board's rule says how many there are."""
    found = _NUMBER.search(board.rule)
    return f", q={found[1]}" if found else ""


def worst(row: Row, board: Board) -> str:
    """What a row is ranked by, or why there is nothing."""
    if row.best_known is None:
        return markdown(row.trouble, 200) or "no number"
    value, _, rest = share(row.best_known, n=board.n).partition(" ")
    return f"**{value}** {rest}" + (" ↓" if row.lowered else "")


def standard(row: Row, board: Board) -> str:
    """The number under the suite alone, where it is another."""
    if row.standard is None or row.standard == row.best_known:
        return NOTHING if row.standard is None else "same"
    return share(row.standard, n=board.n)


def cost(row: Row) -> list[str]:
    """Seconds of the fit, milliseconds of a decision, and times the undefended one's."""
    if row.cost is None:
        return [NOTHING] * 3
    relative = row.cost.relative
    return [
        number(row.cost.fit_seconds),
        number(row.cost.milliseconds),
        NOTHING if relative is None else number(relative),
    ]


def seeds(row: Row) -> str:
    """How many, and the deviation of the worst case over them in points."""
    found = row.best_known
    spread = None if found is None else found.spread
    return f"{len(row.seeds)}" + (f" ± {percent(spread)}" if spread is not None else "")


def distribution(row: Row) -> str:
    """What provides the defense, and its version."""
    return markdown(f"{row.distribution} {row.version}")


def address_of(name: str) -> str:
    """A name of an entry in an address; names have no other characters."""
    return address(f"https://x/{name}").removeprefix("https://x/")

"""Numbers and tables as markdown: rounded here and nowhere before.

A cell of a table is markdown already; whatever is foreign went through `text`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final
from urllib.parse import quote, urlsplit

from .model import Row, Share
from .text import markdown

NOTHING: Final = "-"
ADAPTIVE: Final = {
    "adaptive": "adaptive",
    "exact": "exact",
    "misled": "misled",
    "none": "not adaptively evaluated",
}
ROLES: Final = {
    "": "",
    "undefended": " · undefended",
    "genie": " · oracle",
}


def percent(value: float) -> str:
    """A share in percent with one decimal."""
    return _signless(f"{100 * value:.1f}")


def share(found: Share | None, *, n: int | None = None) -> str:
    """A share and its interval in percent; with its own n where that is another."""
    if found is None:
        return NOTHING
    own = f" (n={found.n})" if n is not None and found.n != n else ""
    return f"{percent(found.value)} [{percent(found.low)}, {percent(found.high)}]{own}"


def points(value: float) -> str:
    """A difference of shares in points, with its sign."""
    text = f"{100 * value:+.1f}"
    return "0.0" if text in ("-0.0", "+0.0") else text


def number(value: float) -> str:
    """A quantity with three significant digits, never in powers of ten below a million."""
    if value >= 999.5:
        return f"{value:.0f}" if value < 1e6 else f"{value:.3g}"
    return _signless(f"{value:.3g}")


def probability(value: float) -> str:
    """A p value; a bound where it is tiny."""
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def rank(row: Row) -> str:
    """The interval of a row's rank: `1-3` is a tie."""
    if row.rank is None:
        return NOTHING
    low, high = row.rank
    return f"{low}" if low == high else f"{low}-{high}"


def link(label: str, url: str) -> str:
    """A label, which is markdown already, as a link if the address is one of the web."""
    target = address(url)
    return f"[{label}]({target})" if target else label


def address(url: str) -> str:
    """An address of the web with nothing in it that ends a link; else nothing."""
    try:
        parts = urlsplit(url)
        known = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        return ""
    # surrogates cannot be encoded
    clean = url.encode("utf-8", "replace")
    return quote(clean, safe="/:?#@!$&=+,;%~-._") if known else ""


def defense(row: Row, *, plain: bool = False) -> str:
    """A row's name as it is shown, with its role; linked where it has a link."""
    label = markdown(row.label)
    return (label if plain else link(label, row.link)) + ROLES[row.role]


def table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], sides: str = ""
) -> str:
    """A table for a code host, a line per row that no other row changes.

    Args:
        columns: headings.
        rows: cells.
        sides: `l` or `r` per column; where not given, the first is aligned left and the
            others right.
    """
    from pandas import DataFrame

    frame = DataFrame([list(row) for row in rows], columns=list(columns), dtype=object)
    given = sides or "l" + "r" * (len(columns) - 1)
    text = frame.to_markdown(index=False, tablefmt="github", disable_numparse=True)
    head, _, *body = text.split("\n")
    rule = "|".join("---" if side == "l" else "---:" for side in given)
    # Without padding, which one long cell would change in every line.
    return "\n".join(re.sub(" {2,}", " ", line) for line in [head, f"|{rule}|", *body])


def items(lines: Sequence[str]) -> str:
    """A list."""
    return "\n".join(f"- {line}" for line in lines)


def _signless(text: str) -> str:
    return text.removeprefix("-") if text.strip("-0.") == "" else text

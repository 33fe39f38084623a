"""What the page's scripts read: the leaderboard as short JSON, its texts made safe to show.

Results lie in lists beside the board's columns and agents, so that no spec is repeated in
each row; shares are `[value, low, high, n, spread]`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from ..model import (
    Board,
    Certified,
    Column,
    Cost,
    Curve,
    Entry,
    Leaderboard,
    Lowered,
    Result,
    Row,
    Share,
    Versus,
)
from ..text import shown

Plain = dict[str, Any]

#: Characters of a name, a sentence and a text that a reader may want to copy whole.
NAME, SENTENCE, TEXT = 100, 600, 2000


def payload(board: Leaderboard) -> str:
    """JSON of all that the page shows, harmless inside a `<script>` element."""
    data = {
        "title": shown(board.title, NAME),
        "owner": shown(board.owner, NAME),
        "link": followable(board.link),
        "suite": shown(board.suite, NAME),
        "protocol": board.protocol,
        "date": shown(board.date, NAME),
        "boards": [_board(b) for b in board.boards],
        "curves": [_curve(c) for c in board.curves],
        "entries": [_entry(e) for e in board.entries],
        "flags": {
            shown(name, NAME): shown(board.flags[name], SENTENCE)
            for name in sorted(board.flags)
        },
    }
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _board(board: Board) -> Plain:
    return {
        "id": board.id,
        "title": shown(board.title, 2 * NAME),
        "dataset": shown(board.dataset, SENTENCE),
        "name": shown(board.dataset_name, NAME),
        "fingerprint": shown(board.fingerprint, NAME),
        "protocol": board.protocol,
        "embedding": shown(board.embedding, SENTENCE),
        "device": shown(board.device, NAME),
        "agents": [shown(agent, NAME) for agent in board.agents],
        "classes": [shown(name, NAME) for name in board.classes],
        "rule": shown(board.rule, NAME),
        "target": shown(board.target, NAME),
        "budget": _number(board.budget),
        "threat": [shown(sentence, SENTENCE) for sentence in board.threat],
        "n": board.n,
        "seeds": board.seeds,
        "majority": _number(board.majority),
        "series": board.time_series,
        "personal": board.personal,
        "intervals": shown(board.intervals, SENTENCE),
        "notes": [shown(note, SENTENCE) for note in board.notes],
        "control": shown(board.control, SENTENCE),
        "columns": [_column(column) for column in board.columns],
        "rows": [_row(row, board) for row in board.rows],
        "date": shown(board.date, NAME),
    }


def _column(column: Column) -> Plain:
    return {
        "spec": shown(column.attack, SENTENCE),
        "label": shown(column.label, NAME),
        "family": shown(column.family, NAME),
        "knowledge": shown(column.knowledge, NAME),
        "standard": column.standard,
        "flags": [shown(flag, NAME) for flag in column.flags],
    }


def _row(row: Row, board: Board) -> Plain:
    return {
        "id": row.id,
        "label": shown(row.label, NAME),
        "spec": shown(row.spec, SENTENCE),
        "defense": shown(row.defense, NAME),
        "dist": shown(row.distribution, NAME),
        "version": shown(row.version, NAME),
        "citation": shown(row.citation, TEXT),
        "link": followable(row.link),
        "entry": shown(row.entry, NAME),
        "author": shown(row.author, NAME),
        "date": shown(row.date, NAME),
        "badge": row.badge,
        "verified": shown(row.badge_text, SENTENCE),
        "role": row.role,
        "oracle": row.oracle,
        "rank": row.rank,
        "clean": _share(row.clean),
        "standard": _share(row.standard),
        "best": _share(row.best_known),
        "unaware": _share(row.unaware),
        "control": _result(row.control),
        "results": [_result(row.results.get(c.attack)) for c in board.columns],
        "adaptive": row.adaptive,
        "lowered": [_lowered(item) for item in row.lowered],
        "certified": [_certified(item) for item in row.certified],
        "flags": [shown(flag, NAME) for flag in row.flags],
        "cost": _cost(row.cost),
        "seeds": row.seeds,
        "versus": _versus(row.versus),
        "agents": [_share(row.agents.get(agent)) for agent in board.agents],
        "trouble": shown(row.trouble, SENTENCE),
        "reasons": [shown(reason, SENTENCE) for reason in row.reasons],
        "command": shown(row.command, TEXT),
    }


def _result(result: Result | None) -> Plain | list[float | int | None] | None:
    if result is None:
        return None
    share = _share(result.share)
    if share is not None and not (result.trouble or result.author or result.entry):
        return share
    return {
        "share": share,
        "trouble": shown(result.trouble, SENTENCE),
        "author": shown(result.author, NAME),
        "entry": shown(result.entry, NAME),
    }


def _lowered(item: Lowered) -> Plain:
    return {
        "attack": shown(item.attack, SENTENCE),
        "author": shown(item.author, NAME),
        "entry": shown(item.entry, NAME),
        "badge": shown(item.badge, NAME),
        "date": shown(item.date, NAME),
        "before": _share(item.before),
        "after": _share(item.after),
    }


def _certified(item: Certified) -> Plain:
    return {
        "kind": item.kind,
        "confidence": item.confidence,
        "radii": [_number(radius, 4) for radius in item.radii],
        "accuracy": [_number(share, 4) for share in item.accuracy],
        "here": _share(item.here),
    }


def _cost(cost: Cost | None) -> list[float | None] | None:
    if cost is None:
        return None
    figures = (cost.fit_seconds, cost.milliseconds, cost.relative)
    return [_number(figure, 4) for figure in figures]


def _versus(versus: Versus | None) -> Plain | None:
    if versus is None:
        return None
    return {
        "other": shown(versus.other, NAME),
        "difference": _number(versus.difference),
        "low": _number(versus.low),
        "high": _number(versus.high),
        "p": _number(versus.p),
    }


def _curve(curve: Curve) -> Plain:
    return {
        "id": curve.id,
        "title": shown(curve.title, 2 * NAME),
        "dataset": shown(curve.dataset, SENTENCE),
        "axis": shown(curve.axis, NAME),
        "log": curve.log,
        "xs": curve.xs,
        "lines": [
            {
                "label": shown(line.label, NAME),
                "row": line.row,
                "shares": [_share(share) for share in line.shares],
            }
            for line in curve.lines
        ],
    }


def _entry(entry: Entry) -> Plain:
    return {
        "name": shown(entry.name, NAME),
        "title": shown(entry.title, 2 * NAME),
        "author": shown(entry.author, NAME),
        "link": followable(entry.link),
        "note": shown(entry.note, TEXT),
        "created": shown(entry.created, NAME),
        "badge": shown(entry.badge, NAME),
        "records": entry.records,
        "digest": shown(entry.digest, NAME),
    }


def _share(share: Share | None) -> list[float | int | None] | None:
    if share is None:
        return None
    shares: Sequence[float] = (share.value, share.low, share.high)
    return [*map(_number, shares), share.n, _number(share.spread)]


def _number(value: float | None, digits: int = 6) -> float | None:
    """Rounded to significant digits, so that 1000 rows stay small."""
    return None if value is None else float(f"{value:.{digits}g}")


def followable(address: str) -> str:
    """The address if a browser may go there, else nothing."""
    fit = address.startswith(("https://", "http://")) and len(address) <= 500
    return address if fit else ""

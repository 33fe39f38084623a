"""Controls: attacks that must break everything stand beside boards, not on one."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from .curves import Drawn
from .model import Result, Row

#: What a control may say of a defense's row.
_BROKEN = "attack-broken"


def with_controls(drawn: Drawn, controls: Sequence[Drawn]) -> Drawn:
    """A board whose rows say what the controls left of them.

    Args:
        controls: boards of the suite's controls; those of other data do not count.
    """
    found = [one for one in controls if one.group.place == drawn.group.place]
    if not found:
        return drawn
    labels = [c.label for one in found for c in one.board.columns if c.standard]
    told: dict[tuple[str, ...], list[Row]] = {}
    for one in found:
        for row in one.board.rows:
            told.setdefault(_identity(row), []).append(row)
    rows = [_row(row, told.get(_identity(row), [])) for row in drawn.board.rows]
    board = msgspec.structs.replace(
        drawn.board, rows=rows, control=" and ".join(labels)
    )
    return Drawn(drawn.group, board)


def _identity(row: Row) -> tuple[str, ...]:
    return row.spec, row.distribution, row.version


def _row(row: Row, controls: Sequence[Row]) -> Row:
    """The control that left most standing counts; the flag it raised is the row's."""
    done = [one.standard for one in controls if one.standard is not None]
    troubles = [one.trouble for one in controls if one.trouble]
    broken = any(_BROKEN in one.flags for one in controls)
    return msgspec.structs.replace(
        row,
        control=Result(
            share=max(done, key=lambda share: share.value) if done else None,
            trouble=troubles[0] if troubles else "" if done else "no record",
        ),
        flags=sorted({*row.flags, *([_BROKEN] * broken)}),
    )

"""The line of a TOML text at which something stands.

`tomllib` knows no positions. But a TOML text is a sequence of statements, each valid on its
own, and what the statements so far define is never undone: so the statement that defines a
key is the first one with which the text, parsed up to there, has it.
"""

from __future__ import annotations

import bisect
import tomllib
from collections.abc import Sequence
from typing import Any

#: One of these stands on the last line of a statement that spans several.
_CLOSING = ("]", "}", '"""', "'''")
#: Characters to parse at most before giving up.
_EFFORT = 1_000_000


def line_of(text: str, path: Sequence[str | int]) -> int | None:
    """The line, from 1, of the statement that defines a value.

    Of a path that leads nowhere, such as that of a key that lacks, the part that leads
    somewhere is looked up.

    Args:
        text: a valid TOML text.
        path: keys of tables and indices of arrays, from the top.

    Returns:
        None where no part of the path leads anywhere, or looking takes too long.
    """
    text = text.replace("\r\n", "\n")
    defined = _depth(tomllib.loads(text), path)
    if defined == 0:
        return None
    lines = text.split("\n")
    ends = _ends(lines)
    if ends is None:
        return None

    def has(end: int) -> bool:
        before = tomllib.loads("\n".join(lines[:end]))
        return _depth(before, path[:defined]) == defined

    at = bisect.bisect_left(ends, True, key=has)
    return (ends[at - 1] if at else 0) + 1


def _ends(lines: Sequence[str]) -> list[int] | None:
    """Where statements end, as numbers of lines; blank and comment lines count as one."""
    ends: list[int] = []
    begin = effort = 0
    for end, line in enumerate(lines, 1):
        if end > begin + 1 and not any(mark in line for mark in _CLOSING):
            continue
        statement = "\n".join(lines[begin:end])
        effort += len(statement)
        if effort > _EFFORT:
            return None
        try:
            tomllib.loads(statement)
        except tomllib.TOMLDecodeError:
            continue
        ends.append(end)
        begin = end
    return ends


def _depth(value: Any, path: Sequence[str | int]) -> int:
    """How many steps of a path lead somewhere."""
    for depth, step in enumerate(path):
        if not isinstance(value, dict | list):
            return depth
        try:
            value = value[step]  # type: ignore[index]
        except (KeyError, IndexError, TypeError):
            return depth
    return len(path)

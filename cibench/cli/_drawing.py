"""A board as text: an overall bar, the stage, and a line for each running task."""

from __future__ import annotations

from itertools import islice
from typing import Final

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ._board import Board, Running
from ._pace import clock_text

#: Lines of running tasks, where the terminal is high enough.
_ROWS: Final = 8
#: Lines of the terminal that are left to other things.
_OTHERS: Final = 5
#: Narrower terminals show no bars of running tasks and no words with the times.
_WIDE: Final = 70
#: Columns of the overall bar, at most and at least, and of the bar of a task.
_LONGEST: Final = 40
_SHORTEST: Final = 5
_SMALL: Final = 10
#: Columns of a phase and of a time, at most.
_PHASE: Final = 22
_TIME: Final = 7

_STYLES: Final = {"failed": "red", "ok": "green", "stored": "cyan", "skipped": "yellow"}


def drawing(board: Board, width: int, height: int) -> RenderableType:
    """A board for a terminal of so many columns and lines."""
    lines = [_overall(board, width), _stage(board)]
    room = min(_ROWS, max(1, height - _OTHERS))
    if board.running:
        lines.append(_tasks(board, room, width))
    if len(board.running) > room:
        lines.append(Text(f"  and {len(board.running) - room} more", style="dim"))
    return Group(*lines)


def shortened(text: str, width: int) -> str:
    """Text in so many columns, `…` in the middle where something was left out."""
    if len(text) <= width:
        return text
    kept = max(0, width - 1)
    front = (kept + 1) // 2
    return text[:front] + "…"[:width] + text[len(text) - (kept - front) :]


def _overall(board: Board, width: int) -> RenderableType:
    share = int(100 * board.done / board.total) if board.total else 100
    elapsed, left = clock_text(board.elapsed), clock_text(board.left)
    if width >= _WIDE:
        text = f"{board.done}/{board.total}  {share} %  {elapsed}, {left} left"
    else:
        text = f"{board.done}/{board.total} {share} % {elapsed} {left}"
    room = min(_LONGEST, width - len("cells ") - len(text) - 1)
    line = Table.grid(padding=(0, 1))
    if room < _SHORTEST:
        line.add_row(_crop("cells"), _crop(text))
    else:
        bar = ProgressBar(total=board.total or 1, completed=board.done, width=room)
        line.add_row(_crop("cells"), bar, _crop(text))
    return line


def _stage(board: Board) -> RenderableType:
    line = _crop("")
    if board.stage_name:
        line.append(f"{board.stage_name} {board.stage_done}/{board.stage_tasks}")
    separator = "; "
    for kind, style in _STYLES.items():
        if board.counts[kind]:
            line.append(separator if line else "")
            line.append(f"{board.counts[kind]} {kind}", style=style)
            separator = ", "
    return line


def _tasks(board: Board, room: int, width: int) -> RenderableType:
    tasks = list(islice(board.running.items(), room))
    wide = width >= _WIDE
    phases = [
        shortened(_phase(task, wide), _PHASE if wide else width // 3)
        for _, task in tasks
    ]
    around = 2 + max(map(len, phases)) + 1 + _TIME + 1 + (_SMALL + 1 if wide else 0)
    lines = Table.grid(padding=(0, 1, 0, 0))
    for (title, task), phase in zip(tasks, phases, strict=True):
        cells: list[RenderableType] = [
            _crop("  " + shortened(title, max(1, width - around - 1))),
            _crop(phase, style="cyan"),
        ]
        if wide:
            cells.append(_bar(task))
        time = clock_text(board.clock() - task.since)
        cells.append(_crop(f"{time:>{_TIME}}"))
        lines.add_row(*cells)
    return lines


def _phase(task: Running, wide: bool) -> str:
    if wide or not task.total:
        return task.phase
    return f"{task.phase} {100 * task.done // task.total} %"


def _bar(task: Running) -> RenderableType:
    if not task.total:
        return Text(" " * _SMALL)
    return ProgressBar(total=task.total, completed=task.done, width=_SMALL)


def _crop(text: str, style: str = "") -> Text:
    return Text(text, style=style, no_wrap=True, overflow="crop")

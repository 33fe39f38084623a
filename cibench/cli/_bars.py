"""Progress on a terminal, redrawn in place, with failures above it as they happen."""

from __future__ import annotations

import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from ._board import Board
from ._drawing import drawing
from ._progress import one_line, trouble

if TYPE_CHECKING:
    from ..execute.channel import Event
    from ..execute.finished import Finished

#: Seconds between two drawings: after a change, and to move the clocks.
_REDRAW: Final = 0.1
_TICK: Final = 1.0


class Bars:
    """Drawn by a thread of its own, so that telling it something costs next to nothing.

    Args:
        total: cells.
        console: a terminal.
    """

    def __init__(self, total: int, console: Console) -> None:
        self._console, self._board = console, Board(total)
        self._messages: list[str] = []
        self._lock = threading.Lock()
        self._changed, self._closing = threading.Event(), threading.Event()
        self._live = Live(
            console=console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=sys.stdout.isatty(),
            get_renderable=self._drawing,
        )
        self._live.start(refresh=True)
        self._thread = threading.Thread(
            target=self._draw, daemon=True, name="cibench-progress"
        )
        self._thread.start()

    def stage(self, name: str, tasks: int) -> None:
        """See `Shown`."""
        with self._lock:
            self._board.stage(name, tasks)
        self._changed.set()

    def event(self, event: Event) -> None:
        """See `Shown`."""
        with self._lock:
            self._board.event(event)
        self._changed.set()

    def prepared(self, title: str, seconds: float, reason: str) -> None:
        """See `Shown`."""
        with self._lock:
            self._board.prepared(title)
            if reason:
                self._messages.append(f"{title}: {reason}")
        self._changed.set()

    def finished(self, done: Finished) -> None:
        """See `Shown`."""
        with self._lock:
            self._board.finished(done)
            if done.failed:
                self._messages.append(trouble(done))
        self._changed.set()

    def close(self) -> None:
        """See `Display`."""
        self._closing.set()
        self._changed.set()
        try:
            self._thread.join()
            self._tell_trouble()
        finally:
            self._live.stop()

    def _draw(self) -> None:
        while not self._closing.is_set():
            self._changed.wait(_TICK)
            self._changed.clear()
            with suppress(OSError):  # the terminal may be gone; the run goes on
                self._tell_trouble()
                self._live.refresh()
            self._closing.wait(_REDRAW)

    def _tell_trouble(self) -> None:
        with self._lock:
            messages, self._messages = self._messages, []
        if messages:
            text = Text("\n".join(map(one_line, messages)), style="red")
            self._console.print(text, soft_wrap=True, highlight=False)

    def _drawing(self) -> RenderableType:
        size = self._console.size
        with self._lock:
            return drawing(self._board, size.width, size.height)

"""How much time is left, from how fast cells have been computed of late."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from typing import Final

#: Seconds that the window covers, longer where fewer than `_FEWEST` cells fall into it.
_WINDOW: Final = 60.0
_FEWEST: Final = 30
#: Cells to be computed before there is an estimate.
_KNOWN: Final = 2


class Pace:
    """The rate of computed cells over a moving window.

    Cells whose records were stored are not counted: they say nothing of those to come.

    Args:
        clock: seconds from any origin.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._begin: float | None = None
        self._last = 0.0
        self._count = 0
        #: Second and number of cells, oldest first.
        self._seconds: deque[tuple[int, int]] = deque()

    def begin(self) -> None:
        """Cells begin to be computed; only the first call counts."""
        if self._begin is None:
            self._begin = self._last = self._clock()

    def computed(self) -> None:
        """A cell was computed."""
        self.begin()
        self._last = self._clock()
        self._count += 1
        second, count = math.ceil(self._last), 0
        if self._seconds and self._seconds[-1][0] == second:
            _, count = self._seconds.pop()
        self._seconds.append((second, count + 1))
        self._forget(self._last - _WINDOW)

    def _forget(self, before: float) -> None:
        while self._seconds:
            second, count = self._seconds[0]
            if second > before or self._count - count < _FEWEST:
                break
            self._seconds.popleft()
            self._count -= count
            self._begin = second

    def left(self, cells: int) -> float | None:
        """Seconds until so many cells are computed; None while that is unknown.

        It counts down between cells. Once a cell takes longer than those before, it grows.
        """
        if cells <= 0:
            return 0.0
        if self._begin is None or self._count < _KNOWN:
            return None
        now = self._clock()
        interval = (self._last - self._begin) / self._count
        waited = now - self._last
        if waited <= interval:
            return cells * interval - waited
        return (cells - 1) * (now - self._begin) / (self._count + 1)


def clock_text(seconds: float | None) -> str:
    """Seconds as `4:05`, `1:04:05` or, from two days on, `3 d 4 h`; `-:--` for None."""
    if seconds is None:
        return "-:--"
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    if hours >= 48:
        return f"{hours // 24} d {hours % 24} h"
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def about(seconds: float) -> str:
    """Seconds in a unit that suits a rough estimate, such as `12 min`."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 90 * 60:
        return f"{round(seconds / 60)} min"
    return f"{round(seconds / 3600)} h"

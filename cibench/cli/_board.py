"""What a display of a run shows at present, whatever draws it."""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ._pace import Pace
from ._progress import one_line, stage_name

if TYPE_CHECKING:
    from ..execute.channel import Event
    from ..execute.finished import Finished

#: Seconds in which events of a task that ended are taken for belated.
_BELATED: Final = 1.0


@dataclass
class Running:
    """A task that runs: since when, and what it does."""

    since: float
    phase: str = ""
    done: int = 0
    total: int = 0


class Board:
    """Cells done, the present stage, and the tasks that run, in the order they began.

    Args:
        total: cells.
        clock: seconds from any origin.
    """

    def __init__(self, total: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.total, self.clock, self.begin = total, clock, clock()
        self.stage_name, self.stage_done, self.stage_tasks = "", 0, 0
        self.running: dict[str, Running] = {}
        #: Cells by `ok`, `stored`, `skipped` or `failed`.
        self.counts: Counter[str] = Counter()
        self._computing = False
        self._pace = Pace(clock)
        self._ended: OrderedDict[str, float] = OrderedDict()

    @property
    def done(self) -> int:
        """Cells that are done."""
        return self.counts.total()

    @property
    def elapsed(self) -> float:
        """Seconds since the run began."""
        return self.clock() - self.begin

    @property
    def left(self) -> float | None:
        """Seconds until all cells are done; None while that is unknown."""
        return self._pace.left(self.total - self.done)

    def stage(self, name: str, tasks: int) -> None:
        """A stage begins."""
        self._computing = "evaluate" in name
        if self._computing:
            self._pace.begin()
        self.stage_name, self.stage_done, self.stage_tasks = stage_name(name), 0, tasks

    def event(self, event: Event) -> None:
        """A task began or got further, unless it has just ended."""
        title, now = one_line(event.title), self.clock()
        self._forget(now - _BELATED)
        if title in self._ended:
            return
        task = self.running.setdefault(title, Running(now))
        if event.started:
            task.since = now
        task.phase, task.done, task.total = (
            one_line(event.phase),
            event.done,
            event.total,
        )

    def prepared(self, title: str) -> None:
        """A task that cells share ended."""
        self._end(title)
        if not self._computing:
            self.stage_done += 1

    def finished(self, done: Finished) -> None:
        """A cell is done."""
        self._end(done.title)
        computed = done.source == "computed" and done.status != "skipped"
        if computed:
            self._pace.computed()
            self.stage_done += self._computing
        self.counts[_kind(done)] += 1

    def _end(self, title: str) -> None:
        title, now = one_line(title), self.clock()
        self.running.pop(title, None)
        self._forget(now - _BELATED)
        self._ended[title] = now
        self._ended.move_to_end(title)

    def _forget(self, before: float) -> None:
        while self._ended:
            title, ended = next(iter(self._ended.items()))
            if ended > before:
                break
            del self._ended[title]


def _kind(done: Finished) -> str:
    if done.failed:
        return "failed"
    if done.status == "ok" and done.source != "computed":
        return "stored"
    return done.status

"""Progress as plain lines, for files, pipes and terminals that cannot move the cursor."""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import click

from ._pace import Pace, about
from ._progress import one_line, outcome, stage_name, trouble

if TYPE_CHECKING:
    from ..execute.channel import Event
    from ..execute.finished import Finished

#: Cells up to which each gets a line.
_EACH: Final = 200
#: Seconds between two lines of a run with more cells.
_INTERVAL: Final = 1.0
#: Tasks of a stage up to which it gets no line.
_SMALL: Final = 5
#: Tasks whose last phase is remembered.
_REMEMBERED: Final = 256


class Lines:
    """A line a cell, or one a second where there are many; a failure always gets its own.

    Args:
        total: cells.
        verbose: a line for each cell, each phase and each task that cells share.
        clock: seconds from any origin.
    """

    def __init__(
        self, total: int, *, verbose: bool, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._total, self._verbose, self._clock = total, verbose, clock
        self._each = verbose or total <= _EACH
        self._counts: Counter[str] = Counter()
        self._pace = Pace(clock)
        self._told, self._told_at = 0, -_INTERVAL
        self._phases: OrderedDict[str, str] = OrderedDict()

    def stage(self, name: str, tasks: int) -> None:
        """See `Shown`."""
        if "evaluate" in name:
            self._pace.begin()
        if tasks > _SMALL or (self._verbose and tasks):
            _say(f"{stage_name(name)}: {tasks} to do")

    def event(self, event: Event) -> None:
        """See `Shown`."""
        if not self._verbose or not event.phase:
            return
        if self._phases.get(event.title) != event.phase:
            self._phases[event.title] = event.phase
            while len(self._phases) > _REMEMBERED:
                self._phases.popitem(last=False)
            _say(f"{event.title}: {event.phase}")

    def prepared(self, title: str, seconds: float, reason: str) -> None:
        """See `Shown`."""
        self._phases.pop(title, None)
        if reason:
            _say(f"{title}: {reason}")
        elif self._verbose:
            _say(f"{title}: done in {seconds:.1f} s")

    def finished(self, done: Finished) -> None:
        """See `Shown`."""
        self._phases.pop(done.title, None)
        self._counts["failed" if done.failed else done.status] += 1
        if done.source == "computed" and done.status != "skipped":
            self._pace.computed()
        if done.failed:
            self._say_cell(trouble(done))
        elif self._each:
            flags = f"; flags: {', '.join(done.flags)}" if done.flags else ""
            self._say_cell(
                f"{done.title}: {outcome(done)}{flags if self._verbose else ''}"
            )
        elif self._clock() - self._told_at >= _INTERVAL:
            self._summarize()

    def _say_cell(self, text: str) -> None:
        _say(f"[{self._counts.total()}/{self._total}] {text}")

    def _summarize(self) -> None:
        self._told, self._told_at = self._counts.total(), self._clock()
        said = [
            f"{self._counts[kind]} {kind}"
            for kind in sorted(self._counts, key=_ok_first)
        ]
        left = self._pace.left(self._total - self._told)
        if left:
            said.append(f"about {about(left)} left")
        self._say_cell(", ".join(said))

    def close(self) -> None:
        """See `Display`."""
        if not self._each and self._counts.total() > self._told:
            self._summarize()


def _ok_first(kind: str) -> tuple[bool, str]:
    return kind != "ok", kind


def _say(text: str) -> None:
    click.echo(one_line(text), err=True)

"""What a run tells its user on the way: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from ..execute.channel import Event
    from ..execute.finished import Finished

#: What the tasks of a stage are about.
_STAGES: Final = {
    "describe": "data sets",
    "embed": "embeddings",
    "refer": "references",
    "fit": "fits",
    "evaluate": "evaluations",
}

#: Control characters, and those that change the direction of writing.
_STEERING: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


class Shown(Protocol):
    """What a run reports to, from any thread."""

    def stage(self, name: str, tasks: int) -> None:
        """A stage begins: one of `Event.stage`, or several joined by `+`."""

    def event(self, event: Event) -> None:
        """A task began or got further."""

    def prepared(self, title: str, seconds: float, reason: str) -> None:
        """A task that cells share ended; `reason` is empty if all is well."""

    def finished(self, done: Finished) -> None:
        """A cell is done."""


class Display(Shown, Protocol):
    """Something that shows, with an end."""

    def close(self) -> None:
        """Show what is still to be shown, and nothing after that."""


def outcome(done: Finished) -> str:
    """A finished cell in a few words."""
    if done.accuracy is None:
        return f"{done.status}: {done.reason}" if done.reason else done.status
    again = {"computed": "", "cache": " (stored)", "folder": " (already in the folder)"}
    return f"{100 * done.accuracy:.1f} % under attack{again[done.source]}"


def trouble(done: Finished) -> str:
    """A failed cell in one line, with where to read more."""
    return f"{done.title}: {outcome(done)}" + (f"; log: {done.log}" if done.log else "")


def stage_name(name: str) -> str:
    """What a stage is about, such as `fits and references`."""
    return " and ".join(_STAGES.get(part, part) for part in name.split("+"))


def one_line(text: str) -> str:
    """Text on one line, without characters that would steer a terminal."""
    text = " ".join(text.split())
    return _STEERING.sub("\N{REPLACEMENT CHARACTER}", text)


class _Displays:
    """Several displays as one, until it is closed.

    A display that cannot be written to, such as a terminal that was closed, is left out
    rather than ending the run.
    """

    def __init__(self, displays: list[Display]) -> None:
        self._displays = displays
        self._lock = threading.RLock()

    def stage(self, name: str, tasks: int) -> None:
        """See `Shown`."""
        self._tell(lambda display: display.stage(name, tasks))

    def event(self, event: Event) -> None:
        """See `Shown`."""
        self._tell(lambda display: display.event(event))

    def prepared(self, title: str, seconds: float, reason: str) -> None:
        """See `Shown`."""
        self._tell(lambda display: display.prepared(title, seconds, reason))

    def finished(self, done: Finished) -> None:
        """See `Shown`."""
        self._tell(lambda display: display.finished(done))

    def close(self) -> None:
        """See `Display`."""
        with self._lock:
            self._tell(lambda display: display.close())
            self._displays = []

    def _tell(self, tell: Callable[[Display], None]) -> None:
        with self._lock:
            for display in self._displays:
                with suppress(OSError):
                    tell(display)


@contextmanager
def progress(
    total: int, *, quiet: bool, verbose: bool, json_log: Path | None = None
) -> Iterator[Shown]:
    """Show the progress of `total` cells while the context lasts.

    Args:
        quiet: show nothing.
        verbose: a line for each phase and each cell, and no bars.
        json_log: file that a line of JSON for each event is appended to, besides what is
            shown; `-` is standard error, where nothing else is shown then.

    Raises:
        OutputError: the file cannot be opened.
    """
    displays: list[Display] = []
    if json_log is not None:
        from ._json_log import JsonLog

        displays.append(JsonLog(json_log))
    if not quiet and json_log != Path("-"):
        displays.append(_display(total, verbose=verbose))
    shown = _Displays(displays)
    try:
        yield shown
    finally:
        shown.close()


def _display(total: int, *, verbose: bool) -> Display:
    if sys.stderr.isatty() and not verbose:
        from rich.console import Console

        console = Console(stderr=True)
        if console.is_interactive:
            from ._bars import Bars

            return Bars(total, console)
    from ._lines import Lines

    return Lines(total, verbose=verbose)

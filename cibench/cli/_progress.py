"""Progress on standard error: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

import click

if TYPE_CHECKING:
    from ..grid import Cell
    from ..results import CellRecord


class Shown(Protocol):
    """What a run reports to."""

    def phase(self, cell: Cell, name: str, done: int, total: int) -> None:
        """A cell entered a phase, or got further in it."""

    def finished(self, cell: Cell, record: CellRecord, cached: bool) -> None:
        """A cell is done."""


def outcome(record: CellRecord, cached: bool) -> str:
    """A finished cell in a few words."""
    if record.metrics is None:
        return f"{record.status}: {record.reason}"
    again = " (stored)" if cached else ""
    return f"{100 * record.metrics.attacked.value:.1f} % under attack{again}"


class Lines:
    """A line per cell; with `verbose`, a line per phase as well; or nothing."""

    def __init__(self, total: int, *, quiet: bool, verbose: bool) -> None:
        self.total, self.quiet, self.verbose = total, quiet, verbose
        self.done = 0
        self.last = ""

    def phase(self, cell: Cell, name: str, done: int, total: int) -> None:
        """See `Shown`."""
        line = f"{cell.title}: {name}"
        if self.verbose and line != self.last:
            self.last = line
            click.echo(line, err=True)

    def finished(self, cell: Cell, record: CellRecord, cached: bool) -> None:
        """See `Shown`."""
        self.done += 1
        if not self.quiet:
            click.echo(
                f"[{self.done}/{self.total}] {cell.title}: {outcome(record, cached)}",
                err=True,
            )


class Bars:
    """An overall bar with time left, and the phase of the running cell below it."""

    def __init__(self, total: int) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self.all = self.bars.add_task("cells", total=total)
        self.now = self.bars.add_task("starting", total=None)

    def phase(self, cell: Cell, name: str, done: int, total: int) -> None:
        """See `Shown`."""
        self.bars.update(
            self.now,
            description=f"{cell.title}: {name}",
            completed=done,
            total=total or None,
        )

    def finished(self, cell: Cell, record: CellRecord, cached: bool) -> None:
        """See `Shown`."""
        self.bars.advance(self.all)
        if record.metrics is None:
            self.bars.console.print(
                f"{cell.title}: {outcome(record, cached)}", markup=False
            )


@contextmanager
def progress(total: int, *, quiet: bool, verbose: bool) -> Iterator[Shown]:
    """Show the progress of `total` cells while the context lasts."""
    if quiet or verbose or not sys.stderr.isatty():
        yield Lines(total, quiet=quiet, verbose=verbose)
        return
    bars = Bars(total)
    with bars.bars:
        yield bars

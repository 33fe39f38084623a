"""What every `run` does with its cells: run, keep and print them, then say how it went."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from .._errors import ContractError
from ..registry import default_registry
from ._progress import progress

if TYPE_CHECKING:
    from ..execute.runner import Runner
    from ..grid import Cell
    from ..results import CellRecord, RunFolder
    from ..results.table import Table

#: A runner and the cells it runs.
Batch = tuple["Runner", Sequence["Cell"]]


class Outcome:
    """The records of a run, batch by batch, and what went wrong outside of them."""

    def __init__(self, batches: int) -> None:
        self.records: list[list[CellRecord]] = [[] for _ in range(batches)]
        self.stored = 0
        self.trouble: list[ContractError] = []

    @property
    def all(self) -> list[CellRecord]:
        """The records of every batch."""
        return [record for batch in self.records for record in batch]


def run_cells(
    batches: Sequence[Batch], folder: RunFolder, *, quiet: bool, verbose: bool
) -> Outcome:
    """Run batches of cells one after another under one display of progress."""
    outcome = Outcome(len(batches))
    total = sum(len(cells) for _, cells in batches)
    with progress(total, quiet=quiet, verbose=verbose) as shown:
        for (runner, cells), records in zip(batches, outcome.records, strict=True):
            runner.report = shown.phase
            for cell, record, cached in runner.run(cells):
                folder.write(record)
                records.append(record)
                outcome.stored += cached
                shown.finished(cell, record, cached)
                try:
                    default_registry().notify_finished(record)
                except ContractError as error:
                    outcome.trouble.append(error)  # an observer must not cost the run
    return outcome


def finish(
    outcome: Outcome,
    tables: Sequence[Table],
    folder: RunFolder,
    *,
    as_json: bool,
    quiet: bool,
    title: str = "",
) -> int:
    """Print the records or their tables, and how it went; return the exit code.

    Raises:
        ContractError: an observer failed.
    """
    from ._show import print_table

    records = outcome.all
    if as_json:
        import msgspec

        sys.stdout.buffer.write(msgspec.json.encode(records) + b"\n")
    else:
        if title:
            click.echo(f"## {title}\n")
        for table in tables:
            print_table(table)
    if not quiet:
        again = f", {outcome.stored} of them already known" if outcome.stored else ""
        click.echo(f"{len(records)} cells{again}; records in {folder.path}", err=True)
        if title:
            click.echo(f"next: cibench report {folder.path}", err=True)
    failed = [r for r in records if r.status not in ("ok", "skipped")]
    if failed:
        click.echo(
            f"error: {len(failed)} of {len(records)} cells failed; first:"
            f" {failed[0].cell}: {failed[0].reason}",
            err=True,
        )
        return 1
    if outcome.trouble:
        raise outcome.trouble[0]
    return 0

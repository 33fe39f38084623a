"""`cibench show RUN [CELL]`: a run's tables, its failures and logs, or one record."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import click

from .._errors import OutputError, UsageError
from ..results.record import Status
from ._completing import cells
from ._finding import check_run, find_cell, read_log

if TYPE_CHECKING:
    from ..execute.finished import Head
    from ..results import CellRecord, RunFolder

STATUSES: tuple[str, ...] = get_args(Status)
_FAILED = [status for status in STATUSES if status not in ("ok", "skipped")]


@click.command(
    "show", short_help="Show the table of a finished run, or one cell's record."
)
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("cell", required=False, shell_complete=cells)
@click.option(
    "--failed", is_flag=True, help="List cells that are neither ok nor skipped."
)
@click.option("--skipped", is_flag=True, help="List skipped cells, with the reason.")
@click.option(
    "--status",
    "statuses",
    multiple=True,
    type=click.Choice(STATUSES),
    help="List cells of this status; repeatable.",
)
@click.option(
    "--log", is_flag=True, help="Print what the cell, or each listed, printed."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    run: Path,
    cell: str | None,
    failed: bool,
    skipped: bool,
    statuses: tuple[str, ...],
    log: bool,
    as_json: bool,
) -> None:
    """Print the tables of the run in folder RUN, or the record of its cell CELL.

    CELL may be any part of a cell's id that fits one cell only. After the tables, standard
    error says how the cells ended and how many have not been run yet.

    \b
    cibench show runs/x
    cibench show runs/x --failed --log
    cibench show runs/x copur--0 --log
    """  # noqa: D301
    from ..results import RunFolder
    from ..results.record import encode

    folder = RunFolder(run)
    wanted = {
        *statuses,
        *(_FAILED if failed else ()),
        *(["skipped"] if skipped else ()),
    }
    _check(cell, wanted, log=log, as_json=as_json)
    if cell is not None:
        record = folder.read_one(find_cell(folder, cell))
        if log:
            _print_log(folder, record)
        else:
            click.echo(encode(record).decode(), nl=False)
    elif wanted:
        _list(folder, wanted, log=log, as_json=as_json)
    else:
        _print_run(folder, as_json=as_json)


def _check(
    cell: str | None, wanted: Collection[str], *, log: bool, as_json: bool
) -> None:
    if cell is not None and wanted:
        raise UsageError(
            "show: expected a cell, or --failed, --skipped or --status, got both"
        )
    if log and cell is None and not wanted:
        raise UsageError(
            "show --log: expected a cell with it, or --failed, --skipped or --status,"
            " got neither"
        )
    if log and as_json:
        raise UsageError("show: expected --log or --json, got both")


def _print_run(folder: RunFolder, *, as_json: bool) -> None:
    """The tables, and on standard error how it stands."""
    from ..results.table import tables
    from ._show import print_table

    records = folder.read()
    if as_json:
        import msgspec

        click.echo(msgspec.json.encode(records))
        return
    for table in tables(records):
        print_table(table)
    click.echo(_standing(folder, records), err=True)


def _standing(folder: RunFolder, records: Sequence[CellRecord]) -> str:
    """How the cells ended, and what has not been run yet."""
    from ._missing import missing

    ended = counts(Counter(record.status for record in records))
    noun = "cell" if len(records) == 1 else "cells"
    line = f"{len(records)} {noun}" + (f": {ended}" if records else "")
    found = missing(folder, records)
    if not found.cells and not found.unsure:
        return line
    least = "at least " if found.unsure else ""
    how = (
        f"go on: cibench run --resume {folder.path}"
        if found.last
        else f"an earlier command with -o {folder.path} goes on with them"
    )
    line += f"; {least}{found.cells} not run yet"
    if found.cells:
        line += f" ({how})"
    return f"{line}; not counted exactly: {found.unsure}" if found.unsure else line


def counts(statuses: Counter[str]) -> str:
    """How many cells ended how: `57 ok, 2 failed, 1 timeout`."""
    return ", ".join(f"{statuses[name]} {name}" for name in STATUSES if statuses[name])


def _list(
    folder: RunFolder, wanted: Collection[str], *, log: bool, as_json: bool
) -> None:
    """The cells of some statuses: a table, JSON, or their logs one after another."""
    check_run(folder)
    heads: list[Head] = []
    statuses: Counter[str] = Counter()
    for name in sorted(folder.names()):
        head = _head(folder, name)
        statuses[head.status] += 1
        if head.status in wanted:
            heads.append(head)
    if log:
        for head in heads:
            _print_headed(folder, head)
    elif as_json:
        import msgspec

        names = ("cell", "status", "seconds", "reason", "log")
        rows = [{name: getattr(head, name) for name in names} for head in heads]
        click.echo(msgspec.json.encode(rows))
    elif heads:
        _print_heads(heads)
    click.echo(
        f"{len(heads)} of {statuses.total()} cells; all: {counts(statuses) or 'none'}",
        err=True,
    )


def _head(folder: RunFolder, name: str) -> Head:
    import msgspec

    from ..execute.finished import read_head

    try:
        return read_head(folder.file(name).read_bytes())
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise OutputError(
            f"record {name}.json: expected a cell record of this version, got {error}"
        ) from error
    except OSError as error:
        raise OutputError(
            f"record {name}.json: expected a readable file, got {error.strerror}"
        ) from error


def _print_heads(heads: Sequence[Head]) -> None:
    """A row per cell: markdown in a pipe, a table to read on a terminal."""
    import sys

    from ..results.table import Table
    from ._progress import one_line
    from ._show import markdown

    columns = ("cell", "status", "seconds", "reason", "log")
    rows = tuple(
        (head.cell, head.status, f"{head.seconds:.1f}", one_line(head.reason), head.log)
        for head in heads
    )
    if not sys.stdout.isatty():
        table = Table(title="Cells", columns=columns, rows=rows, notes=())
        click.echo(markdown(table).rstrip("\n"))
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table as RichTable

    shown = RichTable()
    for column in columns:
        right = column == "seconds"
        shown.add_column(column, justify="right" if right else "left", overflow="fold")
    for row in rows:
        shown.add_row(*map(escape, row))
    Console().print(shown)


def _print_log(folder: RunFolder, record: CellRecord) -> None:
    content = read_log(folder, record.cell, record.log)
    if content is None:
        click.echo(f"{record.cell} printed nothing", err=True)
        return
    click.echo(content.decode(errors="replace"), nl=not content.endswith(b"\n"))


def _print_headed(folder: RunFolder, head: Head) -> None:
    """One of several logs; that one is gone does not cost the others."""
    reason = f": {head.reason}" if head.reason else ""
    click.echo(f"==> {head.cell}: {head.status}{reason} <==")
    try:
        content = read_log(folder, head.cell, head.log)
    except OutputError as error:
        click.echo(f"({error})\n")
        return
    text = (
        "(it printed nothing)" if content is None else content.decode(errors="replace")
    )
    click.echo(text.rstrip("\n") + "\n")

"""Rendering tables: rich on a terminal, markdown in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ..results.table import Table


def print_table(table: Table) -> None:
    """Print one table to standard output."""
    if sys.stdout.isatty():
        _rich(table)
    else:
        click.echo(markdown(table))


def markdown(table: Table) -> str:
    """A table as markdown; cells escaped."""
    from tabulate import tabulate

    body = tabulate(
        [[cell.replace("|", r"\|") for cell in row] for row in table.rows],
        headers=table.columns,
        tablefmt="github",
        disable_numparse=True,
    )
    notes = "\n".join(f"- {note}" for note in table.notes)
    return f"### {table.title}\n\n{body}\n\n{notes}\n"


def plain(rows: Sequence[Sequence[str]], headers: Sequence[str]) -> None:
    """Print aligned columns, as listing commands do."""
    from tabulate import tabulate

    click.echo(
        tabulate(
            [list(row) for row in rows],
            headers=list(headers),
            tablefmt="plain",
            disable_numparse=True,
        )
    )


def _rich(table: Table) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table as RichTable

    shown = RichTable(title=escape(table.title), title_justify="left")
    for index, column in enumerate(table.columns):
        right = 0 < index < len(table.columns) - 1
        shown.add_column(column, justify="right" if right else "left", overflow="fold")
    for row in table.rows:
        shown.add_row(*(escape(cell) for cell in row))
    console = Console()
    console.print(shown)
    for note in table.notes:
        console.print(f"  {escape(note)}", style="dim", highlight=False)

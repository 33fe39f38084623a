"""Rendering tables: rich on a terminal, markdown in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ..results.table import Table


#: Columns of a terminal from which a table has a row per defense.
WIDE = 140


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
        [[_escape(cell) for cell in row] for row in table.rows],
        headers=table.columns,
        tablefmt="github",
        disable_numparse=True,
    )
    notes = "\n".join(f"- {_escape(note)}" for note in table.notes)
    return f"### {table.title}\n\n{body}\n\n{notes}\n"


def _escape(text: str) -> str:
    return text.replace("|", r"\|").replace("<", "&lt;")


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

    console = Console()
    lines = [table.columns, *table.rows]
    if console.width < WIDE:
        # Too narrow for a row per defense: a column per defense instead.
        lines = list(zip(*lines, strict=True))
    columns, *rows = lines
    shown = RichTable(title=escape(table.title), title_justify="left")
    for index, column in enumerate(columns):
        right = 0 < index < len(columns) - (console.width >= WIDE)
        shown.add_column(
            escape(column), justify="right" if right else "left", overflow="fold"
        )
    for row in rows:
        shown.add_row(*(escape(cell) for cell in row))
    console.print(shown)
    for note in table.notes:
        console.print(f"  {escape(note)}", style="dim", highlight=False)

"""`cibench show RUN [CELL]`: a finished run's table, or one record."""

from __future__ import annotations

from pathlib import Path

import click

from .._errors import UsageError
from ._show import print_table


@click.command(
    "show", short_help="Show the table of a finished run, or one cell's record."
)
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("cell", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print the records as JSON.")
def command(run: Path, cell: str | None, as_json: bool) -> None:
    """Print the tables of the run in folder RUN, or the record of its cell CELL.

    CELL may be any part of a cell's id that fits one cell only.
    """
    from ..results import RunFolder
    from ..results.record import encode
    from ..results.table import tables

    records = RunFolder(run).read()
    if cell is not None:
        matching = [record for record in records if cell in record.cell]
        if len(matching) != 1:
            names = ", ".join(r.cell for r in matching or records)
            raise UsageError(
                f"cell {cell!r}: expected part of one cell's id, got {len(matching)}"
                f" matches; cells: {names}"
            )
        click.echo(encode(matching[0]).decode(), nl=False)
        return
    if as_json:
        import msgspec

        click.echo(msgspec.json.encode(records))
        return
    for table in tables(records):
        print_table(table)

"""`cibench schema`: the JSON Schema of a record."""

from __future__ import annotations

import click


@click.command("schema", short_help="Print the JSON Schema of a cell's record.")
def command() -> None:
    """Print the JSON Schema every record in a run's folder follows."""
    import msgspec

    from ..results import json_schema

    schema = msgspec.json.encode(json_schema())
    click.echo(msgspec.json.format(schema, indent=2))

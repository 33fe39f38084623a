"""What `cibench reproduce` says: what differs around a record, and in its numbers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ..execute.describing import Described
    from ..execute.settings import Settings
    from ..grid import Cell
    from ..results import CellRecord
    from ..results.comparison import Comparison, Difference


def tell_surroundings(
    record: CellRecord, cell: Cell, described: Described, settings: Settings
) -> None:
    """Print what is not as it was, before anything runs."""
    from ..execute.describing import place_of
    from ..execute.keys import Keys
    from ..results.comparison import surroundings
    from ._session import torch_version

    facts = described.facts.get(place_of(cell))
    if facts is None or any(plugin.error for plugin in cell.plugins):
        return
    inputs = Keys(settings, torch_version()).inputs(cell, facts)
    found = surroundings(
        record,
        inputs=inputs,
        environment=facts.environment,
        device=settings.device_class,
    )
    for one in found:
        click.echo(_words(one, record.inputs))
    if not found:
        click.echo("sources, versions, data and settings: as in the record")


def _words(one: Difference, inputs: Mapping[str, str]) -> str:
    """`attack source: 1a2b -> 3c4d (the code of cibench_plugins changed)`."""
    role = one.name.removesuffix(" source")
    module = inputs.get(f"{role} module", "") if role != one.name else ""
    package = "cibench" if one.name == "harness" else module.partition(".")[0]
    change = f"{_short(one.old)} -> {_short(one.new)}"
    why = f" (the code of {package} changed)" if package and one.old and one.new else ""
    return f"{one.name}: {change}{why}"


def _short(value: str) -> str:
    if re.fullmatch("[0-9a-f]{16,}", value):
        return value[:12]
    return value or "(absent)"


def print_result(
    record: CellRecord, new: CellRecord, found: Comparison, tolerance: float
) -> None:
    """That the cell is reproduced, or the results that differ."""
    from ._show import plain

    if not found.same:
        plain(found.differences, ("result", "record", "now"))
        click.echo(
            f"error: {record.cell} is not reproduced: {len(found.differences)} results"
            " differ",
            err=True,
        )
    elif record.status != "ok":
        click.echo(f"reproduced: {new.status} again: {new.reason}")
    else:
        within = f" within {tolerance:g}" if tolerance else ""
        click.echo(
            f"reproduced: {found.metrics} metrics and {found.outcomes} lists of outcomes"
            f" equal{within}"
        )


def print_json(
    run: Path, record: CellRecord, new: CellRecord, found: Comparison
) -> None:
    import msgspec

    told = {
        "run": str(run),
        "cell": record.cell,
        "reproduced": found.same,
        "status": new.status,
        "reason": new.reason,
        "metrics": found.metrics,
        "outcomes": found.outcomes,
        "differences": [one._asdict() for one in found.differences],
        "surroundings": [one._asdict() for one in found.surroundings],
    }
    click.echo(msgspec.json.encode(told))

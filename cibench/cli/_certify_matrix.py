"""What `certify --matrix` does: bounds of a decoder that somebody brought."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ._certify_given import check_target, parse_numbers
from ._certify_tables import ends

if TYPE_CHECKING:
    from ..certification.matrix import DecoderBounds


def certify_matrix(params: Mapping[str, Any]) -> int:
    """Bound the leverage constant and the recovery rate of a matrix; print them.

    Raises:
        UsageError, DataError, OutputError: something in it is wrong.
    """
    if params["widths"] is None:
        raise click.UsageError("--matrix: expected --widths with it, got none")
    corrupted = parse_numbers(params["corrupted"]) or [1]
    target: Path | None = params["direction"]
    if target is not None:
        check_target("--direction", target, (".npy",))
    import torch

    from ..certification.matrix import (
        ceiling,
        check_numbers,
        decoder_bounds,
        keep_direction,
        layout_of,
        read_matrix,
    )
    from ._session import check_device

    torch.set_num_threads(params["threads"])
    layout = layout_of(params["widths"])
    check_numbers(layout, corrupted, params["missing"])
    weight = read_matrix(params["matrix"], params["key"])
    weight = weight.to(check_device(params["device"]))
    found = []
    for bounds in decoder_bounds(weight, layout, corrupted, params["missing"]):
        found.append(bounds)
        if not params["quiet"]:
            click.echo(
                f"{bounds.corrupted} corrupted: {bounds.sets} sets"
                f" ({bounds.seconds:.1f} s)",
                err=True,
            )
    if target is not None:
        last = found[-1].direction
        assert last is not None  # somebody is corrupted
        keep_direction(last, target)
        if not params["quiet"]:
            click.echo(f"direction in {target}", err=True)
    most = ceiling(weight, layout, params["missing"])
    if params["as_json"]:
        _print_json(found, most)
    else:
        _print(params["matrix"], tuple(weight.shape), found, most)
    return 0


def _print(
    path: Path, shape: tuple[int, ...], found: Sequence[DecoderBounds], most: int
) -> None:
    from ..results.table import Table
    from ._show import print_table

    rows = [
        (
            *(str(b.corrupted), str(b.missing), *ends(b.leverage), *ends(b.rate)),
            *(", ".join(b.worst), ", ".join(b.absent), b.reason),
        )
        for b in found
    ]
    columns = (
        *("corrupted", "missing", "c at least", "c at most", "gamma at least"),
        *("gamma at most", "worst agents", "missing then", "why gamma is 0"),
    )
    ceiling = (
        f"no method on this manifold can see through {most + 1} corrupted"
        f" agent{'s' if most else ''}"
        if most >= 0
        else "not even honest agents determine the point"
    )
    print_table(
        Table(
            title=f"{path.name}: {shape[0]} x {shape[1]}, bounds over all sets of agents",
            columns=columns,
            rows=tuple(rows),
            notes=(
                "c above 1/2: the fit in the sum of block norms returns every clean point"
                " of the manifold, whatever so many agents send",
                "a clean embedding at distance delta from the manifold, in the sum of block"
                " norms, is recovered within 2 delta / gamma",
                ceiling,
            ),
        )
    )


def _print_json(found: Sequence[DecoderBounds], most: int) -> None:
    import msgspec

    rows = [
        {
            "corrupted": b.corrupted,
            "missing": b.missing,
            "leverage": b.leverage,
            "rate": b.rate,
            "worst": b.worst,
            "absent": b.absent,
            "direction": None if b.direction is None else b.direction.tolist(),
            "reason": b.reason or None,
            "sets": b.sets,
            "seconds": b.seconds,
        }
        for b in found
    ]
    click.echo(msgspec.json.encode({"rows": rows, "ceiling": most}))

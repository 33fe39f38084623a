"""Rows of `certify` as tables and as JSON."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ..certification.certifying import Certified
    from ..certification.standing import Standing
    from ..results.table import Table


def percent(share: float) -> str:
    """A share in percent, without its sign."""
    return f"{100 * share:.1f}"


def ends(bounds: tuple[float, float]) -> tuple[str, str]:
    """Bounds as text, the lower one rounded down and the upper one up."""
    lower, upper = math.floor(bounds[0] * 1e4), math.ceil(bounds[1] * 1e4)
    return f"{lower / 1e4:.4f}", f"{upper / 1e4:.4f}"


def tables(rows: Sequence[Certified]) -> Iterator[Table]:
    """A table per data set, a row per defense and seed."""
    for dataset in dict.fromkeys(row.dataset for row in rows):
        yield _table(dataset, [row for row in rows if row.dataset == dataset])


def _table(dataset: str, rows: Sequence[Certified]) -> Table:
    from ..results.table import Table

    proved = [row.standing for row in rows if row.standing is not None]
    corrupted = sorted({n for found in proved for n in found.corrupted}) or [1]
    missing = sorted({n for found in proved for n in found.missing})
    columns = (
        *("defense", "seed", "clean"),
        *(f"{n} corrupted" for n in corrupted),
        *(f"{n} missing" for n in missing),
        *("seconds", "why not more"),
    )
    said: dict[str, dict[str, None]] = {}
    for row in rows:
        for text in () if row.standing is None else _assumed(row.standing):
            said.setdefault(text, {})[row.defense] = None
    counted = ", ".join(sorted({str(found.samples) for found in proved}))
    agents = ", ".join(sorted({str(row.agents) for row in rows if row.agents}))
    shown = [
        f"{counted} clean test samples of {agents} agents; a sample counts if it is"
        " decided rightly and proved to stand"
    ]
    return Table(
        title=f"{dataset}: certified accuracy in %",
        columns=columns,
        rows=tuple(_cells(row, corrupted, missing) for row in rows),
        notes=(
            *(shown if proved else ()),
            *(f"{', '.join(names)}: {text}" for text, names in said.items()),
        ),
    )


def _assumed(found: Standing) -> Iterator[str]:
    """What a row's certificates say, and how sure that is."""
    yield from found.assumptions
    if found.assumptions:
        chance = "no chance is involved" if found.confidence == 1 else "of each sample"
        yield f"confidence {found.confidence:g}, {chance}"


def _cells(
    row: Certified, corrupted: Sequence[int], missing: Sequence[int]
) -> tuple[str, ...]:
    found = row.standing
    if found is None:
        blank = [""] * (len(corrupted) + len(missing) + 2)
        return (row.defense, str(row.seed), *blank, f"failed: {row.error}")
    # Past the number at which nothing stands there is nothing more.
    shares = [percent(found.corrupted.get(number, 0.0)) for number in corrupted]
    absent = [
        percent(found.missing[number]) if number in found.missing else ""
        for number in missing
    ]
    first = min(found.reasons, default=None)
    reason = ""
    if first is not None:
        reason = (
            found.reasons[first]
            if first == 0
            else f"{first}: " + (found.reasons[first])
        )
    return (
        *(row.defense, str(row.seed), percent(found.clean), *shares, *absent),
        *(f"{row.seconds:.1f}", reason),
    )


def print_json(rows: Sequence[Certified], **more: object) -> None:
    """Rows as JSON: an array, or an object with `rows` where there is more to say."""
    import msgspec

    told = [plain_row(row) for row in rows]
    click.echo(msgspec.json.encode({"rows": told, **more} if more else told))


def plain_row(row: Certified) -> dict[str, Any]:
    """A row as plain data; shares in [0, 1]."""
    found: dict[str, Any] = {
        "dataset": row.dataset,
        "defense": row.defense,
        "seed": row.seed,
        "agents": row.agents,
        "error": row.error or None,
        "fit_seconds": row.fit_seconds,
        "seconds": row.seconds,
    }
    proved = row.standing
    if proved is None:
        return found
    found |= {
        "samples": proved.samples,
        "clean": proved.clean,
        "corrupted": _by_number(proved.corrupted),
        "missing": _by_number(proved.missing),
        "reasons": [
            {"agents": n, "reason": text} for n, text in proved.reasons.items()
        ],
        "confidence": proved.confidence,
        "assumptions": list(proved.assumptions),
    }
    if row.recovery:
        import msgspec

        found["recovery"] = [
            {"agents": number, **msgspec.to_builtins(numbers)}
            for number, numbers in row.recovery
        ]
    return found


def _by_number(shares: Mapping[int, float]) -> list[dict[str, float]]:
    return [{"agents": number, "accuracy": share} for number, share in shares.items()]

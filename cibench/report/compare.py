"""Paired comparisons between the defenses of one scenario."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..bootstrap import (
    Booleans,
    Floats,
    block_length,
    difference_interval,
    mean_interval,
    replicates,
)
from ..results import CellRecord
from ..results.rows import interval, outcomes
from ..statistics import holm, mcnemar, mcnemar_over_seeds
from .model import Comparison, Row


def measured(row: Row, records: Sequence[CellRecord]) -> Row:
    """A row with its records and the interval of their mean."""
    found = outcomes(records)
    if found is None:
        return replace(row, records=tuple(records), interval=interval(records))
    correct, counted = found
    block = block_length(len(counted), time_series=records[0].time_series)
    drawn = replicates(correct, counted, block)
    return replace(
        row,
        records=tuple(records),
        drawn=drawn,
        interval=mean_interval(correct, counted, block, drawn=drawn),
    )


def compare(first: Row, second: Row) -> Comparison | None:
    """Two rows on the same seeds and samples; None where these differ.

    The interval of the difference draws the same seeds and samples for both.
    """
    if first.seeds != second.seeds or first.drawn is None or second.drawn is None:
        return None
    both = outcomes([*first.records, *second.records])
    if both is None:
        return None
    correct, counted = both
    ours, theirs = correct[: len(first.seeds)], correct[len(first.seeds) :]
    return _paired(second.label, ours, theirs, counted, first.drawn - second.drawn)


def loss(row: Row) -> Comparison | None:
    """A row under attack against itself without, on the samples that count."""
    found = outcomes(row.records)
    if found is None or row.drawn is None:
        return None
    attacked, counted = found
    kept = [r.outcomes for r in row.records if r.outcomes is not None]
    clean = np.array([o.clean for o in kept]) == np.array(kept[0].labels)
    block = block_length(len(counted), time_series=row.records[0].time_series)
    drawn = row.drawn - replicates(clean, counted, block)
    return _paired("itself without attack", attacked, clean, counted, drawn)


def _paired(
    other: str, ours: Booleans, theirs: Booleans, counted: Booleans, drawn: Floats
) -> Comparison:
    """Two `(seeds, n)` outcomes; `drawn` holds the difference of their replicates."""
    low, high = difference_interval(ours, theirs, counted, drawn)
    ours, theirs = ours[:, counted], theirs[:, counted]
    tables = [
        (int((a & ~b).sum()), int((b & ~a).sum()))
        for a, b in zip(ours, theirs, strict=True)
    ]
    return Comparison(
        other=other,
        difference=float(ours.mean() - theirs.mean()),
        low=low,
        high=high,
        p=mcnemar_over_seeds(tables),
        seed_p=tuple(mcnemar(*table) for table in tables),
    )


def ranked(rows: Sequence[Row]) -> tuple[Row, ...]:
    """Rows by accuracy under attack, each compared with the best other.

    Every row is compared with the best row that uses no oracle information, the best itself
    with the runner-up. Holm's adjustment counts each pair once. `tied` are rows whose
    interval of the difference to the best holds 0; a defense with oracle information is
    compared but never best.
    """
    order = sorted(
        rows,
        key=lambda row: (row.accuracy is None, -(row.accuracy or 0.0), row.label),
    )
    fair = [row for row in order if row.accuracy is not None and not row.oracle]
    if not fair:
        return tuple(order)
    best = fair[0]
    pairs = {
        row.label: found
        for row in order
        if row is not best and (found := compare(row, best)) is not None
    }
    adjusted = dict(
        zip(pairs, holm([found.p for found in pairs.values()]), strict=True)
    )
    compared = []
    for row in order:
        if row is best:
            second = fair[1] if len(fair) > 1 else None
            versus = compare(best, second) if second is not None else None
            if second is not None and versus is not None:
                versus = replace(versus, p=adjusted[second.label])
            row = replace(row, versus=versus, best="best")
        elif row.label in pairs:
            versus = replace(pairs[row.label], p=adjusted[row.label])
            tied = versus.low <= 0 <= versus.high and not row.oracle
            row = replace(row, versus=versus, best="tied" if tied else "")
        compared.append(row)
    return tuple(compared)

"""Intervals, ranks and paired differences of the rows of a board, drawn together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ..bootstrap import (
    REPLICATES,
    Booleans,
    Floats,
    difference_interval,
    mean_interval,
    replicates,
    sample_weights,
)
from ..statistics import holm, mcnemar_over_seeds
from .model import Versus

#: Replicates drawn at a time: bounds the memory of many rows.
_CHUNK = 1000
#: Half of what a 95 % interval leaves out.
_TAIL = 0.025

Wholes = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Drawn:
    """Replicates of several rows, which share seeds and samples.

    Args:
        correct: `(rows, seeds, n)` outcomes.
        counted: `(n,)` samples that count.
        sums: `(rows, 10000)` right outcomes in each replicate: whole numbers, so that ties
            are exact.
        totals: `(10000,)` outcomes in each replicate.
    """

    correct: Booleans
    counted: Booleans
    sums: Wholes
    totals: Floats

    def shares(self, row: int) -> Floats:
        """`(10000,)` resampled means of a row, as `bootstrap.replicates` finds them."""
        found: Floats = self.sums[row] / self.totals
        return found

    def interval(self, row: int) -> tuple[float, float]:
        """95 % interval of a row's mean."""
        return mean_interval(self.correct[row], self.counted, drawn=self.shares(row))


def draw(correct: Booleans, counted: Booleans, block: int = 1) -> Drawn:
    """Resample seeds and samples once for all rows; see `bootstrap.replicates`.

    Args:
        correct: `(rows, seeds, n)` outcomes.
        counted: `(n,)` samples that count, at least one.
        block: how many neighbouring samples are drawn together.
    """
    rows, seeds, n = correct.shape
    of_seed = _seed_counts(seeds)
    weights = sample_weights(n, block)
    # Sums of whole numbers below 2^24: exact in single precision, in any order.
    columns = np.ascontiguousarray((correct & counted).transpose(1, 2, 0), np.float32)
    sums = np.zeros((rows, REPLICATES), dtype=np.float32)
    totals = weights @ counted.astype(np.float64)
    for start in range(0, REPLICATES, _CHUNK):
        part = slice(start, start + _CHUNK)
        drawn = weights[part].astype(np.float32)
        empty = totals[part] == 0
        drawn[empty] = 1.0
        found = np.zeros((len(drawn), rows), dtype=np.float32)
        for seed in range(seeds):
            found += of_seed[part, seed, None] * (drawn @ columns[seed])
        sums[:, part] = found.T
    totals[totals == 0] = counted.sum()
    return Drawn(correct, counted, sums, totals * of_seed[0].sum())


@lru_cache(maxsize=4)
def _seed_counts(seeds: int) -> Wholes:
    """`(10000, seeds)` how often each replicate draws each seed."""
    one = np.ones(1, dtype=bool)
    drawn = [
        replicates((np.arange(seeds) == seed)[:, None], one) for seed in range(seeds)
    ]
    found: Wholes = np.rint(np.stack(drawn, 1) * max(1, seeds - 1)).astype(np.float32)
    return found


def rank_intervals(sums: Wholes) -> list[tuple[int, int]]:
    """95 % interval of each row's rank, 1 the best.

    In each replicate a row's low rank counts the rows strictly better, its high rank those
    at least as good. The interval ends at the order statistics that leave at most 2.5 % of
    low ranks below it and of high ranks above.

    Args:
        sums: `(rows, replicates)` of rows that were drawn together.
    """
    rows, count = sums.shape
    low = np.empty((rows, count), dtype=np.int32)
    high = np.empty_like(low)
    for start in range(0, count, _CHUNK):
        part = slice(start, start + _CHUNK)
        low[:, part], high[:, part] = _ranks(-sums[:, part].T)
    cut = int(_TAIL * count)
    best = np.partition(low, cut, axis=1)[:, cut]
    worst = np.partition(high, count - 1 - cut, axis=1)[:, count - 1 - cut]
    return [(int(a), int(b)) for a, b in zip(best, worst, strict=True)]


def _ranks(values: Wholes) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """`(rows, replicates)` low and high ranks of `(replicates, rows)`, smallest first."""
    order = np.argsort(values, axis=1)
    ordered = np.take_along_axis(values, order, axis=1)
    rows = values.shape[1]
    place = np.arange(rows, dtype=np.int32)
    begins = np.ones(values.shape, dtype=bool)
    begins[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    first = np.maximum.accumulate(np.where(begins, place, 0), axis=1)
    ends = np.ones_like(begins)
    ends[:, :-1] = begins[:, 1:]
    last = np.where(ends, place, rows)[:, ::-1]
    last = np.minimum.accumulate(last, axis=1)[:, ::-1]
    low, high = np.empty_like(first), np.empty_like(first)
    np.put_along_axis(low, order, first + 1, axis=1)
    np.put_along_axis(high, order, last + 1, axis=1)
    return low.T, high.T


def comparisons(
    drawn: Drawn, rows: Sequence[int], labels: Sequence[str]
) -> list[Versus | None]:
    """Each row against the first, and the first against the second; p adjusted by Holm.

    Args:
        drawn: replicates of all rows.
        rows: rows of `drawn` in the order they are shown, the best first.
        labels: their names.
    """
    if len(rows) < 2:
        return [None] * len(rows)
    best = rows[0]
    found = [_versus(drawn, row, best, labels[0]) for row in rows[1:]]
    adjusted = holm([versus.p for versus in found])
    others = [_adjusted(v, p) for v, p in zip(found, adjusted, strict=True)]
    own = _versus(drawn, best, rows[1], labels[1])
    return [_adjusted(own, adjusted[0]), *others]


def _versus(drawn: Drawn, first: int, second: int, other: str) -> Versus:
    counted = drawn.counted
    ours, theirs = drawn.correct[first], drawn.correct[second]
    gap = (drawn.sums[first] - drawn.sums[second]) / drawn.totals
    low, high = difference_interval(ours, theirs, counted, gap)
    ours, theirs = ours[:, counted], theirs[:, counted]
    wins, losses = (ours & ~theirs).sum(axis=1), (theirs & ~ours).sum(axis=1)
    tables = [(int(a), int(b)) for a, b in zip(wins, losses, strict=True)]
    difference = sum(a - b for a, b in tables) / ours.size
    return Versus(
        other=other,
        difference=difference,
        low=low,
        high=high,
        p=mcnemar_over_seeds(tables),
    )


def _adjusted(versus: Versus, p: float) -> Versus:
    return Versus(
        other=versus.other,
        difference=versus.difference,
        low=versus.low,
        high=versus.high,
        p=p,
    )

"""Two runs cell by cell: what got better or worse, with paired statistics; no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Literal

import msgspec
import numpy as np

from .._errors import UsageError
from ..bootstrap import Booleans, block_length, difference_interval, replicates
from ..statistics import holm, mcnemar_over_seeds
from .pairing import Pair, Place, around, paired
from .record import CellRecord, Outcomes

#: Family-wise chance of calling an unchanged accuracy changed.
LEVEL = 0.05


class _Base(msgspec.Struct, frozen=True, kw_only=True):
    """Immutable, keyword-only."""


class Change(_Base, frozen=True, kw_only=True):
    """Accuracies of one defense in both runs, in shares, over the seeds both have."""

    dataset: str
    embedding: str
    defense: str
    attack: str
    """Empty for the accuracy without attack."""
    seeds: list[int]
    n: int = 0
    """Test samples that count, which all seeds share."""
    before: float | None = None
    after: float | None = None
    difference: float | None = None
    """After minus before."""
    low: float | None = None
    high: float | None = None
    """95 % interval of the difference, from the same seeds and samples in both."""
    p: float | None = None
    """Exact McNemar, the largest over seeds, adjusted by Holm for all rows."""
    differing: int = 0
    """Decisions that differ, over all seeds."""
    trouble: str = ""
    """Why there is no number."""

    @property
    def verdict(self) -> str:
        """`worse`, `better`, `same` for equal decisions, or `unsure`."""
        if self.p is None or self.low is None or self.high is None:
            return ""
        if self.p < LEVEL and self.high < 0:
            return "worse"
        if self.p < LEVEL and self.low > 0:
            return "better"
        return "unsure" if self.differing else "same"


class Ended(_Base, frozen=True, kw_only=True):
    """A cell that ended otherwise than before."""

    cell: str
    before: str
    after: str
    reason: str


class RunComparison(_Base, frozen=True, kw_only=True):
    """Two runs, compared."""

    rows: list[Change]
    ended: list[Ended]
    only_before: list[str]
    only_after: list[str]
    surroundings: dict[str, list[str]]
    """What differs around the numbers, such as versions: before and after, by name."""

    @property
    def regressions(self) -> list[str]:
        """Accuracies that are significantly lower, cells that were ok, and cells gone."""
        found = [
            f"{row.defense} {under(row)} on {row.dataset}: {100 * row.before:.1f} % to"
            f" {100 * row.after:.1f} %"
            for row in self.rows
            if row.verdict == "worse"
            and row.before is not None
            and row.after is not None
        ]
        found += [
            f"{one.cell}: {one.before} to {one.after}"
            for one in self.ended
            if one.before == "ok"
        ]
        found += [f"{cell}: gone" for cell in self.only_before]
        return found


def under(row: Change) -> str:
    """The row's condition in words."""
    return f"under {row.attack}" if row.attack else "without attack"


def compare_runs(
    before: Sequence[CellRecord], after: Sequence[CellRecord]
) -> RunComparison:
    """Compare two runs over the cells both have.

    A row with a cell that is not ok has no number: never a mean over what survived.

    Raises:
        UsageError: they are of other protocol versions, data, embeddings or test samples.
        EmptySelectionError: they have no cell in common.
    """
    found = paired(before, after)
    pairs = found.pairs
    rows = [*_rows(pairs)]
    known = [row for row in rows if row.p is not None]
    adjusted = holm([row.p for row in known if row.p is not None])
    p = {id(row): value for row, value in zip(known, adjusted, strict=True)}
    return RunComparison(
        rows=[msgspec.structs.replace(row, p=p.get(id(row))) for row in rows],
        ended=[
            Ended(
                cell=place.title,
                before=pair.before.status,
                after=pair.after.status,
                reason=pair.after.reason or pair.before.reason,
            )
            for place, pair in pairs.items()
            if pair.before.status != pair.after.status
        ],
        only_before=[place.title for place in found.only_before],
        only_after=[place.title for place in found.only_after],
        surroundings=around(pairs.values()),
    )


def _rows(pairs: Mapping[Place, Pair]) -> Iterator[Change]:
    """For each defense of a data set its clean accuracy, then that under each attack."""
    for (dataset, embedding, defense), places in groupby(pairs, key=lambda p: p[:3]):
        by_attack = [
            (attack, {place.seed: pairs[place] for place in group})
            for attack, group in groupby(places, key=lambda place: place.attack)
        ]
        # The same in every cell of a seed, whichever attack it is from.
        clean: dict[int, Pair] = {}
        for _, found in by_attack:
            for seed, pair in found.items():
                if seed not in clean or _trouble(clean[seed]):
                    clean[seed] = pair
        row = Change(
            dataset=dataset, embedding=embedding, defense=defense, attack="", seeds=[]
        )
        yield _measured(row, clean, "clean")
        for attack, found in by_attack:
            first = next(iter(found.values())).before
            if not all(part.agents == "none" for part in first.attack):
                under_it = msgspec.structs.replace(row, attack=attack)
                yield _measured(under_it, found, "attacked")


def _measured(
    row: Change, pairs: Mapping[int, Pair], field: Literal["clean", "attacked"]
) -> Change:
    """A row with its numbers, or why there are none.

    Raises:
        UsageError: the runs or seeds decided other test samples.
    """
    seeds = sorted(pairs)
    row = msgspec.structs.replace(row, seeds=seeds)
    troubles = [text for seed in seeds if (text := _trouble(pairs[seed]))]
    if troubles:
        text = f"{len(troubles)} of {len(seeds)} seeds {troubles[0]}"
        return msgspec.structs.replace(row, trouble=text)
    found = [pairs[seed] for seed in seeds]
    kept = [(_kept(pair.before), _kept(pair.after)) for pair in found]
    labels = kept[0][0].labels
    counted = kept[0][0].counted if field == "attacked" else [True] * len(labels)
    for one in (outcomes for pair in kept for outcomes in pair):
        if one.labels != labels or (field == "attacked" and one.counted != counted):
            raise UsageError(
                f"compare: {row.defense} {under(row)} on {row.dataset}: expected the same"
                f" test samples in both runs and all seeds, got {len(labels)} and"
                f" {len(one.labels)} of them or others; --quick and --limit leave out some"
            )
    counts = np.array(counted, dtype=bool)
    if not counts.any():
        return msgspec.structs.replace(row, trouble="no sample counts")
    sides = zip(*kept, strict=True)
    decided = [np.array([getattr(o, field) for o in side]) for side in sides]
    theirs, ours = (side == np.array(labels) for side in decided)
    low, high = _interval(ours, theirs, counts, found[0].before.time_series)
    tables = [
        (int((a & ~b & counts).sum()), int((b & ~a & counts).sum()))
        for a, b in zip(ours, theirs, strict=True)
    ]
    before, after = float(theirs[:, counts].mean()), float(ours[:, counts].mean())
    return msgspec.structs.replace(
        row,
        n=int(counts.sum()),
        before=before,
        after=after,
        difference=after - before,
        low=low,
        high=high,
        p=mcnemar_over_seeds(tables),
        differing=int((decided[0] != decided[1]).sum()),
    )


def _interval(
    ours: Booleans, theirs: Booleans, counted: Booleans, time_series: bool
) -> tuple[float, float]:
    if (ours == theirs)[:, counted].all():
        return difference_interval(ours, theirs, counted, np.zeros(1))
    block = block_length(len(counted), time_series=time_series)
    drawn = replicates(ours, counted, block) - replicates(theirs, counted, block)
    return difference_interval(ours, theirs, counted, drawn)


def _trouble(pair: Pair) -> str:
    """Why a pair has no numbers; empty if it has."""
    for when, record in zip(("before", "after"), pair, strict=True):
        if record.status != "ok" or record.outcomes is None:
            return f"{record.status} {when}"
    return ""


def _kept(record: CellRecord) -> Outcomes:
    assert record.outcomes is not None
    return record.outcomes

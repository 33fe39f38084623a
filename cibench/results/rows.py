"""Rows of a run's tables as numbers: one per defense, data set and attack."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..statistics import mean, wilson_interval
from .record import CellRecord, Metrics

if TYPE_CHECKING:
    from ..bootstrap import Booleans


@dataclass(frozen=True)
class Row:
    """One defense in one scenario, over its seeds; accuracies are shares.

    Args:
        defense: spec of the defense.
        records: newest record of each seed, sorted by seed.
    """

    defense: str
    records: tuple[CellRecord, ...]

    @property
    def bad(self) -> list[CellRecord]:
        """Records without a number: a row that has one has none."""
        return [record for record in self.records if record.status != "ok"]

    def shares(self, name: str) -> list[float]:
        """A proportion of the metrics, such as `attacked`, by seed."""
        return [getattr(m, name).value for m in self._metrics]

    @property
    def samples(self) -> int:
        """Samples under attack in each seed; the fewest, where they differ."""
        return min((m.attacked.n for m in self._metrics), default=0)

    @property
    def majority(self) -> float:
        """Share of the largest class."""
        return self._metrics[0].majority_share

    @property
    def recovery_error(self) -> float | None:
        """Mean over the seeds; None where the defense does not purify."""
        errors = [m.recovery_error for m in self._metrics]
        found = [error for error in errors if error is not None]
        return mean(found) if found and len(found) == len(errors) else None

    @property
    def milliseconds(self) -> float:
        """Mean time of a decision."""
        timings = [r.timings for r in self.records if r.timings is not None]
        return mean([timing.milliseconds_per_sample for timing in timings])

    @property
    def flags(self) -> list[str]:
        """Flags of any seed, sorted."""
        return sorted({flag for record in self.records for flag in record.flags})

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the accuracy under attack."""
        return interval(self.records)

    @property
    def _metrics(self) -> list[Metrics]:
        return [r.metrics for r in self.records if r.metrics is not None]


def rows(records: Iterable[CellRecord]) -> list[Row]:
    """A row per defense, of records that may share a table; sorted."""
    by_defense: dict[str, list[CellRecord]] = {}
    for record in newest(records):
        by_defense.setdefault(record.defense.spec, []).append(record)
    return [Row(spec, tuple(found)) for spec, found in by_defense.items()]


def newest(records: Iterable[CellRecord]) -> list[CellRecord]:
    """The newest record of each defense and seed, sorted by both."""
    found: dict[tuple[str, int], CellRecord] = {}
    for record in sorted(records, key=lambda record: record.created):
        found[record.defense.spec, record.seed] = record
    return [found[key] for key in sorted(found)]


def outcomes(records: Sequence[CellRecord]) -> tuple[Booleans, Booleans] | None:
    """`(seeds, n)` correct under attack and `(n,)` counted; None where samples differ.

    Only seeds that decided the same samples can be crossed with them; a quick run beside a
    full one did not.
    """
    import numpy as np

    found = [record.outcomes for record in records if record.outcomes is not None]
    same = {(tuple(o.labels), tuple(o.counted)) for o in found}
    if len(same) != 1 or len(found) != len(records) or not any(found[0].counted):
        return None
    correct = np.array([o.attacked for o in found]) == np.array(found[0].labels)
    return correct, np.array(found[0].counted, dtype=bool)


def interval(records: Sequence[CellRecord]) -> tuple[float, float]:
    """95 % interval of the accuracy under attack of one defense, records one per seed."""
    from ..bootstrap import block_length, mean_interval

    found = outcomes(records)
    if found is None:
        shares = [r.metrics.attacked for r in records if r.metrics is not None]
        return wilson_interval(
            mean([share.value for share in shares]),
            max(1, min(share.n for share in shares)),
        )
    correct, counted = found
    block = block_length(len(counted), time_series=records[0].time_series)
    return mean_interval(correct, counted, block)

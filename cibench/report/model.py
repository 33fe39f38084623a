"""What a report holds, before it is rendered: numbers as numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import compress
from typing import TYPE_CHECKING

from ..results import CellRecord, Metrics
from ..statistics import deviation, mean

if TYPE_CHECKING:
    from ..bootstrap import Floats
    from ..study import Axis, Published
    from .claims import Verdict


@dataclass(frozen=True)
class Comparison:
    """One defense against another on the same seeds and samples; shares, not percent."""

    other: str
    difference: float
    low: float
    high: float
    p: float
    """McNemar's exact p over all seeds; in a table, adjusted by Holm."""
    seed_p: tuple[float, ...]
    """McNemar's exact p of each seed, not adjusted."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One defense in one scenario."""

    label: str
    spec: str
    published: Published | None = None
    trouble: str = ""
    """Why there is no number, in a few words; empty if every seed is done."""
    reasons: tuple[str, ...] = ()
    records: tuple[CellRecord, ...] = ()
    """One per seed, sorted; empty where there is trouble."""
    interval: tuple[float, float] | None = None
    drawn: Floats | None = field(default=None, compare=False, repr=False)
    """Replicates of the bootstrap; None where samples differ between seeds."""
    versus: Comparison | None = None
    """Against the best other defense that uses no oracle information."""
    best: str = ""
    """`best`, `tied` with the best, or empty."""

    @property
    def metrics(self) -> tuple[Metrics, ...]:
        """Metrics by seed."""
        return tuple(r.metrics for r in self.records if r.metrics is not None)

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds the row is the mean of."""
        return tuple(record.seed for record in self.records)

    @property
    def values(self) -> tuple[float, ...]:
        """Accuracy under attack by seed."""
        return tuple(m.attacked.value for m in self.metrics)

    @property
    def accuracy(self) -> float | None:
        """Mean accuracy under attack; None where there is trouble."""
        return mean(self.values) if self.values else None

    @property
    def spread(self) -> float | None:
        """Deviation over seeds; None for fewer than two."""
        return deviation(self.values)

    @property
    def clean(self) -> tuple[float, ...]:
        """Accuracy without attack by seed."""
        return tuple(m.clean.value for m in self.metrics)

    @property
    def balanced(self) -> tuple[float, ...]:
        """Balanced accuracy under attack by seed; empty where it is not defined."""
        found = [m.balanced_attacked for m in self.metrics]
        kept = tuple(value for value in found if value is not None)
        return kept if len(kept) == len(found) else ()

    @property
    def success(self) -> tuple[int, int] | None:
        """The adversary's successes and what they are counted among, over all seeds."""
        rates = [m.success_rate for m in self.metrics]
        if not rates:
            return None
        return sum(rate.successes for rate in rates), sum(rate.n for rate in rates)

    @property
    def flags(self) -> tuple[str, ...]:
        """Flags of any seed, sorted."""
        return tuple(sorted({flag for record in self.records for flag in record.flags}))

    @property
    def oracle(self) -> bool:
        """Whether the defense is told which agents are corrupted."""
        return "oracle-information" in self.flags


def counted_majority(rows: Sequence[Row]) -> float | None:
    """What always answering the largest class scores under attack.

    Only samples that count are asked: those of a targeted attack's own class may not.
    """
    for outcomes in (record.outcomes for row in rows for record in row.records):
        if outcomes is not None and any(outcomes.counted):
            kept = compress(outcomes.labels, outcomes.counted)
            return max(Counter(kept).values()) / sum(outcomes.counted)
    return None


def prior(rows: Sequence[Row]) -> str:
    """The share of the largest class in percent, where it differs also without attack."""
    shares = [m.majority_share for row in rows for m in row.metrics]
    counted = counted_majority(rows)
    if not shares or counted is None:
        return "unknown"
    text = f"{100 * counted:.1f} %"
    if abs(counted - shares[0]) > 5e-4:
        text += f" under attack, {100 * shares[0]:.1f} % without"
    return text


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One scenario on one data set, under one protocol where there is a study."""

    protocol: str = ""
    """Of a study; otherwise what tells a panel from others of its data and attack."""
    dataset: str
    dataset_name: str
    scenario: str
    attack: str
    x: float | None = None
    rows: tuple[Row, ...]
    """Most accurate under attack first; those without a number last."""
    notes: tuple[str, ...] = ()

    @property
    def place(self) -> str:
        """Protocol and data set."""
        return " · ".join(filter(None, (self.protocol, self.dataset)))

    @property
    def title(self) -> str:
        """Protocol, data set and scenario."""
        return f"{self.place} · {self.scenario}"

    @property
    def done(self) -> tuple[Row, ...]:
        """Rows with a number."""
        return tuple(row for row in self.rows if row.accuracy is not None)

    @property
    def majority(self) -> float | None:
        """Share of the largest class among the samples that count under attack."""
        return counted_majority(self.done)


@dataclass(frozen=True, kw_only=True)
class Report:
    """A finished run, ready to be rendered."""

    title: str
    description: str = ""
    source: str = ""
    study: bool
    protocols: tuple[tuple[str, str], ...] = ()
    """Names and descriptions of those that were run."""
    panels: tuple[Panel, ...]
    verdicts: tuple[Verdict, ...] = ()
    notes: tuple[str, ...] = ()
    """What was not run, and what was left out."""
    reading: tuple[str, ...] = ()
    """How to read the tables, said once."""
    axis: Axis | None = None

"""What is told of a finished cell: little, so that a grid of any size fits into memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import msgspec

from ..results import CellRecord, Proportion

Source = Literal["computed", "cache", "folder"]


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A finished cell in brief; the whole record lies in the run's folder.

    Args:
        title: the cell in one line.
        cell: the record's id.
        accuracy: under attack, from 0 to 1; None where there is none.
        source: where the record is from: this run, the cache or the run's own folder.
        seconds: the cell took, when it was computed.
        log: path of what it printed, relative to the run's folder.
    """

    title: str
    cell: str
    key: str
    status: str
    reason: str
    accuracy: float | None
    source: Source
    seconds: float
    flags: tuple[str, ...]
    log: str

    @property
    def failed(self) -> bool:
        """Whether something went wrong, rather than the cell being left out."""
        return self.status not in ("ok", "skipped")


class _Metrics(msgspec.Struct):
    attacked: Proportion


class Head(msgspec.Struct):
    """The part of a record that says how its cell ended; decoding it is quick."""

    cell: str
    key: str
    status: str
    reason: str = ""
    log: str = ""
    seconds: float = 0.0
    metrics: _Metrics | None = None
    flags: tuple[str, ...] = ()

    def finished(self, title: str, source: Source) -> Finished:
        """The finished cell."""
        return _finished(self, title, source)


def read_head(content: bytes) -> Head:
    """The head of an encoded record.

    Raises:
        msgspec.ValidationError, msgspec.DecodeError: it is not one.
    """
    return msgspec.json.decode(content, type=Head)


def finished_of(record: CellRecord, title: str, source: Source) -> Finished:
    """A record in brief."""
    return _finished(record, title, source)


def _finished(found: Head | CellRecord, title: str, source: Source) -> Finished:
    metrics = found.metrics
    return Finished(
        title=title,
        cell=found.cell,
        key=found.key,
        status=found.status,
        reason=found.reason,
        accuracy=None if metrics is None else metrics.attacked.value,
        source=source,
        seconds=found.seconds,
        flags=tuple(found.flags),
        log=found.log,
    )

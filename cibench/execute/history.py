"""How long work took and how much memory: what estimates of future runs rest on; no torch.

Means are kept by what the work was: its plugins with their options and how they were run,
and coarser, so that work never done before has an estimate that says what it is a mean of.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from .._errors import OutputError
from ..grid import Cell
from ..results.folder import write_atomically
from .settings import Settings
from .task import Answer, Kind

#: Files of past runs that are kept and read.
KEPT = 200
#: Entries of a run's file up to which options are told apart.
DETAILED = 2000

#: What an estimate is the mean of: the same plugins with the same options, run the same
#: way; the same plugins; those on all data sets; the defense; the attack; the data set; all
#: work of the kind.
Basis = Literal["same", "options", "datasets", "defense", "attack", "dataset", "any"]
#: Kind, names of data set, attack and defense, and the hash of details.
_Place = tuple[str, str, str, str, str]


class Past(msgspec.Struct):
    """Work of one kind, on one data set, with one attack and defense, by name.

    Args:
        exact: hash of the options and of how it was run; empty where those vary.
        n: how often it was done.
        seconds: that all of it took together.
        peak_memory: bytes resident at most; 0 where it was not measured.
    """

    kind: str
    dataset: str
    attack: str
    defense: str
    exact: str = ""
    n: int = 0
    seconds: float = 0.0
    peak_memory: int = 0


class Estimate(NamedTuple):
    """What one piece of work takes, as far as earlier work tells.

    Args:
        seconds: mean wall time.
        peak_memory: bytes resident at most; 0 where it was never measured.
        basis: what it is the mean of.
    """

    seconds: float
    peak_memory: int
    basis: Basis


class History:
    """Collects the work of a run, and reads that of earlier ones.

    Args:
        settings: of the run; work with other settings counts as similar at best.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self._settings = settings or Settings()
        self._past: dict[tuple[str, ...], Past] = {}
        self._index: dict[tuple[str, ...], Past] | None = None
        self._estimates: dict[tuple[object, ...], Estimate | None] = {}
        self._used: list[Cell] = []  # so that no identity is used twice

    def add(self, kind: Kind, cell: Cell, answer: Answer) -> None:
        """Take in finished work; what failed says nothing of what success takes."""
        if answer.status == "ok":
            memory = answer.peak_memory or 0
            self._take(
                Past(
                    *self._place(kind, cell),
                    n=1,
                    seconds=answer.seconds,
                    peak_memory=memory,
                )
            )

    def write(self, cache: Path | None, run: str) -> None:
        """Keep the run's work in a file of its own; the oldest of many files go."""
        if cache is None or not self._past:
            return
        folder = cache / "history"
        content = msgspec.json.encode(list(self._brief()))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(folder / f"{time.time_ns():020}-{run}.json", content)
            for old in sorted(folder.glob("*.json"))[:-KEPT]:
                old.unlink(missing_ok=True)
        except (OSError, OutputError):
            return  # estimates are a comfort; a full disk has been warned of already

    @classmethod
    def read(cls, cache: Path, settings: Settings | None = None) -> History:
        """The work of earlier runs; files that cannot be read are passed over."""
        found = cls(settings)
        for path in sorted((cache / "history").glob("*.json"))[-KEPT:]:
            try:
                past = msgspec.json.decode(path.read_bytes(), type=list[Past])
            except (OSError, msgspec.DecodeError, msgspec.ValidationError):
                continue
            for one in past:
                found._take(one)
        return found

    def estimate(self, kind: Kind, cell: Cell) -> Estimate | None:
        """The mean of the work that is nearest to this; None if none was ever done."""
        same = _same(kind, cell)
        if same not in self._estimates:
            self._used.append(cell)
            self._estimates[same] = self._nearest(self._place(kind, cell))
        return self._estimates[same]

    def _nearest(self, place: _Place) -> Estimate | None:
        if self._index is None:
            self._index = _indexed(self._past.values())
        for basis, key in _levels(place):
            past = self._index.get(key)
            if past is not None:
                return Estimate(past.seconds / past.n, past.peak_memory, basis)
        return None

    def _place(self, kind: Kind, cell: Cell) -> _Place:
        """Kind and plugins that matter for how long work takes, and the hash of details."""
        attacked, defended = _matters(kind)
        details = [
            cell.dataset.spec,
            cell.embedding,
            cell.attack_spec if attacked else "",
            cell.defense.spec if defended else "",
            self._settings.device_class,
            self._settings.threads,
            self._settings.samples if kind == "evaluate" else None,
        ]
        return (
            kind,
            cell.dataset.entry.name,
            "+".join(part.entry.name for part in cell.attack) if attacked else "",
            cell.defense.entry.name if defended else "",
            hashlib.sha256(json.dumps(details).encode()).hexdigest()[:16],
        )

    def _brief(self) -> Iterator[Past]:
        """What is written: without details where there are too many of them."""
        if len(self._past) <= DETAILED:
            return iter(self._past.values())
        coarse: dict[tuple[str, ...], Past] = {}
        for past in self._past.values():
            names = past.kind, past.dataset, past.attack, past.defense
            _add(coarse, names, past)
        return iter(coarse.values())

    def _take(self, one: Past) -> None:
        if one.n > 0:
            place = one.kind, one.dataset, one.attack, one.defense, one.exact
            _add(self._past, place, one)
            self._index = None
            self._estimates.clear()

    def __iter__(self) -> Iterator[Past]:
        return iter(self._past.values())


def _matters(kind: Kind) -> tuple[bool, bool]:
    """Whether the attack and whether the defense have a part in work of a kind."""
    return kind in ("refer", "evaluate"), kind in ("fit", "evaluate")


def _same(kind: Kind, cell: Cell) -> tuple[object, ...]:
    """What cells have in common whose estimates are the same, quickly told."""
    attacked, defended = _matters(kind)
    return (
        kind,
        cell.embedding,
        id(cell.dataset),
        id(cell.attack) if attacked else 0,
        id(cell.defense) if defended else 0,
    )


def _levels(
    place: _Place,
) -> Iterator[tuple[Basis, tuple[str, ...]]]:
    """Where work is found in the index, the nearest first."""
    kind, dataset, attack, defense, _ = place
    yield "same", place
    yield "options", (kind, dataset, attack, defense)
    yield "datasets", (kind, "*", attack, defense)
    if defense:
        yield "defense", (kind, "*", "*", defense)
    if attack:
        yield "attack", (kind, "*", attack, "*")
    yield "dataset", (kind, dataset, "*", "*")
    yield "any", (kind, "*", "*", "*")


def _indexed(past: Iterable[Past]) -> dict[tuple[str, ...], Past]:
    """Sums of all work that is found under the same place."""
    sums: dict[tuple[str, ...], Past] = {}
    for one in past:
        place = one.kind, one.dataset, one.attack, one.defense, one.exact
        for _, key in _levels(place):
            if key != place or one.exact:
                _add(sums, key, one)
    return sums


def _add(sums: dict[tuple[str, ...], Past], place: tuple[str, ...], one: Past) -> None:
    exact = one.exact if place[4:] else ""
    names = one.kind, one.dataset, one.attack, one.defense, exact
    kept = sums.setdefault(place, Past(*names))
    kept.n += one.n
    kept.seconds += one.seconds
    kept.peak_memory = max(kept.peak_memory, one.peak_memory)

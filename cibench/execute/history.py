"""How long work took and how much memory: what estimates of future runs rest on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from .._errors import OutputError
from ..grid import Cell
from ..results.folder import write_atomically
from .task import Answer, Kind

#: Files of past runs that are kept and read.
KEPT = 200


class Past(msgspec.Struct):
    """Work of one kind, on one data set, with one attack and defense."""

    kind: str
    dataset: str
    attack: str
    defense: str
    n: int = 0
    seconds: float = 0.0
    peak_memory: int = 0


class History:
    """Collects the work of a run, and reads that of earlier ones."""

    def __init__(self) -> None:
        self._past: dict[tuple[str, str, str, str], Past] = {}

    def add(self, kind: Kind, cell: Cell, answer: Answer) -> None:
        """Take in finished work; what failed says nothing of what success takes."""
        if answer.status == "ok":
            self._take(
                Past(
                    *names(kind, cell),
                    n=1,
                    seconds=answer.seconds,
                    peak_memory=answer.peak_memory or 0,
                )
            )

    def write(self, cache: Path | None, run: str) -> None:
        """Keep the run's work in a file of its own."""
        if cache is None or not self._past:
            return
        folder = cache / "history"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(
                folder / f"{run}.json", msgspec.json.encode(list(self._past.values()))
            )
            for old in sorted(folder.glob("*.json"))[:-KEPT]:
                old.unlink(missing_ok=True)
        except (OSError, OutputError):
            return  # estimates are a comfort; a full disk has been warned of already

    @classmethod
    def read(cls, cache: Path) -> History:
        """The work of earlier runs."""
        found = cls()
        for path in sorted((cache / "history").glob("*.json"))[-KEPT:]:
            try:
                past = msgspec.json.decode(path.read_bytes(), type=list[Past])
            except (OSError, msgspec.DecodeError, msgspec.ValidationError):
                continue
            for one in past:
                found._take(one)
        return found

    def estimate(self, kind: Kind, cell: Cell) -> Past | None:
        """Mean work of the nearest kind that was ever done; None if there was none.

        Nearest: the same plugins, then the same defense and attack, then the same defense,
        then the same data set, then any.
        """
        _, dataset, attack, defense = names(kind, cell)
        for wanted in (
            (dataset, attack, defense),
            (None, attack, defense),
            (None, None, defense),
            (dataset, None, None),
            (None, None, None),
        ):
            found = self._mean(kind, *wanted)
            if found is not None:
                return found
        return None

    def _mean(
        self, kind: str, dataset: str | None, attack: str | None, defense: str | None
    ) -> Past | None:
        place = kind, dataset or "*", attack or "*", defense or "*"
        if not hasattr(self, "_means"):
            self._means: dict[tuple[str, str, str, str], Past | None] = {}
        if place not in self._means:
            matching = [
                past
                for past in self._past.values()
                if past.kind == kind
                and dataset in (None, past.dataset)
                and attack in (None, past.attack)
                and defense in (None, past.defense)
            ]
            n = sum(past.n for past in matching)
            self._means[place] = (
                Past(
                    *place,
                    n=n,
                    seconds=sum(past.seconds for past in matching) / n,
                    peak_memory=max(past.peak_memory for past in matching),
                )
                if n
                else None
            )
        return self._means[place]

    def _take(self, one: Past) -> None:
        place = one.kind, one.dataset, one.attack, one.defense
        kept = self._past.setdefault(place, Past(*place))
        kept.n += one.n
        kept.seconds += one.seconds
        kept.peak_memory = max(kept.peak_memory, one.peak_memory)

    def __iter__(self) -> Iterator[Past]:
        return iter(self._past.values())


def names(kind: Kind, cell: Cell) -> tuple[str, str, str, str]:
    """Kind and plugins that matter for how long work takes."""
    attack = "+".join(part.entry.name for part in cell.attack)
    return (
        kind,
        cell.dataset.entry.name,
        attack if kind in ("refer", "evaluate") else "",
        cell.defense.entry.name if kind in ("fit", "evaluate") else "",
    )

"""Which cells of two runs are the same, and whether the runs may be compared."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from .._errors import EmptySelectionError, UsageError
from .comparison import surroundings
from .record import CellRecord
from .table import attack_spec


class Place(NamedTuple):
    """What two records must share to be compared."""

    dataset: str
    embedding: str
    """Empty unless the runs have several for this data set."""
    defense: str
    attack: str
    seed: int

    @property
    def title(self) -> str:
        """The cell in one line."""
        dataset = " ".join(filter(None, (self.dataset, self.embedding)))
        return f"{dataset} · {self.attack} · {self.defense} · seed {self.seed}"


class Pair(NamedTuple):
    """One cell in both runs."""

    before: CellRecord
    after: CellRecord


class Paired(NamedTuple):
    """Two runs side by side."""

    pairs: dict[Place, Pair]
    """Sorted by place."""
    only_before: list[Place]
    only_after: list[Place]


def paired(before: Sequence[CellRecord], after: Sequence[CellRecord]) -> Paired:
    """Pair the cells of two runs; of several records of one cell the newest is taken.

    Raises:
        UsageError: they are of other protocol versions, data or embeddings.
        EmptySelectionError: they have no cell in common.
    """
    _check(before, after)
    several = _several(before, after)
    ours, theirs = _by_place(before, several), _by_place(after, several)
    common = sorted(ours.keys() & theirs.keys())
    if not common:
        raise EmptySelectionError(
            "compare: expected cells of the same data set, attack, defense and seed in both"
            f" runs, got none among {len(ours)} and {len(theirs)}"
        )
    return Paired(
        pairs={place: Pair(ours[place], theirs[place]) for place in common},
        only_before=sorted(ours.keys() - theirs.keys()),
        only_after=sorted(theirs.keys() - ours.keys()),
    )


def around(pairs: Iterable[Pair]) -> dict[str, list[str]]:
    """What differs around the numbers of some pair: before and after, by name."""
    found: dict[str, tuple[set[str], set[str]]] = {}
    for before, after in pairs:
        for name, old, new in surroundings(
            before,
            inputs=after.inputs,
            environment=after.environment,
            device=after.device,
        ):
            sides = found.setdefault(name, (set(), set()))
            sides[0].add(old)
            sides[1].add(new)
    return {
        name: [_list(sorted(side)) for side in sides]
        for name, sides in sorted(found.items())
    }


def _check(before: Sequence[CellRecord], after: Sequence[CellRecord]) -> None:
    protocols = [sorted({r.protocol for r in run}) for run in (before, after)]
    if protocols[0] and protocols[1] and len({*protocols[0], *protocols[1]}) > 1:
        raise UsageError(
            "compare: expected records of one protocol version, got"
            f" {_list(protocols[0])} and {_list(protocols[1])}; their numbers do not mean"
            " the same: run the older one again"
        )
    data = [_found(run, lambda r: r.fingerprint) for run in (before, after)]
    recipes = [_found(run, _recipe) for run in (before, after)]
    for spec in sorted(data[0].keys() & data[1].keys()):
        if len({*data[0][spec], *data[1][spec]}) > 1:
            shown = [_list(d[:12] for d in sorted(one[spec])) for one in data]
            raise UsageError(
                f"compare: data set {spec}: expected the same data in both runs, got"
                f" {shown[0]} and {shown[1]}; run one of them again with the files of the"
                " other"
            )
        if not recipes[0][spec] & recipes[1][spec]:
            shown = [_list(sorted(one[spec])) for one in recipes]
            raise UsageError(
                f"compare: data set {spec}: expected the same embedding in both runs, got"
                f" {shown[0]} and {shown[1]}; run one of them again with --embedding"
            )


def _found(
    run: Iterable[CellRecord], trait: Callable[[CellRecord], str]
) -> dict[str, set[str]]:
    """A trait of each data set that could be read."""
    found: dict[str, set[str]] = {}
    for record in run:
        if record.fingerprint:
            found.setdefault(record.dataset.spec, set()).add(trait(record))
    return found


def _recipe(record: CellRecord) -> str:
    return ", ".join(f"{k} {v}" for k, v in sorted(record.embedding.items()))


def _list(values: Iterable[object]) -> str:
    return ", ".join(map(str, values))


def _several(*runs: Sequence[CellRecord]) -> set[str]:
    """Data sets that the runs have with several embeddings."""
    found = _found([record for run in runs for record in run], _recipe)
    return {spec for spec, recipes in found.items() if len(recipes) > 1}


def _by_place(
    records: Sequence[CellRecord], several: set[str]
) -> dict[Place, CellRecord]:
    return {
        Place(
            record.dataset.spec,
            _recipe(record) if record.dataset.spec in several else "",
            record.defense.spec,
            attack_spec(record),
            record.seed,
        ): record
        for record in sorted(records, key=lambda record: record.created)
    }

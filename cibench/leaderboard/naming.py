"""Which column of a board a record belongs to."""

from __future__ import annotations

from collections.abc import Sequence, Set

from .._errors import SpecError
from ..results import AttackPart, CellRecord
from ..spec import Spec

#: The distribution whose plugins the suite's specs mean.
OWN = "cibench"
#: The attack of records in which no agent is compromised.
NOBODY = "none"
WITNESS = "witness"


def parsed(text: str) -> Spec:
    """A spec, whatever a record says it is; without options where it is none."""
    try:
        return Spec.parse(text)
    except SpecError:
        return Spec(text)


def without(text: str, *names: str) -> str:
    """A spec without some options."""
    spec = parsed(text)
    return str(Spec(spec.name, tuple(o for o in spec.options if o[0] not in names)))


def columns(records: Sequence[CellRecord], entry: str, suite: Set[str]) -> list[str]:
    """The column of each record of an entry: the canonical spec of its attack.

    What another distribution calls as the suite calls an attack never passes for it. The
    witnesses of an entry, one file for each seed, are one column: together they are one
    attack, unless the entry has several of them for one cell.

    Args:
        suite: canonical specs of the suite's attacks.
    """
    plain = [_spec(record, suite) for record in records]
    joined = [_joined(record, entry) for record in records]
    cells: dict[tuple[object, ...], set[str]] = {}
    for record, own, one in zip(records, joined, plain, strict=True):
        defense = record.defense
        cell = (
            *(own, record.dataset.spec, record.fingerprint, record.device),
            *(defense.spec, defense.distribution, defense.version, record.seed),
        )
        cells.setdefault(cell, set()).add(one)
    several = {cell[0] for cell, specs in cells.items() if len(specs) > 1}
    return [
        own if own and own not in several else one
        for own, one in zip(joined, plain, strict=True)
    ]


def _spec(record: CellRecord, suite: Set[str]) -> str:
    if record.attack and all(part.agents == "none" for part in record.attack):
        return NOBODY
    spec = "+".join(part.component.spec for part in record.attack)
    others = {
        f"{part.component.distribution} {part.component.version}"
        for part in record.attack
        if part.component.distribution != OWN
    }
    return f"{spec} of {', '.join(sorted(others))}" if others else spec


def _joined(record: CellRecord, entry: str) -> str:
    """Of witnesses, the attack without its file; empty for others."""
    if not any(map(_is_witness, record.attack)):
        return ""
    parts = [part.component.spec for part in record.attack]
    return f"{'+'.join(without(spec, 'digest') for spec in parts)} ({entry})"


def _is_witness(part: AttackPart) -> bool:
    return (part.component.name, part.component.distribution) == (WITNESS, OWN)

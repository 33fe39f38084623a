"""What records of one submission say of each other; no torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from ..results.record import CellRecord
from .agents import single_draw


def across_findings(records: Sequence[CellRecord]) -> list[str]:
    """Where records disagree on what they share; a sentence each.

    All records of a data set and seed share labels and undefended decisions; those of a
    scenario what the undefended fusion center and the genie decide, whatever the defense
    (the genie only where all meet the same agents); those of a defense and seed its
    decisions without attack, whatever the attack.
    """
    first: dict[tuple[Any, ...], CellRecord] = {}
    found = list(proof_findings(records))
    for record in records:
        if record.outcomes is None:
            continue
        for key, name in _shared(record):
            other = first.setdefault((*key, name), record)
            ours, theirs = _value(record, name), _value(other, name)
            if other is not record and ours != theirs:
                found.append(
                    f"{record.cell}: {name}: expected the same as in {other.cell}, with"
                    f" which it shares {key[0]}, got {_off(ours, theirs)}"
                )
    return found


def proof_findings(records: Sequence[CellRecord]) -> Iterator[str]:
    """Proofs that an outcome of the same defense contradicts.

    A sample that is decided rightly and certified for as many agents as were compromised
    must withstand every attack, missing agents included.
    """
    proved: dict[tuple[Any, ...], tuple[CellRecord, list[float]]] = {}
    for record in records:
        for one in record.certificates:
            if one.kind == "agents" and one.confidence == 1.0:
                proved[_row(record)] = record, one.radius
    for record in records:
        outcomes = record.outcomes
        source, radii = proved.get(_row(record), (record, []))
        if outcomes is None or source.outcomes is None:
            continue
        broken = sum(
            decided == label != attacked and radius >= bits.bit_count()
            for decided, label, attacked, radius, bits in zip(
                source.outcomes.clean, outcomes.labels, outcomes.attacked, radii,
                outcomes.compromised, strict=False,
            )
        )  # fmt: skip
        if broken:
            yield (
                f"{record.cell}: {broken} samples are broken that {source.cell} certifies"
                " against as many agents"
            )


def _row(record: CellRecord) -> tuple[Any, ...]:
    """A defense, fitted: what a proof is about."""
    where = tuple(
        record.inputs.get(name, "") for name in ("harness", "torch", "threads")
    )
    defense = record.defense
    return (
        *(record.dataset.spec, record.fingerprint, record.device, *where, record.seed),
        *(defense.spec, defense.distribution, defense.version, defense.source),
        msgspec.json.encode(record.embedding, order="sorted"),
    )


def _shared(record: CellRecord) -> Iterator[tuple[tuple[Any, ...], str]]:
    """Names of what a record shares, with what it shares that with."""
    inputs = record.inputs
    data = (
        record.dataset.spec,
        record.fingerprint,
        msgspec.json.encode(record.embedding, order="sorted"),
    )
    where = tuple(inputs.get(name, "") for name in ("harness", "torch", "threads"))
    seeded = (*data, record.device, *where, record.seed)
    attack = "+".join(part.component.spec for part in record.attack)
    source = "+".join(part.component.source for part in record.attack)
    for name in ("agents", "classes", "labels", "personal", "time_series"):
        yield ("a data set", *data), name
    yield ("a data set and seed", *seeded), "clean_undefended"
    scenario = ("a scenario", *seeded, attack, source)
    for name in ("counted", "attacked_undefended"):
        yield scenario, name
    # Agents that are searched for are each defense's own, and the genie is told them.
    own = repr([part.sets for part in record.attack if part.searched])
    yield (*scenario, own), "genie"
    if single_draw(record):
        yield (*scenario, own), "compromised"
    defense = record.defense
    yield ("a defense and seed", *seeded, defense.spec, defense.source), "clean"


def _value(record: CellRecord, name: str) -> Any:
    return getattr(record if hasattr(record, name) else record.outcomes, name)


def _off(ours: Any, theirs: Any) -> str:
    if not isinstance(ours, list) or len(ours) != len(theirs):
        return "another"
    off = sum(a != b for a, b in zip(ours, theirs, strict=True))
    return f"{off} of {len(ours)} that differ"

"""Whether two records of one cell have the same numbers, and what differs around them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import msgspec

from .record import AttackPart, CellRecord, Proportion

#: Lists of outcomes that the data set and the attack give: a share may not differ.
_GIVEN: Final = ("labels", "counted", "compromised")


class Difference(NamedTuple):
    """Something that differs, and what it is in each record, in words."""

    name: str
    old: str
    new: str


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How two records of a cell compare.

    Args:
        differences: of results.
        surroundings: that differ: what the content key is the hash of, versions, device.
        metrics: how many numbers were compared.
        outcomes: how many lists of outcomes were compared.
    """

    differences: list[Difference] = field(default_factory=list)
    surroundings: list[Difference] = field(default_factory=list)
    metrics: int = 0
    outcomes: int = 0

    @property
    def same(self) -> bool:
        """Whether all results are equal."""
        return not self.differences


def numbers(record: CellRecord) -> bytes:
    """What must be byte-equal between runs, wherever and in whichever order.

    Status, key, attack, metrics, outcomes, flags and what the defense says of its fit;
    never a time, a date, a log or the machine.
    """
    kept = {
        "key": record.key,
        "status": record.status,
        "seed": record.seed,
        "attack": [_part(part) for part in record.attack],
        "metrics": record.metrics,
        "outcomes": record.outcomes,
        "flags": record.flags,
        "fitted": record.fitted,
    }
    return msgspec.json.encode(kept, order="sorted")


def compare(old: CellRecord, new: CellRecord, *, tolerance: float = 0.0) -> Comparison:
    """Compare the results of two records of one cell.

    Args:
        old, new: the records; the cell is taken to be the same.
        tolerance: how far a number may be off, as a share of the old one where that is
            above 1. Proportions may differ by it, and of a list of decisions that share;
            what the data set and the attack give, flags and words are compared exactly.
    """
    same = _Rule(tolerance)
    found = [
        Difference(name, before, after)
        for name, before, after in _ends(old, new)
        if before != after
    ]
    metrics = dict(_pairs(old.metrics, new.metrics))
    outcomes = dict(_pairs(old.outcomes, new.outcomes))
    found += [
        Difference(name, _number(before), _number(after))
        for name, (before, after) in metrics.items()
        if not same.value(before, after)
    ]
    for name, (before, after) in outcomes.items():
        found += same.outcomes(name, before, after)
    if old.status == new.status:
        found += same.mapping("fitted", old.fitted, new.fitted)
        for at, (one, other) in enumerate(zip(old.attack, new.attack, strict=False), 1):
            role = f"attack {at}" if len(old.attack) > 1 else "attack"
            found += same.mapping(role, _part(one), _part(other))
    return Comparison(
        differences=found,
        surroundings=surroundings(
            old, inputs=new.inputs, environment=new.environment, device=new.device
        ),
        metrics=len(metrics),
        outcomes=len(outcomes),
    )


def surroundings(
    old: CellRecord,
    *,
    inputs: Mapping[str, str],
    environment: Mapping[str, str],
    device: str,
) -> list[Difference]:
    """What is not as it was when a record was made.

    Args:
        inputs: what the content key is the hash of, by name; none where that is unknown.
        environment: versions and threads.
        device: kind of device.
    """
    found = [] if old.device == device else [Difference("device", old.device, device)]
    for before, after in ((old.inputs, inputs), (old.environment, environment)):
        names = [*before, *(n for n in after if n not in before)] if after else []
        found += [
            Difference(name, before.get(name, ""), after.get(name, ""))
            for name in (names if before else ())
            if before.get(name) != after.get(name)
        ]
    return list({one.name: one for one in found}.values())


@dataclass(frozen=True)
class _Rule:
    """When two values are the same."""

    tolerance: float

    def value(self, old: Any, new: Any) -> bool:
        if isinstance(old, Proportion) and isinstance(new, Proportion):
            if self.tolerance and old.n == new.n:
                return abs(old.value - new.value) <= self.tolerance
            return old == new
        if isinstance(old, list) and isinstance(new, list):
            return len(old) == len(new) and all(map(self.value, old, new))
        if _is_number(old) and _is_number(new):
            return bool(abs(old - new) <= self.tolerance * max(1.0, abs(old)))
        return bool(old == new)

    def outcomes(self, name: str, old: Any, new: Any) -> Iterator[Difference]:
        title = f"outcomes: {name}"
        if old is None or new is None or len(old) != len(new):
            if old != new:
                yield Difference(title, _length(old), _length(new))
            return
        # A decision differs or it does not; a distance may be a little off.
        off = sum(
            not (self.value(a, b) if isinstance(a, float) else a == b)
            for a, b in zip(old, new, strict=True)
        )
        allowed = 0.0 if name in _GIVEN else self.tolerance * len(old)
        if off > allowed:
            yield Difference(title, _length(old), f"{off} of them differ")

    def mapping(
        self, role: str, old: Mapping[str, Any], new: Mapping[str, Any]
    ) -> Iterator[Difference]:
        for name in [*old, *(n for n in new if n not in old)]:
            before, after = old.get(name), new.get(name)
            if isinstance(before, dict) and isinstance(after, dict):
                yield from self.mapping(f"{role}: {name}", before, after)
            elif (name in old) != (name in new) or not self.value(before, after):
                yield Difference(f"{role}: {name}", _number(before), _number(after))


def _ends(old: CellRecord, new: CellRecord) -> Iterator[tuple[str, str, str]]:
    yield "status", old.status, new.status
    if old.status != "ok" or new.status != "ok":
        yield "reason", old.reason, new.reason
    yield "metrics", _presence(old.metrics), _presence(new.metrics)
    yield "outcomes", _presence(old.outcomes), _presence(new.outcomes)
    yield "seed", str(old.seed), str(new.seed)
    yield "flags", ", ".join(old.flags), ", ".join(new.flags)
    yield "attack", _attack(old), _attack(new)


def _presence(part: object) -> str:
    return "none" if part is None else "recorded"


def _attack(record: CellRecord) -> str:
    return " + ".join(part.component.name for part in record.attack)


def _pairs(old: Any, new: Any) -> Iterator[tuple[str, tuple[Any, Any]]]:
    """The fields of two structures that either has; none where one is absent."""
    if old is None or new is None:
        return
    for name in old.__struct_fields__:
        pair = getattr(old, name), getattr(new, name)
        if pair != (None, None):
            yield name, pair


def _part(part: AttackPart) -> dict[str, Any]:
    """A part of an attack without the code it came from."""
    kept = {
        name: getattr(part, name)
        for name in part.__struct_fields__
        if name != "component"
    }
    return {"name": part.component.name, "options": part.component.options, **kept}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number(value: Any) -> str:
    if isinstance(value, Proportion):
        return f"{value.successes} of {value.n}"
    if value is None:
        return "none"
    return repr(value) if isinstance(value, float) else str(value)


def _length(value: list[Any] | None) -> str:
    return "none" if value is None else f"{len(value)} samples"

"""Which board a record belongs to: its data set and its threat model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

from .._errors import SpecError, UsageError
from ..results import CellRecord
from ..spec import Spec
from ..study import Study, StudyScenario, plugin_name
from .entries import LoadedEntry
from .naming import NOBODY, OWN, columns

Age = tuple[int, str, str]
T = TypeVar("T", bound=tuple[Any, ...])


class Place(NamedTuple):
    """What records must share to be compared: data, embedding, protocol, device."""

    dataset: str
    """Canonical spec."""
    fingerprint: str
    protocol: int
    embedding: str
    """The recipe in words."""
    device: str


class Threat(NamedTuple):
    """What an adversary controls, wants and may do."""

    rule: str
    target: str
    bounded: bool
    budget: float
    """0 where nothing bounds what is sent."""


class RowKey(NamedTuple):
    """What makes two records those of one defense."""

    spec: str
    distribution: str
    version: str


@dataclass(frozen=True, eq=False)
class Held:
    """A record and the entry that brought it."""

    record: CellRecord
    entry: LoadedEntry
    attack: str
    """The column it belongs to."""

    @property
    def row(self) -> RowKey:
        """The row it belongs to."""
        found = self.record.defense
        return RowKey(found.spec, found.distribution, found.version)

    @property
    def is_clean(self) -> bool:
        """Whether nobody is compromised."""
        return self.attack == NOBODY


@dataclass(eq=False)
class Group:
    """The records of one board.

    Args:
        attacked: by row, attack and seed.
        clean: those without compromised agents, by row and seed.
        every: all of a row and entry, repeated cells included.
        home: the entry whose cells of the suite a row stands on, by row.
    """

    place: Place
    threat: Threat
    attacked: dict[RowKey, dict[str, dict[int, Held]]] = field(default_factory=dict)
    clean: dict[RowKey, dict[int, Held]] = field(default_factory=dict)
    every: dict[tuple[RowKey, str], list[Held]] = field(default_factory=dict)
    home: dict[RowKey, str] = field(default_factory=dict)

    @cached_property
    def undefended(self) -> list[RowKey]:
        """Rows of the undefended fusion center, of any version, sorted."""
        wanted = "none", OWN
        return sorted({key for key, _ in self.every if key[:2] == wanted})

    @cached_property
    def rows(self) -> list[RowKey]:
        """Every row that met an attack of the board, sorted."""
        return sorted(self.attacked)

    def of(self, row: RowKey) -> list[Held]:
        """All records of a row, sorted by attack and seed."""
        found = [self.clean.get(row, {}), *_values_sorted(self.attacked[row])]
        return [by_seed[seed] for by_seed in found for seed in sorted(by_seed)]


def gather(entries: Sequence[LoadedEntry], suite: Study) -> list[Group]:
    """Records to boards, sorted by place and threat.

    Raises:
        UsageError: two entries have different numbers for one cell of one row.
    """
    specs = {scenario.attack for scenario in suite.scenarios}
    held = []
    for entry in sorted(entries, key=lambda entry: entry.age):
        records = sorted(entry.records, key=lambda r: (r.created, r.key, r.cell))
        named = zip(records, columns(records, entry.name, specs), strict=True)
        held += [Held(record, entry, attack) for record, attack in named]
    places: dict[Place, None] = {}
    for one in held:
        if one.record.fingerprint:
            places[_place(one.record)] = None
    threats = _threats(held)
    found: dict[tuple[Place, Threat], Group] = {}
    clean: dict[Place, Group] = {}
    for one in held:
        for place in _places(one.record, places):
            if one.is_clean:
                nobody = Threat("none", "any", False, 0.0)
                _keep(clean.setdefault(place, Group(place, nobody)), one)
                continue
            threat = threats[one.attack]
            if any(part.agents for part in one.record.attack):
                threat = _threat(one.record)
            group = found.setdefault((place, threat), Group(place, threat))
            _keep(group, one)
    for (place, _), group in found.items():
        if place in clean:
            _share_clean(group, clean[place])
    return [found[key] for key in sorted(found)]


def required(
    group: Group, suite: Study, groups: Iterable[Group]
) -> list[StudyScenario]:
    """The suite's attacks that have the board's threat, in the suite's order."""
    threats: dict[str, list[tuple[Age, Threat]]] = {}
    for other in groups:
        for by_attack in other.attacked.values():
            for attack, by_seed in by_attack.items():
                told = threats.setdefault(attack, [])
                told += [(held.entry.age, other.threat) for held in by_seed.values()]
    found = []
    for scenario in suite.scenarios:
        if scenario.attack == NOBODY or not _applies(scenario, group.place):
            continue
        told = threats.get(scenario.attack, [])
        meant = of_oldest(told) if told else threat_of_text(scenario.attack)
        if meant == group.threat:
            found.append(scenario)
    return found


def asks_clean(group: Group, suite: Study) -> bool:
    """Whether the suite has a scenario without attack on the board's data set."""
    return any(s.attack == NOBODY and _applies(s, group.place) for s in suite.scenarios)


def threat_of_text(attack: str) -> Threat:
    """The threat an attack's spec names, where no record tells it."""
    try:
        parts = [dict(spec.options) for spec in Spec.parse_composition(attack)]
        budgets = [part.get("budget", "none") for part in parts]
        bounds = [
            float(text) for text in budgets if text.lower() not in ("none", "null")
        ]
    except (SpecError, ValueError):
        parts, bounds = [{}], []
    return Threat(
        "+".join(part.get("agents", "last") for part in parts),
        next((part["target"] for part in parts if "target" in part), "any"),
        bool(bounds),
        max(bounds, default=0.0),
    )


def _threat(record: CellRecord) -> Threat:
    sending = [part for part in record.attack if part.corrupts]
    bounds = [part.budget for part in sending if part.budget is not None]
    bounded = bool(sending) and len(bounds) == len(sending)
    targets = [part.target for part in record.attack if part.target != "any"]
    return Threat(
        "+".join(part.agents for part in record.attack),
        targets[0] if targets else "any",
        bounded,
        max(bounds) if bounded else 0.0,
    )


def _threats(held: Sequence[Held]) -> dict[str, Threat]:
    """By attack: for records of cells whose attack could not be looked at."""
    found: dict[str, list[tuple[Age, Threat]]] = {}
    for one in held:
        told = found.setdefault(one.attack, [])
        if any(part.agents for part in one.record.attack):
            told.append((one.entry.age, _threat(one.record)))
    return {
        attack: of_oldest(told) if told else threat_of_text(attack.partition(" of ")[0])
        for attack, told in found.items()
    }


def of_oldest(told: Sequence[tuple[Age, T]]) -> T:
    """What the oldest entry says, by most of its records: later ones have no vote."""
    oldest = min(age for age, _ in told)
    votes = Counter(value for age, value in told if age == oldest)
    return min(votes, key=lambda value: (-votes[value], value))


def _place(record: CellRecord) -> Place:
    recipe = ", ".join(
        f"{name} {value}".replace("_", " ")
        for name, value in sorted(record.embedding.items())
    )
    return Place(
        *(
            record.dataset.spec,
            record.fingerprint,
            record.protocol,
            recipe,
            record.device,
        )
    )


def _places(record: CellRecord, known: Iterable[Place]) -> list[Place]:
    """Where a record belongs; without data, wherever others of its data set do."""
    if record.fingerprint:
        return [_place(record)]
    wanted = record.dataset.spec, record.protocol
    return [place for place in known if (place.dataset, place.protocol) == wanted]


def _applies(scenario: StudyScenario, place: Place) -> bool:
    return scenario.datasets is None or plugin_name(place.dataset) in scenario.datasets


def _keep(group: Group, one: Held) -> None:
    """Add a record; of the same cell the oldest finished one stays."""
    group.every.setdefault((one.row, one.entry.name), []).append(one)
    if one.is_clean:
        by_seed = group.clean.setdefault(one.row, {})
    else:
        by_seed = group.attacked.setdefault(one.row, {}).setdefault(one.attack, {})
    seed = one.record.seed
    known = by_seed.setdefault(seed, one)
    if known is one:
        return
    finished = [h for h in (known, one) if h.record.outcomes is not None]
    if len(finished) == 2 and _numbers(known.record) != _numbers(one.record):
        raise UsageError(
            f"entries {known.entry.name} and {one.entry.name}: expected the same numbers"
            f" for {one.row.spec} ({one.row.distribution} {one.row.version}) under"
            f" {one.attack or 'no attack'} on {group.place.dataset}, seed {seed}, got"
            " different ones; submit your own defenses alone (cibench submit -d), or run"
            " the cell again and keep the entry that agrees"
        )
    by_seed[seed] = (finished or [known])[0]


def _numbers(record: CellRecord) -> tuple[object, ...]:
    """What boards show of a finished cell, times apart."""
    found = record.outcomes
    assert found is not None
    return (
        *(found.labels, found.counted, found.clean, found.attacked, found.compromised),
        record.certificates,
    )


def _share_clean(group: Group, clean: Group) -> None:
    for row in group.attacked:
        if row in clean.clean:
            group.clean[row] = clean.clean[row]
    for (row, entry), held in clean.every.items():
        if row in group.attacked:
            group.every.setdefault((row, entry), []).extend(held)


def _values_sorted(found: dict[str, dict[int, Held]]) -> list[dict[int, Held]]:
    return [found[attack] for attack in sorted(found)]

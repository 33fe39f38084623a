"""Flags that need several cells: what must hold between attacks on one defense.

A row is one defense on one data set and embedding with one seed. Within it a stronger
adversary must not leave more samples standing than a weaker one; where it does, an attack
or a gradient is broken. Pure functions of records; no torch.

Source: the sanity conditions of Athalye, Carlini and Wagner 2018 and Carlini et al. 2019;
control of all agents replaces their unbounded perturbation, because fewer agents may be
truly harmless.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from .results.record import AttackPart, CellRecord

#: Share of the samples by which a weaker adversary must be ahead to count.
AHEAD = 0.01
#: Share of the samples that may survive an adversary who controls all agents.
SURVIVORS = 0.02


def flagged(records: Iterable[CellRecord]) -> list[CellRecord]:
    """The records in their order, with the flags that others of their row raise."""
    given = list(records)
    by_row: dict[str, list[int]] = {}
    for at, record in enumerate(given):
        if record.status == "ok" and record.outcomes is not None:
            by_row.setdefault(_row(record), []).append(at)
    raised: dict[int, set[str]] = {}
    for places in by_row.values():
        own = [given[at] for at in places]
        for check in _CHECKS:
            for at, flag in check(own):
                raised.setdefault(places[at], set()).add(flag)
    return [
        msgspec.structs.replace(record, flags=sorted({*record.flags, *raised[at]}))
        if at in raised
        else record
        for at, record in enumerate(given)
    ]


#: Positions of records of a row, each with a flag they deserve.
_Raised = Iterator[tuple[int, str]]


def _without_attack(row: Sequence[CellRecord]) -> _Raised:
    """With nobody compromised, decisions are those on clean embeddings."""
    for at, record in enumerate(row):
        nobody = all(part.agents == "none" for part in record.attack)
        assert record.outcomes is not None
        if nobody and record.outcomes.attacked != record.outcomes.clean:
            yield at, "changes-without-attack"


def _all_agents(row: Sequence[CellRecord]) -> _Raised:
    """Who controls every agent without a budget decides for the fusion center."""
    for control in row:
        agents = {part.agents for part in control.attack if part.corrupts}
        knows = any(part.knowledge == "adaptive" for part in control.attack)
        if agents != {"all"} or not knows or _bounded(control):
            continue
        # Told that everybody lies, nothing is left to ask: no attack moves that.
        if "oracle-information" in control.flags:
            continue
        metrics = control.metrics
        assert metrics is not None
        if metrics.attacked.value <= SURVIVORS:
            continue
        same = _options(control, "agents")
        for at, other in enumerate(row):
            if _options(other, "agents") == same:
                yield at, "attack-broken"


def _monotone(row: Sequence[CellRecord]) -> _Raised:
    """A larger budget, or more agents, never leave more samples standing."""
    for at, stronger in enumerate(row):
        for weaker in row:
            if not (_follows_gradients(stronger) and _follows_gradients(weaker)):
                continue
            wider = _options(stronger, "budget") == _options(weaker, "budget") and (
                _budget(stronger) > _budget(weaker)
            )
            more = _options(stronger, "agents") == _options(weaker, "agents") and (
                _includes(stronger, weaker)
            )
            if (wider or more) and _ahead([stronger], weaker) > AHEAD:
                yield at, "not-monotone"


def _knowledge(row: Sequence[CellRecord]) -> _Raised:
    """What knows less never breaks samples that no attack with all knowledge breaks."""
    for weaker in row:
        knows = any(part.knowledge == "adaptive" for part in weaker.attack)
        if knows or not weaker.attack:
            continue
        strong = [
            at
            for at, other in enumerate(row)
            if _follows_gradients(other) and _may_do_all_of(other, weaker)
        ]
        if strong and _ahead([row[at] for at in strong], weaker) > AHEAD:
            for at in strong:
                yield at, "beaten-by-weaker"


def _effort(row: Sequence[CellRecord]) -> _Raised:
    """More steps or starts never break fewer samples, and twice as many hardly more."""
    for option in ("steps", "restarts"):
        for at, longer in enumerate(row):
            for other, shorter in enumerate(row):
                most, least = _count(longer, option), _count(shorter, option)
                alike = _options(longer, option) == _options(shorter, option)
                if not most > least > 0 or not alike:
                    continue
                if _ahead([longer], shorter) > AHEAD:
                    yield at, "more-steps-weaker"
                if most >= 2 * least and _ahead([shorter], longer) > AHEAD:
                    yield other, "attack-not-converged"


_CHECKS: tuple[Callable[[Sequence[CellRecord]], _Raised], ...] = (
    _without_attack,
    _all_agents,
    _monotone,
    _knowledge,
    _effort,
)


def _row(record: CellRecord) -> str:
    defense = record.defense
    return repr(
        (
            *(record.dataset.spec, record.fingerprint, record.protocol, record.device),
            sorted(record.embedding.items()),
            *(defense.spec, defense.distribution, defense.version, record.seed),
        )
    )


def _ahead(stronger: Sequence[CellRecord], weaker: CellRecord) -> float:
    """Share of the samples that only the second adversary breaks; 0 if not comparable."""
    found = weaker.outcomes
    assert found is not None
    only = [
        counted and attacked != label
        for counted, attacked, label in zip(
            found.counted, found.attacked, found.labels, strict=True
        )
    ]
    for record in stronger:
        other = record.outcomes
        assert other is not None
        if (other.labels, other.counted) != (found.labels, found.counted):
            return 0.0
        only = [
            broken and attacked == label
            for broken, attacked, label in zip(
                only, other.attacked, other.labels, strict=True
            )
        ]
    return sum(only) / max(1, sum(found.counted))


def _follows_gradients(record: CellRecord) -> bool:
    """Whether an attack knows the defense and differentiates it."""
    knows = any(part.knowledge == "adaptive" for part in record.attack)
    return knows and record.metrics is not None and record.metrics.gradients > 0


def _bounded(record: CellRecord) -> bool:
    return any(part.budget is not None for part in record.attack)


def _budget(record: CellRecord) -> float:
    budgets = [part.budget for part in record.attack if part.corrupts]
    return min([float("inf") if b is None else b for b in budgets], default=0.0)


def _count(record: CellRecord, option: str) -> int:
    found = [part.component.options.get(option) for part in record.attack]
    counts = [value for value in found if type(value) is int]
    return counts[0] if len(counts) == 1 else 0


def _options(record: CellRecord, apart: str) -> list[tuple[str, dict[str, Any]]]:
    """The parts of an attack with all options but one."""
    found = []
    for part in record.attack:
        options = {k: v for k, v in part.component.options.items() if k != apart}
        found.append((part.component.name, options))
    return found


def _may_do_all_of(stronger: CellRecord, weaker: CellRecord) -> bool:
    """Whether agents, budgets and goals are the same, and every means of the weaker's."""

    def threat(part: AttackPart) -> tuple[object, ...]:
        return part.agents, part.sets, part.budget, part.target, part.counts_target

    return len(stronger.attack) == len(weaker.attack) and all(
        threat(strong) == threat(weak)
        and strong.corrupts >= weak.corrupts
        and strong.drops >= weak.drops
        for strong, weak in zip(stronger.attack, weaker.attack, strict=True)
    )


def _includes(stronger: CellRecord, weaker: CellRecord) -> bool:
    """Whether each set of agents of the weaker is part of one of the stronger."""
    if len(stronger.attack) != 1 or len(weaker.attack) != 1:
        return False
    wide = [set(agents) for agents in stronger.attack[0].sets]
    narrow = [set(agents) for agents in weaker.attack[0].sets]
    covered = all(any(s < w for w in wide) for s in narrow)
    return bool(narrow) and bool(wide) and covered

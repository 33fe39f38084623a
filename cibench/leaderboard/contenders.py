"""What is known of a row before it is compared: outcomes, gaps and stronger attacks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

from ..bootstrap import Booleans
from ..results import CellRecord
from ..results.record import Timings
from .model import Column, Cost
from .naming import NOBODY, OWN, WITNESS
from .places import Group, Held, RowKey
from .worst import Outcome, Samples, outcome

#: Gaps of a row that its trouble names; more are counted.
_NAMED = 3
Adaptive = Literal["adaptive", "exact", "misled", "none"]


@dataclass(frozen=True, eq=False)
class Step:
    """An attack beyond the suite, and the worst case once it is known."""

    attack: str
    date: str
    held: Held
    before: Booleans
    after: Booleans


@dataclass(frozen=True, eq=False)
class Contender:
    """A row without numbers that need others.

    Args:
        outcome: per-sample outcomes.
        standard: `(seeds, n)` worst case over the suite; None where that is incomplete.
        best_known: and over all attacks.
        unaware: worst case over those of the suite that do not know the defense; None
            where it has none of them, or no other.
        gaps: by attack, why its suite cells give no accuracy.
        reasons: of each cell that failed.
    """

    key: RowKey
    held: list[Held]
    own: list[CellRecord]
    """Those of the entry it stands on: what others bring says nothing of the defense."""
    outcome: Outcome
    oracle: bool
    standard: Booleans | None
    best_known: Booleans | None
    unaware: Booleans | None
    steps: list[Step]
    gaps: dict[str, str]
    trouble: str
    reasons: list[str]

    @property
    def first(self) -> CellRecord:
        """A record that says what the row is."""
        return self.held[0].record

    @property
    def role(self) -> Literal["", "undefended", "genie"]:
        """Whether it is a reference."""
        if self.key.distribution != OWN:
            return ""
        return {"none": "undefended", "genie": "genie"}.get(self.key.spec, "")  # type: ignore[return-value]


def contender(
    group: Group,
    row: RowKey,
    board: Samples,
    columns: Sequence[Column],
    clean_label: str,
) -> Contender:
    """What is known of a row.

    Args:
        clean_label: of the suite's scenario without attack; empty if it has none.
    """
    found = outcome(group, row, board)
    held = group.of(row)
    home = [h.record for h in held if h.entry.name == group.home[row]]
    own = home or [h.record for h in held]
    oracle = any("oracle-information" in record.flags for record in own)
    standard = [column.attack for column in columns if column.standard]
    gaps: dict[str, str] = {}
    troubles = []
    asked = [(c.attack, c.label) for c in columns if c.standard]
    if clean_label:
        asked.insert(0, (NOBODY, clean_label))
    for attack, label in asked:
        by_seed = group.attacked[row].get(attack, {})
        if attack == NOBODY:
            by_seed = group.clean.get(row, {})
        gap = _gap(by_seed, board.seeds, alien=attack in found.alien)
        if gap:
            gaps[attack] = gap
            troubles.append(f"{gap} under {label}")
    if not standard:
        troubles = ["the suite has no attack of this threat model"]
    elif not board.n:
        troubles.append("no sample that every attack counts")
    if found.partial:
        troubles.append("part of the test samples only")
    worst = unaware = None
    if not troubles:
        worst = found.worst(standard, board.seeds, oracle=oracle)
        ignorant = [c.attack for c in columns if c.standard and not c.knows_defense]
        if 0 < len(ignorant) < len(standard):
            unaware = found.worst(ignorant, board.seeds, oracle=oracle)
    steps: list[Step] = []
    best = worst
    if worst is not None:
        steps, best = _steps(group, row, board, found, columns, worst, oracle=oracle)
    more = len(troubles) - _NAMED
    named = troubles if more <= 1 else [*troubles[:_NAMED], f"{more} more"]
    return Contender(
        key=row,
        held=held,
        own=own,
        outcome=found,
        oracle=oracle,
        standard=worst,
        best_known=best,
        unaware=unaware,
        steps=steps,
        gaps=gaps,
        trouble="; ".join(named),
        reasons=_reasons(held, columns, clean_label),
    )


def _gap(by_seed: dict[int, Held], seeds: Sequence[int], *, alien: bool) -> str:
    """Why the cells of an attack give no accuracy; empty if they do."""
    statuses = Counter(
        by_seed[seed].record.status if seed in by_seed else "without a record"
        for seed in seeds
        if seed not in by_seed or by_seed[seed].record.outcomes is None
    )
    if statuses == {"without a record": len(seeds)}:
        return "no record"
    parts = [f"{statuses[s]} of {len(seeds)} seeds {s}" for s in sorted(statuses)]
    return ", ".join([*parts, *(["other test samples"] if alien else [])])


def extra_gap(by_seed: dict[int, Held], seeds: Sequence[int], *, alien: bool) -> str:
    """The same of an attack that may leave seeds out."""
    given = [seed for seed in seeds if seed in by_seed]
    return _gap(by_seed, given, alien=alien) if given else "no seed of the suite"


def _steps(
    group: Group,
    row: RowKey,
    board: Samples,
    found: Outcome,
    columns: Sequence[Column],
    worst: Booleans,
    *,
    oracle: bool,
) -> tuple[list[Step], Booleans]:
    """Attacks beyond the suite as they came, with the worst case before and after."""
    extra = []
    for column in columns:
        by_seed = group.attacked[row].get(column.attack, {})
        done = [h for h in by_seed.values() if h.record.seed in board.seeds]
        if not column.standard and found.attacked.get(column.attack):
            newest = max(held.record.created[:10] for held in done)
            oldest = min(done, key=lambda held: (held.entry.age, held.record.seed))
            extra.append((oldest.entry.age, newest, column.attack, oldest))
    steps = []
    best, known = worst, []
    for _, date, attack, held in sorted(extra, key=lambda one: one[:3]):
        known.append(attack)
        after = found.worst(known, board.seeds, oracle=oracle)
        assert after is not None
        after &= worst
        steps.append(Step(attack, date, held, best, after))
        best = after
    return steps, best


def _reasons(
    held: Sequence[Held], columns: Sequence[Column], clean_label: str
) -> list[str]:
    labels = {column.attack: column.label for column in columns}
    found = []
    for one in held:
        record = one.record
        if record.outcomes is None:
            label = clean_label if one.is_clean else labels.get(one.attack, one.attack)
            why = f": {record.reason}" if record.reason else ""
            found.append(f"{label}, seed {record.seed}: {record.status}{why}")
    return found


def adaptive(one: Contender) -> Adaptive:
    """Whether an attack of the board knew the defense; see `Row.adaptive`."""
    done = [record for record in one.own if record.outcomes is not None]
    met = [record for record in done if any(p.agents != "none" for p in record.attack)]
    # What a witness's author knew is a claim, and no gradient went through the defense.
    met = [r for r in met if all(p.component.name != WITNESS for p in r.attack)]
    if any("transfer-beats-adaptive" in record.flags for record in met):
        return "misled"
    enough = {"adaptive"} | ({"fusion"} if one.role == "undefended" else set())
    if any(part.knowledge in enough for record in met for part in record.attack):
        return "adaptive"
    # Trying every set of silent agents is exact; no knowledge would do better.
    exact = all(
        not part.corrupts
        and (part.agents.startswith("worst:") or part.agents == "none")
        for record in met
        for part in record.attack
    )
    return "exact" if met and exact else "none"


def knows(record: CellRecord) -> bool:
    """Whether a finished cell's attack knows the fusion center, or more."""
    return record.outcomes is not None and any(
        part.knowledge in ("fusion", "adaptive") for part in record.attack
    )


def cost(group: Group, row: RowKey, entry: str) -> Cost | None:
    """What a row costs, beside the undefended of the same entry; medians over records."""
    own = _timings(group, row, entry)
    if not own:
        return None
    milliseconds = median(timing.milliseconds_per_sample for timing in own)
    plain = [
        timing for key in group.undefended for timing in _timings(group, key, entry)
    ]
    base = median(t.milliseconds_per_sample for t in plain) if plain else 0.0
    return Cost(
        fit_seconds=median(timing.fit_seconds for timing in own),
        milliseconds=milliseconds,
        relative=milliseconds / base if base else None,
    )


def _timings(group: Group, row: RowKey, entry: str) -> list[Timings]:
    held = group.every.get((row, entry), [])
    return [h.record.timings for h in held if h.record.timings is not None]

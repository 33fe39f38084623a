"""Whether the compromised agents of a record are those its rules allow; no torch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

from ..results.record import AttackPart, CellRecord, Outcomes

#: More sets than this `worst:q` refuses to try.
_SETS: Final = 1000


def single_draw(record: CellRecord) -> bool:
    """Whether the attack was run once, rather than for every set of `worst:q`."""
    return all(
        len(part.sets) <= 1
        for part in record.attack
        if part.agents.startswith("worst:")
    )


def agent_faults(record: CellRecord, outcomes: Outcomes) -> Iterator[str]:
    """Where the compromised agents are not what the rule of an attack says.

    Rules count agents whether or not they were heard, as the harness does.
    """
    wanted = _Wanted(record)
    yield from wanted.faults
    if wanted.faults:
        return
    wrong = [
        at for at, bits in enumerate(outcomes.compromised) if not wanted.allows(bits)
    ]
    if wrong:
        rules = " + ".join(part.agents for part in record.attack)
        names = _names(outcomes.compromised[wrong[0]], record.agents)
        yield (
            f"compromised: expected agents as {rules} allows, got {names} in sample"
            f" {wrong[0]} and others in {len(wrong)} of {len(outcomes.compromised)}"
        )


class _Wanted:
    """What the rules of an attack's parts allow together; parts never share an agent."""

    def __init__(self, record: CellRecord) -> None:
        self.faults: list[str] = []
        self._all = (1 << len(record.agents)) - 1
        self._fixed = self._drawn = 0
        self._tried: list[int] | None = None
        several = len(record.attack) > 1
        for part in record.attack:
            kind, _, count = part.agents.partition(":")
            counts = count.isdecimal() and 1 <= _count(count) <= len(record.agents)
            if (kind in ("random", "worst") or part.searched) and not counts:
                self._say(part, "a number of agents that the data set has")
            elif kind == "random":
                self._drawn += _count(count)
                if part.sets:
                    self._say(part, "no sets, for they are drawn for each sample")
            elif kind == "worst":
                self._tried = _sets(part, record.agents)
                full = math.comb(len(record.agents), _count(count))
                if (
                    self._tried is None
                    or any(bits.bit_count() != _count(count) for bits in self._tried)
                    or not self._tried
                    or (not several and len(self._tried) != full)
                ):
                    self._say(part, f"every set of {count} agents")
            elif part.searched:
                found = _sets(part, record.agents) or []
                if [bits.bit_count() for bits in found] != [_count(count)]:
                    self._say(part, f"one set of {count} agents")
                else:
                    self._fixed |= found[0]
            else:
                fixed = _fixed(part.agents, record.agents)
                sets = _sets(part, record.agents)
                if fixed is None or sets != [fixed]:
                    self._say(part, "the agents of its rule as its one set")
                else:
                    self._fixed |= fixed

    def allows(self, bits: int) -> bool:
        """Whether a sample may have these compromised agents."""
        if bits < 0 or bits & ~self._all or bits & self._fixed != self._fixed:
            return False
        rest = bits & ~self._fixed
        if self._tried is None:
            return rest.bit_count() == self._drawn
        return any(
            rest & each == each and (rest & ~each).bit_count() == self._drawn
            for each in self._tried
        )

    def _say(self, part: AttackPart, expected: str) -> None:
        self.faults.append(
            f"attack {part.component.name}, agents={part.agents[:80]}: expected"
            f" {expected}, got {len(part.sets)} sets"
        )


def _count(text: str) -> int:
    return int(text) if len(text) < 10 else 0


def _sets(part: AttackPart, agents: list[str]) -> list[int] | None:
    """The sets that were tried, as bits; None where an agent is unknown."""
    place = {name: at for at, name in enumerate(agents)}
    known = len(part.sets) <= _SETS and all(
        name in place for names in part.sets for name in names
    )
    if not known:
        return None
    sets = [sum(1 << place[name] for name in set(names)) for names in part.sets]
    return sets if len(set(sets)) == len(sets) else None


def _fixed(rule: str, agents: list[str]) -> int | None:
    """Agents that a rule names, as bits; None if it names none of this data set."""
    m = len(agents)
    special = {"none": 0, "all": (1 << m) - 1, "last": 1 << (m - 1)}
    if rule in special:
        return special[rule]
    bits = 0
    for part in rule.split("/"):
        if part in agents:
            ends = [agents.index(part)] * 2
        else:
            texts = part.split("-")
            if len(texts) > 2 or not all(t.isdecimal() and _count(t) for t in texts):
                return None
            ends = [_count(texts[0]) - 1, _count(texts[-1]) - 1]
        if not 0 <= ends[0] <= ends[1] < m:
            return None
        bits |= (1 << (ends[1] + 1)) - (1 << ends[0])
    return bits


def _names(bits: int, agents: list[str]) -> str:
    found = [name for at, name in enumerate(agents) if bits >> at & 1 and bits > 0]
    return ", ".join(found[:8]) or "none"

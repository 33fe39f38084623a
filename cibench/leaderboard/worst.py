"""Outcomes as arrays, and the worst case over attacks, sample by sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ..bootstrap import Booleans
from ..statistics import deviation, wilson_interval
from .model import Column, Share
from .places import Age, Group, RowKey, of_oldest


@dataclass(frozen=True, eq=False)
class Samples:
    """What the rows of a board decide.

    Args:
        labels: `(n,)` true classes.
        counted: `(n,)` samples that every attack of the suite counts.
        by_attack: samples that each attack counts.
        seeds: those every row must have.
    """

    labels: NDArray[np.int64]
    counted: Booleans
    by_attack: dict[str, list[bool]]
    seeds: list[int]

    @property
    def n(self) -> int:
        """Samples that count."""
        return int(self.counted.sum())

    def under(self, attack: str) -> Booleans:
        """`(n,)` those of them that an attack counts."""
        mask = self.by_attack.get(attack)
        return self.counted if mask is None else self.counted & np.array(mask, bool)


@dataclass(eq=False)
class Outcome:
    """A row's outcomes.

    Args:
        clean: `(seeds, n)` right without attack; None if a seed is missing.
        attacked: by attack and seed, `(n,)` right under attack, or not counted by it.
        alien: attacks under which it decided other samples than most rows.
        partial: whether it decided part of the test samples only.
    """

    clean: Booleans | None = None
    attacked: dict[str, dict[int, Booleans]] = field(default_factory=dict)
    alien: list[str] = field(default_factory=list)
    partial: bool = False

    def worst(
        self, attacks: Sequence[str], seeds: Sequence[int], *, oracle: bool
    ) -> Booleans | None:
        """`(seeds, n)` right under every attack, and without; None if nothing is known.

        An attack that lacks a seed says nothing of it. Without attack an oracle is told
        the truth, and may yet be worse than with agents to drop.
        """
        if self.clean is None:
            return None
        right = np.ones_like(self.clean) if oracle else self.clean.copy()
        for attack in attacks:
            for seed, found in self.attacked.get(attack, {}).items():
                right[seeds.index(seed)] &= found
        return right


def samples(group: Group, columns: Sequence[Column], seeds: int) -> Samples | None:
    """The samples the rows decide, as the oldest entry says; None where none were decided.

    Which of them count is up to the suite's attacks, where the board has one: a challenge
    that counts fewer must not change what the other numbers are about.
    """
    told: list[tuple[Age, tuple[int, ...]]] = []
    for row in group.rows:
        for held in group.of(row):
            outcomes = held.record.outcomes
            if outcomes is not None and outcomes.labels:
                told.append((held.entry.age, tuple(outcomes.labels)))
    if not told:
        return None
    labels = of_oldest(told)
    counts: dict[str, list[bool]] = {}
    for attack in (column.attack for column in columns):
        masks: list[tuple[Age, tuple[bool, ...]]] = []
        for row in group.rows:
            for held in group.attacked[row].get(attack, {}).values():
                outcomes = held.record.outcomes
                if outcomes is not None and len(outcomes.counted) == len(labels):
                    masks.append((held.entry.age, tuple(outcomes.counted)))
        if masks:
            counts[attack] = list(of_oldest(masks))
    counted = np.ones(len(labels), dtype=bool)
    standard = {column.attack for column in columns if column.standard}
    for attack, mask in counts.items():
        if attack in standard or not standard:
            counted &= np.array(mask, dtype=bool)
    return Samples(np.array(labels), counted, counts, list(range(seeds)))


def outcome(group: Group, row: RowKey, board: Samples) -> Outcome:
    """A row's outcomes on a board's samples."""
    found = Outcome()
    labels = board.labels.tolist()
    clean: dict[int, Booleans] = {}
    for held in group.of(row):
        record = held.record
        found.partial |= "partial" in record.flags
        if record.outcomes is None or record.seed not in board.seeds:
            continue
        own = record.outcomes
        wanted = board.by_attack.get(held.attack, own.counted)
        if own.labels != labels or own.counted != wanted:
            found.alien.append(held.attack)
            continue
        # That of the record without attack comes first: a challenge cannot change it.
        if record.seed not in clean:
            clean[record.seed] = np.array(own.clean) == board.labels
        if not held.is_clean:
            by_seed = found.attacked.setdefault(held.attack, {})
            spared = ~np.array(own.counted, dtype=bool)
            by_seed[record.seed] = (np.array(own.attacked) == board.labels) | spared
    if all(seed in clean for seed in board.seeds):
        found.clean = np.array([clean[seed] for seed in board.seeds])
    return found


def share(
    right: Booleans, counted: Booleans, interval: tuple[float, float] | None = None
) -> Share:
    """The mean over seeds of `(seeds, n)` outcomes; Wilson's interval unless given."""
    n = int(counted.sum())
    sums = (right & counted).sum(axis=1)
    value = int(sums.sum()) / (n * len(right))
    low, high = interval or wilson_interval(value, n)
    return Share(
        value=value,
        low=low,
        high=high,
        n=n,
        spread=deviation([int(s) / n for s in sums]),
    )


def by_agent(
    group: Group, row: RowKey, found: Outcome, board: Samples, *, oracle: bool
) -> dict[str, Share]:
    """Worst case over the samples for which an agent is among the compromised.

    Where the adversary chooses them the defense decides which agents that are, so that
    nothing is said.
    """
    chosen = ("worst:", "greedy:", "bandit:")
    if any(rule in group.threat.rule for rule in chosen) or found.clean is None:
        return {}
    agents = next(iter(group.of(row))).record.agents
    total, right = np.zeros(len(agents), int), np.zeros(len(agents), int)
    for at, seed in enumerate(board.seeds):
        base = np.ones_like(found.clean[at]) if oracle else found.clean[at]
        holds = np.broadcast_to(base, (len(agents), len(base))).copy()
        meets = np.zeros_like(holds)
        for bits, attacked in _compromised(group, row, found, seed):
            hit = _bits(bits, len(agents))
            holds &= attacked | ~hit
            meets |= hit
        meets &= board.counted
        total += meets.sum(axis=1)
        right += (holds & meets).sum(axis=1)
    shares = {}
    for name, of, won in zip(agents, total.tolist(), right.tolist(), strict=True):
        if of:
            n = max(1, round(of / len(board.seeds)))
            low, high = wilson_interval(won / of, n)
            shares[name] = Share(value=won / of, low=low, high=high, n=n)
    return shares


def _compromised(
    group: Group, row: RowKey, found: Outcome, seed: int
) -> list[tuple[tuple[int, ...], Booleans]]:
    """Compromised agents of each sample, with what is right under all such attacks."""
    joined: dict[tuple[int, ...], Booleans] = {}
    for attack, by_seed in sorted(found.attacked.items()):
        if seed in by_seed:
            record = group.attacked[row][attack][seed].record
            assert record.outcomes is not None
            bits = tuple(record.outcomes.compromised)
            joined[bits] = joined.get(bits, by_seed[seed]) & by_seed[seed]
    return list(joined.items())


@lru_cache(maxsize=64)
def _bits(bits: tuple[int, ...], agents: int) -> Booleans:
    """`(agents, n)` whether each agent is compromised."""
    return np.array([[b >> agent & 1 for b in bits] for agent in range(agents)], bool)

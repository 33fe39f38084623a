"""The entry whose cells a row stands on."""

from __future__ import annotations

from collections.abc import Set

from .naming import NOBODY
from .places import Age, Group, Held, RowKey


def settle(group: Group, specs: Set[str], seeds: int) -> None:
    """Let each row stand on the cells of one entry: no stranger fills its gaps.

    That is the entry with the most finished cells of the suite, the oldest of equals.
    Attacks beyond the suite may come from any.
    """
    counts: dict[RowKey, list[tuple[int, Age, str]]] = {}
    for (row, entry), held in group.every.items():
        finished = {
            (one.attack, one.record.seed)
            for one in held
            if one.record.outcomes is not None
            and one.record.seed < seeds
            and (one.is_clean or one.attack in specs)
        }
        counts.setdefault(row, []).append((-len(finished), held[0].entry.age, entry))
    for row in group.attacked:
        group.home[row] = home = min(counts[row])[-1]
        cells: dict[str, dict[int, Held]] = {}
        for one in group.every[row, home]:
            if one.is_clean or one.attack in specs:
                by_seed = cells.setdefault(one.attack, {})
                before = by_seed.setdefault(one.record.seed, one)
                if before.record.outcomes is None:
                    by_seed[one.record.seed] = one
        group.clean[row] = cells.pop(NOBODY, {})
        beyond = {
            attack: found
            for attack, found in group.attacked[row].items()
            if attack not in specs
        }
        group.attacked[row] = {**cells, **beyond}

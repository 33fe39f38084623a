"""Contenders to rows: how they stand to one another, and everything a row says."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from ..bootstrap import Booleans, block_length
from ..flags import OF_ATTACKS
from ..study import Study
from .certified import certified
from .command import compromised, defense_label, plain_slug, run_command, unique
from .contenders import Contender, adaptive, cost, extra_gap, knows
from .entries import badge_text
from .model import Column, Lowered, Result, Row, Share
from .naming import NOBODY
from .places import Group, Held
from .ranks import Drawn, comparisons, draw, rank_intervals
from .worst import Samples, by_agent, share


class WorstCases:
    """The worst cases of a board's rows, drawn together so that they are paired."""

    def __init__(
        self, contenders: Sequence[Contender], seen: Samples, *, time_series: bool
    ) -> None:
        self._counted = seen.counted
        self._places: dict[bytes, int] = {}
        self._shares: dict[int, Share] = {}
        found: list[Booleans] = []
        for one in contenders:
            steps = [right for step in one.steps for right in (step.before, step.after)]
            for right in (one.standard, one.best_known, one.unaware, *steps):
                if right is not None and right.tobytes() not in self._places:
                    self._places[right.tobytes()] = len(found)
                    found.append(right)
        self.drawn: Drawn | None = None
        if found:
            block = block_length(len(seen.labels), time_series=time_series)
            self.drawn = draw(np.array(found), seen.counted, block)

    def place(self, right: Booleans) -> int:
        """Which of the drawn outcomes these are."""
        return self._places[right.tobytes()]

    def share(self, right: Booleans) -> Share:
        """The mean over seeds with its bootstrap interval."""
        at = self.place(right)
        if at not in self._shares:
            assert self.drawn is not None
            self._shares[at] = share(right, self._counted, self.drawn.interval(at))
        return self._shares[at]


def build_rows(
    group: Group,
    seen: Samples,
    columns: Sequence[Column],
    contenders: Sequence[Contender],
    board: str,
    suite: Study,
    suite_name: str,
    time_series: bool,
) -> list[Row]:
    """The rows of a board as they are shown.

    First those that met an attack that knows the defense, by their worst case over all
    attacks; then the others that have one, oracles, and rows with gaps.

    Args:
        board: its id, with which those of the rows begin.
        time_series: whether neighbouring samples are correlated.
    """
    cases = WorstCases(contenders, seen, time_series=time_series)
    plain = [defense_label(suite, one.first.defense) for one in contenders]
    # Contenders come sorted by what identifies them, so that ids do not depend on order.
    ids = unique((plain_slug(f"{board} {one.key.spec}"), one.key) for one in contenders)
    rows = []
    for one, label, name in zip(contenders, plain, ids, strict=True):
        if plain.count(label) > 1:
            label = f"{label} ({one.key.distribution} {one.key.version})"
        row = _row(group, seen, columns, one, cases, name, label)
        rows.append(
            msgspec.structs.replace(row, command=run_command(suite_name, one.first))
        )
    order = sorted(range(len(rows)), key=lambda at: (*_standing(rows[at]), rows[at].id))
    return _compared(
        [rows[at] for at in order], [contenders[at] for at in order], cases
    )


def _standing(row: Row) -> tuple[int, float, str]:
    if row.best_known is None:
        return 3, 0.0, row.label
    kind = 2 if row.oracle else int(row.adaptive == "none")
    return kind, -row.best_known.value, row.label


def _compared(
    rows: list[Row], contenders: Sequence[Contender], cases: WorstCases
) -> list[Row]:
    """Rows with their ranks, and compared with the first; oracles have neither."""
    fair = [at for at, row in enumerate(rows) if row.best_known and not row.oracle]
    if not fair or cases.drawn is None:
        return rows
    bests = [contenders[at].best_known for at in fair]
    places = [cases.place(best) for best in bests if best is not None]
    ranks = rank_intervals(cases.drawn.sums[places])
    versus = comparisons(cases.drawn, places, [rows[at].label for at in fair])
    for at, rank, compared in zip(fair, ranks, versus, strict=True):
        rows[at] = msgspec.structs.replace(rows[at], rank=rank, versus=compared)
    return rows


def _row(
    group: Group,
    seen: Samples,
    columns: Sequence[Column],
    one: Contender,
    cases: WorstCases,
    name: str,
    label: str,
) -> Row:
    source = _source(one, columns)
    manifest, verification = source.entry.manifest, source.entry.verification
    best = one.best_known
    everything = np.ones(len(seen.labels), dtype=bool)
    clean = one.outcome.clean
    hit = compromised(group.threat.rule, one.first.agents)
    return Row(
        id=name,
        label=label,
        spec=one.key.spec,
        defense=one.first.defense.name,
        distribution=one.key.distribution,
        version=one.key.version,
        citation=manifest.citations.get(one.first.defense.name, ""),
        link=manifest.link,
        entry=manifest.name,
        author=manifest.author,
        date=max(held.record.created[:10] for held in one.held),
        badge=verification.badge,
        badge_text=badge_text(verification),
        role=one.role,
        oracle=one.oracle,
        clean=None if clean is None else share(clean, everything),
        standard=None if one.standard is None else cases.share(one.standard),
        best_known=None if best is None else cases.share(best),
        unaware=None if one.unaware is None else cases.share(one.unaware),
        results=_results(group, seen, columns, one),
        adaptive=adaptive(one),
        lowered=[
            Lowered(
                attack=step.attack,
                author=step.held.entry.manifest.author,
                entry=step.held.entry.name,
                badge=step.held.entry.verification.badge,
                date=step.date,
                before=cases.share(step.before),
                after=cases.share(step.after),
            )
            for step in one.steps
            if (step.before & ~step.after)[:, seen.counted].any()
        ],
        certified=certified(group.clean.get(one.key, {}), seen, hit),
        flags=_flags(one),
        cost=cost(group, one.key, manifest.name),
        seeds=sorted({h.record.seed for h in one.held if h.record.seed in seen.seeds}),
        agents={}
        if best is None
        else by_agent(group, one.key, one.outcome, seen, oracle=one.oracle),
        trouble=one.trouble,
        reasons=one.reasons,
    )


def _flags(one: Contender) -> list[str]:
    """Flags of any of its records; those of an attack if all that know anything have it.

    The worst case is adaptive if one attack is, and no weaker than the strongest.
    """
    found = {flag for record in one.own for flag in record.flags}
    if adaptive(one) != "none":
        found.discard("not-adaptive")
    knowing = [record for record in one.own if knows(record)]
    for flag in OF_ATTACKS:
        if any(flag not in record.flags for record in knowing):
            found.discard(flag)
    return sorted(found)


def _source(one: Contender, columns: Sequence[Column]) -> Held:
    """A record of the oldest entry that ran the suite on the row, or anything else."""
    standard = {column.attack for column in columns if column.standard} | {NOBODY}
    suite = [held for held in one.held if held.attack in standard]
    return min(suite or one.held, key=lambda held: held.entry.age)


def _results(
    group: Group, seen: Samples, columns: Sequence[Column], one: Contender
) -> dict[str, Result]:
    found = {}
    for column in columns:
        by_seed = group.attacked[one.key].get(column.attack, {})
        right = one.outcome.attacked.get(column.attack, {})
        author = entry = ""
        if column.standard:
            gap = one.gaps.get(column.attack, "")
        elif by_seed:
            alien = column.attack in one.outcome.alien
            gap = extra_gap(by_seed, seen.seeds, alien=alien)
            oldest = min(by_seed.values(), key=lambda held: held.entry.age)
            author, entry = oldest.entry.manifest.author, oldest.entry.name
        else:
            continue
        known = None
        counted = seen.under(column.attack)
        if not gap and counted.any():
            outcomes = np.array([right[seed] for seed in sorted(right)])
            known = share(outcomes, counted)
        gap = gap or ("" if counted.any() else "no sample counts")
        found[column.attack] = Result(
            share=known, trouble=gap, author=author, entry=entry
        )
    return found

"""Records to tables: one table per data set and attack, one row per defense."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..flags import FLAGS
from ..statistics import deviation, mean, wilson_interval
from .record import CellRecord, Metrics

COLUMNS = (
    "defense",
    "clean",
    "under attack",
    "95 % interval",
    "undefended",
    "genie",
    "majority",
    "recovery error",
    "ms/sample",
    "flags",
)


@dataclass(frozen=True)
class Table:
    """A titled table of text cells, with notes below it."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]


def tables(records: Iterable[CellRecord]) -> list[Table]:
    """Group records by data set, attack and embedding; sorted, whatever their order."""
    groups: dict[tuple[str, ...], list[CellRecord]] = {}
    for record in sorted(records, key=_order):
        parts = "+".join(part.component.spec for part in record.attack)
        embedding = repr(sorted(record.embedding.items()))
        group = (
            *(record.dataset.spec, parts, record.fingerprint, str(record.protocol)),
            *(embedding, record.device),
        )
        groups.setdefault(group, []).append(record)
    return [_table(group) for group in groups.values()]


def _order(record: CellRecord) -> tuple[str, str, str, int, str]:
    parts = "+".join(part.component.spec for part in record.attack)
    return record.dataset.spec, parts, record.defense.spec, record.seed, record.key


def _table(records: Sequence[CellRecord]) -> Table:
    first = records[0]
    newest: dict[tuple[str, int], CellRecord] = {}
    for record in sorted(records, key=lambda record: record.created):
        newest[record.defense.spec, record.seed] = record
    by_defense: dict[str, list[CellRecord]] = {}
    for (spec, _), record in sorted(newest.items(), key=lambda item: item[0]):
        by_defense.setdefault(spec, []).append(record)
    outdated = len(records) - len(newest)
    records = list(newest.values())
    rows: list[tuple[str, ...]] = []
    flags: set[str] = set()
    failures: list[str] = []
    for spec, group in by_defense.items():
        bad = [r for r in group if r.status != "ok"]
        if bad:
            # Never a mean over what survived.
            share = f"{len(bad)} of {len(group)} seeds {bad[0].status}"
            rows.append((spec, share, *[""] * (len(COLUMNS) - 2)))
            failures += [f"{r.cell}: {r.status}: {r.reason}" for r in bad]
            continue
        rows.append(_row(spec, group))
        flags.update(flag for r in group for flag in r.flags)
    notes = [*_scope(records), *first.notes, *dict.fromkeys(failures)]
    notes += [f"{name}: {FLAGS[name].meaning}" for name in sorted(flags)]
    if outdated:
        notes.append(f"{outdated} older records of the same cells are not shown")
    attack = " + ".join(part.component.spec for part in first.attack)
    return Table(
        title=f"{first.dataset.spec} · {attack or 'attack not run'}",
        columns=COLUMNS,
        rows=tuple(rows),
        notes=tuple(notes),
    )


def _row(spec: str, group: Sequence[CellRecord]) -> tuple[str, ...]:
    found = [r.metrics for r in group if r.metrics is not None]
    n = min(m.attacked.n for m in found)
    attacked = [m.attacked.value for m in found]
    low, high = wilson_interval(mean(attacked), n)
    recovery = [m.recovery_error for m in found if m.recovery_error is not None]
    return (
        spec,
        percent([m.clean.value for m in found]),
        percent(attacked),
        f"{100 * low:.1f} to {100 * high:.1f}",
        percent([m.attacked_undefended.value for m in found]),
        percent([m.genie.value for m in found]),
        percent([m.majority_share for m in found[:1]]),
        f"{mean(recovery):.2f}" if len(recovery) == len(found) else "-",
        f"{mean([m.milliseconds_per_sample for m in found]):.3f}",
        ", ".join(sorted({flag for r in group for flag in r.flags})) or "-",
    )


def percent(values: Sequence[float]) -> str:
    """Mean in percent, with the deviation over seeds where there are several."""
    spread = deviation(values)
    text = f"{100 * mean(values):.1f}"
    return text if spread is None else f"{text} ± {100 * spread:.1f}"


def _scope(records: Sequence[CellRecord]) -> list[str]:
    found: list[Metrics] = [r.metrics for r in records if r.metrics is not None]
    if not found:
        return []
    seeds = sorted({r.seed for r in records})
    first = records[0]
    lines = []
    for part in first.attack:
        if len(part.sets) == 1 and part.sets[0]:
            who = ", ".join(part.sets[0])
        elif part.sets and part.sets[0]:
            who = f"each of {len(part.sets)} sets, the worst counted per sample"
        elif part.sets:
            who = "nobody"
        else:
            who = "drawn for each sample"
        goal = "untargeted" if part.target == "any" else f"target {part.target}"
        if part.counts_target:
            goal += " (samples of that class counted)"
        lines.append(
            f"{part.component.name}: compromised {part.agents} ({who}) of"
            f" {len(first.agents)} agents; knowledge {part.knowledge}; {goal}; budget"
            f" {'none' if part.budget is None else part.budget}"
        )
    spread = " (± deviation over seeds)" if len(seeds) > 1 else ""
    by_seed = {r.seed: r.metrics for r in records if r.metrics is not None}
    clean = percent([m.clean_undefended.value for m in by_seed.values()])
    lines.append(
        f"accuracy in %, n = {found[0].attacked.n} test samples under attack, seeds"
        f" {', '.join(map(str, seeds))}{spread}; undefended without attack {clean};"
        " interval: Wilson, over samples"
    )
    return lines

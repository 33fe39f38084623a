"""Records to tables: one table per data set and attack, one row per defense."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from ..flags import FLAGS
from ..sanity import flagged
from ..statistics import deviation, mean
from .record import CellRecord, Metrics
from .rows import Row, rows

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
    found = groups(records)
    return [
        replace(table, title=" · ".join(filter(None, (table.title, apart))))
        for table, apart in zip(map(_table, found), distinctions(found), strict=True)
    ]


def groups(records: Iterable[CellRecord]) -> list[list[CellRecord]]:
    """Records that may share a table: one data set, attack, embedding and protocol.

    They carry the flags that other attacks on the same defense raise.
    """
    found: dict[tuple[str, ...], list[CellRecord]] = {}
    for record in sorted(flagged(records), key=_order):
        embedding = repr(sorted(record.embedding.items()))
        group = (
            *(record.dataset.spec, attack_spec(record), record.fingerprint),
            *(str(record.protocol), embedding, record.device),
        )
        found.setdefault(group, []).append(record)
    return list(found.values())


def distinctions(found: Sequence[Sequence[CellRecord]]) -> list[str]:
    """What tells each group from others of the same data set and attack; or nothing."""
    alike: dict[tuple[str, str], list[dict[str, str]]] = {}
    traits = []
    for group in found:
        first = group[0]
        own = {f"embedding {k}": str(v) for k, v in sorted(first.embedding.items())}
        own |= {"data": first.fingerprint[:8], "device": first.device}
        own["protocol"] = str(first.protocol)
        traits.append(own)
        alike.setdefault((first.dataset.spec, attack_spec(first)), []).append(own)
    texts = []
    for group, own in zip(found, traits, strict=True):
        others = alike[group[0].dataset.spec, attack_spec(group[0])]
        names = dict.fromkeys(name for other in others for name in other)
        differing = [n for n in names if len({other.get(n) for other in others}) > 1]
        texts.append(", ".join(f"{name} {own.get(name, '-')}" for name in differing))
    return texts


def attack_spec(record: CellRecord) -> str:
    """Specs of the attack's parts joined by `+`."""
    return "+".join(part.component.spec for part in record.attack)


def interval_note(records: Sequence[CellRecord]) -> str:
    """How the intervals of a table were found, in a few words."""
    from ..bootstrap import block_length

    seeds = len({record.seed for record in records})
    text = "bootstrap over seeds and samples" if seeds > 1 else "bootstrap over samples"
    done = [record for record in records if record.outcomes is not None]
    if done and done[0].time_series and done[0].outcomes is not None:
        block = block_length(len(done[0].outcomes.labels), time_series=True)
        text += f", in blocks of {block} neighbouring samples"
    return f"{text}; Wilson where all outcomes are equal"


def _order(record: CellRecord) -> tuple[str, str, str, int, str]:
    return (
        *(record.dataset.spec, attack_spec(record), record.defense.spec),
        *(record.seed, record.key),
    )


def _table(records: Sequence[CellRecord]) -> Table:
    first = records[0]
    found = rows(records)
    shown = [record for row in found for record in row.records]
    outdated = len(records) - len(shown)
    records = shown
    lines: list[tuple[str, ...]] = []
    flags: set[str] = set()
    failures: list[str] = []
    for row in found:
        if row.bad:
            # Never a mean over what survived.
            share = f"{len(row.bad)} of {len(row.records)} seeds {row.bad[0].status}"
            lines.append((row.defense, share, *[""] * (len(COLUMNS) - 2)))
            failures += [f"{r.cell}: {r.status}: {r.reason}" for r in row.bad]
            continue
        lines.append(_line(row))
        flags.update(row.flags)
    notes = [*_scope(records), *first.notes, *dict.fromkeys(failures)]
    notes += [f"{name}: {FLAGS[name].meaning}" for name in sorted(flags)]
    if outdated:
        notes.append(f"{outdated} older records of the same cells are not shown")
    attack = " + ".join(part.component.spec for part in first.attack)
    return Table(
        title=f"{first.dataset.spec} · {attack or 'attack not run'}",
        columns=COLUMNS,
        rows=tuple(lines),
        notes=tuple(notes),
    )


def _line(row: Row) -> tuple[str, ...]:
    low, high = row.interval
    recovery = row.recovery_error
    return (
        row.defense,
        percent(row.shares("clean")),
        percent(row.shares("attacked")),
        f"{100 * low:.1f} to {100 * high:.1f}",
        percent(row.shares("attacked_undefended")),
        percent(row.shares("genie")),
        percent([row.majority]),
        "-" if recovery is None else f"{recovery:.2f}",
        f"{row.milliseconds:.3f}",
        ", ".join(row.flags) or "-",
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
    lines = threat_notes(first)
    spread = " (± deviation over seeds)" if len(seeds) > 1 else ""
    by_seed = {r.seed: r.metrics for r in records if r.metrics is not None}
    clean = percent([m.clean_undefended.value for m in by_seed.values()])
    lines.append(
        f"accuracy in %, n = {found[0].attacked.n} test samples under attack, seeds"
        f" {', '.join(map(str, seeds))}{spread}; undefended without attack {clean};"
        f" interval: {interval_note(records)}"
    )
    return lines + _cost(found)


def _cost(found: Sequence[Metrics]) -> list[str]:
    """What the attack asked of the model, which says how hard it tried."""
    texts, n = [], max(1, found[0].clean.n)
    for name, asked in (
        ("gradients", [m.gradients for m in found]),
        ("answers", [m.queries for m in found]),
    ):
        low, high = round(min(asked) / n), round(max(asked) / n)
        if high:
            texts.append(f"{low if low == high else f'{low} to {high}'} {name}")
    return [f"the attack asked for {' and '.join(texts)} per sample"] * bool(texts)


def threat_notes(record: CellRecord) -> list[str]:
    """The threat model of each part of the attack, in a line."""
    lines = []
    for part in record.attack:
        if part.searched:
            who = "searched for against each defense"
        elif len(part.sets) == 1 and part.sets[0]:
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
            f" {len(record.agents)} agents; knowledge {part.knowledge}; {goal}; budget"
            f" {'none' if part.budget is None else part.budget}"
        )
    return lines

"""From a run's folder to a report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec

from .._errors import EmptySelectionError, OutputError
from ..flags import FLAGS
from ..results import CellRecord, RunFolder
from ..results.rows import newest
from ..results.table import (
    attack_spec,
    distinctions,
    groups,
    interval_note,
    threat_notes,
)
from ..sanity import flagged
from ..study import Published, StudyPart, StudyRun
from .claims import verdicts
from .compare import measured, ranked
from .model import Panel, Report, Row, prior


def read_report(folder: Path) -> Report:
    """The report of a finished run.

    Raises:
        OutputError: there is no run in the folder, or a file of it is damaged.
        EmptySelectionError: the run has no cells.
    """
    records = RunFolder(folder).read()
    path = folder / "study.json"
    if not path.exists():
        if not records:
            raise EmptySelectionError(
                f"run {folder}: expected a finished cell, got none; run it again"
            )
        return of_records(folder.name, records)
    try:
        run = msgspec.json.decode(path.read_bytes(), type=StudyRun)
    except (msgspec.ValidationError, msgspec.DecodeError, OSError) as error:
        raise OutputError(
            f"{path.name}: expected a study of this version, got {error}"
        ) from error
    return of_study(run, records)


def of_records(name: str, records: Iterable[CellRecord]) -> Report:
    """The report of a run without a study: a panel per data set and attack."""
    panels = []
    found = groups(records)
    for group, apart in zip(found, distinctions(found), strict=True):
        shown, first = newest(group), group[0]
        by_defense: dict[str, list[CellRecord]] = {}
        for record in shown:
            by_defense.setdefault(record.defense.spec, []).append(record)
        attack = attack_spec(first)
        rows = [
            _row(Row(label=spec, spec=spec), cells, set())
            for spec, cells in by_defense.items()
        ]
        panels.append(
            Panel(
                protocol=apart,
                dataset=first.dataset.spec,
                dataset_name=first.dataset.name,
                scenario=attack.replace("+", " + ") or "attack not run",
                attack=attack,
                rows=(ready := ranked(rows)),
                notes=tuple(_notes(ready, shown, len(group) - len(shown))),
            )
        )
    return Report(
        title=name, study=False, panels=tuple(panels), reading=_reading(panels)
    )


def of_study(run: StudyRun, records: Sequence[CellRecord]) -> Report:
    """The report of a study: a panel per protocol, data set and scenario; the claims."""
    panels: list[Panel] = []
    records = flagged(records)
    used: set[str] = set()
    asked = finished = 0
    for part in run.parts:
        found = [record for record in records if _belongs(record, part)]
        used.update(record.key for record in found)
        specs = set(part.defenses.values())
        asked += len(specs) * len(part.seeds)
        finished += len({(record.defense.spec, record.seed) for record in found})
        panels.append(_panel(part, found, run.study.published))
    notes = [
        f"not run: data set {spec}: {reason}"
        for spec, reason in run.unavailable.items()
    ]
    reached = {part.protocol for part in run.parts}
    notes += [
        f"not run: protocol {protocol.name}"
        for protocol in run.study.protocols
        if protocol.name not in reached
    ]
    run_on = {(panel.dataset_name, panel.scenario) for panel in panels}
    left = Counter(
        (number.dataset, number.scenario)
        for number in run.study.published
        if (number.dataset, number.scenario) not in run_on
    )
    notes += [
        f"not run: {dataset} · {scenario} ({count} published numbers)"
        for (dataset, scenario), count in sorted(left.items())
    ]
    if finished < asked:
        notes.append(
            f"not finished: {finished} of {asked} cells are here; the same command with"
            " the same -o goes on"
        )
    strangers = sum(record.key not in used for record in records)
    if strangers:
        notes.append(
            f"{strangers} records of this folder belong to no part of the study and are"
            " left out"
        )
    return Report(
        title=run.study.title,
        description=run.study.description,
        protocols=tuple(
            (protocol.name, protocol.description)
            for protocol in run.study.protocols
            if protocol.name in reached and protocol.description
        ),
        source=run.study.source,
        study=True,
        panels=tuple(panels),
        verdicts=verdicts(run, panels),
        notes=tuple(notes),
        reading=_reading(panels),
        axis=run.study.figure,
    )


def _belongs(record: CellRecord, part: StudyPart) -> bool:
    return (
        record.dataset.spec == part.dataset
        and record.embedding == part.embedding
        and attack_spec(record) == part.attack
        and record.defense.spec in part.defenses.values()
        and (not part.seeds or record.seed in part.seeds)
    )


def _panel(
    part: StudyPart, records: Sequence[CellRecord], published: Sequence[Published]
) -> Panel:
    # Versions of data, protocol and device do not mix: those of the newest record stand.
    kept = max(
        groups(records),
        key=lambda group: max(record.created for record in group),
        default=[],
    )
    shown = newest(kept)
    numbers = {
        number.defense: number
        for number in published
        if (number.dataset, number.scenario) == (part.dataset_name, part.scenario)
    }
    seeds = set(part.seeds) or {record.seed for record in shown}
    rows = [
        _row(
            Row(label=label, spec=spec, published=numbers.get(label)),
            [record for record in shown if record.defense.spec == spec],
            seeds,
        )
        for label, spec in part.defenses.items()
    ]
    rows += [
        Row(label=label, spec="-", published=number, trouble="not in this protocol")
        for label, number in numbers.items()
        if label not in part.defenses
    ]
    ready = ranked(rows)
    return Panel(
        protocol=part.protocol,
        dataset=part.dataset,
        dataset_name=part.dataset_name,
        scenario=part.scenario,
        attack=part.attack,
        x=part.x,
        rows=ready,
        notes=tuple(_notes(ready, shown, len(records) - len(shown))),
    )


def _row(row: Row, records: Sequence[CellRecord], seeds: set[int]) -> Row:
    """A row of these records; never a mean over what survived.

    Args:
        seeds: seeds asked for, or those the other defenses of the panel were run with.
    """
    bad = [record for record in records if record.status != "ok"]
    missing = sorted(seeds - {record.seed for record in records})
    if bad:
        statuses = ", ".join(dict.fromkeys(record.status for record in bad))
        return replace(
            row,
            trouble=f"{len(bad)} of {len(records)} seeds {statuses}",
            reasons=tuple(f"{r.cell}: {r.status}: {r.reason}" for r in bad),
        )
    if not records:
        return replace(row, trouble="not run")
    if missing:
        return replace(row, trouble=f"not run: seeds {', '.join(map(str, missing))}")
    return measured(row, records)


def _notes(
    rows: Sequence[Row], records: Sequence[CellRecord], unshown: int
) -> list[str]:
    """Threat model, sizes, methods, troubles and flags of a panel."""
    done = [record for record in records if record.status == "ok"]
    notes: list[str] = []
    if done:
        notes += threat_notes(done[0])
    metrics = [m for row in rows for m in row.metrics]
    if metrics:
        seeds = sorted({record.seed for record in done})
        notes.append(
            f"n = {_span(m.attacked.n for m in metrics)} test samples under attack of"
            f" {_span(m.clean.n for m in metrics)}; seeds {', '.join(map(str, seeds))};"
            f" class prior (always answering the largest class) {prior(rows)}"
        )
        notes.append(f"95 % interval: {interval_note(done)}")
    if any(row.versus for row in rows):
        leader, runner_up = _leaders(rows)
        notes.append(
            f"against the best other: the difference to {leader}"
            + (f", of {leader} itself to {runner_up}" if runner_up else "")
        )
    notes += dict.fromkeys(note for record in records for note in record.notes)
    notes += dict.fromkeys(reason for row in rows for reason in row.reasons)
    raised = sorted({flag for row in rows for flag in row.flags})
    notes += [f"{name}: {FLAGS[name].meaning}" for name in raised if name in FLAGS]
    if unshown:
        notes.append(
            f"{unshown} older records, or of other data or devices, are not shown"
        )
    return notes


def _reading(panels: Sequence[Panel]) -> tuple[str, ...]:
    """How the numbers were found, said once for all tables."""
    rows = [row for panel in panels for row in panel.rows]
    notes = []
    if any(row.records for row in rows):
        notes.append(
            "under attack, clean, balanced: accuracy in %, mean ± deviation over seeds;"
            " balanced accuracy is the mean over classes, under attack"
        )
        notes.append(
            "attack success: the adversary's goal reached, among counted samples that the"
            " defense decides correctly without attack, over all seeds"
        )
    if any(row.versus for row in rows):
        notes.append(
            "against the best other: difference in points and its 95 % interval over the"
            " same seeds and samples; p: exact McNemar, the largest over seeds, adjusted"
            " by Holm for the defenses of a table"
        )
        notes.append(
            "best: the highest accuracy under attack without oracle information; tied: the"
            " interval of the difference to it holds 0"
        )
    if any(record.time_series for row in rows for record in row.records):
        notes.append(
            "time series: p takes samples as independent, which neighbours in time are"
            " not: it is too small; read the intervals, which draw whole blocks"
        )
    if any(row.published for row in rows):
        notes.append("published: mean ± deviation in %; over how many runs is unknown")
    return tuple(notes)


def _leaders(rows: Sequence[Row]) -> tuple[str, str]:
    best = next(row for row in rows if row.best == "best")
    return best.label, best.versus.other if best.versus else ""


def _span(numbers: Iterable[int]) -> str:
    found = sorted(set(numbers))
    return " to ".join(
        str(number) for number in dict.fromkeys((*found[:1], *found[-1:]))
    )

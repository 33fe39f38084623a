"""Putting the records of several runs into one folder, a record at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from .._errors import OutputError, UsageError
from .comparison import numbers
from .folder import RunFolder, write_atomically
from .record import CellRecord, encode


@dataclass(kw_only=True)
class Plan:
    """Which record of each cell is taken.

    Args:
        runs: the folders, in the order given.
        chosen: index of the run that each cell's record is taken from, by the cell's id.
        repeated: how many records were in an earlier run already.
        preferred: what was decided where the records of a cell ended differently.
    """

    runs: Sequence[RunFolder]
    chosen: dict[str, int] = field(default_factory=dict)
    repeated: int = 0
    preferred: list[str] = field(default_factory=list)


def plan_merge(runs: Sequence[RunFolder]) -> Plan:
    """Look at every record of some runs and decide which are taken; nothing is written.

    Of two records of one cell an ok one is taken before another, an interrupted one last,
    and of two that ended alike the older.

    Raises:
        OutputError: a folder is no run, or a record is not of this schema.
        UsageError: the runs are of several protocol versions, read different data under
            one spec, or have different numbers for one cell.
    """
    plan = Plan(runs=runs)
    protocols: dict[int, RunFolder] = {}
    data: dict[str, tuple[str, RunFolder]] = {}
    for at, run in enumerate(runs):
        for record in _records(run):
            protocols.setdefault(record.protocol, run)
            _check_protocols(protocols)
            _check_data(record, run, data)
            _choose(plan, at, record)
    return plan


def copy_records(plan: Plan, out: RunFolder) -> int:
    """Write what was decided, with the logs; give the number of logs that were gone.

    Records are copied as they are, but for the log's name where two runs use one.

    Raises:
        OutputError: the folder cannot be written.
    """
    gone = 0
    for cell, at in plan.chosen.items():
        run = plan.runs[at]
        if run.path.resolve() == out.path.resolve():
            continue
        record = _read(run, cell)
        log = _content(run, record.log)
        gone += bool(record.log) and log is None
        if log is None:
            write_atomically(out.file(cell), run.file(cell).read_bytes())
            continue
        name = _free_name(out, Path(record.log).stem, log)
        kept = out.write_log(name, log)
        if kept == record.log:
            write_atomically(out.file(cell), run.file(cell).read_bytes())
        else:
            write_atomically(
                out.file(cell), encode(msgspec.structs.replace(record, log=kept))
            )
    return gone


def copy_witnesses(plan: Plan, out: RunFolder) -> int:
    """Put what attacks sent beside the records; give how many cells have it.

    A witness is that of the run whose record was taken, or of the first run that has one:
    their numbers are the same.

    Raises:
        OutputError: a witness cannot be read, or the folder cannot be written.
    """
    found = 0
    for cell, at in plan.chosen.items():
        order = [plan.runs[at], *plan.runs]
        source = next(
            (run.witness(cell) for run in order if run.witness(cell).is_file()), None
        )
        if source is None:
            continue
        found += 1
        if source.resolve() != out.witness(cell).resolve():
            try:
                content = source.read_bytes()
            except OSError as error:
                raise OutputError(
                    f"{source}: expected a readable file, got {error.strerror}"
                ) from error
            out.write_witness(cell, content)
    return found


def _records(run: RunFolder) -> Iterator[CellRecord]:
    if not run.cells.is_dir():
        run.read()  # says what was expected
    for cell in sorted(run.names()):
        yield _read(run, cell)


def _read(run: RunFolder, cell: str) -> CellRecord:
    try:
        record = run.read_one(cell)
    except OutputError as error:
        raise OutputError(f"run {run.path}: {error}") from error
    if record.cell != cell:
        raise OutputError(
            f"run {run.path}: record {cell}.json: expected the record of that cell, got"
            f" that of {record.cell}"
        )
    return record


def _check_protocols(found: dict[int, RunFolder]) -> None:
    if len(found) > 1:
        runs = " and ".join(
            f"protocol {protocol} in {run.path}" for protocol, run in found.items()
        )
        raise UsageError(
            f"merge: expected records of one protocol version, got {runs}; their numbers"
            " do not mean the same: run the older one again"
        )


def _check_data(
    record: CellRecord, run: RunFolder, known: dict[str, tuple[str, RunFolder]]
) -> None:
    if not record.fingerprint:
        return
    spec = record.dataset.spec
    fingerprint, first = known.setdefault(spec, (record.fingerprint, run))
    if fingerprint != record.fingerprint:
        raise UsageError(
            f"merge: data set {spec}: expected the same data in every run, got"
            f" {fingerprint[:12]} in {first.path} and {record.fingerprint[:12]} in"
            f" {run.path}; run one of them again with the files of the other"
        )


def _choose(plan: Plan, at: int, record: CellRecord) -> None:
    before = plan.chosen.setdefault(record.cell, at)
    if before == at:
        return
    plan.repeated += 1
    earlier = _read(plan.runs[before], record.cell)
    if earlier.status == record.status == "ok" and numbers(earlier) != numbers(record):
        paths = plan.runs[before].path, plan.runs[at].path
        raise UsageError(
            f"merge: {record.cell}: expected the same numbers in every run, got different"
            f" ones in {paths[0]} and {paths[1]}; find out which are right with: cibench"
            f" reproduce {paths[0]} {record.cell}"
        )
    first = min(
        ((earlier, before), (record, at)), key=lambda one: (_rank(one[0]), one[1])
    )
    plan.chosen[record.cell] = first[1]
    if earlier.status != record.status:
        other = earlier if first[0] is record else record
        source = plan.runs[before if other is earlier else at].path
        plan.preferred.append(
            f"{record.cell}: {first[0].status} in {plan.runs[first[1]].path} is kept"
            f" rather than {other.status} in {source}"
        )


def _rank(record: CellRecord) -> tuple[int, str]:
    """What is taken first: how the cell ended, then when."""
    order = {"ok": 0, "interrupted": 2}
    return order.get(record.status, 1), record.created


def _content(run: RunFolder, log: str) -> bytes | None:
    """A log, if it is there and below the run's folder."""
    path = (run.path / log).resolve()
    if not log or not path.is_relative_to(run.path.resolve()):
        return None
    try:
        return path.read_bytes()
    except OSError:
        return None


def _free_name(out: RunFolder, stem: str, content: bytes) -> str:
    """A name for a log that no other content has."""
    if _content(out, f"logs/{stem}.log") in (None, content):
        return stem
    return f"{stem}-{hashlib.sha256(content).hexdigest()[:8]}"

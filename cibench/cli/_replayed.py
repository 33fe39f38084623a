"""Replaying witnesses and running cells again, in an open session."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .._errors import EnvironmentFault
from ..execute.finished import Finished

if TYPE_CHECKING:
    from ..execute.describing import Described
    from ..execute.perform import Work
    from ..execute.task import Answer
    from ..grid import Cell
    from ..results import CellRecord
    from ..submission.bundle import Bundle
    from ._progress import Shown
    from ._session import Session
    from ._verified import Verified


def replay_all(
    records: Sequence[CellRecord],
    bundle: Bundle,
    opened: Session,
    described: Described,
    cells: Mapping[str, Cell],
    found: Verified,
    shown: Shown,
    tolerance: float,
) -> None:
    """Replay the witnesses of records, and compare the decisions.

    Raises:
        EnvironmentFault: the surroundings are wrong.
    """
    import msgspec

    from .._sources import package_hash
    from ..execute.backends import insistent
    from ..execute.describing import error_of, place_of
    from ..execute.perform import Work
    from ..execute.task import task_of
    from ._session import torch_version

    ordered = sorted(
        records, key=lambda r: (r.dataset.spec, r.seed, r.defense.spec, r.cell)
    )
    if not ordered:
        return
    shown.stage("replays", len(ordered))
    opened.on_event = shown.event

    def works() -> Iterator[Work]:
        for number, record in enumerate(ordered):
            cell = cells[record.cell]
            task = msgspec.structs.replace(
                task_of("replay", cell),
                settings=opened.settings,
                harness=package_hash(),
                torch=torch_version(),
                fingerprint=described.facts[place_of(cell)].fingerprint,
                witness=bundle.witness(record.cell),
            )
            yield Work(number=number, task=task, context=opened.context)

    for number, answer in insistent(opened.backend, works()):
        record = ordered[number]
        if answer.fault == EnvironmentFault.__name__:
            raise error_of(answer)
        _judge(record, answer, found, tolerance)
        shown.finished(_finished(cells[record.cell], record, answer))


def _judge(
    record: CellRecord, answer: Answer, found: Verified, tolerance: float
) -> None:
    """Take in what a replay says of a record."""
    if answer.decisions is None:
        if answer.reason.startswith("ContractError: witness"):
            found.findings.append(
                f"{record.cell}: {answer.reason.removeprefix('ContractError: ')}"
            )
        else:
            found.note(
                f"{record.cell} could not be replayed: {answer.status}: {answer.reason}"
            )
            found.lacking.add(record.cell)
        return
    assert record.outcomes is not None
    wrong = []
    for name, now in answer.decisions.items():
        claimed = getattr(record.outcomes, name)
        if len(claimed) != len(now):
            wrong.append(
                f"{record.cell}: {name}: claims {len(claimed)} samples, the data set has"
                f" {len(now)}"
            )
            continue
        off = [at for at, (a, b) in enumerate(zip(claimed, now, strict=True)) if a != b]
        allowed = 0.0 if name == "labels" else tolerance * len(now)
        if len(off) > allowed:
            first = off[0]
            wrong.append(
                f"{record.cell}: {name}: {len(off)} of {len(now)} decisions differ when"
                f" its witness is replayed; sample {first} claims {claimed[first]},"
                f" replayed it is {now[first]}"
            )
    found.findings += wrong
    if not wrong:
        found.replayed.append(record.cell)


def rerun_all(
    records: Sequence[CellRecord],
    opened: Session,
    described: Described,
    cells: Mapping[str, Cell],
    found: Verified,
    shown: Shown,
    tolerance: float,
) -> None:
    """Run the cells of records again from scratch, and compare the results.

    Raises:
        EnvironmentFault: the surroundings are wrong.
    """
    from ..execute.engine import Engine
    from ..execute.known import Known
    from ..results import RunFolder
    from ..results.comparison import compare
    from ._session import torch_version

    if not records:
        return
    by_title = {cells[record.cell].title: record for record in records}
    with tempfile.TemporaryDirectory(prefix="cibench-") as temporary:
        folder = RunFolder(Path(temporary))
        folder.create()
        engine = Engine(
            cells=[cells[record.cell] for record in records],
            described=described,
            known=Known(folder, None, ["all"]),
            settings=opened.settings,
            folder=folder,
            backend=opened.backend,
            context=opened.context,
            torch_version=torch_version(),
            observer=shown,
        )
        opened.on_event = engine.note
        for done in engine.run():
            shown.finished(done)
            record, new = by_title[done.title], folder.read_one(done.cell)
            if new.status != "ok" and new.status != "failed":
                found.note(
                    f"{record.cell} could not be run again: {new.status}: {new.reason}"
                )
                found.lacking.add(record.cell)
                continue
            differences = [
                f"{record.cell}: {one.name}: claims {one.old}, run again it is {one.new}"
                for one in compare(record, new, tolerance=tolerance).differences
            ]
            differences += _certificate_faults(record, new, tolerance)
            found.findings += differences
            if not differences:
                found.reran.append(record.cell)


def _certificate_faults(
    record: CellRecord, new: CellRecord, tolerance: float
) -> Iterator[str]:
    """Where certified radii differ in more samples than they may."""
    ours = {one.kind: one for one in record.certificates}
    now = {one.kind: one for one in new.certificates}
    for kind in sorted(ours.keys() | now.keys()):
        a, b = ours.get(kind), now.get(kind)
        if a is None or b is None or a.confidence != b.confidence:
            yield f"{record.cell}: certificate {kind}: expected it as when run again"
            continue
        off = sum(
            abs(one - other) > tolerance * max(1.0, abs(other))
            for one, other in zip(a.radius, b.radius, strict=False)
        ) + abs(len(a.radius) - len(b.radius))
        if off > tolerance * len(b.radius):
            yield (
                f"{record.cell}: certificate {kind}: {off} of {len(b.radius)} radii are"
                " others when run again"
            )


def _finished(cell: Cell, record: CellRecord, answer: Answer) -> Finished:
    accuracy = None
    if answer.decisions is not None and record.outcomes is not None:
        counted = record.outcomes.counted
        pairs = zip(
            answer.decisions["labels"], answer.decisions["attacked"], strict=True
        )
        right = [
            a == b for (a, b), counts in zip(pairs, counted, strict=False) if counts
        ]
        accuracy = sum(right) / max(1, len(right))
    return Finished(
        title=f"replay · {cell.title}",
        cell=record.cell,
        key=record.key,
        status=answer.status,
        reason=answer.reason,
        accuracy=accuracy,
        source="computed",
        seconds=answer.seconds,
        flags=(),
        log="",
    )

"""Verifying a submission by replaying its witnesses and running its cells again."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from .._errors import CibenchError, PluginError, SubmissionError
from .._version import VERSION
from ..submission.bundle import Bundle, read_any
from ..submission.manifest import Verification
from ..submission.verify import chosen, verify_bundle
from ._named import check_names

if TYPE_CHECKING:
    from ..grid import Cell
    from ..results import CellRecord
    from ._progress import Shown


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """How far to verify, and how.

    Args:
        replay: how many witnesses; None for all.
        rerun: how many cells to run again.
        salt: enters the choice of both.
        tolerance: share of samples that may be decided otherwise than recorded, and how
            far numbers of cells that are run again may be off.
        device: a torch device; None for the records' own.
        cached: whether embeddings and fits are taken from the cache.
    """

    replay: int | None = None
    rerun: int = 0
    salt: str = ""
    tolerance: float = 0.0
    data_dir: Path | None = None
    device: str | None = None
    cached: bool = False
    jobs: str = "1"
    timeout: str = "1h"
    memory: str = "auto"
    isolation: Literal["process", "none"] = "process"
    quiet: bool = False


@dataclass(eq=False)
class Verified:
    """What was found of a submission.

    Args:
        findings: what contradicts it, a sentence each.
        notes: what could not be verified, and why.
        replayed, reran: records that agree.
    """

    bundle: Bundle | None = None
    findings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    replayed: list[str] = field(default_factory=list)
    reran: list[str] = field(default_factory=list)
    lacking: set[str] = field(default_factory=set)
    """Cells that were to be replayed or run again and could not be."""

    def note(self, text: str) -> None:
        """Say something once."""
        if text not in self.notes:
            self.notes.append(text)

    @property
    def verification(self) -> Verification:
        """The badge that was earned, with what earned it."""
        bundle = self.bundle
        records = [] if bundle is None else bundle.records
        badge: Literal["claimed", "re-scored", "reproduced"] = "claimed"
        held = set() if bundle is None else bundle.witnesses
        # Whoever leaves witnesses out would choose what is checked.
        whole = all(
            record.cell in held
            for record in records
            if record.status == "ok" and not record.personal
        )
        if not self.findings and not self.lacking:
            if self.replayed and whole:
                badge = "re-scored"
            if self.reran:
                badge = "reproduced"
        return Verification(
            badge=badge,
            records=len(records),
            witnesses=len(held),
            replayed=len(self.replayed),
            reran=len(self.reran),
            date=datetime.datetime.now(datetime.UTC).date().isoformat(),
            cibench=VERSION,
        )


def verified(source: Path, wanted: Wanted) -> Verified:
    """Verify a bundle's file or an entry's folder."""
    from ._progress import progress

    found = Verified()
    try:
        bundle = found.bundle = read_any(source)
        good = [record for record in bundle.records if record.status == "ok"]
        held = [record for record in good if record.cell in bundle.witnesses]
        count = len(held) if wanted.replay is None else wanted.replay
        replays = chosen(held, count, bundle.digest, wanted.salt)
        reruns = chosen(
            _computable(good, found if wanted.rerun else Verified()),
            wanted.rerun,
            bundle.digest,
            wanted.salt,
        )
        total = max(1, len(replays) + len(reruns))
        with progress(total, quiet=wanted.quiet, verbose=False) as shown:
            _static(bundle, shown)
            check_dates(bundle)
            check_names(bundle.records, found)
            for cells in _groups([*replays, *reruns], wanted, found):
                cells.verify(bundle, replays, reruns, wanted, found, shown)
    except SubmissionError as error:
        found.findings += error.findings
    return found


def _static(bundle: Bundle, shown: Shown) -> None:
    shown.stage("static checks", len(bundle.records))
    verify_bundle(
        bundle, lambda done, _: shown.prepared(bundle.records[done].cell, 0.0, "")
    )


def check_dates(bundle: Bundle) -> None:
    """Refuse records and submissions from the future.

    Raises:
        SubmissionError: one is dated after tomorrow, wherever that is.
    """
    latest = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=1)
    found = [bundle.manifest.created, *(r.created for r in bundle.records)]
    late = max(found)
    if late[:10] > latest.date().isoformat():
        raise SubmissionError(
            f"created: expected a date until today, got {late[:40]!a}"
        )


def _computable(records: Sequence[CellRecord], found: Verified) -> list[CellRecord]:
    """Those that a record alone is enough to run again."""
    kept = []
    for record in records:
        if any(part.component.name == "witness" for part in record.attack):
            found.note(
                "cells of the attack `witness` cannot be run again, for records leave out"
                " its file; their witnesses can be replayed"
            )
        else:
            kept.append(record)
    return kept


@dataclass(frozen=True, eq=False)
class _Group:
    """Cells that are computed with the same device and threads."""

    device: str
    threads: int
    cells: dict[str, Cell]

    def verify(
        self,
        bundle: Bundle,
        replays: Sequence[CellRecord],
        reruns: Sequence[CellRecord],
        wanted: Wanted,
        found: Verified,
        shown: Shown,
    ) -> None:
        from ..execute.describing import place_of
        from ..execute.settings import Settings
        from ._options import default_cache
        from ._replayed import replay_all, rerun_all
        from ._session import Execution, session

        options = {
            "jobs": wanted.jobs,
            "backend": None,
            "backend_options": (),
            "timeout": wanted.timeout,
            "memory": wanted.memory,
            "isolation": wanted.isolation,
        }
        settings = Settings(
            device=self.device,
            data_dir=wanted.data_dir,
            cache=default_cache() if wanted.cached else None,
            threads=self.threads,
        )
        with session(Execution.of(options), settings) as opened:
            described = opened.describe(list(self.cells.values()))
            by_cell = {record.cell: record for record in bundle.records}
            ready: dict[str, Cell] = {}
            for name, cell in self.cells.items():
                fault = described.faults.get(place_of(cell))
                facts = described.facts.get(place_of(cell))
                if facts is None:
                    reason = "" if fault is None else f": {fault.reason}"
                    found.note(f"data set {cell.dataset.spec} cannot be read{reason}")
                elif facts.fingerprint != by_cell[name].fingerprint:
                    found.note(
                        f"data set {cell.dataset.spec}: expected the data of the records"
                        f" ({by_cell[name].fingerprint[:12]}), got"
                        f" {facts.fingerprint[:12]}"
                    )
                else:
                    ready[name] = cell
                    continue
                found.lacking.add(name)
            both = (opened, described, ready, found, shown, wanted.tolerance)
            replay_all([r for r in replays if r.cell in ready], bundle, *both)
            rerun_all([r for r in reruns if r.cell in ready], *both)


def _groups(
    records: Sequence[CellRecord], wanted: Wanted, found: Verified
) -> list[_Group]:
    """The cells of records that can be made from what is installed, grouped."""
    from ..results import RunFolder
    from ._rebuild import rebuilt, threads_of

    groups: dict[tuple[str, int], _Group] = {}
    order = sorted(
        {record.cell: record for record in records}.values(),
        key=lambda r: (r.dataset.spec, r.seed, r.defense.spec, r.cell),
    )
    for record in order:
        try:
            # No folder says where files are: a submission must not.
            cell = rebuilt(record, RunFolder(Path(_NOWHERE)), None)
            broken = next((p.error for p in cell.plugins if p.error), "")
            if broken:
                raise PluginError(broken)
        except CibenchError as error:
            found.note(f"cannot be checked: {error}")
            found.lacking.add(record.cell)
            continue
        _note_sources(record, cell, found)
        device = _device(record, wanted, found)
        key = device, threads_of(record)
        groups.setdefault(key, _Group(*key, {})).cells[record.cell] = cell
    return list(groups.values())


#: A folder that is no run.
_NOWHERE = "cibench-no-run-here"


def _note_sources(record: CellRecord, cell: Cell, found: Verified) -> None:
    components = [record.dataset, *(p.component for p in record.attack), record.defense]
    for component, plugin in zip(components, cell.plugins, strict=True):
        if component.source != plugin.component.source:
            found.note(
                f"the code of {component.distribution} {component.version} is not that of"
                f" the records: expected source {component.source}, got"
                f" {plugin.component.source}"
            )


def _device(record: CellRecord, wanted: Wanted, found: Verified) -> str:
    import click

    from ._session import check_device

    if wanted.device:
        return check_device(wanted.device)
    try:
        return check_device(record.device)
    except click.BadParameter:
        found.note(
            f"records were made on {record.device}, which is not here: cpu is used; a few"
            " decisions may differ (--tol)"
        )
        return "cpu"

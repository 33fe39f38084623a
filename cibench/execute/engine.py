"""The coordinator: what is known already, what must be computed, in which order; no torch.

Work goes in stages, so that no two workers fit the same: embeddings, then the references
and fits that cells share, then the cells. A stage's failure is the result of every cell
that needed it. Records are written as they come; the rest can be taken up at any time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import msgspec

from ..grid import Cell
from ..results import CellRecord, RunFolder
from ..results.record import decode
from .artifacts import Artifacts, Shared
from .backends import Backend, insistent
from .blank import UNKNOWN, blank_parts, blank_record, scrub
from .channel import Event
from .describing import Described, error_of, place_of
from .finished import Finished, Source, finished_of
from .history import History
from .keys import CellKeys, Keys, content_key
from .known import Known
from .perform import Context, Work
from .settings import Settings
from .task import Answer, Kind, Task, task_of


class Observer(Protocol):
    """What a run reports to."""

    def stage(self, name: str, tasks: int) -> None:
        """A stage begins."""

    def prepared(self, title: str, seconds: float, reason: str) -> None:
        """Work that cells share is done, or failed for a reason."""

    def event(self, event: Event) -> None:
        """Work began, or entered a phase."""


#: What reasons call shared work.
_SHARED = {"embed": "embedding", "refer": "references", "fit": "fit"}


@dataclass(frozen=True)
class Lost:
    """Shared work that failed, with the log of it."""

    kind: Kind
    answer: Answer
    log: str


@dataclass(eq=False)
class Engine:
    """Runs cells.

    Args:
        described: what `describe` found of their data sets.
        known: what needs not be computed.
        settings: with a cache folder.
        folder: of the run, made already.
        record: called with every record that is written to the run's folder.
    """

    cells: Sequence[Cell]
    described: Described
    known: Known
    settings: Settings
    folder: RunFolder
    backend: Backend
    context: Context
    torch_version: str
    observer: Observer
    record: Callable[[CellRecord], None] = lambda record: None
    history: History = field(init=False)

    def __post_init__(self) -> None:
        assert self.settings.cache is not None
        self.history = History(self.settings)
        self._keys = Keys(self.settings, self.torch_version)
        self._artifacts = Artifacts(self.settings.cache / "artifacts")
        self._lost: dict[str, Lost] = {}
        self._begun: dict[int, str] = {}
        self._running: set[str] = set()

    def note(self, event: Event) -> None:
        """Take in what a worker says."""
        if event.stage == "evaluate" and event.started:
            self._running.add(event.title)
        self.observer.event(event)

    def keys(self, cell: Cell) -> CellKeys:
        """The content keys of a cell and of what it shares with others."""
        found = self.described.facts.get(place_of(cell))
        if found is None or any(plugin.error for plugin in cell.plugins):
            return CellKeys("", "", "", content_key("cannot be run", cell.title))
        return self._keys.of(cell, found)

    def inputs(self, cell: Cell) -> dict[str, str]:
        """What the key of a cell that can be run is the hash of, by name."""
        return self._keys.inputs(cell, self.described.facts[place_of(cell)])

    def run(self) -> Iterator[Finished]:
        """Give every cell as it is finished: first those that need no work.

        Raises:
            EnvironmentFault: the surroundings are wrong; finished cells are kept.
            KeyboardInterrupt: running cells have records that say so.
        """
        missing = []
        for at, cell in enumerate(self.cells):
            done = self._settled(cell)
            if done is None:
                missing.append(at)
            else:
                yield done
        try:
            yield from self._compute(missing)
        except KeyboardInterrupt:
            self._leave_interrupted()
            raise
        finally:
            self.history.write(self.settings.cache, self.context.run)

    def refused(self, cell: Cell) -> Answer | None:
        """Why a cell cannot be run, with the status it gets; None if it can."""
        broken = next((plugin.error for plugin in cell.plugins if plugin.error), "")
        if broken:
            return Answer(status="failed", reason=broken)
        fault = self.described.faults.get(place_of(cell))
        if fault is not None:
            # Files that a user may well not have are no failure of the data set.
            status = "skipped" if fault.fault == "DataError" else fault.status
            return Answer(status=status, reason=fault.reason)
        misfit = self.described.attack(cell).misfit
        return Answer(status="skipped", reason=misfit) if misfit else None

    def missing(self, cells: Iterable[tuple[int, CellKeys]]) -> list[Shared]:
        """Shared work that is not stored; each with the number of a cell that needs it.

        Args:
            cells: that need work, each by number and keys.
        """
        return self._artifacts.missing(cells)

    def _settled(self, cell: Cell) -> Finished | None:
        """A cell that needs no work, its record in the run's folder; None if it does."""
        refused = self.refused(cell)
        if refused is not None:
            return self._keep(cell, self._blank(cell, refused), "computed")
        found = self.known.find(cell, self.keys(cell).cell)
        if isinstance(found, CellRecord):
            return self._keep(cell, found, "cache")
        return found

    def _compute(self, missing: list[int]) -> Iterator[Finished]:
        shared = self.missing((at, self.keys(self.cells[at])) for at in missing)
        self._prepare("embed", [s for s in shared if s.kind == "embed"])
        self._prepare("refer+fit", [s for s in shared if s.kind != "embed"])
        if missing:
            self.observer.stage("evaluate", len(missing))
        rest = []
        for at in missing:
            lost = self._loss(at)
            if lost is None:
                rest.append(at)
            else:
                yield self._failed_before(self.cells[at], lost)
        meanwhile: list[Finished] = []

        def works() -> Iterator[Work]:
            for at in rest:
                cell = self.cells[at]
                # Another process may work on the same folder.
                again = self.known.appeared(cell, self.keys(cell).cell)
                if again is not None:
                    meanwhile.append(again)
                    continue
                self._begun[at] = cell.title
                yield self._work(at, task_of("evaluate", cell))

        for at, answer in insistent(self.backend, works()):
            yield self._finished(at, answer)
            while meanwhile:
                yield meanwhile.pop()
        yield from meanwhile

    def _prepare(self, name: str, shared: list[Shared]) -> None:
        """Have shared work done; remember what failed."""
        wanted = [one for one in shared if self._loss(one.at) is None]
        if wanted:
            self.observer.stage(name, len(wanted))

        def works() -> Iterator[Work]:
            for number, one in enumerate(wanted):
                task = task_of(one.kind, self.cells[one.at])
                work = self._work(one.at, task, self._artifacts.names([one.key]))
                yield replace(work, number=number)

        for number, answer in insistent(self.backend, works()):
            one, cell = wanted[number], self.cells[wanted[number].at]
            if answer.fault:
                raise error_of(answer)
            self._artifacts.bring(self.keys(cell).embedding, one.key, answer.artifacts)
            self.history.add(one.kind, cell, answer)
            if answer.status != "ok":
                log = self._log(f"{one.kind}-{one.key[:16]}", answer)
                self._lost[one.key] = Lost(one.kind, answer, log)
            title = task_of(one.kind, cell).title
            self.observer.prepared(title, answer.seconds, answer.reason)

    def _work(self, number: int, task: Task, makes: tuple[str, ...] = ()) -> Work:
        """The work of a task on a cell, with what its worker needs."""
        cell = self.cells[number]
        keys = self.keys(cell)
        facts = self.described.facts[place_of(cell)]
        task = msgspec.structs.replace(
            task,
            settings=self.settings,
            torch=self.torch_version,
            fingerprint=facts.fingerprint,
            makes=makes,
        )
        carried = self._artifacts.content(keys) if self.context.carry else {}
        return Work(number=number, task=task, context=self.context, artifacts=carried)

    def _finished(self, at: int, answer: Answer) -> Finished:
        cell = self.cells[at]
        if answer.fault:
            raise error_of(answer)
        self._begun.pop(at, None)
        self._running.discard(cell.title)
        self.history.add("evaluate", cell, answer)
        if answer.record is not None:
            record = decode(answer.record)
        else:
            if answer.status == "ok":
                answer = Answer(status="failed", reason="the worker gave no record")
            record = self._blank(cell, answer)
        stray = ["it left processes behind, which were ended"] if answer.stray else []
        record = msgspec.structs.replace(
            record,
            seconds=round(answer.seconds, 6),
            peak_memory=answer.peak_memory,
            log=self._log(record.cell, answer),
            notes=[*record.notes, *stray],
        )
        if answer.witness is not None:
            self.folder.write_witness(record.cell, answer.witness)
        done = self._keep(cell, record, "computed")
        if record.status == "ok":
            self.known.remember(cell, record)  # the run's own folder comes first
        return done

    def _failed_before(self, cell: Cell, lost: Lost) -> Finished:
        """A cell whose embedding, references or fit failed."""
        reason = f"{_SHARED[lost.kind]}: {lost.answer.reason}"
        answer = msgspec.structs.replace(lost.answer, reason=reason)
        record = msgspec.structs.replace(self._blank(cell, answer), log=lost.log)
        return self._keep(cell, record, "computed")

    def _loss(self, at: int) -> Lost | None:
        keys = self.keys(self.cells[at])
        return next((self._lost[key] for key in keys if key in self._lost), None)

    def _keep(self, cell: Cell, record: CellRecord, source: Source) -> Finished:
        self.folder.write(record)
        self.record(record)
        return finished_of(record, cell.title, source)

    def _blank(self, cell: Cell, answer: Answer) -> CellRecord:
        """The record of a cell without numbers."""
        facts = self.described.facts.get(place_of(cell), UNKNOWN)
        attack = facts.attacks.get(cell.attack_spec)
        parts = attack.parts if attack else blank_parts(cell)
        keys, device = self.keys(cell), self.settings.device_class
        return msgspec.structs.replace(
            blank_record(cell, keys.cell, facts, parts, device),
            status=answer.status,
            reason=scrub(answer.reason),
            inputs=self._keys.inputs(cell, facts) if keys.fit else {},
        )

    def _leave_interrupted(self) -> None:
        """Leave a record of every cell that was running, in place of no numbers."""
        answer = Answer(status="interrupted", reason="the run was interrupted")
        for at, title in self._begun.items():
            cell = self.cells[at]
            done = self.known.is_ok(cell, self.keys(cell).cell)
            if title in self._running and not done:
                self.folder.write(self._blank(cell, answer))

    def _log(self, name: str, answer: Answer) -> str:
        return self.folder.write_log(name, answer.log) if answer.log else ""

"""What a run would do and how long that might take, with what the estimate rests on.

Nothing is computed and nothing is written. Times come from what earlier runs took; where
there is nothing to go by, they are unknown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

from ..grid import Cell
from .engine import Engine
from .history import Basis, Estimate, History
from .keys import CellKeys
from .task import Kind

#: What becomes of a cell: its record is stored already, it is computed, it is left out
#: with a reason, or it fails at once because a plugin cannot be loaded.
State = Literal["cached", "in folder", "run", "skipped", "failed"]
STATES: Final[tuple[State, ...]] = get_args(State)

#: Kinds of work that are done side by side; every stage ends before the next begins.
_STAGES: Final[tuple[tuple[Kind, ...], ...]] = (
    ("embed",),
    ("refer", "fit"),
    ("evaluate",),
)


@dataclass(frozen=True, kw_only=True)
class PlannedCell:
    """What becomes of one cell.

    Args:
        reason: why it is left out or fails; empty otherwise.
        estimate: of the evaluation alone, without what cells share; None if it is not to
            be run, or nothing like it ever was.
    """

    cell: Cell
    state: State
    reason: str = ""
    estimate: Estimate | None = None


@dataclass(frozen=True, kw_only=True)
class PlannedWork:
    """All work of one kind.

    Args:
        tasks: how many are to be done.
        seconds: that they take together, one after another; None if unknown.
        longest: seconds of the longest.
        peak_memory: bytes of the largest; 0 if unknown.
        bases: how many of the estimates are means of what.
    """

    kind: Kind
    tasks: int
    seconds: float | None
    longest: float
    peak_memory: int
    bases: dict[Basis, int]

    @property
    def guessed(self) -> int:
        """Tasks that were never done before with these options and settings."""
        return self.tasks - self.bases.get("same", 0)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run would do.

    Args:
        cells: in the order of the run.
        work: what is to be done, by kind: `embed`, `refer`, `fit`, `evaluate`.
        workers: that do it side by side.
    """

    cells: Sequence[PlannedCell]
    work: Sequence[PlannedWork]
    workers: int

    @property
    def counts(self) -> dict[State, int]:
        """Cells by what becomes of them."""
        found = Counter(planned.state for planned in self.cells)
        return {state: found[state] for state in STATES}

    @property
    def reasons(self) -> list[tuple[State, str, int]]:
        """State, reason and number of the cells that are not run, most cells first."""
        found = Counter((c.state, c.reason) for c in self.cells if c.reason)
        return [(state, reason, n) for (state, reason), n in found.most_common()]

    @property
    def seconds(self) -> float | None:
        """Wall time of all stages; None if unknown.

        A stage takes as long as its work spread over the workers, and at least as long as
        its longest task. The start of processes and looking at data sets are not in it.
        """
        total = 0.0
        for kinds in _STAGES:
            stage = [work for work in self.work if work.kind in kinds and work.tasks]
            spread = 0.0
            for work in stage:
                if work.seconds is None:
                    return None
                spread += work.seconds / self.workers
            total += max([spread, *(work.longest for work in stage)])
        return total

    @property
    def peak_memory(self) -> int:
        """Bytes of the largest task, its process included; 0 if unknown."""
        return max((work.peak_memory for work in self.work), default=0)


def plan(engine: Engine, history: History, workers: int) -> Plan:
    """What a run of the engine would do.

    Args:
        engine: of the run; nothing is run on it.
        history: of earlier runs.
        workers: tasks done side by side.
    """
    cells = []
    keys: dict[int, CellKeys] = {}
    for at, cell in enumerate(engine.cells):
        keys[at] = engine.keys(cell)
        planned = _planned(engine, history, cell, keys[at].cell)
        cells.append(planned)
        if planned.state != "run":
            del keys[at]
    wanted: dict[Kind, list[Estimate | None]] = {
        kind: [] for kinds in _STAGES for kind in kinds
    }
    for shared in engine.missing(keys.items()):
        found = history.estimate(shared.kind, cells[shared.at].cell)
        wanted[shared.kind].append(found)
    wanted["evaluate"] = [cells[at].estimate for at in keys]
    work = [_work(kind, estimates) for kind, estimates in wanted.items()]
    return Plan(cells=cells, work=work, workers=workers)


def _planned(engine: Engine, history: History, cell: Cell, key: str) -> PlannedCell:
    refused = engine.refused(cell)
    if refused is not None:
        state: State = "skipped" if refused.status == "skipped" else "failed"
        return PlannedCell(cell=cell, state=state, reason=refused.reason)
    place = engine.known.where(cell, key)
    if place is not None:
        known: State = "cached" if place == "cache" else "in folder"
        return PlannedCell(cell=cell, state=known)
    return PlannedCell(
        cell=cell, state="run", estimate=history.estimate("evaluate", cell)
    )


def _work(kind: Kind, estimates: Sequence[Estimate | None]) -> PlannedWork:
    known = [estimate for estimate in estimates if estimate is not None]
    complete = len(known) == len(estimates)
    return PlannedWork(
        kind=kind,
        tasks=len(estimates),
        seconds=sum(e.seconds for e in known) if complete else None,
        longest=max((e.seconds for e in known), default=0.0),
        peak_memory=max((e.peak_memory for e in known), default=0),
        bases=dict(Counter(e.basis for e in known)),
    )

"""What `run` does: find out, compute, keep and print, then say how it went."""

from __future__ import annotations

import signal
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from .._errors import CibenchError, ContractError
from ..execute.engine import Engine
from ..execute.finished import Finished
from ..registry import default_registry
from ..results import RunFolder
from ._chosen import Chosen, Wanted
from ._manifest import resume_command, write_manifest
from ._options import default_cache, new_run
from ._prepared import prepared, settings_of
from ._progress import progress
from ._session import Execution, Session

if TYPE_CHECKING:
    from ..grid import Cell
    from ..results import CellRecord

#: Cells up to which a run ends with its tables.
TABLES = 2000


class Outcome:
    """How the cells of a run ended, in numbers, and what went wrong outside of them."""

    def __init__(self) -> None:
        self.statuses: Counter[str] = Counter()
        self.sources: Counter[str] = Counter()
        self.first: Finished | None = None
        self.ids: list[str] = []
        self.trouble: ContractError | None = None

    def add(self, done: Finished) -> None:
        """Take in a finished cell."""
        self.statuses[done.status] += 1
        self.sources[done.source] += 1
        self.ids.append(done.cell)
        if self.first is None and done.status not in ("ok", "skipped"):
            self.first = done

    @property
    def failed(self) -> int:
        """Cells that are neither done nor skipped."""
        return self.statuses.total() - self.statuses["ok"] - self.statuses["skipped"]

    def notify(self, record: CellRecord) -> None:
        """Let plugins observe a record; a failing observer must not cost the run."""
        try:
            default_registry().notify_finished(record)
        except ContractError as error:
            self.trouble = self.trouble or error


@dataclass(frozen=True)
class Computed:
    """A run: what was chosen, where its records are, how its cells ended.

    Args:
        interrupted: whether it was stopped; what is kept has been said then.
    """

    chosen: Chosen
    folder: RunFolder
    outcome: Outcome
    interrupted: bool = False


def run_wanted(asked: Wanted) -> int:
    """Run what was asked for and print it; return the exit code."""
    found = compute(asked)
    if found.interrupted:
        return 130
    return _finish(found.chosen, found.outcome, found.folder, asked.params)


def compute(asked: Wanted) -> Computed:
    """Run what was asked for, with progress on standard error unless `quiet`.

    Everything that can be wrong with it is found before anything runs.
    """
    params = asked.params
    cache = None if params["no_cache"] else default_cache()
    settings, rerun = settings_of(asked, cache), params["rerun"]
    folder = RunFolder(Path(params["out"] or new_run()))
    with (
        _stoppable(),
        prepared(asked, Execution.of(params), settings, rerun=rerun) as ready,
    ):
        chosen = ready.chosen
        outcome = Outcome()
        engine = ready.engine(folder, cached=cache is not None, rerun=rerun)
        engine.record = outcome.notify
        folder.create()
        if chosen.study is not None:
            from ._run_study import write_study

            write_study(
                chosen, ready.described, ready.unavailable, params["protocols"], folder
            )
        write_manifest(folder, asked, len(chosen.cells))
        try:
            _run(engine, ready.session, params, outcome)
        except KeyboardInterrupt:
            _say_interrupted(engine, folder, params)
            return Computed(chosen, folder, outcome, interrupted=True)
        except CibenchError as error:
            raise type(error)(
                f"{error}; {outcome.statuses.total()} of {len(chosen.cells)} cells are"
                f" finished and kept; go on with: {resume_command(folder, params)}"
            ) from error
    return Computed(chosen, folder, outcome)


def _run(
    engine: Engine, opened: Session, params: Mapping[str, Any], outcome: Outcome
) -> None:
    with progress(
        len(engine.cells),
        quiet=params["quiet"],
        verbose=params["verbose"],
        json_log=params["json_log"],
    ) as shown:
        engine.observer = shown
        opened.on_event = engine.note
        for done in engine.run():
            outcome.add(done)
            shown.finished(done)


def _finish(
    chosen: Chosen, outcome: Outcome, folder: RunFolder, params: Mapping[str, Any]
) -> int:
    """Print the records or their tables, and how it went; return the exit code.

    Raises:
        ContractError: an observer failed.
    """
    quiet, total = params["quiet"], outcome.statuses.total()
    if params["as_json"]:
        _print_json(folder, outcome.ids)
    elif total <= TABLES:
        _print_tables(chosen, folder, outcome.ids)
    if not quiet:
        known = outcome.sources["cache"] + outcome.sources["folder"]
        again = f", {known} of them already known" if known else ""
        click.echo(f"{total} cells{again}; records in {folder.path}", err=True)
        if chosen.study is not None or total > TABLES:
            click.echo(f"next: cibench report {folder.path}", err=True)
    if outcome.first is not None:
        first = outcome.first
        how = ", ".join(
            f"{n} {status}"
            for status, n in sorted(outcome.statuses.items())
            if status not in ("ok", "skipped")
        )
        click.echo(
            f"error: {outcome.failed} of {total} cells failed ({how}); first:"
            f" {first.cell}: {first.reason}; see: cibench show {folder.path} --failed",
            err=True,
        )
        return 1
    if outcome.trouble is not None:
        raise outcome.trouble
    return 0


def _print_json(folder: RunFolder, ids: Sequence[str]) -> None:
    """The records as one JSON array, a record at a time."""
    import msgspec

    out = sys.stdout.buffer
    out.write(b"[")
    for at, name in enumerate(ids):
        content = folder.file(name).read_bytes()
        out.write(b"," * bool(at) + msgspec.json.format(content, indent=-1))
    out.write(b"]\n")
    out.flush()


def _print_tables(chosen: Chosen, folder: RunFolder, ids: Sequence[str]) -> None:
    from ..results.table import tables
    from ._show import print_table

    records = [folder.read_one(name) for name in ids]
    if chosen.study is None:
        for table in tables(records):
            print_table(table)
        return
    from ._run_study import study_tables

    click.echo(f"## {chosen.study.title}\n")
    for block, found in _by_block(chosen, records):
        for table in study_tables(block, found):
            print_table(table)


def _by_block(
    chosen: Chosen, records: Sequence[CellRecord]
) -> Iterator[tuple[Any, list[tuple[Cell, CellRecord]]]]:
    """Each block of a study with its cells' records; blocks may share cells."""
    from ..embedding import recipe_of
    from ..spec import resolved

    found: dict[tuple[str, str, str, int], list[CellRecord]] = {}
    for record in records:
        attack = "+".join(part.component.spec for part in record.attack)
        place = record.dataset.spec, attack, record.defense.spec, record.seed
        found.setdefault(place, []).append(record)
    for block in chosen.blocks:
        pairs = []
        for cell in block.cells:
            place = cell.dataset.spec, cell.attack_spec, cell.defense.spec, cell.seed
            for record in found.get(place, []):
                recipe = cell.embedding
                if recipe is None or record.embedding == resolved(recipe_of(recipe)):
                    pairs.append((cell, record))
                    break
        yield block, pairs


def _say_interrupted(
    engine: Engine, folder: RunFolder, params: Mapping[str, Any]
) -> None:
    # Counted in the folder: the signal may come between a record and its being told.
    cells = engine.cells
    kept = sum(engine.known.is_kept(cell, engine.keys(cell).cell) for cell in cells)
    click.echo(
        f"interrupted; {kept} of {len(cells)} cells are finished and kept;"
        f" go on with: {resume_command(folder, params)}",
        err=True,
    )


@contextmanager
def _stoppable() -> Iterator[None]:
    """SIGTERM ends the run as Ctrl-C does; a second signal waits for the tidying up."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {
        each: signal.signal(each, stop) for each in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)

"""Doing one task in this process, and telling what became of it; never raising.

`serve` is what a child process runs; `answer` the same without the wire.
"""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from .._errors import CibenchError, EnvironmentFault
from .._sources import package_hash
from ..grid import Cell, Plugin
from ..registry import default_registry
from ..results.record import Status, encode
from .blank import scrub
from .channel import Event
from .put_back import put_back
from .runner import Runner
from .settings import Settings
from .task import Answer, CellRef, PluginRef, Task, decode_task, encode_answer

Report = Callable[[Event], None]

#: Taken when the code is loaded: the files may change while it runs.
_PACKAGE = package_hash()

#: The runner of this process: one, for the last settings.
_runners: dict[Settings, Runner] = {}


def serve(payload: bytes, report: Callable[[bytes], None]) -> bytes:
    """Do an encoded task; give the encoded answer."""
    from .channel import encode_event

    return encode_answer(
        answer(decode_task(payload), lambda event: report(encode_event(event)))
    )


def answer(task: Task, report: Report) -> Answer:
    """Do a task and tell what became of it.

    Raises:
        KeyboardInterrupt: the user asked to stop.
    """
    started = time.perf_counter()

    def phase(name: str, done: int = 0, total: int = 0) -> None:
        report(
            Event(title=task.title, stage=task.kind, phase=name, done=done, total=total)
        )

    phase("starting")
    try:
        found = _done(task, phase)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a plugin may raise anything
        fault = _fault(error, task)
        if not fault:  # a fault says all there is to say
            traceback.print_exception(error, file=sys.stderr)
        reason = str(error) if fault else _reason(error)
        found = Answer(status=_status(error), reason=reason, fault=fault)
        _runners.clear()
    return _timed(found, time.perf_counter() - started)


def _timed(found: Answer, seconds: float) -> Answer:
    import msgspec

    return msgspec.structs.replace(found, seconds=seconds)


def _done(task: Task, phase: Callable[[str, int, int], None]) -> Answer:
    _check_versions(task)
    cell = _cell(task.cell)
    runner = _runner(task.settings)
    runner.report = phase
    with put_back():
        return _step(task, cell, runner)


def _step(task: Task, cell: Cell, runner: Runner) -> Answer:
    if task.kind == "describe":
        attacks = [tuple(_plugin(ref) for ref in refs) for refs in task.attacks]
        return Answer(facts=runner.describe(cell, attacks))
    runner.data.check_fingerprint(cell, task.fingerprint)
    if task.kind == "embed":
        runner.embed(cell)
    elif task.kind == "refer":
        runner.refer(cell)
    elif task.kind == "fit":
        runner.fit(cell)
    elif task.kind == "replay":
        return Answer(decisions=runner.replay(cell, task.witness))
    else:
        record, witness = runner.evaluate(cell)
        return Answer(record=encode(record), witness=witness)
    return Answer()


def _runner(settings: Settings) -> Runner:
    if settings not in _runners:
        _runners.clear()
        _runners[settings] = Runner(settings)
    return _runners[settings]


class VersionFault(EnvironmentFault):
    """This process has other code than the one that started the run."""


def _check_versions(task: Task) -> None:
    import torch

    ours = {"cibench": _PACKAGE, "torch": str(torch.__version__)}
    wanted = {"cibench": task.harness, "torch": task.torch}
    for name, found in ours.items():
        if wanted[name] and wanted[name] != found:
            raise VersionFault(
                f"a worker has another {name}: expected {wanted[name]}, got {found};"
                f" install the same version of {name} on every worker, and leave it as it"
                " is while the run lasts"
            )


def _cell(ref: CellRef) -> Cell:
    return Cell(
        _plugin(ref.dataset),
        tuple(_plugin(part) for part in ref.attack),
        _plugin(ref.defense),
        ref.seed,
        ref.embedding,
    )


@lru_cache(maxsize=256)
def _plugin(ref: PluginRef) -> Plugin:
    try:
        plugin = ref.configure(default_registry())
    except CibenchError as error:
        raise VersionFault(
            f"a worker cannot load {ref.entry.title}: {error}; install it on every worker"
        ) from error
    found = plugin.component.source
    if found != ref.source:
        raise VersionFault(
            f"a worker has another {ref.entry.title}: expected source {ref.source}, got"
            f" {found}; install the same version on every worker"
        )
    return plugin


def _status(error: BaseException) -> Status:
    text = str(error)
    if isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError)
        and ("can't allocate memory" in text or "out of memory" in text)
    ):
        return "out-of-memory"
    return "failed"


def _reason(error: BaseException) -> str:
    reason = f"{type(error).__name__}: {error}" if str(error) else repr(error)
    if not isinstance(error, CibenchError):
        where = traceback.extract_tb(error.__traceback__)[-1]
        reason += f" ({Path(where.filename).name}:{where.lineno})"
    return scrub(reason)


def _fault(error: BaseException, task: Task) -> str:
    """The error's class where the run cannot go on, or the data set not be used."""
    if isinstance(error, VersionFault):
        return "EnvironmentFault"
    if task.kind == "describe" and isinstance(error, CibenchError):
        return type(error).__name__
    return ""

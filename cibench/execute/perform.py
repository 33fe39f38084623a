"""Doing a task where a backend put it: in a warm child of its own, within limits.

This is the one function every backend runs, in the main process, in a process of loky or
on a Dask or Ray worker. It imports no torch: that is the child's business.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from .._errors import CibenchError
from .carry import carried_in, carried_out
from .channel import Event, decode_event, sender
from .child import Child, Ended
from .limits import Limits
from .task import Answer, Task, decode_answer, encode_task

Isolation = Literal["process", "none"]


@dataclass(frozen=True, kw_only=True)
class Context:
    """How a run's tasks are to be done, the same for all of them.

    Args:
        run: a name of the run, unique.
        limits: of each task.
        isolation: `process` for a child of its own; `none` for this very process.
        channel: address that phases are sent to; empty for none.
        bundles: plugins that workers may lack, by name, packed (`ship.bundles`).
        carry: whether artifacts travel with tasks, for workers without a common folder.
        owner: process that ends when the main process does not live any more; 0 for none.
    """

    run: str
    limits: Limits = field(default_factory=Limits)
    isolation: Isolation = "process"
    channel: str = ""
    bundles: tuple[tuple[str, bytes], ...] = ()
    carry: bool = False
    owner: int = 0


@dataclass(frozen=True, kw_only=True)
class Work:
    """A numbered task with what it needs.

    Args:
        artifacts: content of artifacts by file name, where they travel.
    """

    number: int
    task: Task
    context: Context
    artifacts: dict[str, bytes] = field(default_factory=dict)


_local = threading.local()
#: Children with their run and the thread they serve.
_children: list[tuple[str, threading.Thread, Child]] = []
_watched: set[int] = set()


def perform(work: Work) -> tuple[int, Answer]:
    """Do a task, whatever it does; give its number and what became of it."""
    started = time.perf_counter()
    try:
        if work.context.owner:
            follow(work.context.owner)
        task = work.task
        if work.context.carry:
            task = carried_in(task, work.artifacts, work.context.run)
        report = sender(work.context.channel)
        report(Event(title=task.title, stage=task.kind, phase="", started=True))
        if work.context.isolation == "none":
            found = _here(task, report)
        else:
            found = _in_child(task, work.context, report)
        if work.context.carry:
            found = carried_out(task, work.artifacts, found)
    except CibenchError as error:
        found = Answer(status="failed", reason=str(error), fault=type(error).__name__)
    if not found.seconds:
        found = msgspec.structs.replace(found, seconds=time.perf_counter() - started)
    return work.number, found


def start_early(context: Context, threads: int) -> None:
    """Begin to start the child of this thread, while there is other work to do."""
    if context.isolation == "process":
        _child(context, threads).start()


def close_children(run: str = "") -> None:
    """End the children of every thread of this process, or those of one run."""
    for each in list(_children):
        if not run or each[0] == run:
            _children.remove(each)
            each[2].close()
    if not run:
        _local.__dict__.clear()


def _close_orphans() -> None:
    """End the children of threads that are no more."""
    for each in list(_children):
        if not each[1].is_alive():
            _children.remove(each)
            each[2].close()


def _here(task: Task, report: Callable[[Event], None]) -> Answer:
    from .answer import answer

    # What a plugin prints must not mix with the tables on standard output.
    with contextlib.redirect_stdout(sys.stderr):
        return answer(task, report)


def _in_child(task: Task, context: Context, report: Callable[[Event], None]) -> Answer:
    child = _child(context, task.settings.threads)
    ended = child.call(
        encode_task(task),
        limits=context.limits,
        report=lambda data: report(decode_event(data)),
    )
    found = _answered(ended)
    if found.status != "ok":
        child.replace()  # replaced, not trusted
    return found


def _answered(ended: Ended) -> Answer:
    if ended.outcome == "returned":
        assert ended.answer is not None
        found = decode_answer(ended.answer)
    else:
        statuses = {
            "raised": "failed",
            "exited": "failed",
            "cancelled": "interrupted",
        }
        found = Answer(
            status=statuses.get(ended.outcome, ended.outcome),  # type: ignore[arg-type]
            reason=ended.reason,
        )
    return msgspec.structs.replace(
        found,
        seconds=ended.seconds,
        peak_memory=ended.peak_memory,
        log=ended.log,
        stray=ended.stray,
    )


def _child(context: Context, threads: int) -> Child:
    kept = getattr(_local, "child", None)
    if kept is not None and kept[0] == (context.run, threads):
        child: Child = kept[1]
        return child
    if kept is not None:
        kept[1].close()
        _children[:] = [each for each in _children if each[2] is not kept[1]]
    _close_orphans()
    environment = {}
    if context.bundles:
        from .ship import unpack

        found = [unpack(context.bundles, context.run), os.environ.get("PYTHONPATH")]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, found))
    child = Child(
        "cibench.execute.answer:serve", threads=threads, environment=environment
    )
    if not _children:
        atexit.register(close_children)
    _children.append((context.run, threading.current_thread(), child))
    _local.child = ((context.run, threads), child)
    return child


def follow(owner: int) -> None:
    """End this process soon after its owner; leave Ctrl-C to the owner."""
    if owner in _watched:
        return
    _watched.add(owner)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == owner:
            time.sleep(0.5)
        close_children()
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="cibench-follow").start()

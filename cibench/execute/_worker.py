"""The worker: a forked process that runs calls of the entry function, one after another.

It is a session of its own and the parent of all orphans below it. The code it runs may do
anything; the worker tells the harness what it could not put back.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import socket
import time
import traceback
from collections.abc import Callable
from typing import Final, NoReturn

import msgspec

from . import _system, _wire
from ._surroundings import Surroundings, flush, redirect, watch_faults
from ._wire import Answer, Channel

#: What runs in a worker: takes the request and a function that reports a phase.
Entry = Callable[[bytes, Callable[[bytes], None]], bytes]

#: Lowest number of the worker's own descriptors, out of the way of careless code.
_LOWEST: Final = 100

#: Seconds that a process about to end is waited for before it counts as stray.
_PATIENCE: Final = 0.1

#: Characters kept of an exception's text and of its traceback.
_TEXT: Final = 2**16


def work(function: Entry, connection: int, log: int, zygote: int) -> NoReturn:
    """Set this freshly forked process apart and serve until the harness is gone."""
    try:
        os.setsid()
        _system.die_with(zygote)
        _system.adopt_orphans()
        _system.die_first()
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        worker = _Worker(function, _lifted(connection), _lifted(log))
        try:
            worker.serve()
        except OSError:
            os._exit(_wire.LOST)
    except BaseException:
        traceback.print_exc()
        flush()
    finally:
        os._exit(1)


def _lifted(descriptor: int) -> int:
    high = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _LOWEST)
    os.close(descriptor)
    return high


def _identity(descriptor: int) -> tuple[int, int]:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino


class _Worker:
    def __init__(self, function: Entry, connection: int, log: int) -> None:
        self.function, self.log, self.pid = function, log, os.getpid()
        self.channel = Channel(socket.socket(fileno=connection))
        self.descriptors = {number: _identity(number) for number in (connection, log)}
        redirect(log)

    def serve(self) -> None:
        """Answer requests.

        Raises:
            OSError: the harness, or the way to it, is gone.
        """
        before = Surroundings.now()
        while True:
            kind, payload = self.channel.wait()
            if kind != _wire.REQUEST:
                os._exit(0)
            redirect(self.log)
            watch_faults(self.log)
            known = _peak() if not _system.reset_peak() else 0
            self.channel.send(_wire.STARTED)
            answer = self._run(payload)
            if os.getpid() != self.pid:  # the call forked, and this is the copy
                os._exit(0)
            self._check()
            flush()
            answer.stray = _strays()
            answer.stale = not before.restore()
            peak = _peak()
            answer.peak = peak if peak and peak > (known or 0) else None
            self.channel.send(_wire.ANSWER, msgspec.msgpack.encode(answer))

    def _check(self) -> None:
        """Write to no descriptor that is no longer what it was."""
        for number, identity in self.descriptors.items():
            if _identity(number) != identity:
                raise OSError("the worker's own descriptors were closed")

    def _report(self, phase: bytes) -> None:
        if os.getpid() == self.pid:
            self._check()
            self.channel.send(_wire.PHASE, phase)

    def _run(self, payload: bytes) -> Answer:
        try:
            value = self.function(payload, self._report)
            if not isinstance(value, bytes):
                raise TypeError(
                    "expected bytes from the entry function, got"
                    f" {type(value).__name__}"
                )
        except BaseException as error:  # whatever the called code raises is its answer
            answer = _failure(error)
            flush()
            with contextlib.suppress(OSError):
                os.write(self.log, answer.traceback.encode())
            return answer
        return Answer(value=value)


def _failure(error: BaseException) -> Answer:
    return Answer(
        outcome="out-of-memory" if _lacks_memory(error) else "raised",
        exception=type(error).__name__,
        text=_text(lambda: str(error)),
        traceback=_text(lambda: "".join(traceback.format_exception(error))),
    )


def _text(compose: Callable[[], str]) -> str:
    """A text that a stranger's code composes, cut, and fit to be encoded."""
    try:
        text = compose()[-_TEXT:]
    except BaseException as error:
        text = f"({type(error).__name__} while this text was composed)"
    return text.encode("utf-8", "backslashreplace").decode()


def _lacks_memory(error: BaseException) -> bool:
    """Whether an exception, or its cause, says that memory ran out; torch has own words."""
    seen: BaseException | None = error
    for _ in range(10):
        if isinstance(seen, MemoryError):
            return True
        if isinstance(seen, RuntimeError):
            words = _text(lambda error=seen: str(error)).lower()  # type: ignore[misc]
            if "out of memory" in words or "can't allocate memory" in words:
                return True
        seen = seen.__cause__ if seen is not None else None
    return False


def _strays() -> bool:
    """Whether a child still lives after a moment; the dead ones are reaped."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return False
        if pid == 0:
            if time.monotonic() > deadline:
                return True
            time.sleep(0.001)


def _peak() -> int | None:
    """Peak of resident memory in bytes, of the call where that can be told apart."""
    if _system.LINUX:
        return _system.peak()
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)

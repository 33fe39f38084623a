"""What a call may change in its process, and how it is put back for the next one."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import io
import os
import resource
import signal
import sys
import threading
from dataclasses import dataclass
from typing import Any, Final, Self, TextIO

_LIMITS: Final = {
    int(getattr(resource, name)) for name in dir(resource) if name.startswith("RLIMIT_")
}
#: Signals that programs handle; not SIGTERM, which `watch_faults` sees to.
_SIGNALS: Final = (
    *(signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSEGV),
    *(signal.SIGALRM, signal.SIGPROF, signal.SIGVTALRM, signal.SIGCHLD, signal.SIGPIPE),
    *(signal.SIGHUP, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2),
)


def _fixed_limits() -> dict[int, tuple[int, int]]:
    return {number: resource.getrlimit(number) for number in _LIMITS}


def _handlers() -> dict[int, Any]:
    return {number: signal.getsignal(number) for number in _SIGNALS}


def _threads() -> set[threading.Thread]:
    """Threads that Python started; those of libraries come and go on their own."""
    return {
        thread
        for thread in threading.enumerate()
        if not isinstance(thread, threading._DummyThread)
    }


@dataclass(frozen=True)
class Surroundings:
    """The state of a process before a call."""

    directory: str | None
    environment: dict[str, str]
    mask: int
    limits: dict[int, tuple[int, int]]
    handlers: dict[int, Any]
    blocked: set[int]
    threads: set[threading.Thread]

    @classmethod
    def now(cls) -> Self:
        """The present state."""
        mask = os.umask(0o077)
        os.umask(mask)
        directory = None
        with contextlib.suppress(FileNotFoundError):  # somebody removed it
            directory = os.getcwd()
        return cls(
            directory,
            dict(os.environ),
            mask,
            _fixed_limits(),
            _handlers(),
            set(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
            _threads(),
        )

    def restore(self) -> bool:
        """Put everything back; False if something is left that cannot be."""
        try:
            if self.directory is not None:
                os.chdir(self.directory)
        except OSError:
            return False
        if dict(os.environ) != self.environment:
            os.environ.clear()
            os.environ.update(self.environment)
        os.umask(self.mask)
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in _handlers().items():
            if handler is not self.handlers[number]:
                with contextlib.suppress(OSError, TypeError, ValueError):
                    signal.signal(number, self.handlers[number])
        signal.pthread_sigmask(signal.SIG_SETMASK, self.blocked)
        return _threads() <= self.threads and _fixed_limits() == self.limits


def watch_faults(log: int) -> None:
    """Let a crash, and SIGTERM before it ends the process, leave a traceback in the log."""
    faulthandler.cancel_dump_traceback_later()
    faulthandler.disable()
    faulthandler.enable(log, all_threads=True)
    faulthandler.unregister(signal.SIGTERM)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    faulthandler.register(signal.SIGTERM, log, all_threads=True, chain=True)


def redirect(log: int) -> None:
    """Nothing to read on descriptor 0; 1 and 2, and Python's own streams, to the log."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (log, 1), (log, 2)):
        if source != target:
            os.dup2(source, target)
    if nothing > 2:
        os.close(nothing)
    sys.stdin = io.StringIO()
    sys.stdout = _stream(sys.__stdout__, 1)
    sys.stderr = _stream(sys.__stderr__, 2)


def _stream(stream: TextIO | None, number: int) -> TextIO:
    if isinstance(stream, io.TextIOWrapper) and not stream.closed:
        with contextlib.suppress(OSError, ValueError):
            if stream.fileno() == number:
                stream.reconfigure(errors="backslashreplace", line_buffering=True)
                return stream
    return open(
        number, "w", 1, encoding="utf-8", errors="backslashreplace", closefd=False
    )


def flush() -> None:
    """Write out what Python's and C's buffers of the standard streams hold."""
    for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
        with contextlib.suppress(Exception):
            if stream is not None:
                stream.flush()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).fflush(None)

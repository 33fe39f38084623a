"""`Child`: calls a function in a process that may do anything, and always gets a status."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Final, Self

from .._errors import EnvironmentFault, UsageError
from ._call import Call, Ended, Outcome
from ._host import Cancelled, Host
from .limits import Limits

__all__ = ["Child", "Ended", "Limits", "Outcome", "never", "no_report"]

#: Workers that may die before they take a request, until it is a fault.
_ATTEMPTS: Final = 3


def no_report(phase: bytes) -> None:
    """Report nothing."""


def never() -> bool:
    """Never cancel."""
    return False


class Child:
    """A function in a warm process of its own, replaced after any failure.

    A zygote imports the function's module once and forks workers that call it. After any
    outcome but `returned`, and when a call leaves processes or threads behind, the worker
    is killed with everything below it; the next call meets a fresh one. Nothing outlives
    `close`, the end of this object, or the death of the calling process. A `Child` serves
    one call at a time; `close` may be called from any thread.

    Args:
        entry: `module:function` of a function `(payload, report) -> bytes`, where `report`
            sends the bytes of a phase to the caller.
        threads: of numerical libraries in the workers.
        environment: further environment variables of the workers; they win over the
            caller's and over `threads`.

    Raises:
        UsageError: on Windows, or `entry` is not of this form.
    """

    def __init__(
        self,
        entry: str,
        *,
        threads: int = 1,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        if os.name == "nt":
            raise UsageError(
                "expected a POSIX system to run cells in processes of their own, got"
                " Windows: use --isolation none"
            )
        module, _, name = entry.partition(":")
        if not module or not name:
            raise UsageError(f"expected an entry 'module:function', got {entry!r}")
        self._settings = entry, threads, dict(environment or {})
        self._lock = threading.RLock()
        self._host: Host | None = None
        self._finalizer: weakref.finalize[Any, Child] | None = None
        self._closed = self._busy = False

    def start(self) -> None:
        """Start the zygote without waiting until it has imported the function.

        Raises:
            EnvironmentFault: no process can be started.
            UsageError: this object is closed.
        """
        with self._lock:
            if self._closed:
                raise UsageError("expected an open Child, got one that was closed")
            if self._host is None:
                self._host = Host(*self._settings)
                self._finalizer = weakref.finalize(self, self._host.close)

    def call(
        self,
        payload: bytes,
        *,
        limits: Limits | None = None,
        report: Callable[[bytes], None] = no_report,
        cancelled: Callable[[], bool] = never,
    ) -> Ended:
        """Call the function with `payload` and wait for its end, whatever it is.

        Args:
            payload: what the function gets.
            limits: on time and memory; the time of the zygote's import does not count.
            report: gets the phases that the function reports.
            cancelled: asked about every 50 ms; once it says yes the worker is killed.

        Raises:
            EnvironmentFault: no worker can be started; the next call tries anew.
            UsageError: this object is closed, or busy with another call.
        """

        def given_up() -> bool:
            return self._closed or cancelled()

        with self._lock:
            if self._busy:
                raise UsageError("expected one call at a time, got one within another")
            self._busy = True
            try:
                for _ in range(_ATTEMPTS):
                    host = self._prepared(given_up)
                    attempt = Call(host, limits or Limits(), report, given_up)
                    ended = attempt.run(payload)
                    if ended is not None:
                        return ended
            except Cancelled:
                return Ended(outcome="cancelled", reason="cancelled before it began")
            except BaseException:  # of the caller's own functions, or Ctrl-C
                self._drop()
                raise
            finally:
                self._busy = False
                if self._closed or (self._host and not self._host.control.open):
                    self._drop()
            raise EnvironmentFault(
                f"expected a process that takes a call of {self._settings[0]}, but"
                f" {_ATTEMPTS} in a row died before they did"
            )

    def replace(self) -> None:
        """Kill the worker and all below it; the next call meets a fresh one."""
        with self._lock:
            host = self._host
            if host is not None and not self._busy and not host.clear():
                self._drop()

    def close(self) -> None:
        """End all processes; a call in another thread ends as `cancelled`."""
        self._closed = True
        with self._lock:
            if not self._busy:  # else this is within the call, which ends it
                self._drop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _prepared(self, given_up: Callable[[], bool]) -> Host:
        if self._host is not None and self._host.ready:
            self._host.poll(0)
            if not self._host.control.open:  # the zygote died between two calls
                self._drop()
        self.start()
        assert self._host is not None
        self._host.prepare(given_up)
        return self._host

    def _drop(self) -> None:
        self._host = None
        if self._finalizer is not None:
            self._finalizer()

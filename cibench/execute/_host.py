"""The harness's side of a zygote and its worker: starting, talking, ending."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Final, Literal, NamedTuple

from .._errors import EnvironmentFault
from . import _system, _wire
from ._log import Log
from ._wire import Channel

#: Variables that numerical libraries take their number of threads from.
THREAD_VARIABLES: Final = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)

#: Seconds that the zygote may take to import the entry module, to fork, and to end.
START, FORK, END = 600.0, 60.0, 15.0


class Event(NamedTuple):
    """A frame and which process sent it."""

    source: Literal["worker", "zygote"]
    kind: bytes
    body: bytes


class Cancelled(Exception):
    """The caller wants no answer any more."""


class Host:
    """A zygote process with at most one worker. Not safe to share between threads.

    Args:
        entry: `module:function`, imported by the zygote.
        threads: of numerical libraries.
        environment: further variables, which win over all others.
    """

    def __init__(self, entry: str, threads: int, environment: Mapping[str, str]):
        self.entry, self.token, self.owner = entry, secrets.token_hex(8), os.getpid()
        self.log, self.errors = Log(), Log()
        self.worker: Channel | None = None
        self.pid: int | None = None
        self.ready = False
        self._early: list[Event] = []
        ours, theirs = socket.socketpair()
        self.control = Channel(ours)
        self._selector = selectors.DefaultSelector()
        self._selector.register(ours, selectors.EVENT_READ, "zygote")
        pinned = dict.fromkeys(THREAD_VARIABLES, str(threads))
        variables = {**os.environ, **pinned, **environment, _system.MARK: self.token}
        with theirs:
            number = theirs.fileno()
            try:
                self.process = subprocess.Popen(
                    [sys.executable, "-P", "-m", f"{__package__}.zygote", str(number)],
                    pass_fds=(number,),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=self.errors.descriptor,
                    env=variables,
                    start_new_session=True,
                )
            except OSError as error:
                self._release()
                raise EnvironmentFault(
                    f"expected to start a process of {sys.executable}, got: {error}"
                ) from error
        given = environment.get("PYTHONPATH", "").split(os.pathsep)
        path = [os.path.abspath(p) for p in [*filter(None, given), *sys.path]]
        settings = {"entry": entry, "path": list(dict.fromkeys(path))}
        with contextlib.suppress(OSError):  # its death is noticed when it is waited for
            self.control.send(_wire.REQUEST, json.dumps(settings).encode())

    def poll(self, timeout: float) -> list[Event]:
        """What arrives within `timeout` seconds, the worker's frames first.

        A worker writes its answer before it ends, so its answer is never missed.
        """
        events, self._early = self._early, []
        ready = set()
        if not events:
            ready = {key.data for key, _ in self._selector.select(max(timeout, 0))}
        control = self.control.read() if "zygote" in ready else []
        if self.worker is not None and self.worker.open and (ready or control):
            events += [Event("worker", *each) for each in self.worker.read()]
            if not self.worker.open:
                self._selector.unregister(self.worker.socket)
        events += [Event("zygote", *each) for each in control]
        if not self.control.open and "zygote" in ready:
            self._selector.unregister(self.control.socket)
        if any(event[:2] == ("zygote", _wire.GONE) for event in events):
            self.forget()
        return events

    def prepare(self, cancelled: Callable[[], bool]) -> None:
        """Wait until there is a worker, forked anew if there is none.

        Raises:
            EnvironmentFault: the zygote cannot start or cannot fork.
            Cancelled: the caller gave up first.
        """
        if self.ready:
            self.poll(0)  # the worker may have died since the last call
        else:
            self._await(_wire.READY, START, cancelled)
            self.ready = True
        if self.worker is not None and self.worker.open:
            return
        self.forget()
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self.control.socket.setblocking(True)
                descriptors = [theirs.fileno(), self.log.descriptor]
                socket.send_fds(self.control.socket, [_wire.FORK], descriptors)
                self.pid = int(self._await(_wire.FORKED, FORK, lambda: False))
            except BaseException as error:
                ours.close()
                if isinstance(error, OSError):
                    raise self.fault("is gone") from error
                raise
        self.worker = Channel(ours)
        self._selector.register(ours, selectors.EVENT_READ, "worker")

    def _await(
        self, kind: bytes, seconds: float, cancelled: Callable[[], bool]
    ) -> bytes:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            events = self.poll(0.05)
            while events:
                event = events.pop(0)
                if event.kind == kind:
                    self._early = events
                    return event.body
                if event.kind == _wire.REFUSED:
                    raise self.fault(f"could not fork: {event.body.decode()}")
                if event.kind in (_wire.CLOSED, _wire.GARBAGE):
                    raise self.fault("ended while it started")
            if not self.control.open:
                raise self.fault("is gone")
            if cancelled():
                raise Cancelled
        raise self.fault(f"did not answer within {seconds:g} s")

    def ask(self, payload: bytes) -> bool:
        """Send a request; False if the worker does not take it."""
        assert self.worker is not None
        try:
            self.worker.send(_wire.REQUEST, payload)
        except OSError:
            return False
        return True

    def command(self, command: bytes) -> None:
        """Have the zygote send SIGTERM to the worker, or kill all that is below it."""
        with contextlib.suppress(OSError):
            self.control.socket.settimeout(1.0)
            self.control.socket.sendall(command)

    def clear(self) -> bool:
        """Kill the worker and all below it; False if the zygote does not manage."""
        if self.worker is None:
            return True
        self.command(_wire.KILL)
        deadline = time.monotonic() + END
        while time.monotonic() < deadline:
            for event in self.poll(0.05):
                if event.source == "zygote":
                    return event.kind == _wire.GONE
        return False

    def forget(self) -> None:
        """Close the connection to a worker that is gone."""
        if self.worker is not None:
            if self.worker.open:
                self._selector.unregister(self.worker.socket)
            self.worker.close()
        self.worker, self.pid = None, None

    def fault(self, what: str) -> EnvironmentFault:
        """The error that says what is wrong with the zygote; ends it."""
        self._end()
        last = self.errors.tail().decode("utf-8", "replace").strip()
        self._release()
        return EnvironmentFault(
            f"expected a process that can run {self.entry}, but it {what}"
            f" (exit code {self.process.returncode}). Its last words:"
            f" {last or '(none)'}\nCheck that the module can be imported; `--isolation"
            " none` does without such a process."
        )

    def interrupt(self) -> None:
        """Let whoever polls, in whichever thread, see the zygote as gone."""
        with contextlib.suppress(OSError):
            self.control.socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End the zygote and everything below it, and wait until it is so."""
        if os.getpid() == self.owner:  # a forked copy of the harness owns nothing
            self._end()
            self._release()

    def _end(self) -> None:
        self.interrupt()
        try:
            self.process.wait(END)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.returncode != 0:
            _system.clear(self.token)

    def _release(self) -> None:
        self.forget()
        for each in (self.control, self._selector, self.log, self.errors):
            each.close()

"""The zygote: imports the entry function once and forks workers that run it.

It has one thread and touches no accelerator, so that a fork is safe. All orphans below it
become its children. When the harness is gone, however that came about, it kills
everything below it and ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import importlib
import json
import os
import selectors
import signal
import socket
import sys
import time
import traceback
from typing import NoReturn

from . import _system, _wire
from ._wire import Channel
from ._worker import Entry, work

#: Seconds for which processes that do not die are killed again.
_STUBBORN = 8.0


def main(descriptor: int) -> NoReturn:
    """Run as the zygote of whoever holds the other end of this socket."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    harness = os.getppid()
    _system.adopt_orphans()
    control = Channel(socket.socket(fileno=descriptor))
    kind, body = control.wait()
    if kind != _wire.REQUEST:
        os._exit(0)
    settings = json.loads(body)
    _die_when_closed(control.socket)
    try:
        sys.argv = ["cibench"]
        sys.path[:] = settings["path"]
        function = _loaded(settings["entry"])
    except BaseException:  # an import may raise anything, SystemExit too
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    _live_when_closed(control.socket)
    gc.collect()
    gc.freeze()
    Zygote(control, function, harness).serve()


def _loaded(entry: str) -> Entry:
    module, _, name = entry.partition(":")
    function: Entry = getattr(importlib.import_module(module), name)
    return function


def _die_when_closed(control: socket.socket) -> None:
    """Let the system end this process, busy importing, when the socket is closed."""
    fcntl.fcntl(control, fcntl.F_SETOWN, os.getpid())
    flags = fcntl.fcntl(control, fcntl.F_GETFL)
    fcntl.fcntl(control, fcntl.F_SETFL, flags | os.O_ASYNC)
    with contextlib.suppress(BlockingIOError):
        if not control.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT):
            os._exit(0)


def _live_when_closed(control: socket.socket) -> None:
    flags = fcntl.fcntl(control, fcntl.F_GETFL)
    fcntl.fcntl(control, fcntl.F_SETFL, flags & ~os.O_ASYNC)


class Zygote:
    """Forks one worker at a time, on request.

    Args:
        control: to the harness.
        function: what the workers run.
        harness: the pid of the harness.
    """

    def __init__(self, control: Channel, function: Entry, harness: int) -> None:
        self.control, self.function, self.harness = control, function, harness
        self.worker: int | None = None

    def serve(self) -> NoReturn:
        """Take commands until the harness is gone."""
        self._woken, self._waker = socket.socketpair()
        for end in (self._woken, self._waker):
            end.setblocking(False)
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        selector = selectors.DefaultSelector()
        selector.register(self.control.socket, selectors.EVENT_READ)
        selector.register(self._woken, selectors.EVENT_READ)
        self._tell(_wire.READY)
        while os.getppid() == self.harness:
            ready = [key.fileobj for key, _ in selector.select(1.0)]
            if self._woken in ready:
                with contextlib.suppress(BlockingIOError):
                    self._woken.recv(4096)
            self._reap()
            if self.control.socket in ready:
                self._obey()
        self._end()

    def _obey(self) -> None:
        self.control.socket.setblocking(True)
        try:
            command, descriptors, _, _ = socket.recv_fds(self.control.socket, 1, 2)
        except OSError:
            self._end()
        if command == _wire.FORK:
            self._clear()
            self._fork(*descriptors)
        elif command in (_wire.TERMINATE, _wire.ABORT):
            if self.worker is not None:
                polite = command == _wire.TERMINATE
                os.kill(self.worker, signal.SIGTERM if polite else signal.SIGABRT)
        elif command == _wire.KILL:
            self._clear()
        else:
            self._end()

    def _fork(self, connection: int, log: int) -> None:
        zygote = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:
            self._tell(_wire.REFUSED, str(error).encode())
            pid = -1
        if pid == 0:
            try:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGINT, signal.default_int_handler)
                for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP):
                    signal.signal(number, signal.SIG_DFL)
                for end in (self.control, self._woken, self._waker):
                    end.close()
                work(self.function, connection, log, zygote)
            finally:
                os._exit(1)
        os.close(connection)
        os.close(log)
        if pid > 0:
            self.worker = pid
            self._tell(_wire.FORKED, str(pid).encode())

    def _reap(self) -> bool:
        """Reap the dead; after the worker's death kill all it left. True if any live."""
        while True:
            try:
                pid, status, used = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if pid == self.worker:
                self.worker = None
                self._clear(group=pid)
                peak = used.ru_maxrss * 1024 if _system.LINUX else 0
                self._tell(_wire.GONE, f"{status} {peak}".encode())

    def _clear(self, group: int | None = None) -> None:
        """Kill and reap everything below, again and again until nothing is left."""
        deadline = time.monotonic() + _STUBBORN
        while True:
            below = _system.descendants(os.getpid())
            if not _system.LINUX:  # orphans are not below, so they are looked for
                below += _system.marked(os.environ.get(_system.MARK, ""))
                for each in filter(None, (group, self.worker)):
                    with contextlib.suppress(ProcessLookupError, PermissionError):
                        os.killpg(each, signal.SIGKILL)
            _system.kill(below)
            if not self._reap() and (_system.LINUX or not below):
                return
            if time.monotonic() > deadline:
                print(f"{len(below)} processes do not die", file=sys.stderr, flush=True)
                os._exit(1)
            time.sleep(0.001)

    def _tell(self, kind: bytes, body: bytes = b"") -> None:
        with contextlib.suppress(OSError):
            self.control.send(kind, body)

    def _end(self) -> NoReturn:
        self._clear()
        os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]))

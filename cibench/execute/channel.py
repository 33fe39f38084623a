"""How phases of cells that run in other processes reach the display.

Nothing waits for an event and nothing depends on one: an event that cannot be sent at once
is lost. An address says where to send, as plain text that travels with the work:
`unix:<path>` is a socket of this machine, `dask:<topic>` a topic of a Dask cluster, and an
empty address is nowhere.
"""

from __future__ import annotations

import importlib
import os
import shutil
import socket
import tempfile
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

if TYPE_CHECKING:
    from typing import Self

    from distributed import Client

#: Seconds between two events of the same phase, at least.
INTERVAL: Final = 0.1
#: Bytes of the longest event that is read.
_LONGEST: Final = 65536
#: Tasks whose last phase a sender remembers.
_REMEMBERED: Final = 64
#: What the folders of listeners' sockets begin with.
_PREFIX: Final = "cibench-events-"


class Event(msgspec.Struct, frozen=True):
    """A task began, entered a phase, or got further in it.

    Args:
        title: of the task, the same as in its answer.
        stage: kind of the task: `describe`, `embed`, `refer`, `fit` or `evaluate`.
        phase: what it does at present; empty if that is not known yet.
        done: steps of the phase that are done.
        total: steps of the phase; 0 if they cannot be counted.
        started: whether the task has just begun.
    """

    title: str
    stage: str
    phase: str
    done: int = 0
    total: int = 0
    started: bool = False


OnEvent = Callable[[Event], None]

encode_event: Final = msgspec.msgpack.Encoder().encode
decode_event: Final = msgspec.msgpack.Decoder(Event).decode


class Throttle:
    """Lets changes of phase pass, and of the rest one event every `INTERVAL` seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._phases: OrderedDict[str, tuple[str, str]] = OrderedDict()
        self._last = -INTERVAL

    def passes(self, event: Event) -> bool:
        """Whether the event is to be sent now."""
        changed = self._phases.get(event.title) != (event.stage, event.phase)
        return event.started or changed or self._clock() - self._last >= INTERVAL

    def sent(self, event: Event) -> None:
        """Take note of an event that was sent."""
        self._last = self._clock()
        self._phases[event.title] = (event.stage, event.phase)
        self._phases.move_to_end(event.title)
        while len(self._phases) > _REMEMBERED:
            self._phases.popitem(last=False)


#: What listeners of this process call, by process and address.
_here: dict[tuple[int, str], OnEvent] = {}


class Listener:
    """Receives events of other processes of this machine in a thread of its own.

    A sender in the listener's own process calls `on_event` directly and loses nothing.
    Leaving the context first hands on what has arrived by then. Where sockets with a path
    cannot be had, the address is empty.

    Args:
        on_event: called with every event, from any thread.
    """

    def __init__(self, on_event: OnEvent) -> None:
        self.address = ""
        self._on_event = on_event
        self._folder = ""
        self._socket: socket.socket | None = None
        self._ending = False
        self._thread = threading.Thread(
            target=self._read, daemon=True, name="cibench-listener"
        )

    def __enter__(self) -> Self:
        for parent in (None, "/tmp"):  # the usual folder may have too long a path
            if self._bind(parent):
                _here[os.getpid(), self.address] = self._on_event
                self._thread.start()
                break
        return self

    def _bind(self, parent: str | None) -> bool:
        if not hasattr(socket, "AF_UNIX"):
            return False
        try:
            self._folder = tempfile.mkdtemp(prefix=_PREFIX, dir=parent)
        except OSError:
            return False
        _sweep(Path(self._folder).parent)
        path = str(Path(self._folder) / "events")
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            listening.bind(path)
        except OSError:
            listening.close()
            shutil.rmtree(self._folder, ignore_errors=True)
            return False
        self._socket, self.address = listening, f"unix:{path}"
        return True

    def _read(self) -> None:
        assert self._socket is not None
        while (content := self._socket.recv(_LONGEST)) or not self._ending:
            with suppress(msgspec.MsgspecError, UnicodeDecodeError):
                self._on_event(decode_event(content))

    def __exit__(self, *_: object) -> None:
        if self._socket is None:
            return
        _here.pop((os.getpid(), self.address), None)
        self._ending = True
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ending, self._socket:
            ending.settimeout(1)
            with suppress(OSError):
                ending.sendto(b"", self.address.removeprefix("unix:"))
                self._thread.join(5)
        self._socket = None
        shutil.rmtree(self._folder, ignore_errors=True)


def _sweep(parent: Path) -> None:
    """Remove what listeners left behind whose process was killed."""
    for path in parent.glob(f"{_PREFIX}*/events"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as asking:
            try:
                asking.connect(str(path))
            except ConnectionRefusedError:
                shutil.rmtree(path.parent, ignore_errors=True)
            except OSError:
                pass  # another user's


class DaskListener:
    """Receives events of the workers of a Dask cluster.

    Args:
        client: connected to the cluster.
        on_event: called with every event, in the client's own thread.
    """

    def __init__(self, client: Client, on_event: OnEvent) -> None:
        self.topic = f"cibench-{uuid.uuid4().hex}"
        self.address = f"dask:{self.topic}"
        self._client = client
        self._on_event: OnEvent | None = on_event

    def __enter__(self) -> Self:
        self._client.subscribe_topic(self.topic, self._receive)  # type: ignore[no-untyped-call]
        return self

    def _receive(self, received: tuple[float, Any]) -> None:
        with suppress(msgspec.ValidationError):
            event = msgspec.convert(received[1], Event)
            if self._on_event is not None:
                self._on_event(event)

    def __exit__(self, *_: object) -> None:
        self._on_event = None
        with suppress(Exception):  # the cluster may be gone
            self._client.unsubscribe_topic(self.topic)  # type: ignore[no-untyped-call]


@cache
def sender(address: str) -> OnEvent:
    """What a task reports its events to; it returns at once and never raises.

    Args:
        address: of a listener; empty for a function that does nothing.

    Returns:
        One function a process and address; threads may share it.
    """
    scheme, _, place = address.partition(":")
    throttle, lock = Throttle(), threading.Lock()

    def send(event: Event) -> None:
        with lock:
            if not throttle.passes(event):
                return
            # Not sent is not noted: the next event of the phase tries again.
            with suppress(Exception):
                if (here := _here.get((os.getpid(), address))) is not None:
                    here(event)
                elif scheme == "unix":
                    _send_datagram(place, event)
                else:
                    worker = importlib.import_module("distributed").get_worker()
                    worker.log_event(place, msgspec.to_builtins(event))
                throttle.sent(event)

    def nowhere(event: Event) -> None:
        pass

    return send if scheme in ("unix", "dask") else nowhere


def _send_datagram(path: str, event: Event) -> None:
    # A socket for each event: a plugin may close the files of its process at any time.
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sending:
        sending.setblocking(False)
        sending.sendto(encode_event(event), path)

"""Frames between the harness, the zygote and a worker: a kind, a length, bytes.

Anything may write into a worker's descriptors, so a reader never waits for the rest of a
frame, and what is no frame is told apart.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from typing import Final, Literal

import msgspec

_HEADER: Final = struct.Struct("!4scQ")
_MAGIC: Final = b"cib1"
_CHUNK: Final = 2**20
_CHUNKS: Final = 64

#: Kinds of frames that a `Channel` makes up itself.
CLOSED: Final = b""
GARBAGE: Final = b"!"

#: Zygote to harness: it can fork; it forked (pid); it could not (why); the worker is gone
#: (wait status, and bytes resident at most or 0).
READY, FORKED, REFUSED, GONE = b"r", b"f", b"n", b"x"

#: Harness to zygote, a byte each.
FORK, TERMINATE, ABORT, KILL = b"F", b"T", b"A", b"K"

#: Worker to harness: it took the request; a phase; the answer. And the request itself.
STARTED, PHASE, ANSWER, REQUEST = b"s", b"p", b"a", b"q"

#: Exit code of a worker that cannot reach the harness any more.
LOST: Final = 97

Frame = tuple[bytes, bytes]


class Answer(msgspec.Struct, kw_only=True):
    """How a call ended, as the worker saw it."""

    outcome: Literal["returned", "raised", "out-of-memory"] = "returned"
    value: bytes | None = None
    exception: str = ""
    text: str = ""
    traceback: str = ""
    stray: bool = False
    """Whether processes that the call started still ran."""
    stale: bool = False
    """Whether something else is left that the worker could not clear away."""
    peak: int | None = None


def frame(kind: bytes, body: bytes = b"") -> bytes:
    """A frame as bytes."""
    return _HEADER.pack(_MAGIC, kind, len(body)) + body


class Channel:
    """The frames that arrive on a socket, which it makes non-blocking to read."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.open = True
        self._held = bytearray()

    def send(self, kind: bytes, body: bytes = b"", *, timeout: float = 60.0) -> None:
        """Send a frame.

        Raises:
            OSError: the other side is gone, or did not read within `timeout` seconds.
        """
        self.socket.settimeout(timeout)
        self.socket.sendall(frame(kind, body))

    def read(self) -> list[Frame]:
        """The frames that have arrived; the last one may be `CLOSED` or `GARBAGE`."""
        frames: list[Frame] = []
        self.socket.setblocking(False)
        for _ in range(_CHUNKS if self.open else 0):
            try:
                data = self.socket.recv(_CHUNK)
            except BlockingIOError:
                break
            except OSError:
                data = b""
            self._held += data
            found = self._frames()
            frames += found
            if not data and (not found or found[-1][0] != GARBAGE):
                frames.append((CLOSED, b""))
            if frames and frames[-1][0] in (CLOSED, GARBAGE):
                self.open = False
                break
        return frames

    def wait(self) -> Frame:
        """The next frame, however long it takes."""
        self.socket.setblocking(True)
        while True:
            data = self.socket.recv(_CHUNK)
            self._held += data
            frames = self._frames()
            if frames:
                return frames[0]
            if not data:
                return CLOSED, b""

    def close(self) -> None:
        """Close the socket."""
        self.open = False
        with contextlib.suppress(OSError):
            self.socket.close()

    def _frames(self) -> list[Frame]:
        frames: list[Frame] = []
        while self._held:
            if not self._held.startswith(_MAGIC[: len(self._held)]):
                return [*frames, (GARBAGE, b"")]
            if len(self._held) < _HEADER.size:
                break
            _, kind, length = _HEADER.unpack_from(self._held)
            end = _HEADER.size + length
            if len(self._held) < end:
                break
            frames.append((kind, bytes(memoryview(self._held)[_HEADER.size : end])))
            del self._held[:end]
        return frames

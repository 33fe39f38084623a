"""What a process prints: a file without a name, kept small, of which the end is read."""

from __future__ import annotations

import os
import tempfile
from typing import Final

#: Bytes that may gather, and bytes that are read back.
LARGEST: Final = 64 * 2**20
TAIL: Final = 256 * 2**10


class Log:
    """An unnamed temporary file that others append to through its descriptor.

    It needs no clearing away: it is gone with the last process that holds it.
    """

    def __init__(self) -> None:
        import fcntl  # not on Windows, where no `Child` starts

        self._file = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `close`)
        self.descriptor = self._file.fileno()
        flags = fcntl.fcntl(self.descriptor, fcntl.F_GETFL)
        fcntl.fcntl(self.descriptor, fcntl.F_SETFL, flags | os.O_APPEND)
        self._dropped = 0

    def clear(self) -> None:
        """Forget everything."""
        os.ftruncate(self.descriptor, 0)
        self._dropped = 0

    def trim(self) -> None:
        """Forget what is there if it is more than `LARGEST` bytes."""
        size = os.fstat(self.descriptor).st_size
        if size > LARGEST:
            os.ftruncate(self.descriptor, 0)
            self._dropped += size

    def tail(self) -> bytes:
        """The last `TAIL` bytes, after a line that says how many were left out."""
        size = os.fstat(self.descriptor).st_size
        start = max(0, size - TAIL)
        left_out = self._dropped + start
        note = f"[{left_out} bytes of output left out]\n" if left_out else ""
        return note.encode() + os.pread(self.descriptor, TAIL, start)

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

"""Files of a cache: each is whole or absent, and a failing disk costs time, not results."""

from __future__ import annotations

import os
import time
import warnings
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import msgspec

from .._errors import OutputError
from ..results.folder import make_writable, write_atomically

#: Seconds within which a file's use is noted once.
USE_NOTED = 3600


class Shelf:
    """A folder of files, in subfolders by the first two letters of their names.

    A file's time of modification is that of its last use, to within an hour. Any number of
    processes may share the folder.

    Args:
        folder: made where it is absent.
        content: what a file holds, for messages.

    Raises:
        OutputError: the folder cannot be made or written.
    """

    def __init__(self, folder: Path, content: str) -> None:
        try:
            make_writable(folder)
        except OSError as error:
            raise OutputError(
                f"cache folder {folder}: expected a writable folder, got"
                f" {error.strerror}; set CIBENCH_CACHE or use --no-cache"
            ) from error
        self.folder = folder
        self.content = content
        self._warned: set[str] = set()

    def path(self, name: str) -> Path:
        """Where a file is, or would be."""
        return self.folder / name[:2] / name

    def read(self, name: str, *, use: bool = True) -> bytes | None:
        """The content of a file, or None if it is absent or cannot be read.

        Args:
            use: whether reading it counts as a use.
        """
        path = self.path(name)
        try:
            # Read at once: another process may replace the file between two openings.
            with path.open("rb") as file:
                content = file.read()
                used = os.fstat(file.fileno()).st_mtime
        except FileNotFoundError:
            return None
        except OSError as error:
            self._warn_once("read", name, error)
            return None
        if use and time.time() - used > USE_NOTED:
            with suppress(OSError):
                os.utime(path)
        return content

    def write(self, name: str, content: bytes) -> bool:
        """Store a file atomically; whether that succeeded, with a warning if not."""
        path = self.path(name)
        try:
            path.parent.mkdir(exist_ok=True)
            write_atomically(path, content)
        except (OSError, OutputError) as error:
            cause = error.__cause__ if isinstance(error, OutputError) else error
            self._warn_once("store", name, cause)
            return False
        return True

    def set_aside(self, name: str) -> None:
        """Rename a damaged file to `*.damaged`, with a warning."""
        path = self.path(name)
        with suppress(OSError):  # another process was faster, or nothing can be written
            path.replace(path.with_suffix(".damaged"))
        warnings.warn(
            f"{self.content} {name} is damaged; it was set aside and is computed again",
            stacklevel=3,
        )

    def _warn_once(self, verb: str, name: str, error: BaseException | None) -> None:
        if verb in self._warned:
            return
        self._warned.add(verb)
        again = "it is computed again" + (" next time" if verb == "store" else "")
        reason = getattr(error, "strerror", None) or error
        warnings.warn(
            f"cache folder {self.folder}: expected to {verb} {self.content} {name}, got"
            f" {reason}; {again}; free space or set CIBENCH_CACHE (said once)",
            stacklevel=4,
        )


class _Header(msgspec.Struct):
    metadata: dict[str, str] | None = msgspec.field(default=None, name="__metadata__")


def metadata(file: BinaryIO) -> dict[str, str]:
    """What a safetensors file says about itself, without its tensors.

    Raises:
        ValueError: this is no such file.
    """
    size = int.from_bytes(file.read(8), "little")
    if size > 100_000_000:  # the format's own limit
        raise ValueError(f"expected a header of at most 100 MB, got {size} bytes")
    about = msgspec.json.decode(file.read(size), type=_Header).metadata
    if about is None:
        raise ValueError("expected a header with metadata, got none")
    return about

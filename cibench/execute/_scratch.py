"""Temporary folders that processes of one machine share, removed by the last of them."""

from __future__ import annotations

import atexit
import os
import re
import shutil
import tempfile
import threading
from contextlib import suppress
from pathlib import Path

from .._errors import EnvironmentFault

_lock = threading.RLock()
#: Open lock files by name; a lock is held for as long as its file is open.
_held: dict[str, int] = {}


def scratch(name: str) -> Path:
    """A folder for all processes of this user and machine that ask for the same name.

    The last of them to end, or to `release` it, removes it; what processes that were
    killed left behind is removed by the next that asks for any.

    Raises:
        EnvironmentFault: it cannot be made, or another user made it.
    """
    if not re.fullmatch(r"[\w-]+", name):
        raise ValueError(f"expected letters, digits, - and _, got {name!r}")
    try:
        base = _base()
        with _lock:
            if not _held:
                atexit.register(_release_all)
                _sweep(base)
            if name not in _held:
                _held[name] = _shared(base / f"{name}.lock")
        folder = base / name
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise EnvironmentFault(
            f"temporary folder {tempfile.gettempdir()}: expected one that can be written,"
            f" got {error.strerror}; set TMPDIR"
        ) from error
    return folder


def release(name: str) -> None:
    """Do without a folder; it is removed if no other process uses it."""
    with _lock:
        if name in _held:
            os.close(_held.pop(name))
            with suppress(OSError):
                _remove(_base() / f"{name}.lock")


def _release_all() -> None:
    for name in list(_held):
        release(name)


def _base() -> Path:
    user = os.getuid() if hasattr(os, "getuid") else "user"
    base = Path(tempfile.gettempdir()) / f"cibench-{user}"
    base.mkdir(mode=0o700, exist_ok=True)
    found = base.lstat()
    if base.is_symlink() or found.st_uid != user or found.st_mode & 0o077:
        raise EnvironmentFault(
            f"temporary folder {base}: expected one of this user alone, got another's;"
            " remove it or set TMPDIR"
        )
    return base


def _shared(path: Path) -> int:
    import fcntl

    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_SH)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file), os.stat(path)):
                    return file
        except BaseException:
            os.close(file)
            raise
        os.close(file)  # its last user removed it meanwhile


def _remove(path: Path) -> None:
    """Remove the folder of a lock file that nobody holds."""
    import fcntl

    file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        with suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(file), os.stat(path)):
                shutil.rmtree(path.with_suffix(""), ignore_errors=True)
                path.unlink()
    finally:
        os.close(file)


def _sweep(base: Path) -> None:
    for path in base.glob("*.lock"):
        with suppress(OSError):
            _remove(path)

"""What a cache folder holds, and making it smaller; no torch.

Symbolic links are never followed, and a file that the cache did not write is left alone.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import msgspec
from filelock import FileLock, Timeout

from .._errors import UsageError
from .shelf import metadata

#: Parts of a cache; history is what tells how long cells take, and stays.
PARTS: Final = ("artifacts", "records", "history")

#: Seconds after which the writer of a temporary file is taken for dead.
_ABANDONED: Final = 86_400

_SUFFIX: Final = {"artifacts": ".safetensors", "records": ".json"}
_TEMPORARY: Final = re.compile(r"\..+\.\w+\.\w{8}")


@dataclass(frozen=True, kw_only=True)
class CacheFile:
    """A file of a cache.

    Args:
        kind: of artifact, or record, history, temporary, lock.
        size: bytes.
        used: time of the last use, in seconds since 1970, to within an hour.
        damaged: whether it was set aside because its checksum did not match.
        reachable: whether it lies where this version looks for it.
        harness: hash of the harness that made it, where it says so.
        embedding: key of the embedding that it was made from, where it says so.
    """

    path: Path
    kind: str
    size: int
    used: float
    damaged: bool = False
    reachable: bool = True
    harness: str | None = None
    embedding: str | None = None


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What goes.

    Args:
        older_than: seconds without a use.
        max_size: bytes that the rest may take; what was used least recently goes first.
        stale: hash of the present harness: what another one made goes.
        damaged: whether files that were set aside go.
    """

    older_than: float | None = None
    max_size: int | None = None
    stale: str | None = None
    damaged: bool = False


def check_cache(folder: Path) -> None:
    """Refuse a folder that is no cache.

    Raises:
        UsageError: it has none of the parts of a cache.
    """
    if not any(_is_folder(folder / part) for part in PARTS):
        raise UsageError(
            f"{folder}: expected a cache, which has folders {', '.join(PARTS)}, got none"
            " of them; nothing was removed; give the right one with --cache or"
            " CIBENCH_CACHE"
        )


def survey(folder: Path, *, contents: bool = False) -> list[CacheFile]:
    """All files that the cache wrote.

    Args:
        contents: whether to open records too, which says which harness made them.
    """
    files = [
        found
        for part in PARTS
        if _is_folder(folder / part)
        for entry in _files(folder / part)
        if (found := _described(entry, part, folder / part, contents)) is not None
    ]
    # What was made from an embedding is of the embedding's harness.
    made = {file.path.stem: file.harness for file in files if file.kind == "embedding"}
    return [
        replace(file, harness=file.harness or made.get(file.embedding or ""))
        for file in files
    ]


def condemned(
    files: Sequence[CacheFile], rules: Rules, now: float | None = None
) -> list[tuple[str, CacheFile]]:
    """What goes by the rules, each file with the rule, least recently used first.

    Temporary files of writers that died and lock files go by any rule.
    """
    now = time.time() if now is None else now
    chosen: list[tuple[str, CacheFile]] = []
    rest = []
    for file in sorted(files, key=lambda file: (not file.damaged, file.used)):
        reason = _reason(file, rules, now)
        if reason:
            chosen.append((reason, file))
        else:
            rest.append(file)
    if rules.max_size is not None:
        left = sum(file.size for file in rest)
        for file in rest:
            if left <= rules.max_size:
                break
            if file.kind not in ("history", "temporary", "lock"):
                chosen.append(("size", file))
                left -= file.size
    return chosen


def remove(
    chosen: Sequence[tuple[str, CacheFile]],
) -> tuple[list[tuple[str, CacheFile]], list[str]]:
    """Remove files; returns what was removed, and why others could not be.

    A file that was used or replaced since it was looked at stays, and so does a lock that
    is held.
    """
    removed, errors = [], []
    for reason, file in chosen:
        try:
            done = _unlocked(file) if file.kind == "lock" else _unused(file)
        except FileNotFoundError:  # another process was faster
            continue
        except OSError as error:
            errors.append(f"{file.path}: {error.strerror}")
        else:
            if done:
                removed.append((reason, file))
    return removed, errors


def _reason(file: CacheFile, rules: Rules, now: float) -> str:
    if file.kind == "history":
        return ""
    if file.kind == "lock":
        return "lock"
    if file.kind == "temporary":
        return "temporary" if now - file.used > _ABANDONED else ""
    if rules.damaged and file.damaged:
        return "damaged"
    if rules.stale is not None and not file.damaged and _is_stale(file, rules.stale):
        return "stale"
    if rules.older_than is not None and now - file.used > rules.older_than:
        return "old"
    return ""


def _is_stale(file: CacheFile, harness: str) -> bool:
    return not file.reachable or file.harness not in (None, harness)


def _unused(file: CacheFile) -> bool:
    if file.path.lstat().st_mtime != file.used:
        return False
    file.path.unlink()
    return True


def _unlocked(file: CacheFile) -> bool:
    try:
        with FileLock(file.path, timeout=0):
            file.path.unlink(missing_ok=True)
    except Timeout:
        return False
    return True


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _files(folder: Path) -> Iterator[os.DirEntry[str]]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except FileNotFoundError:
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from _files(Path(entry.path))
        elif entry.is_file(follow_symlinks=False):
            yield entry


def _described(
    entry: os.DirEntry[str], part: str, top: Path, contents: bool
) -> CacheFile | None:
    path = Path(entry.path)
    try:
        status = entry.stat(follow_symlinks=False)
    except FileNotFoundError:  # removed meanwhile
        return None
    size, used = status.st_size, status.st_mtime
    if _TEMPORARY.fullmatch(entry.name):
        return CacheFile(path=path, kind="temporary", size=size, used=used)
    if path.suffix == ".lock":
        return CacheFile(path=path, kind="lock", size=size, used=used)
    if part == "history":
        return CacheFile(path=path, kind="history", size=size, used=used)
    damaged = path.suffix == ".damaged"
    if not damaged and path.suffix != _SUFFIX[part]:
        return None
    kind = "record"
    inputs: dict[str, str] = {}
    if part == "artifacts":
        kind, inputs = _of_artifact(path)
    elif contents:
        inputs = _of_record(path)
    return CacheFile(
        path=path,
        kind=kind,
        size=size,
        used=used,
        damaged=damaged,
        reachable=path.parent == top / path.name[:2],
        harness=inputs.get("harness"),
        embedding=inputs.get("embedding key"),
    )


def _of_artifact(path: Path) -> tuple[str, dict[str, str]]:
    try:
        with path.open("rb") as file:
            about = metadata(file)
        inputs = msgspec.json.decode(about.get("inputs", "{}"), type=dict[str, str])
        return about.get("kind", "other"), inputs
    except (OSError, ValueError):
        return "other", {}


class _Inputs(msgspec.Struct):
    inputs: dict[str, str] = {}


class _Sealed(msgspec.Struct):
    record: _Inputs


def _of_record(path: Path) -> dict[str, str]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Sealed).record.inputs
    except (OSError, ValueError):
        return {}

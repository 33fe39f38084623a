"""Artifacts that travel with tasks, for workers that share no folder with the main process.

A task brings the artifacts it needs; an answer brings those it made. On a worker's machine
they lie in a folder of the run, which is removed when the last worker there is done.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path

import msgspec

from .._errors import OutputError
from ..results.folder import write_atomically
from ._scratch import scratch
from .task import Answer, Task

#: What was there before the present task of each thread.
_before = threading.local()


def worker_cache(run: str) -> Path:
    """The cache folder of a run on this machine.

    Raises:
        EnvironmentFault: it cannot be made.
    """
    return scratch(run)


def lacking(names: tuple[str, ...], run: str) -> tuple[str, ...]:
    """Those artifacts that are not on this machine yet."""
    folder = worker_cache(run) / "artifacts"
    return tuple(name for name in names if not (folder / name).exists())


def carried_in(task: Task, artifacts: dict[str, bytes], run: str) -> Task:
    """Write what a task brought; the task with the folder it lies in.

    Raises:
        EnvironmentFault: the worker's temporary folder cannot be written.
    """
    cache = worker_cache(run)
    folder = cache / "artifacts"
    for name, content in artifacts.items():
        path = folder / name
        if not path.exists():
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise OutputError(
                    f"{path.parent}: expected a folder that can be written, got"
                    f" {error.strerror}"
                ) from error
            write_atomically(path, content)
    _before.names = _listed(folder)
    settings = msgspec.structs.replace(task.settings, cache=cache)
    return msgspec.structs.replace(task, settings=settings)


def carried_out(task: Task, brought: dict[str, bytes], found: Answer) -> Answer:
    """The answer with the artifacts that a task was for, and those it made besides.

    They come even if the task failed: what is whole need not be made again. The result of
    `evaluate` is its record alone.
    """
    if not task.makes:
        return found
    assert task.settings.cache is not None
    folder = task.settings.cache / "artifacts"
    there = _listed(folder)
    wanted = (there - _before.names) | (there & set(task.makes))
    made = {}
    for name in sorted(wanted - set(brought)):
        with suppress(OSError):  # set aside or removed meanwhile
            made[name] = (folder / name).read_bytes()
    return msgspec.structs.replace(found, artifacts=made)


def _listed(folder: Path) -> set[str]:
    """Whole artifacts by name; files that are still being written begin with a dot."""
    return {
        str(path.relative_to(folder).as_posix())
        for path in folder.glob("??/[!.]*.safetensors")
    }

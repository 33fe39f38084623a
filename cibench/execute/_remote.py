"""What a cluster's worker does for the main process: it imports neither torch nor plugins.

What a worker's machine has got once (plugins, artifacts) is not sent again: a parcel names
it, and the worker says what it lacks.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from .._sources import package_hash
from ._scratch import release
from .carry import lacking
from .perform import Work, close_children, perform
from .ship import is_unpacked
from .task import Answer


@dataclass(frozen=True, kw_only=True)
class Parcel:
    """A work, without the content of what the worker may have.

    Args:
        artifacts: names of all that the work needs.
    """

    work: Work
    artifacts: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Lacking:
    """What has to be sent again, with its content."""

    plugins: bool
    artifacts: tuple[str, ...]
    worker: str = ""


@dataclass(frozen=True, kw_only=True)
class About:
    """What a worker is, as far as it must be the same everywhere."""

    python: str = f"{sys.version_info.major}.{sys.version_info.minor}"
    cibench: str = field(default_factory=package_hash)


def parcel(work: Work, lacks: Lacking | None = None) -> Parcel:
    """A work to be sent, with the content of what is lacking."""
    lacks = lacks or Lacking(plugins=False, artifacts=())
    context = work.context
    if not lacks.plugins:
        names = tuple((name, b"") for name, _ in context.bundles)
        context = replace(context, bundles=names)
    given = work.task.settings
    settings = msgspec.structs.replace(
        given,
        cache=given.cache and Path(os.path.abspath(given.cache)),
        data_dir=given.data_dir and Path(os.path.abspath(given.data_dir)),
    )
    content = {name: work.artifacts[name] for name in lacks.artifacts}
    task = msgspec.structs.replace(work.task, settings=settings)
    sent = replace(work, task=task, context=context, artifacts=content)
    return Parcel(work=sent, artifacts=tuple(work.artifacts))


def do(received: Parcel) -> tuple[int, Answer] | Lacking:
    """Do a work, or say what has to be sent for it."""
    work = received.work
    run, bundles = work.context.run, work.context.bundles
    plugins = any(not content for _, content in bundles) and not is_unpacked(run)
    artifacts = lacking(received.artifacts, run) if received.artifacts else ()
    artifacts = tuple(name for name in artifacts if name not in work.artifacts)
    if plugins or artifacts:
        return Lacking(plugins=plugins, artifacts=artifacts)
    return perform(work)


def about() -> About:
    """What this worker is."""
    return About()


def sees(path: str) -> bool:
    """Whether a file is there for this worker too."""
    return Path(path).is_file()


def end(runs: tuple[str, ...]) -> None:
    """End what this process does, and remove what it keeps, for runs that are over."""
    for run in runs:
        close_children(run)
        release(run)

"""What an installation has and what is wrong with it, looked at part by part."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec

from ._errors import CibenchError
from ._version import PROTOCOL, VERSION
from .registry import KINDS, default_registry

State = Literal["ok", "absent", "broken"]

_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+).*?;.*?extra\s*==\s*['\"]([^'\"]+)['\"]")
#: Extras of developers, whom this is not for.
_OURS = ("dev", "test")


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was looked at."""

    part: str
    what: str
    state: State
    detail: str
    """What was found; where the state is not `ok`, also what to do."""


def examine(cache: Path, data_dir: Path | None) -> Iterator[Finding]:
    """Look at versions, threads, devices, extras, the cache, plugins and data sets.

    Args:
        cache: where artifacts are kept.
        data_dir: folder of the user's own data files.
    """
    yield from versions()
    yield from computing()
    yield from extras()
    yield cache_folder(cache)
    yield from plugins()
    yield from data_sets(data_dir)


def versions() -> Iterator[Finding]:
    """Of cibench, Python and what numbers depend on."""
    yield _ok("versions", "cibench", f"{VERSION}, protocol {PROTOCOL}")
    yield _ok(
        "versions", "python", f"{platform.python_version()} on {platform.platform()}"
    )
    for name in ("torch", "numpy", "scipy"):
        yield _ok("versions", name, importlib.metadata.version(name))


def computing() -> Iterator[Finding]:
    """Cores, threads and devices."""
    import psutil
    import torch

    cores = psutil.cpu_count(logical=False) or os.cpu_count() or 1
    memory = psutil.virtual_memory()
    yield _ok(
        "computing",
        "processor",
        f"{cores} cores, {torch.get_num_threads()} threads of torch in this process,"
        f" {memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB memory free;"
        " cells use one thread each",
    )
    for index in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(index)
        yield _ok(
            "computing",
            f"cuda:{index}",
            f"{device.name}, {device.total_memory / 2**30:.0f} GiB",
        )
    if torch.backends.mps.is_available():
        yield _ok("computing", "mps", "an Apple device")


def extras() -> Iterator[Finding]:
    """Libraries that are installed on demand, by the extra that asks for them."""
    wanted: dict[str, list[str]] = {}
    for requirement in importlib.metadata.requires("cibench") or []:
        found = _REQUIREMENT.fullmatch(requirement)
        if found and found[2] not in _OURS:
            wanted.setdefault(found[2], []).append(found[1])
    for extra, names in sorted(wanted.items()):
        here, absent = [], []
        for name in names:
            try:
                here.append(f"{name} {importlib.metadata.version(name)}")
            except importlib.metadata.PackageNotFoundError:
                absent.append(name)
        if absent:
            lack = f'{", ".join(absent)} absent; pip install "cibench[{extra}]"'
            yield Finding(part="extras", what=extra, state="absent", detail=lack)
        else:
            yield _ok("extras", extra, ", ".join(here))


def cache_folder(cache: Path) -> Finding:
    """Whether the cache can be written, and how much room it has."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=cache):
            pass
        free = shutil.disk_usage(cache).free
    except OSError as error:
        detail = (
            f"{_short(cache)}: expected a folder that can be written, got"
            f" {error.strerror}; set CIBENCH_CACHE"
        )
        return Finding(part="cache", what="folder", state="broken", detail=detail)
    return _ok("cache", "folder", f"{_short(cache)}, {free / 2**30:.1f} GiB free")


def _short(path: Path) -> str:
    """A path without the name of its owner."""
    try:
        return str(Path("~") / path.absolute().relative_to(Path.home()))
    except (ValueError, RuntimeError):
        return str(path)


def plugins() -> Iterator[Finding]:
    """Every plugin, loaded; those that work are counted by distribution."""
    registry = default_registry()
    working: dict[str, list[str]] = {}
    for entry in registry.entries:
        origin = f"{entry.distribution} {entry.version}"
        try:
            if entry.kind not in KINDS:
                raise CibenchError(
                    f"entry point of unknown kind {entry.kind!r}; expected one of"
                    f" {', '.join(KINDS.values())}"
                )
            registry.load(entry.kind, entry.name)
        except CibenchError as error:
            yield Finding(
                part="plugins",
                what=f"{entry.kind} {entry.name} of {origin}",
                state="broken",
                detail=str(error),
            )
        else:
            working.setdefault(origin, []).append(entry.kind)
    for origin, kinds in sorted(working.items()):
        counted = [
            f"{kinds.count(kind)} {KINDS[kind]}" for kind in KINDS if kind in kinds
        ]
        yield _ok("plugins", origin, ", ".join(counted))


def data_sets(data_dir: Path | None) -> Iterator[Finding]:
    """Every data set that needs files: whether they are here."""
    registry = default_registry()
    for name in registry.names("dataset"):
        try:
            cls = registry.load("dataset", name)
            plugin = cls()
            here = plugin.present(data_dir=data_dir)
        except (CibenchError, TypeError, ValueError):
            continue  # named above, or without defaults: nothing to look for
        if here:
            yield _ok("data sets", name, "here")
            continue
        how = (
            f"cibench data fetch {name}"
            if cls.downloads
            else f"see: cibench info {name}"
        )
        yield Finding(part="data sets", what=name, state="absent", detail=how)


def _ok(part: str, what: str, detail: str) -> Finding:
    return Finding(part=part, what=what, state="ok", detail=detail)

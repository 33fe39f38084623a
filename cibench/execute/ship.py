"""Plugins that are not installed everywhere: packed here, unpacked beside a worker.

A worker gets plugins that were given as a file, and distributions that are installed here
in editable mode; all others have to be installed there.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import io
import json
import os
import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlsplit

from .._errors import EnvironmentFault, PluginError
from ._scratch import scratch
from .plugin_file import add_file, is_file_distribution

if TYPE_CHECKING:
    from ..grid import Plugin

__all__ = ["add_file", "bundles", "is_unpacked", "unpack"]

#: Bytes of a distribution that is sent, at most.
LIMIT: Final = 20_000_000
_DIST_INFO: Final = ("METADATA", "entry_points.txt", "top_level.txt")
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)
_FOLDER: Final = "plugins"


def bundles(plugins: Iterable[Plugin]) -> tuple[tuple[str, bytes], ...]:
    """Zips, by name and version, of the distributions that workers may lack.

    Equal files give equal bytes.

    Raises:
        PluginError: a distribution is larger than 20 MB, or cannot be read.
    """
    modules: dict[str, set[str]] = {}
    for plugin in plugins:
        entry = plugin.entry
        modules.setdefault(entry.distribution, set()).add(entry.module)
    found = []
    for name in sorted(modules.keys() - {"cibench", "unknown"}):
        distribution = importlib.metadata.distribution(name)
        root = _editable_root(distribution)
        if root is not None or is_file_distribution(name):
            title = f"{name} {distribution.version}"
            files = _files(distribution, modules[name], root)
            found.append((title, _zipped(title, files)))
    return tuple(found)


def _editable_root(distribution: importlib.metadata.Distribution) -> Path | None:
    """The source folder of a distribution that is installed in editable mode."""
    found = json.loads(distribution.read_text("direct_url.json") or "{}")
    if not found.get("dir_info", {}).get("editable"):
        return None
    return Path(unquote(urlsplit(found["url"]).path)).resolve()


def _files(
    distribution: importlib.metadata.Distribution, modules: set[str], root: Path | None
) -> dict[str, bytes | Path]:
    """What a distribution consists of, by path in the zip."""
    name = re.sub(r"[-_.]+", "_", distribution.name)
    folder = f"{name}-{distribution.version}.dist-info"
    files: dict[str, bytes | Path] = {}
    for part in _DIST_INFO:
        text = distribution.read_text(part)
        if text is not None:
            files[f"{folder}/{part}"] = text.encode()
    tops = {module.partition(".")[0] for module in modules}
    tops |= set((distribution.read_text("top_level.txt") or "").split())
    for top in sorted(tops):
        for path, parent in _sources(top, root):
            files[path.relative_to(parent).as_posix()] = path
    return files


def _sources(top: str, root: Path | None) -> Iterator[tuple[Path, Path]]:
    """Files of a top-level package or module, with the folder they are imported from."""
    found = importlib.util.find_spec(top)
    if found is None:
        return
    if found.submodule_search_locations is None:
        assert found.origin is not None
        yield Path(found.origin), Path(found.origin).parent
        return
    folders = [Path(each) for each in found.submodule_search_locations]
    if found.origin is None and root is not None:
        # Other distributions have their share of a namespace package.
        folders = [each for each in folders if each.resolve().is_relative_to(root)]
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and _wanted(path.relative_to(folder)):
                yield path, folder.parent


def _wanted(path: Path) -> bool:
    """Whether to send a file: all sources, since they are hashed, and all data."""
    hidden = any(part.startswith(".") for part in path.parts)
    compiled = "__pycache__" in path.parts or path.suffix == ".pyc"
    return path.suffix == ".py" or not (hidden or compiled)


def _zipped(title: str, files: dict[str, bytes | Path]) -> bytes:
    total = 0
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, source in sorted(files.items()):
            content = source if isinstance(source, bytes) else _read(title, source)
            total += len(content)
            if total > LIMIT:
                raise PluginError(
                    f"plugin distribution {title}: expected at most"
                    f" {LIMIT // 1_000_000} MB to send to workers, got more with"
                    f" {name}; install it on every worker"
                )
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content)
    return target.getvalue()


def _read(title: str, path: Path) -> bytes:
    try:
        if path.stat().st_size > LIMIT:
            raise PluginError(
                f"plugin distribution {title}: expected at most {LIMIT // 1_000_000} MB"
                f" to send to workers, got more in {path}; install it on every worker"
            )
        return path.read_bytes()
    except OSError as error:
        raise PluginError(
            f"plugin distribution {title}: expected a readable file {path}, got"
            f" {error.strerror}"
        ) from error


def is_unpacked(run: str) -> bool:
    """Whether the plugins of a run are on this machine."""
    return (scratch(run) / _FOLDER).is_dir()


def unpack(bundles: tuple[tuple[str, bytes], ...], run: str) -> str:
    """Extract the plugins of a run once on this machine; a folder for PYTHONPATH.

    Any number of processes may do so at a time. Where it is done, the content of the
    bundles is not looked at.

    Raises:
        EnvironmentFault: a bundle is damaged, or names a file outside its folder.
    """
    folder = scratch(run) / _FOLDER
    if folder.is_dir():
        return str(folder)
    try:
        partial = Path(tempfile.mkdtemp(dir=folder.parent))
        try:
            for name, content in bundles:
                _extract(name, content, partial)
            try:
                partial.rename(folder)
            except OSError:  # another process was faster
                if not folder.is_dir():
                    raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise EnvironmentFault(
            f"plugins in {folder}: expected a folder that can be written, got"
            f" {error.strerror}; set TMPDIR on the workers"
        ) from error
    return str(folder)


def _extract(name: str, content: bytes, folder: Path) -> None:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for entry in archive.infolist():
                path = PurePosixPath(entry.filename)
                if path.is_absolute() or ".." in path.parts or "\\" in entry.filename:
                    raise EnvironmentFault(
                        f"plugin distribution {name}: expected files below one folder, got"
                        f" {entry.filename!r}"
                    )
                target = folder / path
                os.makedirs(target.parent, exist_ok=True)
                target.write_bytes(archive.read(entry))
    except zipfile.BadZipFile as error:
        raise EnvironmentFault(
            f"plugin distribution {name}: expected what was packed, got {error}"
        ) from error

"""A plugin in a single Python file, taken in as if it were an installed distribution."""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import os
import re
import secrets
import sys
from pathlib import Path
from types import ModuleType
from typing import Final

import pluggy

from .. import hookspecs
from .._errors import PluginError, UsageError
from ..registry import GROUP, KINDS, default_registry
from ._scratch import scratch

_PREFIX: Final = "cibench-file-"
#: Distributions that were made from files of this process, by the file's content.
_made: dict[tuple[Path, str], str] = {}
_folder: list[Path] = []


def add_file(path: Path) -> str:
    """Make the plugins of a file known, here and in all processes this one starts.

    The file becomes a distribution in a temporary folder, which is on `sys.path` and in
    PYTHONPATH until this process ends.

    Returns:
        The distribution's name, such as `cibench-file-clip`.

    Raises:
        UsageError: there is no such file.
        PluginError: it cannot be imported, implements no hook, or provides a name that is
            taken.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"--plugin {path}: expected a Python file, got {error.strerror}"
        ) from error
    digest = hashlib.sha256(content).hexdigest()[:8]
    place = path.resolve(), digest
    if place in _made:
        return _made[place]
    stem = re.sub(r"\W+", "_", path.stem)
    module = f"cibench_file_{stem}_{digest}"
    name = _PREFIX + re.sub(r"[\W_]+", "-", path.stem).strip("-").lower()
    folder = _on_path()
    source = folder / f"{module}.py"
    source.write_bytes(content)
    try:
        names = _provided(_imported(module, path), path)
        _check_free(names, name, path)
    except BaseException:
        sys.modules.pop(module, None)
        source.unlink(missing_ok=True)
        raise
    _write_metadata(folder, name, f"0+{digest}", module, names)
    importlib.invalidate_caches()
    default_registry().__dict__.pop("entries", None)
    _made[place] = name
    return name


def is_file_distribution(name: str) -> bool:
    """Whether `add_file` made a distribution."""
    return name in _made.values()


def _on_path() -> Path:
    if not _folder:
        folder = scratch(f"files-{secrets.token_hex(6)}")
        paths = [str(folder), os.environ.get("PYTHONPATH")]
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        sys.path.insert(0, str(folder))
        _folder.append(folder)
    importlib.invalidate_caches()
    return _folder[0]


def _imported(module: str, path: Path) -> ModuleType:
    try:
        return importlib.import_module(module)
    except KeyboardInterrupt:
        raise
    except SyntaxError as error:
        raise PluginError(
            f"--plugin {path}: expected Python, got a syntax error in line"
            f" {error.lineno}: {error.msg}"
        ) from error
    except BaseException as error:  # a stranger's file may even raise SystemExit
        raise PluginError(
            f"--plugin {path}: expected a file that can be imported, got"
            f" {type(error).__name__}: {error}"
        ) from error


def _provided(module: ModuleType, path: Path) -> list[str]:
    """Names of entry points for the classes that the module's hooks give."""
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    names = []
    try:
        manager.register(module)
        manager.check_pending()
        hooks = {f"cibench_{kinds}": kind for kind, kinds in KINDS.items()}
        for hook, kind in hooks.items():
            for implementation in getattr(manager.hook, hook).get_hookimpls():
                names += [f"{kind} {cls.name}" for cls in implementation.function()]
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise PluginError(
            f"--plugin {path}: expected hooks that return lists of classes with a name,"
            f" got {type(error).__name__}: {error}"
        ) from error
    if not names:
        raise PluginError(
            f"--plugin {path}: expected a module that implements"
            f" {', '.join(hooks)}, got none that gives a class; see docs/hooks.md"
        )
    return names


def _check_free(names: list[str], distribution: str, path: Path) -> None:
    double = next((name for name in names if names.count(name) > 1), None)
    if double is not None:
        raise PluginError(
            f"--plugin {path}: expected each name once, got {double} twice"
        )
    taken = {}
    for point in importlib.metadata.entry_points(group=GROUP):
        kinds, _, name = point.name.partition(".")
        kind = {v: k for k, v in KINDS.items()}.get(kinds, kinds)
        if point.dist is not None:
            taken[f"{kind} {name}"] = f"{point.dist.name} {point.dist.version}"
    for name in names:
        if name in taken:
            raise PluginError(
                f"--plugin {path}: expected a name of its own, got {name}, which"
                f" {taken[name]} provides; give the class another name"
            )
    if distribution in _made.values():
        raise PluginError(
            f"--plugin {path}: expected one file of this name, got two; rename one"
        )


def _write_metadata(
    folder: Path, name: str, version: str, module: str, names: list[str]
) -> None:
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    points = [
        f"{KINDS[kind]}.{method} = {module}"
        for kind, _, method in (each.partition(" ") for each in names)
    ]
    files = {
        "METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        "entry_points.txt": "\n".join([f"[{GROUP}]", *points, ""]),
        "top_level.txt": f"{module}\n",
    }
    for file, text in files.items():
        (info / file).write_text(text, encoding="utf-8")
    record = [f"{module}.py,,", *(f"{info.name}/{each},," for each in files)]
    record.append(f"{info.name}/RECORD,,\n")
    (info / "RECORD").write_text("\n".join(record), encoding="utf-8")

"""`run.json` in a run's folder: what was asked for, so that the run can be taken up."""

from __future__ import annotations

import datetime
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import msgspec
from filelock import FileLock

from .._errors import OutputError
from .._version import VERSION
from ..results import RunFolder
from ..results.folder import write_atomically
from ._chosen import Wanted

#: Options that say how a command behaves or where files are, not what is run.
_NOT_KEPT = (
    "out",
    "resume",
    "rerun",
    "as_json",
    "json_log",
    "quiet",
    "verbose",
    "no_cache",
    "data_dir",
    "plugin_files",
    "jobs",
    "backend",
    "backend_options",
)

#: Options that say which cells are run.
_SELECTING = frozenset(
    ("datasets", "attacks", "defenses", "suite", "config", "seeds", "parameters",
     "exclude", "embedding", "protocols", "preset", "quick", "limit", "out")
)  # fmt: skip


class Invocation(msgspec.Struct, frozen=True, kw_only=True):
    """One `cibench run` into the folder."""

    created: str
    cibench: str
    options: dict[str, Any]
    """The options that were given, by parameter name."""
    cells: int


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Every `cibench run` into the folder, oldest first."""

    format: int = 1
    invocations: list[Invocation] = []


def write_manifest(folder: RunFolder, asked: Wanted, cells: int) -> None:
    """Add this invocation; other processes may do the same at the same time."""
    options = {
        name: _plain(asked.params[name])
        for name in sorted(asked.typed)
        if name not in _NOT_KEPT
    }
    path = folder.path / "run.json"
    with FileLock(folder.path / ".run.lock"):
        manifest = read_manifest(folder) if path.exists() else Manifest()
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        added = Invocation(created=now, cibench=VERSION, options=options, cells=cells)
        invocations = [*manifest.invocations, added]
        text = msgspec.json.encode(Manifest(invocations=invocations))
        write_atomically(path, msgspec.json.format(text, indent=2) + b"\n")


def read_manifest(folder: RunFolder) -> Manifest:
    """What was asked for in a run's folder.

    Raises:
        OutputError: there is no run here, or its manifest cannot be read.
    """
    path = folder.path / "run.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=Manifest)
    except OSError as error:
        raise OutputError(
            f"run {folder.path}: expected a folder with run.json, got {error.strerror};"
            " the folder is what `cibench run` printed or was given with -o"
        ) from error
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise OutputError(
            f"run {folder.path}: expected run.json as cibench writes it, got {error};"
            " run the command anew with -o and this folder"
        ) from error


def resume_command(folder: RunFolder, params: Mapping[str, Any]) -> str:
    """The command that goes on with a run, as a shell takes it."""
    words = ["cibench", "run", "--resume", str(folder.path)]
    if params["data_dir"] is not None:
        words += ["--data-dir", str(params["data_dir"])]
    for path in params["plugin_files"]:
        words += ["--plugin", str(path)]
    if params["no_cache"]:
        words.append("--no-cache")
    if params["jobs"] != "1":
        words += ["-j", str(params["jobs"])]
    if params["backend"]:
        words += ["--backend", str(params["backend"])]
    for option in params["backend_options"]:
        words += ["--backend-opt", option]
    return shlex.join(words)


def resumed(
    ctx: click.Context, params: Mapping[str, Any], typed: set[str]
) -> tuple[dict[str, Any], set[str]]:
    """The options of an earlier run, with those that were given now.

    Raises:
        click.UsageError: other cells are selected now.
        OutputError: there is no run to go on with.
    """
    path = Path(params["resume"])
    advice = f"to add cells to a run use -o {path} instead"
    check_alone(ctx, typed, "--resume", advice)
    return taken_up(ctx, path, params, typed)


def check_alone(ctx: click.Context, typed: set[str], flag: str, advice: str) -> None:
    """Refuse options that select cells where a run says which.

    Args:
        flag: what names the run.
        advice: what to do instead.

    Raises:
        click.UsageError: there are such options.
    """
    if typed & _SELECTING:
        flags = {p.name: p.opts[-1] for p in ctx.command.params}
        given = ", ".join(sorted(flags[name] for name in typed & _SELECTING))
        raise click.UsageError(
            f"{flag}: expected it to say what is run, got {given} too; {advice}"
        )


def taken_up(
    ctx: click.Context, path: Path, params: Mapping[str, Any], typed: set[str]
) -> tuple[dict[str, Any], set[str]]:
    """The options of the last `run` into a folder, with those that were given now.

    Args:
        ctx: of a command with the options of a selection.

    Raises:
        OutputError: there is no run in the folder.
    """
    from ._run_study import stored_study

    folder = RunFolder(path)
    invocations = read_manifest(folder).invocations
    if not invocations:
        raise OutputError(
            f"run {path}: expected run.json with a command, got none; give the selection"
            f" instead, with -o {path}"
        )
    options = invocations[-1].options
    paths = {p.name for p in ctx.command.params if isinstance(p.type, click.Path)}
    kept = {
        name: tuple(value)
        if isinstance(value, list)
        else _typed(value, path=name in paths)
        for name, value in options.items()
        if name not in typed
    }
    found = {**params, **kept, "out": folder.path}
    if {"suite", "config"} & options.keys():
        found["study"] = stored_study(folder.path)
    return found, typed | kept.keys()


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def _typed(value: Any, *, path: bool) -> Any:
    return Path(value) if path and value is not None else value

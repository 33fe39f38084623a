"""`cibench cache`: what is kept between runs, why it is used or not, and less of it."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from .._errors import OutputError, UsageError
from ._cache_explain import explain_command
from ._options import default_cache
from ._show import plain

if TYPE_CHECKING:
    from ..execute.upkeep import CacheFile, Rules

Number = TypeVar("Number", int, float)

cache_option = click.option(
    "--cache",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="The cache.  [default: CIBENCH_CACHE, or the user's cache folder]",
)


@click.group("cache", short_help="List, explain and tidy up the cache.")
def command() -> None:
    """List what is kept between runs; say why it is used or not; make it smaller."""


command.add_command(explain_command)


@command.command("ls", short_help="List what the cache holds, by kind.")
@cache_option
@click.option("--long", is_flag=True, help="A line for each file.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_(folder: Path | None, long: bool, as_json: bool) -> None:
    """List what the cache holds, by kind: how much, and when it was last used.

    Times of use are exact to an hour. Damaged files were set aside because their checksum
    did not match; nothing reads them.
    """
    from ..execute.upkeep import survey

    folder = folder or default_cache()
    files = survey(folder)
    kinds = _grouped(({"kind": file.kind}, file) for file in files)
    for row in kinds:
        mine = [file for file in files if file.kind == row["kind"]]
        row["damaged"] = sum(file.damaged for file in mine)
        row["oldest_use"] = _moment(min(file.used for file in mine))
        row["newest_use"] = _moment(max(file.used for file in mine))
    latest = sorted(files, key=lambda file: file.used, reverse=True) if long else []
    single = [
        {
            "kind": file.kind,
            "file": file.path.relative_to(folder).as_posix(),
            "bytes": file.size,
            "used": _moment(file.used),
            "damaged": file.damaged,
        }
        for file in latest
    ]
    if as_json:
        _json(
            {
                "folder": str(folder),
                "kinds": kinds,
                **({"files": single} if long else {}),
            }
        )
        return
    total = sum(file.size for file in files)
    click.echo(f"{folder}: {_count(len(files))}, {_size(total)}")
    _table(single if long else kinds)


@command.command(
    "gc", short_help="Remove files that are unused, stale, damaged or too many."
)
@cache_option
@click.option("--older-than", metavar="AGE", help="Not used for so long, such as 30d.")
@click.option(
    "--max-size", metavar="SIZE", help="Until the rest is at most, such as 5G."
)
@click.option("--stale", is_flag=True, help="Made by another version of the harness.")
@click.option("--damaged", is_flag=True, help="Set aside because of a wrong checksum.")
@click.option("--dry-run", is_flag=True, help="Say what would go; remove nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def collect(
    folder: Path | None,
    older_than: str | None,
    max_size: str | None,
    stale: bool,
    damaged: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Remove stored files that are unused, stale, damaged or too many.

    A file goes if any of the options given says so, and is computed again when it is
    needed. Runs may go on meanwhile. What was used least recently goes first; remains of
    interrupted writers and lock files that nobody holds go as well. The history of how long
    cells take stays, and so does whatever a symbolic link leads to.

    \b
    cibench cache gc --older-than 30d --max-size 5G
    cibench cache gc --stale --dry-run
    """  # noqa: D301
    from ..execute.upkeep import check_cache, condemned, remove, survey

    rules = _rules(older_than, max_size, stale, damaged)
    folder = folder or default_cache()
    check_cache(folder)
    files = survey(folder, contents=stale)
    chosen, errors = (
        (condemned(files, rules), []) if dry_run else remove(condemned(files, rules))
    )
    gone = {file.path for _, file in chosen}
    left = [file for file in files if file.path not in gone]
    rows = _grouped(
        ({"reason": reason, "kind": file.kind}, file) for reason, file in chosen
    )
    removed = sum(row["bytes"] for row in rows)
    rest = sum(file.size for file in left)
    if as_json:
        _json(
            {
                "folder": str(folder),
                "dry_run": dry_run,
                "removed": rows,
                "files": len(chosen),
                "bytes": removed,
                "left_files": len(left),
                "left_bytes": rest,
                "errors": errors,
            }
        )
    else:
        _table(rows)
        verb = "would remove" if dry_run else "removed"
        click.echo(
            f"{folder}: {verb} {_count(len(chosen))}, {_size(removed)};"
            f" left {_count(len(left))}, {_size(rest)}"
        )
    if errors:
        raise OutputError(
            f"cache {folder}: expected files that can be removed, got {len(errors)} that"
            f" cannot, such as {errors[0]}; check who owns them"
        )


def _rules(
    older_than: str | None, max_size: str | None, stale: bool, damaged: bool
) -> Rules:
    from ..execute.limits import parse_duration, parse_size
    from ..execute.upkeep import Rules

    if older_than is None and max_size is None and not (stale or damaged):
        raise UsageError(
            "cache gc: expected what to remove, got nothing; give --older-than 30d,"
            " --max-size 5G, --stale or --damaged (--dry-run shows what would go)"
        )
    harness = None
    if stale:
        from ..grid import harness_hash

        harness = harness_hash()
    return Rules(
        older_than=_parsed("--older-than", older_than, parse_duration),
        max_size=_parsed("--max-size", max_size, parse_size),
        stale=harness,
        damaged=damaged,
    )


def _parsed(
    option: str, text: str | None, parse: Callable[[str], Number | None]
) -> Number | None:
    if text is None:
        return None
    try:
        found = parse(text)
    except UsageError as error:
        raise UsageError(f"{option}: {error}") from error
    if found is None:
        raise UsageError(f"{option}: expected a limit, got {text!r}; leave it out")
    return found


def _grouped(
    labelled: Iterable[tuple[dict[str, str], CacheFile]],
) -> list[dict[str, Any]]:
    groups: dict[str, dict[str, Any]] = {}
    for label, file in labelled:
        row = groups.setdefault(str(label), {**label, "files": 0, "bytes": 0})
        row["files"] += 1
        row["bytes"] += file.size
    return [groups[label] for label in sorted(groups)]


def _table(rows: list[dict[str, Any]]) -> None:
    if rows:
        names = ["size" if n == "bytes" else n.replace("_", " ") for n in rows[0]]
        plain([[_text(n, v) for n, v in row.items()] for row in rows], names)


def _text(name: str, value: Any) -> str:
    if name == "bytes":
        return _size(value)
    if isinstance(value, bool):
        return "yes" if value else ""
    return str(value)


def _moment(seconds: float) -> str:
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _count(files: int) -> str:
    return f"{files} file" if files == 1 else f"{files} files"


def _size(size: int) -> str:
    from ..execute.limits import readable_size

    return readable_size(size)


def _json(content: dict[str, Any]) -> None:
    import msgspec

    click.echo(msgspec.json.encode(content))

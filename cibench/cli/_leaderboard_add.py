"""Verifying a bundle and adding it to a leaderboard's folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ._verifying import load_plugins

if TYPE_CHECKING:
    from ._verified import Verified


def added(source: Path, folder: Path, params: dict[str, Any]) -> Path | None:
    """The folder of the new entry; None if the bundle is refused, which is told.

    Raises:
        CibenchError: the bundle does not fit the entries, or the folder is wrong.
    """
    from .._errors import UsageError
    from ..leaderboard.adding import add_entry, check_new
    from ..submission.bundle import read_bundle
    from ._verified import Wanted, verified

    if source.is_dir():
        raise UsageError(
            f"{source}: expected a bundle's file as `cibench submit` makes it, got a folder"
        )
    check_new(folder, read_bundle(source))
    load_plugins(params.pop("plugin_files"))
    found = verified(source, Wanted(**params))
    _tell(source, found)
    if found.findings or found.bundle is None:
        return None
    return add_entry(folder, source, found.bundle, found.verification)


def _tell(source: Path, found: Verified) -> None:
    from ._progress import one_line

    for title, lines in (("note", found.notes), ("finding", found.findings)):
        for line in lines[:40]:
            click.echo(f"{title}: {one_line(line)}", err=True)
    if found.findings:
        count = len(found.findings)
        more = f" (and {count - 1} more findings)" if count > 1 else ""
        click.echo(
            f"error: {source.name} is refused: {one_line(found.findings[0])}{more}",
            err=True,
        )
    else:
        click.echo(f"badge: {found.verification.badge}", err=True)

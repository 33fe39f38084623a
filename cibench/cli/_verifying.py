"""The options of verifying a bundle, which `verify` and `leaderboard add` share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from ._options import DATA_DIR, ISOLATION, JOBS, MEMORY, PLUGIN_FILES, TIMEOUT

F = TypeVar("F", bound=Callable[..., Any])


def _replays(ctx: click.Context, param: click.Parameter, value: str) -> int | None:
    """`all` is None, `none` is 0."""
    if value in ("all", "none"):
        return None if value == "all" else 0
    if value.isdecimal():
        return int(value)
    raise click.BadParameter(f"expected all, none or a number, got {value!r}")


def verifying(replay: str) -> Callable[[F], F]:
    """Give a command the options; `replay` is the default of the first."""
    options = [
        click.option(
            "--replay",
            default=replay,
            show_default=True,
            metavar="all|none|N",
            callback=_replays,
            help="Replay witnesses through the defenses that are installed.",
        ),
        click.option(
            "--rerun",
            type=click.IntRange(min=0),
            default=0,
            show_default=True,
            metavar="N",
            help="Run N cells again, chosen by the bundle's hash.",
        ),
        click.option(
            "--salt",
            default="",
            metavar="TEXT",
            help="Enters the choice of cells; take one that the author cannot know.",
        ),
        click.option(
            "--tol",
            "tolerance",
            type=click.FloatRange(min=0, max=1),
            default=0.0,
            show_default=True,
            help="Share of a cell's samples that may be decided otherwise, and how far"
            " numbers of cells that are run again may be off; for other hardware.",
        ),
        DATA_DIR,
        PLUGIN_FILES,
        click.option("--device", help="A torch device.  [default: the records']"),
        click.option(
            "--cached", is_flag=True, help="Take embeddings and fits from the cache."
        ),
        JOBS,
        TIMEOUT,
        MEMORY,
        ISOLATION,
        click.option(
            "-q", "--quiet", is_flag=True, help="No progress on standard error."
        ),
    ]

    def decorated(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return decorated


def load_plugins(files: tuple[Path, ...]) -> None:
    """Register the plugins of files that were named with `--plugin`.

    Raises:
        PluginError: one has none.
    """
    if files:
        from ..execute.ship import add_file

        for path in files:
            add_file(path)

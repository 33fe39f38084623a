"""From a published folder to its pages, and back to what is stale in it."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from .._errors import EnvironmentFault, OutputError
from ..suites import load_suite, read_study
from .boardpage import board_page
from .boards import make_leaderboard
from .entries import LoadedEntry
from .figures import figure_files
from .folder import FolderSettings, read_entries, read_settings, uncollected
from .markdown import readme
from .model import Leaderboard
from .pages import README, SITE, Difference, compared, write_pages
from .standing import anchor

#: What pages and their figures are made with; the extra `report` has all.
_LIBRARIES = ("jinja2", "matplotlib", "plotly")


def read_leaderboard(folder: Path) -> Leaderboard:
    """The boards of a folder's entries.

    Raises:
        OutputError: settings or entries cannot be read.
        UsageError: there is no such suite, or entries contradict each other.
    """
    return boards_of(read_entries(folder), folder, read_settings(folder))


def boards_of(
    entries: Sequence[LoadedEntry], folder: Path, settings: FolderSettings
) -> Leaderboard:
    """The boards of entries in a folder.

    Raises:
        UsageError: there is no such suite, or entries contradict each other.
    """
    return make_leaderboard(
        entries,
        title=settings.title,
        owner=settings.owner,
        link=settings.link,
        suite=read_study(folder / settings.suite)
        if settings.suite.endswith(".toml")
        else load_suite(settings.suite),
        suite_name=settings.suite,
    )


def pages(leaderboard: Leaderboard) -> dict[str, bytes]:
    """Every generated file by its path in the folder.

    Raises:
        EnvironmentFault: a library that draws is not installed.
        OutputError: two boards have one name.
    """
    from .site import site_html

    found = {README: readme(leaderboard).encode()}
    for board in leaderboard.boards:
        path = f"boards/{anchor(board)}.md"
        if path in found:
            raise OutputError(f"{path}: expected one board of this name, got two")
        found[path] = board_page(board, leaderboard).encode()
    found |= figure_files(leaderboard)
    found[SITE] = site_html(leaderboard).encode()
    return found


def check_libraries() -> None:
    """Find out early whether pages can be built here: verifying may take hours.

    Raises:
        EnvironmentFault: a library is not installed.
    """
    missing = [name for name in _LIBRARIES if importlib.util.find_spec(name) is None]
    if missing:
        raise EnvironmentFault(
            f"the pages of a leaderboard: expected {', '.join(missing)} to be installed,"
            ' got none; pip install "cibench[report]"'
        )


def build(folder: Path) -> list[str]:
    """Write every generated file of a folder; the paths that changed.

    Raises:
        CibenchError: see `check_libraries`, `read_leaderboard`, `pages` and `write_pages`.
    """
    check_libraries()
    with uncollected():
        return write_pages(folder, pages(read_leaderboard(folder)))


def check(folder: Path) -> list[Difference]:
    """What `build` would change in a folder; nothing is written.

    Raises:
        CibenchError: see `read_leaderboard`, `pages` and `compared`.
    """
    with uncollected():
        return compared(folder, pages(read_leaderboard(folder)))

"""`cibench leaderboard build|check|add`: the published boards of reviewed entries."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ._verifying import verifying

if TYPE_CHECKING:
    from ..leaderboard.pages import Difference

_FOLDER = click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
#: Files that a message names; JSON has all.
_SHOWN = 40


@click.group("leaderboard", short_help="Build, check and extend published boards.")
def command() -> None:
    """Publish boards: a folder of reviewed entries, and pages generated from them.

    DIR holds leaderboard.toml (title, owner, link, suite) and entries/; README.md, boards/,
    figures/ and site/ are generated, byte for byte the same each time.
    """


@command.command("build")
@_FOLDER
def build_command(folder: Path) -> None:
    """Write README.md, boards/, figures/ and site/ of DIR from its entries.

    Files that changed are printed; generated files that no longer belong are removed.

    \b
    cibench leaderboard build leaderboard
    """  # noqa: D301
    _build(folder)


@command.command("check")
@_FOLDER
@click.option(
    "--exact",
    is_flag=True,
    help="Refuse a page, too, that differs only in the plotly library inside it.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def check_command(folder: Path, exact: bool, as_json: bool) -> int:
    """Check that the generated files of DIR are those of its entries; write nothing.

    The exit code is 0 if all match, else 4, with the files that are stale, missing or
    extra. Figures and the page depend on the libraries that draw them: check with those of
    constraints.txt.

    \b
    cibench leaderboard check leaderboard
    """  # noqa: D301
    from ..leaderboard.build import check

    click.echo(f"building the pages of {folder} to compare them", err=True)
    found = check(folder)
    counted = [one for one in found if exact or one.kind != "other plotly"]
    if as_json:
        import msgspec

        told = {"folder": str(folder), "stale": bool(counted), "differences": found}
        click.echo(msgspec.json.encode(told))
    else:
        _print(found)
    if counted:
        click.echo(
            f"error: {len(counted)} files are not what the entries say; run: cibench"
            f" leaderboard build {folder}",
            err=True,
        )
        return 4
    if not as_json:
        click.echo(f"{folder}: every generated file is what the entries say")
    return 0


@command.command("add")
@click.argument("bundle", type=click.Path(path_type=Path))
@_FOLDER
@verifying("all")
@click.option("--no-build", is_flag=True, help="Leave the generated files as they are.")
def add_command(bundle: Path, folder: Path, **params: Any) -> int:
    """Verify BUNDLE, put it into the entries of DIR, and build the pages anew.

    A bundle is refused with exit code 4 if it fails verification, if another entry has its
    name, or if its records contradict those of another entry. Adding the bundle of an entry
    again renews what was verified of it, and its badge. The folder of the entry is printed.

    \b
    cibench leaderboard add mydefense.cibench.zip leaderboard --replay all --rerun 5
    """  # noqa: D301
    from ._leaderboard_add import added

    without_pages = params.pop("no_build")
    if not without_pages:
        from ..leaderboard.build import check_libraries

        check_libraries()
    path = added(bundle, folder, params)
    if path is None:
        return 4
    if not without_pages:
        _build(folder, listed=False)
    click.echo(path)
    return 0


def _build(folder: Path, *, listed: bool = True) -> None:
    from ..leaderboard.build import build

    click.echo(f"building the pages of {folder}", err=True)
    changed = build(folder)
    for path in changed if listed else []:
        click.echo(folder / path)
    click.echo(f"{len(changed)} files changed", err=True)


def _print(found: list[Difference]) -> None:
    for one in found[:_SHOWN]:
        hint = f" ({one.hint})" if one.hint else ""
        click.echo(f"{one.kind}: {one.path!a}{hint}".replace("'", ""))
    if len(found) > _SHOWN:
        click.echo(f"and {len(found) - _SHOWN} more")

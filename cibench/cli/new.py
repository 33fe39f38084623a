"""`cibench new`: a package for a plugin of your own."""

from __future__ import annotations

import subprocess
from pathlib import Path

import click

from ..registry import KINDS


@click.command("new", short_help="Write a package for a plugin of your own.")
@click.argument("kind", type=click.Choice(list(KINDS)))
@click.argument("name")
@click.option(
    "--into",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    help="Folder to write it into; default: the current one.",
)
@click.option(
    "--licence",
    "--license",
    type=click.Choice(["Apache-2.0", "MIT", "BSD-3-Clause"]),
    default="Apache-2.0",
    show_default=True,
    help="Licence of the package.",
)
@click.option("--author", help="Whom the licence names; default: git's user.name.")
def command(kind: str, name: str, into: Path, licence: str, author: str | None) -> None:
    """Write an installable package for a KIND (defense, attack or dataset) called NAME.

    It has one module with one function to edit, the entry point by which cibench finds it,
    three lines of tests that try what every plugin promises, a README, a workflow for
    continuous integration and a licence. It passes its own tests as it is.

    \b
    cibench new defense my-defense
    cibench new dataset fleet --into packages --licence MIT
    """  # noqa: D301
    from ..scaffold.write import Scaffold

    if author is None:
        author = _git_user()
    made = Scaffold(kind=kind, name=name, licence=licence, author=author)
    folder = made.write(into)
    click.echo(f"wrote {folder}\n")
    click.echo(f'  pip install -e "{folder}[test]"')
    click.echo(f"  cibench check {name}")
    click.echo(f"  {made.words['example']}\n")
    click.echo(f"then edit {folder / (made.module + '.py')}: look for EDIT")


def _git_user() -> str:
    """The name git signs with; empty where there is none."""
    try:
        asked = subprocess.run(
            ["git", "config", "user.name"],
            capture_output=True,
            text=True,
            check=False,
            timeout=5,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    name = asked.stdout.strip()
    return "" if any(c in name for c in '"\\\n') else name

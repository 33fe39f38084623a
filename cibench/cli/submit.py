"""`cibench submit RUN`: a bundle of a run's records and witnesses, for a leaderboard."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .._errors import UsageError

if TYPE_CHECKING:
    from ..results import CellRecord
    from ..submission.manifest import Manifest


@click.command("submit", short_help="Make a bundle of a run, for a leaderboard.")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--author", required=True, metavar="NAME", help="Who answers for it.")
@click.option("--title", metavar="TEXT", help="In a line.  [default: its defenses]")
@click.option("--link", default="", metavar="URL", help="Where code or paper is.")
@click.option("--note", default="", metavar="TEXT", help="What readers should know.")
@click.option(
    "--name",
    metavar="NAME",
    help="Of the entry: small letters, digits, `.` and `-`.  [default: from author and"
    " defenses]",
)
@click.option(
    "-d",
    "--defense",
    "defenses",
    multiple=True,
    metavar="DEFENSE",
    help="Only this defense of the run, by spec, name or glob; repeatable.",
)
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The bundle's file.  [default: NAME.cibench.zip]",
)
@click.option(
    "--no-witnesses", is_flag=True, help="Records only; such a bundle stays `claimed`."
)
@click.option(
    "--pr-text",
    is_flag=True,
    help="Print the pull request's text on standard output, the path on standard error.",
)
def command(run: Path, **params: Any) -> None:
    """Make a bundle of the run in folder RUN, and verify it as a leaderboard would.

    A bundle holds records, witnesses and `bundle.json`, and nothing that can hold code;
    cells that failed are in it as they are. Witnesses of data of persons are left out.
    Partial runs (`--quick`, `--limit`) are refused. The path of the bundle is printed on
    standard output, a text for a pull request on standard error.

    \b
    cibench submit runs/x --author "Ada Lovelace" --link https://example.org/paper
    """  # noqa: D301
    from ..results import RunFolder
    from ..submission.make import make_bundle, selected
    from ..submission.request import request_text

    folder = RunFolder(run)
    records = selected(folder, params["defenses"])
    manifest = _manifest(records, params)
    path = params["out"] or Path(f"{manifest.name}.cibench.zip")
    whole, lacking = make_bundle(
        path, manifest, folder, records, witnesses=not params["no_witnesses"]
    )
    _tell(records, lacking, wanted=not params["no_witnesses"])
    digest = _digest(path)
    text = request_text(whole, records, path.name, digest)
    click.echo(text, err=not params["pr_text"])
    click.echo(str(path), err=params["pr_text"])


def _manifest(records: Sequence[CellRecord], params: dict[str, Any]) -> Manifest:
    """The manifest that was asked for.

    Raises:
        UsageError: an option is not as expected.
    """
    import msgspec

    from .._version import PROTOCOL, VERSION
    from ..leaderboard.text import slug
    from ..submission.manifest import Manifest

    defenses = list(dict.fromkeys(record.defense.spec for record in records))
    shown = ", ".join(defenses[:3]) + (" and more" if len(defenses) > 3 else "")
    subject = defenses[0] if len(defenses) == 1 else f"{len(defenses)} defenses"
    name = params["name"] or slug(re.sub(r"[^a-z0-9]+", "-", params["author"].lower()))
    if not params["name"]:
        name = f"{name[:40].strip('-')}-{slug(subject.replace(' ', '-'))}"[:80]
    given = {
        "protocol": PROTOCOL,
        "name": name,
        "title": (params["title"] or shown)[:200],
        "author": params["author"],
        "link": params["link"],
        "note": params["note"],
        # Of the newest record, so that a bundle is the same whenever it is made.
        "created": max(record.created for record in records)[:10],
        "cibench": VERSION,
        "citations": _citations(records),
        "files": {},
    }
    try:
        return msgspec.convert(given, Manifest)
    except msgspec.ValidationError as error:
        raise UsageError(
            f"expected a name of small letters, digits, `.` and `-`, a link from https://"
            f" on, and texts of usual length; got: {error}"
        ) from error


def _citations(records: Sequence[CellRecord]) -> dict[str, str]:
    """Citations of defenses and attacks that are installed, by name."""
    from ..registry import default_registry

    found: dict[str, str] = {}
    for record in records:
        names = [("defense", record.defense.name)]
        names += [("attack", part.component.name) for part in record.attack]
        for kind, name in names:
            if name in found:
                continue
            try:
                citation = str(default_registry().load(kind, name).citation or "")
            except Exception:  # a plugin may be gone, or raise anything
                citation = ""
            found[name] = " ".join(citation.split())[:2000]
    return {name: text for name, text in sorted(found.items()) if text}


def _tell(
    records: Sequence[CellRecord], lacking: Sequence[str], *, wanted: bool
) -> None:
    personal = sum(record.personal and record.status == "ok" for record in records)
    if personal and wanted:
        click.echo(
            f"note: {personal} records are of data of persons: their witnesses are left"
            " out, for they hold embeddings",
            err=True,
        )
    if lacking:
        click.echo(
            f"note: {len(lacking)} cells have no witness, first {lacking[0]}: the"
            " submission stays `claimed` unless cells are run again; cibench run"
            " --witnesses keeps them",
            err=True,
        )


def _digest(path: Path) -> str:
    from ..submission.archive import Archive
    from ..submission.manifest import MANIFEST

    archive = Archive(path)
    try:
        return hashlib.sha256(archive.read(MANIFEST)).hexdigest()
    finally:
        archive.close()

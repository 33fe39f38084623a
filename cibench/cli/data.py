"""`cibench data`: what data sets need, getting it, checking it."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click

from .._errors import CibenchError, DataError, UsageError
from ._completing import specs
from ._show import plain

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .._transfer import Report
    from ..download import Download

_FOLDER = click.Path(file_okay=False, path_type=Path)


@click.group("data", short_help="List, fetch and verify the files of data sets.")
def command() -> None:
    """List, fetch and verify the files of data sets."""


@command.command("ls")
@click.option("--data-dir", type=_FOLDER, envvar="CIBENCH_DATA", help="Where to look.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_(data_dir: Path | None, as_json: bool) -> None:
    """List data sets: where they come from, on what terms, and whether they are here."""
    from ..registry import default_registry

    rows = [_row(name, data_dir) for name in default_registry().names("dataset")]
    if as_json:
        import msgspec

        click.echo(msgspec.json.encode(rows))
    else:
        plain([list(row.values()) for row in rows], list(rows[0]))


def _row(name: str, data_dir: Path | None) -> dict[str, str]:
    from ..registry import default_registry

    try:
        cls = default_registry().load("dataset", name)
        plugin = cls()
        here = "yes" if plugin.present(data_dir=data_dir) else "no"
        if cls.downloads:
            hosts = {urlsplit(d.url).hostname for d in cls.downloads}
            sums = {"sha256" if d.sha256 else "no sha256 known" for d in cls.downloads}
            where = f"{', '.join(sorted(map(str, hosts)))} ({', '.join(sorted(sums))})"
            licence = "; ".join(sorted({d.licence for d in cls.downloads}))
        elif cls.files_needed:
            where, licence = "your own files", "your own"
        else:
            where, licence = "with cibench", plugin.load().licence
    except (CibenchError, TypeError, ValueError) as error:
        # One broken plugin must not hide the others.
        where, licence, here = f"cannot be read: {error}", "", ""
    return {"name": name, "where": where, "licence": licence, "here": here}


@command.command("fetch")
@click.argument("name", shell_complete=specs("dataset", options=False, every=False))
@click.option(
    "--into",
    type=_FOLDER,
    envvar="CIBENCH_DATA",
    default=Path("data"),
    show_default=True,
    help="Data folder; the files go into its subfolder NAME (CIBENCH_DATA).",
)
@click.option("--yes", is_flag=True, help="Accept the terms without being asked.")
def fetch(name: str, into: Path, yes: bool) -> None:
    """Show the terms of data set NAME, ask, and download its files.

    A transfer that was cut off goes on where it stopped.
    """
    from ..download import fetch as fetch_one
    from ..download import verify as verify_one
    from ..registry import default_registry

    cls = default_registry().load("dataset", name)
    folder = into / name
    _need_downloads(cls, name)
    wanted = []
    for download in cls.downloads:
        try:
            verify_one(download, folder)
            click.echo(f"{download.file}: already in {folder}")
        except DataError:
            wanted.append(download)
    if not wanted:
        return
    _terms(cls, wanted, folder)
    if not yes:
        if not sys.stdin.isatty():
            raise UsageError(
                "data fetch: expected --yes, or a terminal to ask on, got neither; read"
                " the terms above and add --yes to accept them"
            )
        if not click.confirm("Accept these terms and download?", err=True):
            raise UsageError("data fetch: expected the terms to be accepted, got no")
    for download in wanted:
        with _progress(download) as report:
            fetched = fetch_one(download, folder, report=report)
        click.echo(
            f"{download.file}: {len(fetched.files)} files in {folder}, sha256"
            f" {fetched.sha256}{'' if download.sha256 else ' (none to compare with)'}"
        )
        if download.file.endswith(".rar"):
            click.echo(f"{download.file}: unpack it in {folder}, as with `unrar x`")
    click.echo(f"use it with --dataset {name} --data-dir {into}")


@command.command("verify")
@click.argument("spec", shell_complete=specs("dataset", every=False))
@click.option("--data-dir", type=_FOLDER, envvar="CIBENCH_DATA", help="Data folder.")
def verify(spec: str, data_dir: Path | None) -> None:
    """Check the files of data set SPEC: checksums if they were fetched, then contents.

    SPEC may have options, such as table:path=FILE,mapping=FILE.
    """
    from ..download import sidecar
    from ..download import verify as verify_one
    from ..registry import default_registry
    from ..spec import Spec

    parsed = Spec.parse(spec)
    plugin = default_registry().configure("dataset", parsed)
    folder = data_dir / parsed.name if data_dir is not None else None
    for download in plugin.downloads:
        if folder is None or not sidecar(download, folder).is_file():
            click.echo(f"{download.file}: not fetched by cibench, no checksum")
            continue
        fetched = verify_one(download, folder)
        click.echo(f"{download.file}: {len(fetched.files)} files as they were fetched")
    data = plugin.load(data_dir=data_dir)
    widths = zip(data.layout.names, data.layout.widths, strict=True)
    click.echo(f"{data.name}: agents {', '.join(f'{n} {w}' for n, w in widths)}")
    for part in ("train", "validation", "test"):
        labels = getattr(data, part).labels
        counts = labels.bincount(minlength=len(data.class_names)).tolist()
        named = zip(data.class_names, counts, strict=True)
        shown = ", ".join(f"{n} {c}" for n, c in named)
        click.echo(f"{part}: {len(labels)} rows ({shown})")
    for note in data.notes:
        click.echo(f"note: {note}")


def _need_downloads(cls: Any, name: str) -> None:
    if not cls.downloads:
        own = cls.files_needed and f" (it reads {cls.files_needed})"
        raise UsageError(
            f"data fetch: expected a data set with files to download, got {name},"
            f" which has none{own}; see: cibench data ls"
        )


def _terms(cls: Any, wanted: list[Download], folder: Path) -> None:
    """What is fetched, from where and on what terms, on standard error."""
    click.echo(f"{cls.name}: {cls.citation}", err=True)
    for download in wanted:
        size = f"about {_size(download.size)}" if download.size else "size not known"
        known = "checked" if download.sha256 else "none published"
        click.echo(
            f"  {download.url}\n    {size}, into {folder}; checksum: {known}\n"
            f"    licence: {download.licence}",
            err=True,
        )


def _size(size: int) -> str:
    return f"{size / 1e6:.0f} MB" if size >= 1e6 else f"{size / 1e3:.1f} kB"


@contextmanager
def _progress(download: Download) -> Iterator[Report]:
    """A bar on standard error if that is a terminal, else nothing."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import DownloadColumn, Progress, TimeRemainingColumn

    columns = (*Progress.get_default_columns()[:2], DownloadColumn())
    console = Console(stderr=True)
    with Progress(*columns, TimeRemainingColumn(), console=console) as bars:
        task = bars.add_task(download.file, total=download.size)
        yield lambda done, total: bars.update(
            task, completed=done, total=total or download.size
        )

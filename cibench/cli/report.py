"""`cibench report RUN`: tables, figures and claims of a finished run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .._errors import EmptySelectionError, OutputError, UsageError

if TYPE_CHECKING:
    from ..report import Report

FORMATS = ("md", "html", "csv", "svg", "png")


@click.command(
    "report", short_help="Report a finished run: tables, intervals, claims, figures."
)
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "-f",
    "--format",
    "kind",
    type=click.Choice(FORMATS),
    default="md",
    show_default=True,
    help="md, csv and html are one document, svg and png are figures.",
)
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="File to write; for svg and png a folder (RUN/report where not given).",
)
def command(run: Path, kind: str, out: Path | None) -> None:
    """Report the run in folder RUN; documents go to standard output unless -o is given.

    A study's report shows the published numbers beside ours and says which published claims
    are reproduced.

    \b
    cibench report runs/x
    cibench report runs/x --format html -o report.html
    cibench report runs/x --format png
    """  # noqa: D301
    from ..report import read_report
    from ..results.folder import write_atomically

    report = read_report(run)
    if kind in ("svg", "png"):
        from ..report.style import write_figures

        folder = out or run / "report"
        if folder.suffix in (".svg", ".png") or folder.is_file():
            raise UsageError(
                f"-o {folder}: expected a folder for the figures of format {kind}, got a"
                " file"
            )
        _make(folder)
        paths = write_figures(report, folder, kind)
        if not paths:
            raise EmptySelectionError(
                f"run {run}: expected a finished scenario to draw, got none"
            )
        for path in paths:
            click.echo(path)
        return
    if out is not None and out.is_dir():
        raise UsageError(
            f"-o {out}: expected a file for the document of format {kind}, got a folder"
        )
    text = _document(report, kind)
    if out is None:
        click.echo(text, nl=False)
        return
    _make(out.parent)
    write_atomically(out, text.encode())
    click.echo(out)


def _make(folder: Path) -> None:
    from ..results.folder import make_writable

    try:
        make_writable(folder)
    except OSError as error:
        raise OutputError(
            f"{folder}: expected a folder that can be written, got {error.strerror};"
            " choose another with -o"
        ) from error


def _document(report: Report, kind: str) -> str:
    if kind == "csv":
        from ..report.rows import as_csv

        return as_csv(report)
    if kind == "html":
        from ..report.html import as_html

        return as_html(report)
    from ..report.tables import all_tables
    from ._show import markdown

    head = [f"# {_line(report.title)}"]
    head += [_line(text) for text in (report.description,) if text]
    head += [f"Source: {_line(report.source)}"] if report.source else []
    head += [
        f"Protocol **{_line(name)}**: {_line(text)}" for name, text in report.protocols
    ]
    if report.notes:
        head.append("\n".join(f"- {_line(note)}" for note in report.notes))
    tables = list(map(markdown, all_tables(report)))
    how = "\n".join(f"- {_line(note)}" for note in report.reading)
    return "\n\n".join(
        [*head, *tables, *([f"### How to read\n\n{how}\n"] if how else [])]
    )


def _line(text: str) -> str:
    return " ".join(text.split()).replace("<", "&lt;")

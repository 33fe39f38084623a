"""`cibench merge RUN... -o OUT`: the records of several runs in one folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .._errors import UsageError
from ._finding import check_run

if TYPE_CHECKING:
    from ..results import RunFolder


@click.command("merge", short_help="Put several runs into one folder.")
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--out",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for the records; empty or absent.",
)
@click.option("--into", is_flag=True, help="OUT is a run itself, and is merged with.")
@click.option(
    "--records-only",
    is_flag=True,
    help="Merge runs of several studies, or of none; the result is of no study.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    runs: tuple[Path, ...], out: Path, into: bool, records_only: bool, as_json: bool
) -> None:
    """Put records, logs and witnesses of the runs in folders RUN into the folder OUT.

    Runs of different protocol versions, different data under one spec, or different numbers
    for one cell are refused, and nothing is written. Of equal records the older is kept; an
    ok one is kept rather than a failed one. Reports of OUT are those of one run.

    \b
    cibench merge runs/seeds-0-4 runs/seeds-5-9 -o runs/all
    cibench merge runs/more -o runs/all --into
    """  # noqa: D301
    from ..results import RunFolder
    from ..results.merging import copy_records, copy_witnesses, plan_merge
    from ._merged import merged_manifest, merged_study, write_json

    folder = RunFolder(out)
    folders = _sources(runs, folder, into=into)
    study = None if records_only else merged_study(folders)
    if records_only and (out / "study.json").exists():
        raise UsageError(
            f"--records-only --into: expected {out} to be of no study, got study.json"
            " there; merge into a new folder"
        )
    manifest = merged_manifest(folders)
    plan = plan_merge(folders)
    folder.create()
    if study is not None:
        write_json(folder, "study.json", study)
    gone = copy_records(plan, folder)
    witnesses = copy_witnesses(plan, folder)
    if manifest is not None:
        write_json(folder, "run.json", manifest)
    if as_json:
        import msgspec

        told = {
            "out": str(out),
            "runs": [str(each.path) for each in folders],
            "cells": len(plan.chosen),
            "repeated": plan.repeated,
            "preferred": plan.preferred,
            "logs_gone": gone,
            "witnesses": witnesses,
        }
        click.echo(msgspec.json.encode(told))
        return
    for line in plan.preferred:
        click.echo(line)
    parts = [f"{_count(len(plan.chosen), 'cell')} of {_count(len(folders), 'run')}"]
    if plan.repeated:
        parts.append(f"{_count(plan.repeated, 'record')} left out as there already")
    if witnesses:
        parts.append(f"{witnesses} with what the attack sent")
    if gone:
        parts.append(f"{_count(gone, 'log')} not found")
    click.echo(f"{out}: {', '.join(parts)}")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _sources(runs: tuple[Path, ...], out: RunFolder, *, into: bool) -> list[RunFolder]:
    """The folders to merge, each once; the one to merge into first.

    Raises:
        OutputError: one is no run.
        UsageError: the result's folder is not empty.
    """
    from ..results import RunFolder

    filled = out.path.is_dir() and any(out.path.iterdir())
    if filled and not into:
        raise UsageError(
            f"-o {out.path}: expected an empty or absent folder, got one with files; to"
            " merge with the run in it: --into"
        )
    folders = {out.path.resolve(): out} if filled else {}
    for path in runs:
        folders.setdefault(path.resolve(), RunFolder(path))
    for folder in folders.values():
        check_run(folder)
    return list(folders.values())

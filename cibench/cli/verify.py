"""`cibench verify BUNDLE`: whether a submission is what it claims."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ._verifying import load_plugins, verifying

if TYPE_CHECKING:
    from ._verified import Verified

#: Findings and notes that are printed; JSON has all.
_SHOWN = 40


@click.command("verify", short_help="Check a submission: counts, witnesses, cells.")
@click.argument("bundle", type=click.Path(path_type=Path))
@verifying("all")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(bundle: Path, **params: Any) -> int:
    """Verify the submission BUNDLE: a bundle's file, or an entry's folder.

    Every number is counted once more from the samples. Witnesses are replayed through the
    defenses that are installed, on embeddings computed here: if all decisions agree, the
    badge is `re-scored`. Cells that are run again with equal results earn `reproduced`;
    else it is `claimed`. Nothing is unpacked to disk, and nothing in a bundle is code. The
    exit code is 0, or 4 if anything contradicts the submission.

    \b
    cibench verify mydefense.cibench.zip
    cibench verify mydefense.cibench.zip --rerun 5 -j auto
    cibench verify leaderboard/entries/mydefense
    """  # noqa: D301
    from ._verified import Wanted, verified

    load_plugins(params.pop("plugin_files"))
    as_json = params.pop("as_json")
    found = verified(bundle, Wanted(**params))
    if as_json:
        _print_json(bundle, found)
    else:
        _print(found)
    if found.findings:
        from ._progress import one_line

        count = len(found.findings)
        more = f" (and {count - 1} more findings)" if count > 1 else ""
        click.echo(
            f"error: {bundle.name} is refused: {one_line(found.findings[0])}{more}",
            err=True,
        )
        return 4
    return 0


def _print(found: Verified) -> None:
    from ._progress import one_line

    for title, lines in (("note", found.notes), ("finding", found.findings)):
        for line in lines[:_SHOWN]:
            click.echo(f"{title}: {one_line(line)}")
        if len(lines) > _SHOWN:
            click.echo(f"{title}: and {len(lines) - _SHOWN} more")
    if found.bundle is None:
        return
    done, manifest = found.verification, found.bundle.manifest
    failed = sum(record.status != "ok" for record in found.bundle.records)
    click.echo(
        f"submission: {one_line(manifest.title)}, by {one_line(manifest.author)}"
    )
    click.echo(f"digest: {found.bundle.digest}")
    click.echo(
        f"records: {done.records}"
        + (f", {failed} of them of cells that failed" if failed else "")
    )
    click.echo(f"witnesses: {done.witnesses}, {done.replayed} replayed and agree")
    click.echo(f"run again: {done.reran} with the same results")
    if not found.findings:
        click.echo(f"badge: {done.badge} ({_how(found)})")


def _how(found: Verified) -> str:
    done = found.verification
    if done.badge == "reproduced":
        return f"{done.reran} of {done.records} cells were run again and agree"
    if done.badge == "re-scored":
        return f"{done.replayed} of {done.witnesses} witnesses were replayed and agree"
    if found.lacking:
        return f"{len(found.lacking)} cells could not be checked here"
    if found.replayed:
        return "cells without a witness could not be checked"
    return "the records agree with themselves; nothing was replayed or run again"


def _print_json(bundle: Path, found: Verified) -> None:
    import msgspec

    told = {
        "bundle": bundle.name,
        "digest": None if found.bundle is None else found.bundle.digest,
        "refused": bool(found.findings),
        "findings": found.findings,
        "notes": found.notes,
        "verification": None if found.bundle is None else found.verification,
    }
    click.echo(msgspec.json.encode(told))

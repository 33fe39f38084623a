"""`cibench compare RUN RUN`: what got better or worse between two runs."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ._finding import check_run

if TYPE_CHECKING:
    from ..results import CellRecord
    from ..results.paired import Change, RunComparison
    from ..results.table import Table

#: Cells, and differences around the numbers, that are listed.
_LISTED = 20
_COLUMNS = (
    *("data set", "defense", "attack", "seeds", "n", "before %", "after %"),
    *("difference in points (95 %)", "p", "verdict"),
)


@click.command("compare", short_help="Compare two runs cell by cell.")
@click.argument("before", metavar="RUN", type=click.Path(path_type=Path))
@click.argument("after", metavar="RUN", type=click.Path(path_type=Path))
@click.option(
    "-d",
    "--defense",
    "defenses",
    multiple=True,
    metavar="SPEC",
    help="Only cells of this defense, by spec, name or glob; repeatable.",
)
@click.option(
    "-a",
    "--attack",
    "attacks",
    multiple=True,
    metavar="SPEC",
    help="Only cells of this attack; repeatable.",
)
@click.option(
    "--dataset",
    "datasets",
    multiple=True,
    metavar="SPEC",
    help="Only cells of this data set; repeatable.",
)
@click.option(
    "--only-changed",
    is_flag=True,
    help="Leave out rows in which every decision is as before.",
)
@click.option(
    "--fail-on-regression",
    is_flag=True,
    help="Exit with 4 if an accuracy is significantly lower, or a cell no longer ok or"
    " gone.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    before: Path,
    after: Path,
    defenses: tuple[str, ...],
    attacks: tuple[str, ...],
    datasets: tuple[str, ...],
    only_changed: bool,
    fail_on_regression: bool,
    as_json: bool,
) -> int:
    """Compare the run in the second folder with the one in the first.

    Cells are paired by data set, attack, defense and seed: the same samples, the same
    seeds, the same draws. A change is called better or worse where the exact McNemar test
    (the largest p over seeds, adjusted by Holm for all rows) and the 95 % interval of the
    paired difference agree on it.

    \b
    cibench compare runs/before runs/after --only-changed
    cibench compare runs/before runs/after -d mydef --fail-on-regression
    """  # noqa: D301
    from ..results import RunFolder
    from ..results.paired import compare_runs

    kept = []
    for path in (before, after):
        folder = RunFolder(path)
        check_run(folder)
        kept.append(_chosen(folder.read(), defenses, attacks, datasets))
    found = compare_runs(*kept)
    changed = [row for row in found.rows if row.differing or row.trouble]
    rows = changed if only_changed else found.rows
    if as_json:
        _print_json(before, after, rows, found)
    else:
        _print(before, after, rows, found)
    if not fail_on_regression or not found.regressions:
        return 0
    reason = "; ".join(found.regressions[:3])
    more = len(found.regressions) - 3
    click.echo(
        f"regression: {reason}" + (f"; and {more} more" if more > 0 else ""), err=True
    )
    return 4


def _chosen(
    records: Sequence[CellRecord],
    defenses: Sequence[str],
    attacks: Sequence[str],
    datasets: Sequence[str],
) -> list[CellRecord]:
    """The records that every kind of text names."""
    from ..results.table import attack_spec

    def fits(texts: Sequence[str], spec: str, name: str) -> bool:
        return not texts or any(
            text == "all" or fnmatchcase(spec, text) or fnmatchcase(name, text)
            for text in texts
        )

    return [
        record
        for record in records
        if fits(defenses, record.defense.spec, record.defense.name)
        and fits(datasets, record.dataset.spec, record.dataset.name)
        and fits(
            attacks,
            attack_spec(record),
            "+".join(part.component.name for part in record.attack),
        )
    ]


def _print(
    before: Path, after: Path, rows: Sequence[Change], found: RunComparison
) -> None:
    from ._show import markdown

    click.echo(markdown(_table(before, after, rows, found)), nl=False)
    for title, lines in (
        (
            "Ended otherwise",
            [f"{o.cell}: {o.before} → {o.after}: {o.reason}" for o in found.ended],
        ),
        ("Only in the first run", found.only_before),
        ("Only in the second run", found.only_after),
        (
            "Other surroundings",
            [f"{k}: {_cut(a)} → {_cut(b)}" for k, (a, b) in found.surroundings.items()],
        ),
    ):
        if lines:
            click.echo(f"\n{title}:\n")
            for line in lines[:_LISTED]:
                click.echo(f"- {' '.join(line.split())}")
            if len(lines) > _LISTED:
                click.echo(f"- and {len(lines) - _LISTED} more")


def _table(
    before: Path, after: Path, rows: Sequence[Change], found: RunComparison
) -> Table:
    from ..results.table import Table

    equal = len(found.rows) - len([r for r in found.rows if r.differing or r.trouble])
    notes = [
        f"{len(found.rows)} comparisons; in {equal} of them every decision is as before",
        "p: exact McNemar test, the largest over seeds, adjusted by Holm for all"
        " comparisons; interval: crossed bootstrap over seeds and samples",
    ]
    return Table(
        title=f"{before} → {after}",
        columns=_COLUMNS,
        rows=tuple(map(_row, rows)),
        notes=tuple(notes),
    )


def _row(row: Change) -> tuple[str, ...]:
    dataset = " ".join(filter(None, (row.dataset, row.embedding)))
    place = (dataset, row.defense, row.attack or "no attack", str(len(row.seeds)))
    if row.before is None or row.after is None or row.difference is None:
        return (*place, "", "", "", "", "", row.trouble)
    assert row.low is not None
    assert row.high is not None
    assert row.p is not None
    return (
        *(*place, str(row.n), f"{100 * row.before:.1f}", f"{100 * row.after:.1f}"),
        f"{100 * row.difference:+.1f} ({100 * row.low:+.1f} to {100 * row.high:+.1f})",
        f"{row.p:.3f}" if row.p >= 0.001 else "< 0.001",
        row.verdict,
    )


def _print_json(
    before: Path, after: Path, rows: Sequence[Change], found: RunComparison
) -> None:
    import msgspec

    told = {
        "before": str(before),
        "after": str(after),
        "rows": [{**msgspec.to_builtins(r), "verdict": r.verdict} for r in rows],
        "ended": found.ended,
        "only_before": found.only_before,
        "only_after": found.only_after,
        "surroundings": found.surroundings,
        "regressions": found.regressions,
    }
    click.echo(msgspec.json.encode(told))


def _cut(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:60]}…"

"""A report as tables of text: what markdown and HTML show."""

from __future__ import annotations

from collections.abc import Sequence

from ..results.table import Table, percent
from .claims import RULE
from .model import Comparison, Panel, Report, Row

#: From this many seeds on a mean and a deviation say enough; below, each seed is shown.
MANY_SEEDS = 5


def panel_table(panel: Panel) -> Table:
    """One scenario: a row per defense, the most accurate under attack first.

    Columns without any entry are left out.
    """
    columns = (
        *("defense", "spec", "published", "under attack", "each seed", "95 % interval"),
        *("best", "clean", "balanced", "attack success", "against the best other"),
        *("p", "flags"),
    )
    rows = [_cells(row) for row in panel.rows]
    kept = [
        index
        for index, name in enumerate(columns)
        if name == "under attack" or any(row[index] not in ("", "-") for row in rows)
    ]
    return Table(
        title=panel.title,
        columns=tuple(columns[index] for index in kept),
        rows=tuple(tuple(row[index] for index in kept) for row in rows),
        notes=panel.notes,
    )


def claims_table(report: Report) -> Table | None:
    """Every claim under every protocol; None where the report has no claims."""
    if not report.verdicts:
        return None
    return Table(
        title="Claims",
        columns=("claim", "scenario", "protocol", "data set", "outcome"),
        rows=tuple(
            (v.claim.text, v.claim.scenario, v.protocol or "-", v.dataset, v.text)
            for v in report.verdicts
        ),
        notes=(RULE,),
    )


def _cells(row: Row) -> tuple[str, ...]:
    spec = "" if row.spec == row.label else row.spec
    head = (row.label, spec, _published(row))
    if row.accuracy is None or row.interval is None:
        return (*head, row.trouble, *[""] * 9)
    low, high = row.interval
    few = 1 < len(row.values) < MANY_SEEDS
    return (
        *head,
        percent(row.values),
        ", ".join(f"{100 * value:.1f}" for value in row.values) if few else "",
        f"{100 * low:.1f} to {100 * high:.1f}",
        row.best or "-",
        percent(row.clean),
        percent(row.balanced) if row.balanced else "-",
        _success(row.success),
        _difference(row.versus),
        "-" if row.versus is None else _p(row.versus.p),
        ", ".join(row.flags) or "-",
    )


def _published(row: Row) -> str:
    number = row.published
    if number is None:
        return "-"
    return f"{number.mean:.1f}" + ("" if number.std is None else f" ± {number.std:.1f}")


def _success(success: tuple[int, int] | None) -> str:
    if success is None:
        return "-"
    reached, n = success
    return f"{reached}/{n}" + (f" ({100 * reached / n:.1f} %)" if n else "")


def _difference(versus: Comparison | None) -> str:
    if versus is None:
        return "-"
    return (
        f"{100 * versus.difference:+.1f} ({100 * versus.low:+.1f} to"
        f" {100 * versus.high:+.1f})"
    )


def _p(value: float) -> str:
    return "≤ 0.001" if value <= 0.001 else f"{value:.3f}"


def all_tables(report: Report) -> Sequence[Table]:
    """The claims, then the tables of all panels."""
    claims = claims_table(report)
    return [*([claims] if claims else []), *map(panel_table, report.panels)]

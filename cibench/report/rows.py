"""A report as comma-separated values: one line per defense and scenario."""

from __future__ import annotations

import csv
import io
from typing import Any

from ..statistics import deviation, mean
from .model import Panel, Report, Row


def as_csv(report: Report) -> str:
    """Numbers as numbers, unrounded; percent where the column says so, empty if unknown."""
    written = io.StringIO()
    lines = [_line(panel, row) for panel in report.panels for row in panel.rows]
    writer = csv.DictWriter(written, fieldnames=COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return written.getvalue()


def _line(panel: Panel, row: Row) -> dict[str, Any]:
    low, high = row.interval or (None, None)
    versus, success = row.versus, row.success or (None, None)
    published, metrics = row.published, row.metrics
    values: tuple[Any, ...] = (
        *(panel.protocol, panel.dataset, panel.scenario, panel.attack, panel.x),
        *(row.label, row.spec, row.trouble or "ok", " | ".join(row.reasons)),
        *(len(row.seeds) or None, metrics[0].attacked.n if metrics else None),
        published.mean if published else None,
        published.std if published else None,
        *(_percent(row.accuracy), _percent(row.spread), _percent(low), _percent(high)),
        _percent(mean(row.clean)) if row.clean else None,
        _percent(deviation(row.clean)),
        _percent(mean(row.balanced)) if row.balanced else None,
        *success,
        _percent(panel.majority),
        row.best,
        *(
            (
                versus.other,
                _percent(versus.difference),
                _percent(versus.low),
                _percent(versus.high),
                versus.p,
                max(versus.seed_p),
            )
            if versus
            else (None,) * 6
        ),
        " ".join(row.flags),
    )
    return dict(zip(COLUMNS, values, strict=True))


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


COLUMNS = (
    *("protocol", "dataset", "scenario", "attack", "x"),
    *("defense", "spec", "status", "reason", "seeds", "n"),
    *("published_mean_percent", "published_std_percent"),
    *("accuracy_percent", "accuracy_std_percent", "low_percent", "high_percent"),
    *("clean_percent", "clean_std_percent", "balanced_percent"),
    *("attack_successes", "attack_success_n", "majority_percent", "best"),
    *("other", "difference_points", "difference_low_points", "difference_high_points"),
    *("p_holm", "largest_p_of_a_seed", "flags"),
)

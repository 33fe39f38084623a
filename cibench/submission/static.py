"""All that can be verified of a submission without its data or its defenses."""

from __future__ import annotations

from collections.abc import Callable

from .._errors import SubmissionError
from .across import across_findings
from .bundle import Bundle
from .recount import record_findings
from .sent import Layouts

#: Findings after which no more are looked for.
MOST = 1000


def static_findings(
    bundle: Bundle, report: Callable[[int, int], None] = lambda done, total: None
) -> list[str]:
    """What a submission claims against its own samples and witnesses, a sentence each.

    Args:
        report: called with how many records are done, of how many.
    """
    from .drawn import draw_findings

    found: list[str] = []
    layouts, total = Layouts(), len(bundle.records)
    for at, record in enumerate(bundle.records):
        report(at, total)
        own = record_findings(record)
        if not own and record.status == "ok":
            own = draw_findings(record)
        if record.cell in bundle.witnesses:
            own += _witness_findings(bundle, layouts, at)
        found += own
        if len(found) > MOST:
            return found
    if not found:
        found = across_findings(bundle.records)
    return found


def _witness_findings(bundle: Bundle, layouts: Layouts, at: int) -> list[str]:
    record = bundle.records[at]
    if record.outcomes is None:
        return [
            f"witness {record.cell}: expected a record with outcomes, got one without"
        ]
    if record.personal:
        return [
            f"witness {record.cell}: expected none, for the data are of persons and their"
            " embeddings are not for publication"
        ]
    try:
        return layouts.findings(record, bundle.witness(record.cell))
    except SubmissionError as error:
        return [str(error)]

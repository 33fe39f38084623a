"""Verifying a submission: what it claims, checked as far as that needs no defense."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path

from .._errors import SubmissionError
from .._version import VERSION
from ..results.record import CellRecord
from .bundle import Bundle, read_any
from .manifest import Verification
from .static import static_findings


def verify_bundle(
    source: Path | Bundle,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Verification:
    """Verify a bundle or an entry's folder without running anything of it.

    Args:
        source: the bundle's file, the entry's folder, or either as it was read.
        report: called with how many records are done, of how many.

    Returns:
        A verification with the badge `claimed`; `cibench verify` replays and runs again.

    Raises:
        SubmissionError: it is no submission, or contradicts itself; `findings` has all.
    """
    bundle = read_any(source) if isinstance(source, Path) else source
    refuse(static_findings(bundle, report))
    return Verification(
        records=len(bundle.records), witnesses=len(bundle.witnesses), cibench=VERSION
    )


def refuse(findings: list[str]) -> None:
    """Raise `SubmissionError` if anything was found."""
    if findings:
        more = f" (and {len(findings) - 1} more findings)" if len(findings) > 1 else ""
        raise SubmissionError(f"{findings[0]}{more}", findings)


def chosen(
    records: Iterable[CellRecord], count: int, digest: str, salt: str = ""
) -> list[CellRecord]:
    """So many of the records, chosen by hash; all of them if there are no more.

    Args:
        digest: of the bundle, so that nobody chooses but by making the bundle anew.
        salt: of the verifier, which its author cannot know.
    """

    def rank(record: CellRecord) -> bytes:
        return hashlib.sha256(f"{digest}\n{salt}\n{record.cell}".encode()).digest()

    return sorted(records, key=rank)[:count]

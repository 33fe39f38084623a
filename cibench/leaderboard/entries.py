"""What is read of a reviewed entry before anything is drawn from it."""

from __future__ import annotations

from dataclasses import dataclass

from ..results import CellRecord
from ..submission.manifest import Manifest, Verification
from .model import Entry


@dataclass(frozen=True)
class LoadedEntry:
    """A submission on the boards: what its folder holds.

    Args:
        manifest: what it says of itself.
        verification: what a verifier found of it.
        records: one of each cell, in any order.
        digest: SHA-256 of its `bundle.json`.
    """

    manifest: Manifest
    verification: Verification
    records: list[CellRecord]
    digest: str

    @property
    def name(self) -> str:
        """Unique within a leaderboard."""
        return self.manifest.name

    @property
    def age(self) -> tuple[int, str, str]:
        """Orders entries as they were added."""
        return self.verification.added, self.manifest.created, self.manifest.name


def badge_text(verification: Verification) -> str:
    """How much of an entry was verified, in a few words."""
    found: list[str] = []
    if verification.badge == "claimed":
        return "records agree with themselves"
    if verification.witnesses:
        found.append(f"{verification.replayed} of {verification.witnesses} witnesses")
    if verification.reran:
        found.append(f"{verification.reran} of {verification.records} cells run again")
    return ", ".join(found)


def listed(entry: LoadedEntry) -> Entry:
    """An entry as the pages list it."""
    manifest = entry.manifest
    return Entry(
        name=manifest.name,
        title=manifest.title,
        author=manifest.author,
        link=manifest.link,
        note=manifest.note,
        created=manifest.created,
        badge=entry.verification.badge,
        verified=badge_text(entry.verification),
        records=len(entry.records),
        digest=entry.digest,
    )

"""What a submission says of itself, and what was verified of it; no torch.

A bundle is one zip file, `<name>.cibench.zip`:

- `bundle.json`: the `Manifest`;
- `records.jsonl.xz`: the records, one line of JSON each, sorted by cell;
- `witnesses/<cell>.safetensors`: what the attack of a cell sent (`cibench.witness`).

Nothing else, and nothing that can hold code. An entry of a leaderboard is a folder of its
`bundle.json`, `records.jsonl.xz` and `verification.json`; its witnesses stay in the bundle,
whose hashes `bundle.json` lists.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

#: Version of the bundle's structure; a reader refuses others.
FORMAT: Final = 1
MANIFEST: Final = "bundle.json"
RECORDS: Final = "records.jsonl.xz"
VERIFICATION: Final = "verification.json"
WITNESSES: Final = "witnesses/"

#: A name of an entry: also its folder's, so that no other character may be in it.
Name = Annotated[str, Meta(pattern="^[a-z0-9][a-z0-9.-]{0,79}$")]
Digest = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
Text = Annotated[str, Meta(min_length=1, max_length=200)]
Long = Annotated[str, Meta(max_length=2000)]


class _Base(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Immutable, keyword-only, strict about unknown fields."""


class Member(_Base, frozen=True, kw_only=True):
    """A file of the bundle."""

    sha256: Digest
    size: Annotated[int, Meta(ge=0)]


class Manifest(_Base, frozen=True, kw_only=True):
    """What a submission says of itself."""

    format: Literal[1] = FORMAT
    protocol: int
    """Version of the protocol of every record."""
    name: Name
    title: Text
    author: Text
    """Who answers for it, as the boards show it."""
    link: Annotated[str, Meta(max_length=500, pattern="^(https?://.*)?$")] = ""
    """Where code or paper is."""
    note: Long = ""
    created: Annotated[str, Meta(pattern="^[0-9]{4}-[0-9]{2}-[0-9]{2}$")]
    cibench: Text
    """Version that made the bundle."""
    citations: dict[str, Long] = {}
    """By name of the defense or attack."""
    files: dict[str, Member]
    """Every other file of the bundle by its name in it."""


class Verification(_Base, frozen=True, kw_only=True):
    """What a verifier found of a bundle; its badge.

    `claimed`: the records agree with themselves. `re-scored`: witnesses were replayed
    through the defense, and the decisions agree. `reproduced`: cells were run again from
    their records, with the same results.
    """

    badge: Literal["claimed", "re-scored", "reproduced"] = "claimed"
    records: int
    """Cells in the bundle."""
    witnesses: int = 0
    """Witnesses in the bundle."""
    replayed: int = 0
    """Witnesses that were replayed, all of them with the recorded decisions."""
    reran: int = 0
    """Cells that were run again, all of them with the recorded results."""
    date: str = ""
    cibench: str = ""
    added: int = 0
    """Place in the order in which entries came: what dates they claim decides nothing."""

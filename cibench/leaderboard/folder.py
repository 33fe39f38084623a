"""What a published folder holds that people wrote or reviewed: settings and entries.

```
leaderboard.toml            title, owner, link, suite
entries/<name>/             bundle.json, records.jsonl.xz, verification.json
```
"""

from __future__ import annotations

import gc
import hashlib
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final, TypeVar

import msgspec
from msgspec import Meta

from .._errors import OutputError, SubmissionError
from ..results.record import CellRecord
from ..submission.archive import MEMBER_BYTES, unpacked_lines
from ..submission.manifest import (
    MANIFEST,
    RECORDS,
    VERIFICATION,
    WITNESSES,
    Manifest,
    Name,
    Text,
    Verification,
)
from .entries import LoadedEntry

SETTINGS: Final = "leaderboard.toml"
ENTRIES: Final = "entries"
_RECORD: Final = msgspec.json.Decoder(CellRecord)
_NAME: Final = msgspec.json.Decoder(Name)
T = TypeVar("T")


class FolderSettings(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """`leaderboard.toml`."""

    title: Text
    owner: Text
    """Who reviews entries and answers for the boards."""
    link: Annotated[str, Meta(max_length=500, pattern="^(https?://.*)?$")] = ""
    suite: Text = "standard"
    """Whose scenarios no row may lack: a shipped suite's name, or a study's file.

    A file is named from this folder and ends in `.toml`; its attacks and defenses are
    written as records name them.
    """


def read_settings(folder: Path) -> FolderSettings:
    """The hand-written settings of a leaderboard.

    Raises:
        OutputError: there are none, or they are not as expected.
    """
    path = folder / SETTINGS
    try:
        data = tomllib.loads(_bytes(path).decode("utf-8"))
        return msgspec.convert(data, FolderSettings)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise OutputError(f"{path}: expected TOML in UTF-8, got: {error}") from error
    except msgspec.ValidationError as error:
        raise OutputError(
            f"{path}: expected title, owner and optionally link and suite, got: {error}"
        ) from error


def entry_names(folder: Path) -> list[str]:
    """Names of the entries of a leaderboard, sorted.

    Raises:
        OutputError: something in `entries/` is no entry.
    """
    place = folder / ENTRIES
    if not place.is_dir():
        return []
    found = sorted(path for path in place.iterdir() if path.name[0] != ".")
    for path in found:
        if path.is_symlink() or not path.is_dir():
            raise OutputError(
                f"{path}: expected a folder that is an entry, got something else"
            )
        try:
            _NAME.decode(msgspec.json.encode(path.name))
        except (msgspec.ValidationError, UnicodeEncodeError) as error:
            raise OutputError(
                f"{place}: expected an entry's name of a-z, 0-9, '.' and '-', got"
                f" {path.name!r}"
            ) from error
    return [path.name for path in found]


def read_entries(folder: Path) -> list[LoadedEntry]:
    """All entries of a leaderboard, sorted by name.

    Raises:
        OutputError: an entry cannot be read or is not what its manifest says.
    """
    with uncollected():
        return [read_entry(folder / ENTRIES / name) for name in entry_names(folder)]


@contextmanager
def uncollected() -> Iterator[None]:
    """Without the cycle collector, which would search records for cycles in vain."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def read_entry(path: Path) -> LoadedEntry:
    """One entry from its folder.

    Raises:
        OutputError: it cannot be read or is not what its manifest says.
    """
    head = _bytes(path / MANIFEST)
    manifest = _decoded(head, Manifest, path / MANIFEST)
    if manifest.name != path.name:
        raise OutputError(
            f"{path / MANIFEST}: expected the name of its folder, got {manifest.name!r}"
        )
    verification = _decoded(
        _bytes(path / VERIFICATION), Verification, path / VERIFICATION
    )
    _check_counts(verification, manifest, path / VERIFICATION)
    others = {one.name for one in path.iterdir()} - {MANIFEST, RECORDS, VERIFICATION}
    if others:
        raise OutputError(
            f"{path}: expected {MANIFEST}, {RECORDS} and {VERIFICATION} alone, got"
            f" {min(others)[:80]!a} too"
        )
    packed = _bytes(path / RECORDS)
    claimed = manifest.files.get(RECORDS)
    if claimed is None or claimed.sha256 != hashlib.sha256(packed).hexdigest():
        raise OutputError(
            f"{path / RECORDS}: expected the hash that {MANIFEST} says, got another file;"
            " an entry is never edited: add a new one"
        )
    records = _records(packed, path / RECORDS, manifest.protocol)
    if verification.records != len(records):
        raise OutputError(
            f"{path / VERIFICATION}: expected {len(records)} records, got"
            f" {verification.records}"
        )
    return LoadedEntry(
        manifest=manifest,
        verification=verification,
        records=records,
        digest=hashlib.sha256(head).hexdigest(),
    )


def _check_counts(found: Verification, manifest: Manifest, path: Path) -> None:
    """Refuse a badge that its own counts do not give, and counts of another bundle.

    Raises:
        OutputError: they do not.
    """
    fits = (
        0 <= found.replayed <= found.witnesses <= found.records
        and 0 <= found.reran <= found.records
        and (found.badge != "reproduced" or found.reran)
        and (found.badge != "re-scored" or found.replayed)
        and found.witnesses
        == sum(name.startswith(WITNESSES) for name in manifest.files)
    )
    if not fits:
        raise OutputError(
            f"{path}: expected counts that earn the badge {found.badge}, got others"
        )


def _records(packed: bytes, path: Path, protocol: int) -> list[CellRecord]:
    try:
        records = [_RECORD.decode(line) for line in unpacked_lines(packed)]
    except (SubmissionError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise OutputError(
            f"{path}: expected a record of this version in each line, got: {error}"
        ) from error
    other = next((r.protocol for r in records if r.protocol != protocol), protocol)
    if other != protocol:
        raise OutputError(
            f"{path}: expected records of protocol {protocol}, got {other}"
        )
    return records


def _decoded(content: bytes, kind: type[T], path: Path) -> T:
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise OutputError(
            f"{path}: expected a {kind.__name__}, got: {error}"
        ) from error


def _bytes(path: Path) -> bytes:
    """A file's content; of a plain file, so that no link leads out of the folder."""
    if path.is_symlink():
        raise OutputError(f"{path}: expected a file, got a symbolic link")
    try:
        with path.open("rb") as file:
            content = file.read(MEMBER_BYTES + 1)
    except OSError as error:
        raise OutputError(
            f"{path}: expected a readable file, got {error.strerror}"
        ) from error
    if len(content) > MEMBER_BYTES:
        raise OutputError(f"{path}: expected at most {MEMBER_BYTES} bytes, got more")
    return content

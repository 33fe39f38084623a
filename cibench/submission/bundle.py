"""Bundles as files: written byte for byte the same every time, read as a stranger's."""

from __future__ import annotations

import hashlib
import io
import lzma
import weakref
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from .._errors import SubmissionError
from ..results.folder import write_atomically
from ..results.record import CellRecord
from .archive import MEMBER_BYTES, MEMBERS, TOTAL_BYTES, Archive, unpacked_lines
from .manifest import MANIFEST, RECORDS, Manifest, Member
from .names import witness_cell, witness_name
from .schema import checked_records, manifest_of

_TIME: Final = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True, eq=False)
class Bundle:
    """A submission in memory, but for its witnesses.

    Args:
        records: sorted by cell.
        digest: SHA-256 of `bundle.json`, which has the hashes of all else.
        witnesses: cells that have a witness here; an entry's folder has none.
    """

    manifest: Manifest
    records: list[CellRecord]
    digest: str
    witnesses: frozenset[str]
    _read: Callable[[str], bytes]

    def witness(self, cell: str) -> bytes:
        """The witness of a cell, read and checked anew.

        Raises:
            SubmissionError: the file is not what it was.
        """
        name = witness_name(cell)
        content = self._read(name)
        _check(name, hashlib.sha256(content).hexdigest(), len(content), self.manifest)
        return content


def read_bundle(path: Path) -> Bundle:
    """A bundle from its file, every member checked against `bundle.json`.

    Nothing is ever written to disk.

    Raises:
        SubmissionError: it is no bundle, damaged, too large, or not of the schema.
    """
    archive = Archive(path)
    try:
        told, manifest, records = _contents(archive, path.name)
    except BaseException:
        archive.close()
        raise
    digest = hashlib.sha256(told).hexdigest()
    bundle = Bundle(manifest, records, digest, _cells(manifest), archive.read)
    # The file stays open for the witnesses, as long as anybody may ask for one.
    weakref.finalize(bundle, archive.close)
    return bundle


def _contents(archive: Archive, title: str) -> tuple[bytes, Manifest, list[CellRecord]]:
    """`bundle.json` as it is and as it reads, and the records, all members checked."""
    if MANIFEST not in archive.names:
        raise SubmissionError(
            f"bundle {title}: expected {MANIFEST} in it, got none; cibench submit makes"
            " bundles"
        )
    told = archive.read(MANIFEST)
    manifest = manifest_of(told)
    _same_names(archive.names - {MANIFEST}, set(manifest.files))
    total = len(told)
    for name in sorted(archive.names - {MANIFEST}):
        digest, size = archive.digest(name)
        _check(name, digest, size, manifest)
        total += size
        if total > TOTAL_BYTES:
            raise SubmissionError(
                f"bundle {title}: expected at most {TOTAL_BYTES} bytes unpacked, got more"
            )
    records = checked_records(unpacked_lines(archive.read(RECORDS)), manifest)
    return told, manifest, records


def read_entry(folder: Path) -> Bundle:
    """An entry of a leaderboard from its folder, without witnesses.

    Raises:
        SubmissionError: it is no entry, or not of the schema.
    """
    told = _plain_file(folder / MANIFEST)
    manifest = manifest_of(told)
    content = _plain_file(folder / RECORDS)
    _check(RECORDS, hashlib.sha256(content).hexdigest(), len(content), manifest)
    records = checked_records(unpacked_lines(content), manifest)

    def read(name: str) -> bytes:
        raise SubmissionError(
            f"entry {folder.name}: expected the bundle for {name}, got the entry's folder"
        )

    return Bundle(
        manifest, records, hashlib.sha256(told).hexdigest(), frozenset(), read
    )


def read_any(path: Path) -> Bundle:
    """A bundle from its file, or an entry from its folder; see `read_bundle`."""
    return read_entry(path) if path.is_dir() else read_bundle(path)


def write_bundle(
    path: Path,
    manifest: Manifest,
    records: Iterable[CellRecord],
    witnesses: Mapping[str, Callable[[], bytes]],
) -> Manifest:
    """Write a bundle; the same content gives the same bytes.

    Args:
        manifest: without `files`.
        witnesses: by cell, read when they are written.

    Returns:
        The manifest with its files.

    Raises:
        SubmissionError: it would be too large.
        OutputError: the file cannot be written.
    """
    found = sorted(records, key=lambda record: record.cell)
    packed = packed_records(found)
    files = {RECORDS: _member(RECORDS, packed)}
    if len(witnesses) + 2 > MEMBERS:
        raise SubmissionError(
            f"bundle: expected at most {MEMBERS} members, got {len(witnesses) + 2};"
            " submit fewer defenses at a time (-d)"
        )
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as opened:
        for cell in sorted(witnesses):
            content = witnesses[cell]()
            files[witness_name(cell)] = _member(witness_name(cell), content)
            _put(opened, witness_name(cell), content)
            if buffer.tell() > TOTAL_BYTES:
                raise SubmissionError(
                    f"bundle: expected at most {TOTAL_BYTES} bytes, got more; submit"
                    " fewer defenses at a time (-d)"
                )
        _put(opened, RECORDS, packed, zipfile.ZIP_STORED)
        whole = msgspec.structs.replace(manifest, files=dict(sorted(files.items())))
        told = msgspec.json.encode(whole, order="deterministic")
        _put(opened, MANIFEST, msgspec.json.format(told, indent=1) + b"\n")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, buffer.getvalue())
    return whole


def packed_records(records: Iterable[CellRecord]) -> bytes:
    """Records as the content of `records.jsonl.xz`."""
    lines = b"".join(msgspec.json.encode(record) + b"\n" for record in records)
    return lzma.compress(lines, preset=6)


def _put(
    opened: zipfile.ZipFile,
    name: str,
    content: bytes,
    method: int = zipfile.ZIP_DEFLATED,
) -> None:
    info = zipfile.ZipInfo(name, _TIME)
    info.create_system, info.external_attr = 3, 0o100644 << 16
    info.compress_type = method
    opened.writestr(info, content, compresslevel=6)


def _member(name: str, content: bytes) -> Member:
    if len(content) > MEMBER_BYTES:
        raise SubmissionError(
            f"bundle: {name}: expected at most {MEMBER_BYTES} bytes, got {len(content)}"
        )
    return Member(sha256=hashlib.sha256(content).hexdigest(), size=len(content))


def _check(name: str, digest: str, size: int, manifest: Manifest) -> None:
    listed = manifest.files.get(name)
    if listed is None or (listed.sha256, listed.size) != (digest, size):
        want = "none" if listed is None else f"{listed.size} bytes {listed.sha256[:12]}"
        raise SubmissionError(
            f"bundle: {name}: expected the content that {MANIFEST} lists ({want}), got"
            f" {size} bytes {digest[:12]}"
        )


def _same_names(found: set[str], listed: set[str]) -> None:
    for some, words in (
        (found - listed, f"a file that {MANIFEST} does not list"),
        (listed - found, f"no file, though {MANIFEST} lists one"),
    ):
        if some:
            raise SubmissionError(
                f"bundle: {min(some)[:120]!a}: expected the files of {MANIFEST} and no"
                f" others, got {words}"
            )


def _cells(manifest: Manifest) -> frozenset[str]:
    return frozenset(filter(None, map(witness_cell, manifest.files)))


def _plain_file(path: Path) -> bytes:
    if path.is_symlink() or not path.is_file():
        raise SubmissionError(
            f"entry {path.parent.name}: expected a file {path.name} in it, got none"
        )
    try:
        with path.open("rb") as file:
            content = file.read(MEMBER_BYTES + 1)
    except OSError as error:
        raise SubmissionError(
            f"entry {path.parent.name}: expected {path.name} to be readable, got"
            f" {error.strerror}"
        ) from error
    if len(content) > MEMBER_BYTES:
        raise SubmissionError(
            f"entry {path.parent.name}: expected {path.name} of at most {MEMBER_BYTES}"
            " bytes, got more"
        )
    return content

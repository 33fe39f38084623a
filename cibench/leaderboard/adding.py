"""Adding a verified bundle to a published folder."""

from __future__ import annotations

import shutil
import tempfile
from hashlib import sha256
from pathlib import Path

import msgspec

from .._errors import CibenchError, OutputError, SubmissionError
from ..results.folder import write_atomically
from ..submission.archive import Archive
from ..submission.bundle import Bundle
from ..submission.manifest import MANIFEST, RECORDS, VERIFICATION, Verification
from .build import boards_of
from .entries import LoadedEntry
from .folder import ENTRIES, entry_names, read_entries, read_settings


def check_new(folder: Path, bundle: Bundle) -> None:
    """Refuse a bundle that does not fit the entries of a folder.

    The bundle of an entry may be added again: what was verified of it is renewed.

    Raises:
        SubmissionError: another entry has its name, or its records contradict those of an
            entry.
        OutputError: the folder's settings or entries cannot be read.
    """
    settings = read_settings(folder)
    name = bundle.manifest.name
    if name in entry_names(folder) and not _is_entry(folder, bundle):
        raise SubmissionError(
            f"bundle: name: expected one that no entry has, got {name}; entries are never"
            " replaced: submit with another --name"
        )
    new = LoadedEntry(
        manifest=bundle.manifest,
        verification=Verification(records=len(bundle.records)),
        records=bundle.records,
        digest=bundle.digest,
    )
    entries = [entry for entry in read_entries(folder) if entry.name != name]
    boards_of(
        entries, folder, settings
    )  # whatever is wrong before is not the bundle's fault
    try:
        boards_of([*entries, new], folder, settings)
    except CibenchError as error:
        raise SubmissionError(f"bundle {name}: {error}") from error


def add_entry(
    folder: Path, source: Path, bundle: Bundle, verification: Verification
) -> Path:
    """Put a bundle's manifest and records into a folder, whole or not at all.

    Of a bundle that is an entry already only the verification is written.

    Args:
        folder: of the leaderboard.
        source: the bundle's file.
        bundle: the same as it was read; see `check_new`.
        verification: what was found of it.

    Returns:
        The entry's folder.

    Raises:
        SubmissionError: the file changed since it was read.
        OutputError: the folder cannot be written.
    """
    archive = Archive(source)
    try:
        content = {name: archive.read(name) for name in (MANIFEST, RECORDS)}
        digests = {name: archive.digest(name)[0] for name in content}
    finally:
        archive.close()
    expected = {MANIFEST: bundle.digest, RECORDS: bundle.manifest.files[RECORDS].sha256}
    if digests != expected:
        raise SubmissionError(
            f"bundle {source.name}: expected the file that was verified, got another"
        )
    told = msgspec.json.encode(verification, order="deterministic")
    content[VERIFICATION] = msgspec.json.format(told, indent=1) + b"\n"
    target = folder / ENTRIES / bundle.manifest.name
    if _is_entry(folder, bundle):
        write_atomically(target / VERIFICATION, content[VERIFICATION])
        return target
    temporary = None
    try:
        target.parent.mkdir(exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=".new-"))
        for name, part in content.items():
            (temporary / name).write_bytes(part)
        temporary.chmod(0o755)
        temporary.rename(target)
    except OSError as error:
        raise OutputError(
            f"{target}: expected a new folder that can be written, got {error.strerror}"
        ) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
    return target


def _is_entry(folder: Path, bundle: Bundle) -> bool:
    """Whether a folder has this very bundle already."""
    path = folder / ENTRIES / bundle.manifest.name / MANIFEST
    return path.is_file() and sha256(path.read_bytes()).hexdigest() == bundle.digest

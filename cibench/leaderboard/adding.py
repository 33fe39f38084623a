"""Adding a verified bundle to a published folder."""

from __future__ import annotations

import shutil
import tempfile
from hashlib import sha256
from pathlib import Path

import msgspec

from .._errors import CibenchError, OutputError, SubmissionError
from .._version import VERSION
from ..results import CellRecord
from ..results.folder import write_atomically
from ..submission.archive import Archive
from ..submission.bundle import Bundle
from ..submission.manifest import MANIFEST, RECORDS, VERIFICATION, Verification
from .build import boards_of
from .entries import LoadedEntry
from .folder import ENTRIES, entry_names, read_entries, read_settings
from .naming import OWN


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
        verification=Verification(
            records=len(bundle.records), added=_place(folder, name)
        ),
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
    verification = msgspec.structs.replace(
        verification, added=_place(folder, bundle.manifest.name)
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


def _place(folder: Path, name: str) -> int:
    """An entry's place in the order they came; after all others for a new one."""
    known = {entry.name: entry.verification.added for entry in read_entries(folder)}
    return known.get(name, 1 + max(known.values(), default=0))


def _check_shared(entries: list[LoadedEntry], new: LoadedEntry) -> None:
    """Refuse records that say other things of a data set than entries do.

    Raises:
        SubmissionError: labels, agents, classes or what kind of data it is differ.
    """
    known: dict[tuple[str, str], tuple[object, ...]] = {}
    for entry in [*sorted(entries, key=lambda entry: entry.age), new]:
        for record in entry.records:
            if record.outcomes is None or "partial" in record.flags:
                continue
            data = record.dataset.spec, record.fingerprint
            told = (
                *(record.outcomes.labels, record.agents, record.classes),
                *(record.time_series, record.personal),
            )
            if known.setdefault(data, told) != told and entry is new:
                raise SubmissionError(
                    f"bundle {new.name}: {record.cell}: expected the labels, agents and"
                    f" classes of {record.dataset.spec} as other entries have them, got"
                    " others"
                )


def _check_versions(entries: list[LoadedEntry], bundle: Bundle) -> None:
    """Refuse versions of cibench that neither this one nor any entry is.

    Raises:
        SubmissionError: one claims to be of another.
    """

    def versions(records: list[CellRecord]) -> set[str]:
        parts = [p for r in records for p in (r.dataset, r.defense)]
        parts += [part.component for r in records for part in r.attack]
        return {p.version for p in parts if p.distribution == OWN}

    known = {VERSION}.union(*(versions(entry.records) for entry in entries))
    strange = versions(bundle.records) - known
    if strange:
        raise SubmissionError(
            f"bundle {bundle.manifest.name}: expected plugins of cibench"
            f" {', '.join(sorted(known))}, got {min(strange)[:40]!a}; review it with"
            " that version installed"
        )


def _is_entry(folder: Path, bundle: Bundle) -> bool:
    """Whether a folder has this very bundle already."""
    path = folder / ENTRIES / bundle.manifest.name / MANIFEST
    return path.is_file() and sha256(path.read_bytes()).hexdigest() == bundle.digest

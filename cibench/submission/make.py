"""Making a bundle of a run's records, and what may never get into one."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec

from .._errors import EmptySelectionError, SubmissionError
from .._version import PROTOCOL
from ..results import RunFolder
from ..results.record import CellRecord
from .bundle import write_bundle
from .manifest import Manifest
from .schema import check_manifest, check_record
from .verify import verify_bundle

#: An absolute path of a machine, also behind `=` or a quote; no URL and no `7/10`.
_PATH: Final = re.compile(
    r"(?<![\w.~:/\\*-])(?:/[\w.@+-]+){2,}/?|\b[A-Za-z]:\\+\w|(?<!\w)~/\w|file:/"
)
#: Shorter names of a machine may be words.
_HOST: Final = 6


def selected(folder: RunFolder, defenses: Sequence[str]) -> list[CellRecord]:
    """The records of a run, or those of some defenses by spec, name or glob.

    Raises:
        OutputError: there is no run, or a record cannot be read.
        EmptySelectionError: a text matches no defense of the run.
    """
    records = folder.read()
    known = {(record.defense.spec, record.defense.name) for record in records}
    for text in defenses:
        if not any(_names(text, *names) for names in known):
            listed = ", ".join(sorted(spec for spec, _ in known)) or "none"
            raise EmptySelectionError(
                f"-d {text}: expected a defense of the run, one of {listed}; got another"
            )
    if not records:
        raise EmptySelectionError(f"run {folder.path}: expected records, got none")
    return [
        record
        for record in records
        if not defenses
        or any(_names(t, record.defense.spec, record.defense.name) for t in defenses)
    ]


def check_records(records: Sequence[CellRecord]) -> None:
    """Refuse records that may not be published.

    Raises:
        SubmissionError: one is partial, of another protocol, or names a file or machine.
    """
    for record in records:
        check_record(record, PROTOCOL)
        for name, text in _texts(msgspec.to_builtins(record), ""):
            fault = private_fault(text)
            if fault:
                raise SubmissionError(f"record {record.cell}: {name}: {fault}")


def private_fault(text: str) -> str:
    """Why a text may not be published; empty if it may."""
    path = _PATH.search(text)
    if path:
        return f"expected no path of a machine, got {path[0]!a}; run the cell again"
    host = socket.gethostname()
    named = len(host) >= _HOST and host != "localhost"
    if named and re.search(rf"(?<![\w-]){re.escape(host)}(?![\w-])", text):
        return f"expected no name of a machine, got {host!a}; run the cell again"
    return ""


def make_bundle(
    path: Path,
    manifest: Manifest,
    folder: RunFolder,
    records: Sequence[CellRecord],
    *,
    witnesses: bool = True,
) -> tuple[Manifest, list[str]]:
    """Write a bundle of a run's records, and verify it as a stranger would.

    Args:
        manifest: without `files`.
        folder: of the run; nothing else of it, and nothing of a cache, is read.
        records: of that run.
        witnesses: whether to put witnesses in; those of personal data never are.

    Returns:
        The manifest as written, and cells without a witness that could have one.

    Raises:
        SubmissionError: the bundle would be refused; then no file is left.
        OutputError: the file cannot be written.
    """
    check_manifest(manifest)
    check_records(records)
    kept: dict[str, Callable[[], bytes]] = {}
    lacking = []
    for record in records:
        if record.status != "ok" or record.personal or not witnesses:
            continue
        source = folder.witness(record.cell)
        if source.is_file():
            kept[record.cell] = partial(source.read_bytes)
        else:
            lacking.append(record.cell)
    whole = write_bundle(path, manifest, records, kept)
    try:
        verify_bundle(path)
    except SubmissionError:
        path.unlink(missing_ok=True)
        raise
    return whole, lacking


def _names(text: str, spec: str, name: str) -> bool:
    return text in ("all", spec) or fnmatchcase(name, text)


def _texts(value: Any, name: str) -> Iterator[tuple[str, str]]:
    """All texts of a record but those of its samples, with where they are."""
    if isinstance(value, str):
        yield name, value
    elif isinstance(value, dict):
        for key, each in value.items():
            yield f"{name} key", key
            if key not in ("outcomes", "radius"):
                yield from _texts(each, f"{name}.{key}" if name else key)
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each, name)

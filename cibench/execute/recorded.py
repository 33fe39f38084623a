"""Records of cells that were computed before, under their content keys; no torch."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from ..results.record import CellRecord, decode
from .shelf import Shelf


class _Envelope(msgspec.Struct):
    """A file: the record as it was given, and the hash that shows whether it still is."""

    sha256: str
    record: msgspec.Raw


def slot_of(dataset_spec: str, attack_spec: str, defense_spec: str, seed: int) -> str:
    """16 hex digits that stand for a cell, whatever code or data its numbers come from."""
    text = json.dumps([dataset_spec, attack_spec, defense_spec, seed])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class RecordCache:
    """A folder of records, `<slot[:2]>/<slot>-<key>.json`.

    A slot has one record for each content key that the cell ever had. Files are written
    atomically and hold a checksum; any number of processes may share the folder.

    Raises:
        OutputError: the folder cannot be made or written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._shelf = Shelf(folder, "record")
        self._names: set[str] | None = None

    def refresh(self) -> None:
        """List the folder again: what other processes stored or removed since."""
        names: set[str] = set()
        for entry in os.scandir(self.folder):
            if len(entry.name) == 2 and entry.is_dir():
                names.update(_listed(entry.path))
        self._names = names

    def has(self, slot: str, key: str) -> bool:
        """Whether a record was there when the folder was last listed."""
        if self._names is None:
            self.refresh()
        return _name(slot, key) in (self._names or ())

    def get(self, slot: str, key: str) -> bytes | None:
        """The record under a key as it was stored, or None; a damaged one is set aside."""
        name = _name(slot, key)
        content = self._shelf.read(name)
        record = None if content is None else opened(content)
        if content is not None and record is None:
            self._shelf.set_aside(name)
        if record is None or _decoded(record) is None:
            if self._names is not None:
                self._names.discard(name)
            return None
        return record

    def put(self, slot: str, key: str, content: bytes) -> None:
        """Store an encoded record; a disk that is full gives a warning, once."""
        name = _name(slot, key)
        sealed = _Envelope(_hash(content.strip()), msgspec.Raw(content.strip()))
        if (
            self._shelf.write(name, msgspec.json.encode(sealed))
            and self._names is not None
        ):
            self._names.add(name)

    def others(self, slot: str) -> list[CellRecord]:
        """All readable records of a slot, newest first; the folder is listed anew."""
        found = []
        for name in _listed(self._shelf.path(slot).parent):
            if name.startswith(f"{slot}-"):
                record = opened(self._shelf.read(name, use=False) or b"")
                decoded = None if record is None else _decoded(record)
                if decoded is not None:
                    found.append(decoded)
        return sorted(
            found, key=lambda record: (record.created, record.key), reverse=True
        )


def opened(content: bytes) -> bytes | None:
    """The encoded record in a file of the cache, or None if the file is damaged."""
    try:
        sealed = msgspec.json.decode(content, type=_Envelope)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    record = bytes(sealed.record)
    return record + b"\n" if _hash(record) == sealed.sha256 else None


def _decoded(record: bytes) -> CellRecord | None:
    try:
        return decode(record)
    except msgspec.DecodeError:  # whole, but of another version of the schema
        return None


def _listed(folder: str | Path) -> Iterator[str]:
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.endswith(".json") and not entry.name.startswith("."):
                    yield entry.name
    except FileNotFoundError:
        return


def _name(slot: str, key: str) -> str:
    return f"{slot}-{key}.json"


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()

"""A run's folder: one immutable JSON file per cell, written atomically."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import msgspec

from .._errors import OutputError
from .record import CellRecord, decode, encode


class RunFolder:
    """`<run>/cells/<cell>.json`; read and written a record at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.cells = path / "cells"

    def create(self) -> None:
        """Make the folder and check that it can be written.

        Raises:
            OutputError: it cannot.
        """
        try:
            make_writable(self.cells)
        except OSError as error:
            raise OutputError(
                f"output {self.path}: expected a folder that can be written, got"
                f" {error.strerror}; choose another with -o"
            ) from error

    def write(self, record: CellRecord) -> Path:
        """Store one record.

        Raises:
            OutputError: the folder cannot be written.
        """
        path = self.cells / f"{record.cell}.json"
        write_atomically(path, encode(record))
        return path

    def read(self) -> list[CellRecord]:
        """All records, sorted by cell.

        Raises:
            OutputError: there is no run here, or a record is not of this schema.
        """
        if not self.cells.is_dir():
            raise OutputError(
                f"run {self.path}: expected a folder with cells/*.json, got none; the"
                " folder is what `cibench run` printed or was given with -o"
            )
        records = []
        for path in sorted(self.cells.glob("*.json")):
            try:
                records.append(decode(path.read_bytes()))
            except (msgspec.ValidationError, msgspec.DecodeError) as error:
                raise OutputError(
                    f"record {path.name}: expected a cell record of this version, got"
                    f" {error}"
                ) from error
            except OSError as error:
                raise OutputError(
                    f"record {path.name}: expected a readable file, got {error.strerror}"
                ) from error
        return records


def make_writable(folder: Path) -> None:
    """Make a folder and write to it once: found out now, not with the first result.

    Raises:
        OSError: it cannot be made or written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that readers see the whole of it or nothing.

    Raises:
        OutputError: the folder cannot be written.
    """
    temporary = ""
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        raise OutputError(
            f"{path.parent}: expected a folder that can be written, got {error.strerror}"
        ) from error
    finally:
        if temporary:
            Path(temporary).unlink(missing_ok=True)

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
        path = self.file(record.cell)
        write_atomically(path, encode(record))
        return path

    def file(self, cell: str) -> Path:
        """Where a cell's record is, or would be."""
        return self.cells / f"{cell}.json"

    def names(self) -> set[str]:
        """Ids of the cells that have a record; the folder is listed once."""
        if not self.cells.is_dir():
            return set()
        with os.scandir(self.cells) as entries:
            return {
                entry.name.removesuffix(".json")
                for entry in entries
                if entry.name.endswith(".json") and not entry.name.startswith(".")
            }

    def witness(self, cell: str) -> Path:
        """Where what a cell's attack sent is, if that was kept."""
        return self.path / "witnesses" / f"{cell}.safetensors"

    def write_witness(self, cell: str, content: bytes) -> None:
        """Store what a cell's attack sent.

        Raises:
            OutputError: the folder cannot be written.
        """
        path = self.witness(cell)
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, content)

    def write_log(self, name: str, content: bytes) -> str:
        """Store what a cell printed; give the path relative to the folder.

        Raises:
            OutputError: the folder cannot be written.
        """
        path = Path("logs") / f"{name}.log"
        (self.path / "logs").mkdir(exist_ok=True)
        write_atomically(self.path / path, content)
        return str(path)

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
        return [self.read_one(path.stem) for path in sorted(self.cells.glob("*.json"))]

    def read_one(self, cell: str) -> CellRecord:
        """The record of a cell by its id.

        Raises:
            OutputError: it cannot be read, or is not of this schema.
        """
        path = self.file(cell)
        try:
            return decode(path.read_bytes())
        except (msgspec.ValidationError, msgspec.DecodeError) as error:
            raise OutputError(
                f"record {path.name}: expected a cell record of this version, got {error}"
            ) from error
        except OSError as error:
            raise OutputError(
                f"record {path.name}: expected a readable file, got {error.strerror}"
            ) from error


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

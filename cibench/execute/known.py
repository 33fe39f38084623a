"""What needs not be computed: records in the run's folder and in the cache."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec

from ..grid import Cell
from ..results import CellRecord, RunFolder
from ..results.record import decode, encode
from .blank import cell_id
from .finished import Finished, Head, read_head
from .recorded import RecordCache, slot_of

#: Words of `--rerun` and the statuses they stand for.
RERUN = {
    "failed": ("failed", "timeout", "killed", "out-of-memory"),
    "timeout": ("timeout",),
    "killed": ("killed",),
    "out-of-memory": ("out-of-memory",),
}


def slot(cell: Cell) -> str:
    """What a cell's records are found under, whatever its key."""
    return slot_of(cell.dataset.spec, cell.attack_spec, cell.defense.spec, cell.seed)


class Known:
    """Finds records of cells.

    Args:
        rerun: what to compute again: `all`, a word of `RERUN`, or names of plugins.
        cache: folder of the cached records; None uses none.
        witnesses: whether a cell counts only with its witness, which caches do not have.
    """

    def __init__(
        self,
        folder: RunFolder,
        cache: Path | None,
        rerun: Sequence[str] = (),
        *,
        witnesses: bool = False,
    ) -> None:
        self._folder = folder
        self._witnesses = witnesses
        self._rerun = frozenset(rerun)
        self._again = {s for word in rerun for s in RERUN.get(word, ())}
        self._again.add("interrupted")
        self._records = RecordCache(cache / "records") if cache else None
        self._there = folder.names()

    def unwanted(self, cell: Cell) -> bool:
        """Whether the cell is to be computed again whatever is known of it."""
        if not self._rerun:
            return False
        names = {plugin.entry.name for plugin in cell.plugins}
        return "all" in self._rerun or bool(names & self._rerun)

    def find(
        self,
        cell: Cell,
        key: str,
    ) -> Finished | CellRecord | None:
        """The cell from the run's folder, or its record from the cache; or None."""
        if self.unwanted(cell):
            return None
        name = cell_id(cell, key)
        if name in self._there:
            found = self._in_folder(cell, key)
            if found is not None:
                return found
        if self._records is None or not self._records.has(slot(cell), key):
            return None
        content = None if self._witnesses else self._records.get(slot(cell), key)
        return None if content is None else decode(content)

    def where(self, cell: Cell, key: str) -> Literal["folder", "cache"] | None:
        """Where `find` would find the cell; nothing is kept or noted.

        A record of the cache is not opened: one that is damaged counts as found.
        """
        if self.unwanted(cell):
            return None
        if cell_id(cell, key) in self._there and self._in_folder(cell, key):
            return "folder"
        cached = self._records is not None and self._records.has(slot(cell), key)
        if cached and not self._witnesses:
            return "cache"
        return None

    def appeared(self, cell: Cell, key: str) -> Finished | None:
        """The cell, if another process has put it into the folder since."""
        name = cell_id(cell, key)
        if name in self._there or not self._folder.file(name).exists():
            return None
        return self._in_folder(cell, key)

    def remember(self, cell: Cell, record: CellRecord) -> None:
        """Put a record into the cache."""
        if self._records is not None:
            self._records.put(slot(cell), record.key, encode(record))

    def is_ok(self, cell: Cell, key: str) -> bool:
        """Whether the folder has the cell's numbers now, even if they were unwanted."""
        head = self._head(cell, key)
        return head is not None and head.status == "ok"

    def is_kept(self, cell: Cell, key: str) -> bool:
        """Whether the folder says now how the cell ended."""
        head = self._head(cell, key)
        return head is not None and head.status != "interrupted"

    def _in_folder(self, cell: Cell, key: str) -> Finished | None:
        head = self._head(cell, key)
        if head is None or head.status in self._again:
            return None
        kept = not self._witnesses or self._folder.witness(head.cell).exists()
        if head.status == "ok" and not kept:
            return None
        return head.finished(cell.title, "folder")

    def _head(self, cell: Cell, key: str) -> Head | None:
        path = self._folder.file(cell_id(cell, key))
        try:
            head = read_head(path.read_bytes())
        except FileNotFoundError:
            return None
        except (msgspec.DecodeError, msgspec.ValidationError):
            warnings.warn(
                f"record {path.name} is damaged; it is computed again", stacklevel=2
            )
            return None
        return head if head.key == key else None

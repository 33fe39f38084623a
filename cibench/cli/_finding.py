"""Finding a cell of a run's folder by part of its id, and what the cell printed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._errors import OutputError, UsageError

if TYPE_CHECKING:
    from ..results import RunFolder

#: Ids that a message lists.
_LISTED = 8


def find_cell(folder: RunFolder, text: str) -> str:
    """The id of the one cell that a text names: the id itself, or part of no other.

    Raises:
        OutputError: there is no run in the folder.
        UsageError: no cell matches, or several do.
    """
    check_run(folder)
    names = folder.names()
    if text in names:
        return text
    matching = sorted(name for name in names if text in name)
    if len(matching) == 1:
        return matching[0]
    listed = matching or sorted(names)
    shown = ", ".join(listed[:_LISTED]) or "none"
    more = f" and {len(listed) - _LISTED} more" if len(listed) > _LISTED else ""
    raise UsageError(
        f"cell {text!r}: expected part of one cell's id, got {len(matching)} matches;"
        f" cells: {shown}{more}"
    )


def check_run(folder: RunFolder) -> None:
    """Refuse a folder without records.

    Raises:
        OutputError: there is no run in the folder.
    """
    if not folder.cells.is_dir():
        folder.read()


def read_log(folder: RunFolder, cell: str, log: str) -> bytes | None:
    """What a cell printed; None if it was silent.

    Args:
        log: path of the log as in the cell's record, relative to the run's folder.

    Raises:
        OutputError: the log is gone, or the record names a file outside of the run.
    """
    if not log:
        return None
    root, path = folder.path.resolve(), (folder.path / log).resolve()
    if not path.is_relative_to(root):
        raise OutputError(
            f"record {cell}: expected a log below the run's folder, got another path; the"
            " record was not written by cibench"
        )
    try:
        return path.read_bytes()
    except OSError as error:
        raise OutputError(
            f"log {log} of {cell}: expected a file in {folder.path}, got"
            f" {error.strerror}; a cell from the cache left its log in the run that"
            f" computed it; for a new one: cibench reproduce {folder.path} {cell} -o"
            " FOLDER"
        ) from error

"""Tables of numbers as text: streamed line by line, only selected rows parsed."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cibench import DataError

from ._nuswide_files import shown

#: Rows parsed at a time.
CHUNK = 2048
#: Bytes between two reports of progress.
_REPORT = 1 << 22

#: Called with the bytes read since the last call.
Advance = Callable[[int], None]


def read_rows(
    path: Path,
    slots: NDArray[np.intp],
    into: NDArray[np.float32] | NDArray[np.uint8],
    *,
    separator: bytes,
    advance: Advance = lambda size: None,
    chunk: int = CHUNK,
) -> None:
    """Parse the rows with a slot into their rows of `into`; check the width of all.

    Args:
        slots: row of `into` for each line of the file, or -1.
        into: `(selected, columns)`; uint8 takes 0 and 1 alone.
        separator: between two numbers; one more may end the line.
        chunk: rows parsed at a time.

    Raises:
        DataError: the file has other lines, a line other columns, or a field is not a
            finite number.
    """
    width = into.shape[1]
    wanted: list[bytes] = []
    numbers: list[int] = []

    def parse() -> None:
        if wanted:
            place = slots[np.array(numbers) - 1]
            into[place] = _parse(path, wanted, numbers, width, separator, into.dtype)
            wanted.clear()
            numbers.clear()

    number = blank = 0
    for line in _lines(path, advance):
        bare = line.rstrip(b"\r\n").removesuffix(separator)
        if not bare:
            blank += 1
            continue
        number += 1
        # Blank lines may only end the file.
        fields = 0 if blank else bare.count(separator) + 1
        if fields != width:
            raise DataError(
                f"{path.name}, line {number}: expected {width} columns, got {fields};"
                " unpack the archive again"
            )
        if number > len(slots):
            continue
        if slots[number - 1] >= 0:
            wanted.append(bare)
            numbers.append(number)
            if len(wanted) == chunk:
                parse()
    if number != len(slots):
        raise DataError(
            f"{path.name}: expected {len(slots)} lines, as many as the labels have, got"
            f" {number}; unpack the archive again"
        )
    parse()


def _lines(path: Path, advance: Advance) -> Iterator[bytes]:
    with path.open("rb") as file:
        read = 0
        for line in file:
            read += len(line)
            if read > _REPORT:
                advance(read)
                read = 0
            yield line
        advance(read)


def _parse(
    path: Path,
    lines: list[bytes],
    numbers: list[int],
    width: int,
    separator: bytes,
    dtype: np.dtype[np.float32] | np.dtype[np.uint8],
) -> NDArray[np.float32]:
    text = io.BytesIO(b"\n".join(lines))
    try:
        frame = pd.read_csv(
            text, sep=separator.decode(), header=None, dtype=np.float64, engine="c"
        )
        with np.errstate(over="ignore"):  # infinite is refused below
            values = frame.to_numpy().astype(np.float32)
    except ValueError:
        values = np.full((len(lines), width), np.nan, dtype=np.float32)
    good = np.isfinite(values)
    if dtype == np.uint8:
        good &= (values == 0) | (values == 1)
    if not good.all():
        _blame(path, lines, numbers, separator, binary=dtype == np.uint8)
    return values


def _blame(
    path: Path,
    lines: list[bytes],
    numbers: list[int],
    separator: bytes,
    *,
    binary: bool,
) -> None:
    """Name the first field that is not as documented."""
    expected = "0 or 1" if binary else "a finite number"
    for number, line in zip(numbers, lines, strict=True):
        for column, field in enumerate(line.split(separator), start=1):
            try:
                value = float(field)
            except ValueError:
                value = float("nan")
            fits = abs(value) <= float(np.finfo(np.float32).max)
            if not fits or (binary and value not in (0, 1)):
                raise DataError(
                    f"{path.name}, line {number}, column {column}: expected {expected},"
                    f" got {shown(field)}"
                )
    raise DataError(f"{path.name}: expected {expected} in every field, got others")

"""The rows of NUS-WIDE a choice of concepts needs: parsed once, kept as compact arrays."""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cibench import DataError

from ._nuswide_files import (
    IMAGE,
    OFFICIAL_ROWS,
    TAGS,
    Files,
    Lists,
    read_labels,
    read_lists,
)
from ._nuswide_text import Advance, read_rows

#: Raised when the cached arrays change.
_FORMAT = 1


class Rows(NamedTuple):
    """The chosen rows, training rows first.

    Args:
        image: `(n, 634)` columns in the order of `IMAGE`.
        tags: `(n, 1000)` of 0 and 1.
        labels: `(n,)` classes in the order of the concepts.
        official: one flag: whether the files have the official numbers of lines.
    """

    image: NDArray[np.float32]
    tags: NDArray[np.uint8]
    labels: NDArray[np.int64]
    official: NDArray[np.bool_]


def read(files: Files, counts: dict[str, int]) -> Rows:
    """The first rows with exactly one concept, from the cache or parsed and kept there.

    Args:
        counts: rows of each split.

    Raises:
        DataError: a file is not in the documented format, or there are too few rows.
    """
    state = [(f.relative_to(files.root).as_posix(), f.stat()) for f in files.every]
    parts = [(name, s.st_size, s.st_mtime_ns) for name, s in state]
    identity = (_FORMAT, tuple(files.labels), tuple(counts.items()), parts)
    key = hashlib.sha256(repr(identity).encode()).hexdigest()
    file = _cache_folder() / f"nuswide-{key[:24]}.npz"
    try:
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as kept:
            return Rows(*(kept[name] for name in Rows._fields))
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile):
        pass  # never kept, or damaged: the files are still there
    with _progress(sum(size for _, size, _ in parts)) as advance:
        rows = _parsed(files, counts, advance)
    _keep(rows, file)
    return rows


def _parsed(files: Files, counts: dict[str, int], advance: Advance) -> Rows:
    """Select rows by their labels, then read these rows of every feature."""
    lists = read_lists(files)
    labels, slots, taken = [], [], 0
    for (part, wanted), flags in zip(counts.items(), _flags(files, lists), strict=True):
        single = np.flatnonzero(flags.sum(axis=1) == 1)
        found = dict(zip(files.labels, flags[single].sum(axis=0), strict=True))
        if len(single) < wanted or not all(found.values()):
            raise DataError(
                f"nuswide, {part} labels: expected {wanted} rows with exactly one"
                " concept, and some of each, got"
                f" {', '.join(f'{n} {c}' for c, n in found.items())};"
                f" choose {part.lower()}=... or other concepts"
            )
        rows = single[:wanted]
        place = np.full(len(flags), -1, dtype=np.intp)
        place[rows] = np.arange(taken, taken + wanted)
        taken += wanted
        slots.append(place)
        labels.append(flags[rows].argmax(axis=1))

    image = np.empty((taken, sum(IMAGE.values())), dtype=np.float32)
    tags = np.empty((taken, TAGS), dtype=np.uint8)
    start = 0
    for feature, width in IMAGE.items():
        source, block = files.image[feature], image[:, start : start + width]
        start += width
        if source.whole is not None:
            assert lists is not None
            joined = np.full(lists.images, -1, dtype=np.intp)
            for rows, place in zip(lists.split, slots, strict=True):
                joined[rows] = place
            read_rows(source.whole, joined, block, separator=b" ", advance=advance)
        else:
            for path, place in zip(source.split, slots, strict=True):
                read_rows(path, place, block, separator=b" ", advance=advance)
    for path, place in zip(files.tags.split, slots, strict=True):
        read_rows(path, place, tags, separator=b"\t", advance=advance)
    official = [len(place) for place in slots] == list(OFFICIAL_ROWS.values())
    return Rows(
        image, tags, np.concatenate(labels).astype(np.int64), np.array([official])
    )


def _flags(files: Files, lists: Lists | None) -> list[NDArray[np.bool_]]:
    """For each split `(images, concepts)`: whether an image has a concept."""
    by_concept = [read_labels(source, lists) for source in files.labels.values()]
    stacked = []
    for index, part in enumerate(OFFICIAL_ROWS):
        flags = [concept[index] for concept in by_concept]
        lines = {c: len(f) for c, f in zip(files.labels, flags, strict=True)}
        if lists is not None:
            lines[f"{part}Imagelist.txt"] = len(lists.split[index])
        if len(set(lines.values())) > 1:
            found = ", ".join(f"{name} {count}" for name, count in lines.items())
            raise DataError(
                f"nuswide, {part} labels: expected as many lines in each file, got"
                f" {found}; unpack the archives again"
            )
        stacked.append(np.stack(flags, axis=1))
    return stacked


def _cache_folder() -> Path:
    from platformdirs import user_cache_path

    given = os.environ.get("CIBENCH_CACHE")
    return (Path(given) if given else user_cache_path("cibench")) / "datasets"


def _keep(rows: Rows, file: Path) -> None:
    """Write the arrays whole or not at all; without room or right, parse again later."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=file.parent) as scratch:
            written = Path(scratch) / file.name
            np.savez(written, **rows._asdict())
            os.replace(written, file)
    except OSError:
        pass


@contextmanager
def _progress(total: int) -> Iterator[Advance]:
    """A bar on standard error if that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda size: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task("reading NUS-WIDE", total=total)
        yield lambda size: bars.advance(task, size)

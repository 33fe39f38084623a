"""NUS-WIDE's files: which of them a folder holds, the labels and the image lists."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cibench import DataError

#: Image features in the order of the paper, with their columns.
IMAGE = {"CM55": 225, "CH": 64, "EDH": 73, "CORR": 144, "WT": 128}
TAGS = 1000
#: Lines of the official files.
OFFICIAL_ROWS = {"Train": 161_789, "Test": 107_859}
ARCHIVES = "https://lms.comp.nus.edu.sg/wp-content/uploads/2019/research/nuswide/"
Rows = NDArray[np.intp]

_IMAGE_FOLDERS = (
    "NUS_WID_Low_Level_Features/Low_Level_Features",
    "NUS_WID_Low_Level_Features",
    "Low_Level_Features",
    ".",
)
_TAG_FOLDERS = ("NUS_WID_Tags", ".")
_LIST_FOLDERS = ("ImageList", "Imagelist", ".")
_SPLIT_LABELS = ("Groundtruth/TrainTestLabels", "TrainTestLabels", ".")
_ALL_LABELS = ("Groundtruth/AllLabels", "AllLabels", ".")


@dataclass(frozen=True)
class Source:
    """A quantity of both splits: a file of each, or one file of all images.

    Args:
        split: the files of the training and the test images, or empty.
        whole: the file of all images, or None.
    """

    split: tuple[Path, ...]
    whole: Path | None

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file it reads."""
        return self.split if self.whole is None else (self.whole,)


@dataclass(frozen=True)
class Files:
    """The files of a folder that a choice of concepts needs.

    Args:
        root: the folder.
        labels: by concept.
        image: by feature.
        tags: 0/1 for each of 1000 tags.
        lists: image names of all images, the training and the test images; or empty.
    """

    root: Path
    labels: dict[str, Source]
    image: dict[str, Source]
    tags: Source
    lists: tuple[Path, ...]

    @property
    def every(self) -> tuple[Path, ...]:
        """Every file that is read."""
        sources = (*self.labels.values(), *self.image.values(), self.tags)
        return (*(f for s in sources for f in s.files), *self.lists)


def find(root: Path, concepts: tuple[str, ...]) -> Files:
    """Find the files in either variant, or name those that are absent.

    Raises:
        DataError: a file is absent.
    """
    absent: list[str] = []

    def source(
        folders: tuple[str, ...],
        parts: tuple[str, str],
        whole: str = "",
        whole_folders: tuple[str, ...] = (),
    ) -> Source:
        split = tuple(_first(root, folders, name) for name in parts)
        if all(path is not None for path in split):
            return Source(tuple(path for path in split if path), None)
        everything = _first(root, whole_folders or folders, whole) if whole else None
        if everything is None:
            absent.extend(
                f"{folders[0]}/{name}"
                for name, path in zip(parts, split, strict=True)
                if path is None
            )
        return Source((), everything)

    labels = {
        c: source(
            _SPLIT_LABELS,
            (f"Labels_{c}_Train.txt", f"Labels_{c}_Test.txt"),
            f"Labels_{c}.txt",
            _ALL_LABELS,
        )
        for c in concepts
    }
    image = {
        x: source(
            _IMAGE_FOLDERS,
            (f"Train_Normalized_{x}.dat", f"Test_Normalized_{x}.dat"),
            f"Normalized_{x}.dat",
        )
        for x in IMAGE
    }
    tags = source(_TAG_FOLDERS, ("Train_Tags1k.dat", "Test_Tags1k.dat"))
    lists: tuple[Path, ...] = ()
    if any(s.whole for s in (*labels.values(), *image.values())):
        names = ("Imagelist.txt", "TrainImagelist.txt", "TestImagelist.txt")
        found = [_first(root, _LIST_FOLDERS, name) for name in names]
        absent += [
            f"ImageList/{n}" for n, f in zip(names, found, strict=True) if f is None
        ]
        lists = tuple(path for path in found if path)
    if absent:
        shown = ", ".join(absent[:4])
        more = f" and {len(absent) - 4} more" if len(absent) > 4 else ""
        raise DataError(
            f"nuswide: expected NUS-WIDE's files in {root}, got no {shown}{more};"
            f" unpack the official archives there (Groundtruth.zip, NUS_WID_Tags.zip,"
            f" NUS_WID_Low_Level_Features.rar from {ARCHIVES}; ImageList.zip as well for"
            " features of all images in one file)"
        )
    return Files(root, labels, image, tags, lists)


def _first(root: Path, folders: tuple[str, ...], name: str) -> Path | None:
    paths = (root / folder / name for folder in folders)
    return next((path for path in paths if path.is_file()), None)


@dataclass(frozen=True, eq=False)
class Lists:
    """How many images there are, and which rows of them each split has."""

    images: int
    split: tuple[Rows, Rows]


def read_lists(files: Files) -> Lists | None:
    """Rows of the training and the test images among all images, if that is needed.

    Raises:
        DataError: a name is listed twice, or is not in the list of all images.
    """
    if not files.lists:
        return None
    every, *parts = (_names(path) for path in files.lists)
    place = {name: row for row, name in enumerate(every)}
    if len(place) < len(every):
        twice = next(n for i, n in enumerate(every) if place[n] != i)
        raise DataError(
            f"{files.lists[0].name}: expected each image once, got {twice!r} twice"
        )
    for path, names in zip(files.lists[1:], parts, strict=True):
        for line, name in enumerate(names, start=1):
            if name not in place:
                raise DataError(
                    f"{path.name}, line {line}: expected an image of"
                    f" {files.lists[0].name}, got {name!r}"
                )
    train, test = (np.array([place[n] for n in p], dtype=np.intp) for p in parts)
    uses = np.bincount(np.concatenate([train, test]), minlength=len(every))
    if (uses > 1).any():
        raise DataError(
            "TrainImagelist.txt, TestImagelist.txt: expected each image once, got"
            f" {every[int(uses.argmax())]!r} twice"
        )
    return Lists(len(every), (train, test))


def _names(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8", errors="replace")
    return [line.strip().replace("\\", "/") for line in text.splitlines() if line]


def read_labels(source: Source, lists: Lists | None) -> list[NDArray[np.bool_]]:
    """One concept: for each split, whether each image has it.

    Raises:
        DataError: a line is not 0 or 1, or there are not as many as images.
    """
    if source.whole is None:
        return [_flags(path) for path in source.split]
    flags = _flags(source.whole)
    assert lists is not None
    if len(flags) != lists.images:
        raise DataError(
            f"{source.whole.name}: expected {lists.images} lines, as many as"
            f" Imagelist.txt has, got {len(flags)}; unpack the archives again"
        )
    return [flags[rows] for rows in lists.split]


def _flags(path: Path) -> NDArray[np.bool_]:
    lines = path.read_bytes().split()
    for number, line in enumerate(lines, start=1):
        if line not in (b"0", b"1"):
            raise DataError(
                f"{path.name}, line {number}: expected 0 or 1, got {shown(line)}"
            )
    return np.array([line == b"1" for line in lines], dtype=bool)


def shown(field: bytes) -> str:
    """A field for a message."""
    return repr(field[:40].decode("utf-8", errors="replace"))

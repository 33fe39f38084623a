"""NUS-WIDE: web images and their tags, four agents (needs the official files)."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar, Literal, final

import torch
from msgspec import Meta

from cibench import (
    LOCATION,
    AbstractDataset,
    AgentDataset,
    AgentLayout,
    DataError,
    Split,
    Standardizer,
    hookimpl,
)
from cibench.download import Download
from cibench.spec import canonical

from .. import papers
from ._nuswide_files import ARCHIVES, IMAGE, find
from ._nuswide_rows import read

_CONCEPTS = "buildings/grass/animal/water/person"
_CONCEPT = re.compile(r"\w+")
#: Agents in the paper's order: the image columns are cut after 360, the tags after 500.
AGENTS = {"image1": 360, "image2": 274, "tags1": 500, "tags2": 500}
_FOLDERS = ("nuswide", "NUS_WIDE", "NUS-WIDE", ".")
_LICENCE = "not stated by the authors; for research (not shipped)"
_ELSEWHERE = (
    "some hosts no longer serve NUS-WIDE: ask its authors at"
    " https://lms.comp.nus.edu.sg/research/NUS-WIDE.htm, or take a copy you have"
)

Count = Annotated[int, Meta(ge=1)]


@final
@dataclass(frozen=True, kw_only=True)
class NusWide(AbstractDataset):
    """Images with exactly one of some concepts; two agents see the image, two the tags.

    Image columns are CM55, CH, EDH, CORR and WT, 634 in all; tags are the 1000 most
    frequent ones, 0 or 1. The splits are the first rows, in file order, of the official
    training and test images that have exactly one of the concepts. What is read is kept in
    the cache folder, so the text is parsed once.

    Args:
        concepts: the classes, joined by `/`; the paper's five by default.
        train: rows taken from the training images, validation included.
        validation: how many of these, the last ones, validate.
        test: rows taken from the test images; the paper's targeted attacks use 1000.
        standardize: `train` scales the image columns with training statistics; `none`
            leaves them as the files have them. Tags stay 0 and 1 in either case.
        path: the folder with `Groundtruth`, `NUS_WID_Tags` and
            `NUS_WID_Low_Level_Features`.

    Raises:
        ValueError: fewer than two concepts, one twice, or no training rows are left.

    Source: Chua et al. (2009); blocks, concepts and counts: Liu et al. (2022).
    """

    name: ClassVar[str] = "nuswide"
    citation: ClassVar[str] = (
        "T.-S. Chua, J. Tang, R. Hong, H. Li, Z. Luo, Y. Zheng. NUS-WIDE: A Real-World"
        " Web Image Database from National University of Singapore. CIVR 2009."
        " doi:10.1145/1646396.1646452"
    )
    bibtex: ClassVar[str] = papers.NUSWIDE
    files_needed: ClassVar[str] = (
        "Groundtruth, NUS_WID_Tags and NUS_WID_Low_Level_Features in the subfolder"
        f" nuswide of the data folder, from {ARCHIVES}"
    )
    downloads: ClassVar[tuple[Download, ...]] = tuple(
        Download(
            url=ARCHIVES + file,
            file=file,
            licence=_LICENCE,
            unpack="zip" if file.endswith(".zip") else "none",
            elsewhere=_ELSEWHERE,
        )
        for file in (
            "Groundtruth.zip",
            "NUS_WID_Tags.zip",
            "NUS_WID_Low_Level_Features.rar",
        )
    )

    concepts: str = _CONCEPTS
    train: Count = 60_000
    validation: Count = 6_000
    test: Count = 10_000
    standardize: Literal["train", "none"] = "train"
    path: str | None = field(default=None, metadata=LOCATION)

    def __post_init__(self) -> None:
        names = self._names
        wrong = [name for name in names if not _CONCEPT.fullmatch(name)]
        if wrong or len(names) < 2 or len(set(names)) < len(names):
            raise ValueError(
                "concepts: expected two or more different names joined by /, such as"
                f" {_CONCEPTS}, got {self.concepts!r}"
            )
        if self.validation >= self.train:
            raise ValueError(
                f"validation: expected fewer than the {self.train} training rows,"
                f" got {self.validation}"
            )

    @property
    def _names(self) -> tuple[str, ...]:
        return tuple(self.concepts.split("/"))

    def load(self, *, data_dir: Path | None = None) -> AgentDataset:
        """Read the files, or what was kept of them.

        Raises:
            DataError: a file is absent, damaged or not in the documented format; a
                concept or a split has too few rows.
        """
        files = find(self._root(data_dir), self._names)
        rows = read(files, {"Train": self.train, "Test": self.test})
        features = torch.empty(len(rows.labels), sum(AGENTS.values()))
        kept = self.train - self.validation
        start = 0
        for width in IMAGE.values():
            columns = slice(start, start + width)
            block = torch.from_numpy(rows.image[:, columns])
            if self.standardize == "train":
                block = Standardizer.fit(block[:kept])(block)
            features[:, columns] = block
            start += width
        features[:, start:] = torch.from_numpy(rows.tags)
        labels = torch.from_numpy(rows.labels)
        parts = (slice(kept), slice(kept, self.train), slice(self.train, None))
        train, validation, test = (Split(features[p], labels[p]) for p in parts)
        scaled = "training statistics" if self.standardize == "train" else "the files"
        notes = [f"rows with exactly one concept; image columns scaled by {scaled}"]
        if not rows.official.all():
            notes.append("the files have other numbers of rows than the official ones")
        return AgentDataset(
            name=canonical(self),
            layout=AgentLayout(tuple(AGENTS), tuple(AGENTS.values())),
            train=train,
            validation=validation,
            test=test,
            class_names=self._names,
            recipe="mlp-32",
            citation=self.citation,
            licence=_LICENCE,
            notes=tuple(notes),
        )

    def present(self, *, data_dir: Path | None = None) -> bool:
        """Whether every file the options need is there."""
        try:
            return bool(find(self._root(data_dir), self._names))
        except DataError:
            return False

    def _root(self, data_dir: Path | None) -> Path:
        if self.path is not None:
            return Path(os.path.expanduser(self.path))
        if data_dir is None:
            raise DataError(
                "nuswide: expected a data folder with the subfolder nuswide, got none;"
                " give it by --data-dir, CIBENCH_DATA or nuswide:path=..., and unpack"
                f" the archives of {ARCHIVES} there"
            )
        places = [data_dir / folder for folder in _FOLDERS]
        return next((place for place in places if place.is_dir()), places[0])


@hookimpl
def cibench_datasets() -> list[type[AbstractDataset]]:
    """Provide the data set."""
    return [NusWide]

"""UCI Multiple Features: 2000 handwritten numerals seen by six agents (shipped)."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, ClassVar, final

import msgspec
import numpy as np
import torch
from torch import Tensor

from cibench import (
    AbstractDataset,
    AgentDataset,
    AgentLayout,
    DataError,
    Split,
    Standardizer,
    hookimpl,
)
from cibench.spec import canonical

from .. import papers

_FILE = "mfeat.npz"
#: Agents in order, with their columns; the narrow `mor` comes last.
VIEWS = {"fou": 76, "fac": 216, "kar": 64, "pix": 240, "zer": 47, "mor": 6}
CLASSES, PER_CLASS = 10, 200
TRAIN, VALIDATION = 1280, 320
_UNREADABLE = (
    OSError,
    EOFError,
    KeyError,
    ValueError,
    zipfile.BadZipFile,
    zlib.error,
)


@final
@dataclass(frozen=True, kw_only=True)
class Mfeat(AbstractDataset):
    """Multiple Features, one agent per view.

    The split is stratified: of the 200 numerals of each class 128 train, 32 validate
    and 40 test. Samples cycle through the classes: every prefix of a split is balanced.
    Columns are standardized with the statistics of the training split alone.

    Args:
        split_seed: seed of the assignment of samples to splits.

    Example:
        >>> len(Mfeat().load().test)
        400
    """

    name: ClassVar[str] = "mfeat"
    citation: ClassVar[str] = (
        "R. Duin. Multiple Features. UCI Machine Learning Repository, 1998."
        " doi:10.24432/C5HC70"
    )
    bibtex: ClassVar[str] = papers.MFEAT
    known_failures: ClassVar[Mapping[str, str]] = MappingProxyType(
        {
            "check_splits_are_disjoint": "the published files hold 6 pairs of identical"
            " numerals; 3 of the 400 test samples are in the training split as well"
        }
    )

    split_seed: Annotated[int, msgspec.Meta(ge=0, le=999_999)] = 0

    def load(self, *, data_dir: Path | None = None) -> AgentDataset:
        """Read the shipped file; `data_dir` is not used.

        Raises:
            DataError: the shipped file is absent or damaged.
        """
        features, labels = _read()
        order = self._order()
        kept = TRAIN + VALIDATION
        parts = (order[:TRAIN], order[TRAIN:kept], order[kept:])
        scale = Standardizer.fit(features[parts[0]])
        train, validation, test = (
            Split(scale(features[rows]), labels[rows]) for rows in parts
        )
        return AgentDataset(
            name=canonical(self),
            layout=AgentLayout(names=tuple(VIEWS), widths=tuple(VIEWS.values())),
            train=train,
            validation=validation,
            test=test,
            class_names=tuple(str(digit) for digit in range(CLASSES)),
            recipe="mlp-32",
            citation=self.citation,
            licence="CC BY 4.0",
            notes=("stratified split; columns standardized with training statistics",),
        )

    def _order(self) -> Tensor:
        """Row numbers, shuffled within each class and cycling through the classes."""
        generator = torch.Generator().manual_seed(self.split_seed)
        shuffled = [
            torch.randperm(PER_CLASS, generator=generator) + digit * PER_CLASS
            for digit in range(CLASSES)
        ]
        return torch.stack(shuffled, dim=1).flatten()


def _read() -> tuple[Tensor, Tensor]:
    """`(2000, 649)` float64 features and `(2000,)` labels, sorted by class."""
    file = resources.files("cibench_plugins.datasets") / "data" / _FILE
    try:
        with np.load(io.BytesIO(file.read_bytes()), allow_pickle=False) as arrays:
            views = [arrays[view].astype(np.float64) for view in VIEWS]
            labels = arrays["labels"].astype(np.int64)
    except _UNREADABLE as error:
        raise DataError(
            f"{_FILE}: expected the file shipped with cibench, got"
            f" {type(error).__name__}: {error}; install cibench again"
        ) from error
    return torch.from_numpy(np.hstack(views)), torch.from_numpy(labels)


@hookimpl
def cibench_datasets() -> list[type[AbstractDataset]]:
    """Provide the data set."""
    return [Mfeat]

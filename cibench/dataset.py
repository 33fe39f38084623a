"""The data set interface: raw blocks of every agent, labels, splits and their origin."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar, final

import torch
from torch import Tensor

from ._errors import DataError
from .download import Download
from .layout import AgentLayout
from .observation import Observation


@dataclass(frozen=True, eq=False)
class Split:
    """Raw features and labels of some samples.

    Args:
        features: `(n, width)` float32; NaN where an agent recorded no value.
        labels: `(n,)` int64 classes from 0.
    """

    features: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def observation(self, layout: AgentLayout) -> Observation:
        """Raw blocks; an agent none of whose columns has a value is missing."""
        recorded = ~torch.isnan(self.features)
        observed = torch.stack([recorded[:, s].any(dim=1) for s in layout.slices], 1)
        return Observation(self.features, observed, layout)


@dataclass(frozen=True, eq=False, kw_only=True)
class AgentDataset:
    """A data set divided among agents, ready to be embedded.

    Args:
        name: canonical spec of the data set, options included.
        layout: the agents' raw blocks.
        train, validation, test: disjoint splits, already standardized.
        class_names: one name per class.
        recipe: name of the recommended embedding recipe (`cibench.embedding.RECIPES`).
        citation, licence: where the data come from and on what terms.
        time_series: whether neighbouring samples are correlated in time.
        personal: whether the data are of persons, so that embeddings are not published.
        test_statistics: whether features were standardized with test-split statistics.
        notes: facts a reader of a result should know, one line each.

    Raises:
        DataError: shapes disagree, a feature is infinite, a split is empty, or the
            training split lacks a class.
    """

    name: str
    layout: AgentLayout
    train: Split
    validation: Split
    test: Split
    class_names: tuple[str, ...]
    recipe: str
    citation: str
    licence: str
    time_series: bool = False
    personal: bool = False
    test_statistics: bool = False
    notes: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        for part in ("train", "validation", "test"):
            self._check(part, getattr(self, part))
        present = torch.bincount(self.train.labels, minlength=len(self.class_names))
        if len(self.class_names) < 2 or (present == 0).any():
            counts = dict(zip(self.class_names, present.tolist(), strict=False))
            raise DataError(
                f"data set {self.name}: expected samples of at least two classes, and of"
                f" each, in the training split, got {counts}; choose another label"
            )

    def _check(self, part: str, split: Split) -> None:
        n = len(split.labels)
        if n == 0 or split.features.shape != (n, self.layout.width):
            raise DataError(
                f"data set {self.name}, {part} split: expected at least one sample and"
                f" features of shape ({n}, {self.layout.width}), got {n} labels and"
                f" features of shape {tuple(split.features.shape)}"
            )
        if torch.isinf(split.features).any():
            row, column = torch.isinf(split.features).nonzero()[0].tolist()
            raise DataError(
                f"data set {self.name}, {part} split: expected finite features (NaN for"
                f" a missing value), got an infinite one in row {row} of agent"
                f" {self.layout.names[int(self.layout.owner[column])]}"
            )
        low, high = int(split.labels.min()), int(split.labels.max())
        if low < 0 or high >= len(self.class_names):
            raise DataError(
                f"data set {self.name}, {part} split: expected labels from 0 to"
                f" {len(self.class_names) - 1}, got {low} to {high}"
            )

    @cached_property
    def fingerprint(self) -> str:
        """Hash of every value, label and split: the identity of the data in cache keys."""
        digest = hashlib.sha256(repr((self.layout, self.class_names)).encode())
        for split in (self.train, self.validation, self.test):
            digest.update(split.features.contiguous().numpy().tobytes())
            digest.update(split.labels.contiguous().numpy().tobytes())
        return digest.hexdigest()


class AbstractDataset(ABC):
    """Base of data set plugins: a frozen dataclass whose fields are the options.

    Authors set `name` and write `load`.
    """

    name: ClassVar[str]
    citation: ClassVar[str] = ""
    bibtex: ClassVar[str] = ""
    """BibTeX entries of what it is from; without any, one is made of `citation`."""
    known_failures: ClassVar[Mapping[str, str]] = MappingProxyType({})
    """Checks of `cibench.conformance` that it does not pass, each with the reason."""
    files_needed: ClassVar[str] = ""
    """Which files the user must have, if the data set is not shipped or generated."""
    downloads: ClassVar[tuple[Download, ...]] = ()
    """Where `cibench data fetch` gets them."""

    @abstractmethod
    def load(self, *, data_dir: Path | None = None) -> AgentDataset:
        """Read the data set; touch no network.

        Args:
            data_dir: folder of the user's own data files (`--data-dir`, `CIBENCH_DATA`).

        Raises:
            DataError: a file is absent, damaged or not in the documented format.
        """

    def present(self, *, data_dir: Path | None = None) -> bool:
        """Whether the files are there; a look at names, no file is read."""
        return not self.files_needed


@final
@dataclass(frozen=True, eq=False)
class Standardizer:
    """Column means and deviations, from samples that may hold NaN.

    A constant column keeps its scale (deviations that rounding alone explains count as
    none); a column without any value maps to NaN.
    """

    mean: Tensor
    deviation: Tensor

    @classmethod
    def fit(cls, features: Tensor) -> Standardizer:
        """Estimate from `(n, width)` features, ignoring NaN."""
        wide = features.double()
        mean = wide.nanmean(dim=0)
        deviation = (wide - mean).square().nanmean(dim=0).sqrt()
        # The rounding error of a mean of n equal values is at most n machine epsilons.
        rounding = 10 * len(wide) * torch.finfo(wide.dtype).eps * mean.abs()
        return cls(mean, torch.where(deviation > rounding, deviation, 1.0))

    def __call__(self, features: Tensor) -> Tensor:
        """Standardized `(n, width)` float32 features; NaN stays NaN."""
        return ((features.double() - self.mean) / self.deviation).float()

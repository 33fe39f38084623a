"""Already embedded blocks of your own (.npz or .safetensors) with labels."""

from __future__ import annotations

import re
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar, Literal, final

import numpy as np
import torch
from msgspec import Meta
from torch import Tensor

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
from cibench.spec import canonical

from ._splits import PARTS, stratified
from ._table_mapping import located

_PREFIX = "features/"
_EXPECTED = (
    "labels, and features/<agent> for each agent or features with widths, and optionally"
    " split"
)


@final
@dataclass(frozen=True, kw_only=True)
class Features(AbstractDataset):
    """Embedded blocks from extractors that are not shared; the blocks are passed on.

    The file holds `labels` `(n,)` of whole numbers and either `features/<agent>`
    `(n, width)` for each agent (agents in the order of their names, numbers by value) or
    `features` `(n, total)` with `widths` `(agents,)`. A row of NaN is a missing agent.
    `split` `(n,)` says 0 train, 1 validation, 2 test; without it the split is stratified
    by class and seeded: 64 % train, 16 % validate, 20 % test.

    Args:
        path: the `.npz` or `.safetensors` file.
        title: what records and tables call the data, to tell two files apart.
        standardize: `none` takes the blocks as they are; `train` scales columns with the
            training rows' statistics.
        split_seed: seed of the stratified split.
    """

    name: ClassVar[str] = "features"
    citation: ClassVar[str] = "the user's own data"
    files_needed: ClassVar[str] = "a file of embedded blocks: features:path=..."

    path: str | None = field(default=None, metadata=LOCATION)
    title: Annotated[str, Meta(min_length=1, max_length=60)] | None = None
    standardize: Literal["none", "train"] = "none"
    split_seed: Annotated[int, Meta(ge=0, le=999_999)] = 0

    def load(self, *, data_dir: Path | None = None) -> AgentDataset:
        """Read the file; `data_dir` is not used.

        Raises:
            DataError: the file cannot be read, or its arrays disagree.
        """
        file = located(self.path, "path", "features")
        arrays = _read(file)
        layout, features = _blocks(arrays, file.name)
        labels, class_names = _classes(arrays, len(features), file.name)
        if "split" in arrays:
            rows = _given(arrays["split"], len(features), file.name)
        else:
            rows = stratified(labels, class_names, self.split_seed, file.name)
        if self.standardize == "train":
            features = Standardizer.fit(features[rows["train"]])(features)
        splits = {part: Split(features[r], labels[r]) for part, r in rows.items()}
        split = "the file" if "split" in arrays else "class"
        scaled = " with training statistics" if self.standardize == "train" else ""
        return AgentDataset(
            name=canonical(self),
            layout=layout,
            train=splits["train"],
            validation=splits["validation"],
            test=splits["test"],
            class_names=class_names,
            recipe="identity",
            citation=self.citation,
            licence="the user's own",
            notes=(
                f"split by {split}; blocks {'scaled' if scaled else 'as given'}{scaled}",
            ),
        )

    def present(self, *, data_dir: Path | None = None) -> bool:
        """Whether the file is there."""
        try:
            return bool(located(self.path, "", ""))
        except DataError:
            return False


def _read(file: Path) -> dict[str, Tensor]:
    """Every array of the file."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if file.suffix == ".safetensors":
            return dict(load_file(file))
        if file.suffix == ".npz":
            with file.open("rb") as opened, np.load(opened, allow_pickle=False) as kept:
                return {name: torch.from_numpy(kept[name]) for name in kept.files}
    except (
        OSError,
        ValueError,
        TypeError,
        EOFError,
        zipfile.BadZipFile,
        zlib.error,
        SafetensorError,
    ) as error:
        raise DataError(
            f"{file.name}: expected a whole {file.suffix} file of numbers, got:"
            f" {str(error).partition(chr(10))[0] or type(error).__name__}"
        ) from error
    raise DataError(
        f"{file.name}: expected a file that ends in .npz or .safetensors, got"
        f" {file.suffix or 'no ending'}"
    )


def _by_number(name: str) -> list[tuple[int, str]]:
    """Sort key: `agent2` before `agent10`."""
    parts = re.split(r"(\d+)", name)
    return [(int(p), "") if p.isdecimal() else (-1, p) for p in parts]


def _blocks(arrays: dict[str, Tensor], file: str) -> tuple[AgentLayout, Tensor]:
    """The agents and their `(n, width)` blocks side by side, float32."""
    keys = sorted((k for k in arrays if k.startswith(_PREFIX)), key=_by_number)
    known = {*keys, "labels", "split", "features", "widths"}
    odd = [key for key in arrays if key not in known]
    both = bool(keys) and ("features" in arrays or "widths" in arrays)
    neither = not keys and not {"features", "widths"} <= set(arrays)
    if "labels" not in arrays or odd or both or neither:
        raise DataError(
            f"{file}: expected {_EXPECTED}, got {', '.join(arrays) or 'nothing'}"
        )
    for key in keys or ["features"]:
        shape = tuple(arrays[key].shape)
        if len(shape) != 2 or shape[0] == 0 or shape[1] == 0:
            raise DataError(f"{file}: expected {key} of shape (n, width), got {shape}")
        if arrays[key].is_complex():
            raise DataError(f"{file}: expected real numbers in {key}, got complex ones")
        if not keys:
            continue
        if shape[0] != len(arrays[keys[0]]):
            raise DataError(
                f"{file}: expected as many rows in {key} as in {keys[0]},"
                f" {len(arrays[keys[0]])}, got {shape[0]}"
            )
    if keys:
        names = tuple(key.removeprefix(_PREFIX) for key in keys)
        wide = torch.cat([arrays[key].float() for key in keys], dim=1)
        layout = AgentLayout(names, tuple(arrays[key].shape[1] for key in keys))
    else:
        wide, widths = arrays["features"].float(), arrays["widths"].flatten().tolist()
        if sum(widths) != wide.shape[1] or not all(w == int(w) >= 1 for w in widths):
            raise DataError(
                f"{file}: expected widths, whole numbers >= 1, that sum to the"
                f" {wide.shape[1]} columns of features, got {widths}"
            )
        names = tuple(f"agent{i + 1}" for i in range(len(widths)))
        layout = AgentLayout(names, tuple(int(w) for w in widths))
    return layout, wide


def _classes(
    arrays: dict[str, Tensor], n: int, file: str
) -> tuple[Tensor, tuple[str, ...]]:
    """`(n,)` classes from 0, and the values they stand for."""
    labels = _whole(arrays["labels"], "labels", n, file)
    values, classes = torch.unique(labels, return_inverse=True)
    return classes, tuple(str(value) for value in values.tolist())


def _given(split: Tensor, n: int, file: str) -> dict[str, Tensor]:
    """Rows of each split as the file says."""
    split = _whole(split, "split", n, file)
    strange = split[(split < 0) | (split >= len(PARTS))]
    if len(strange):
        raise DataError(
            f"{file}: expected split of 0 (train), 1 (validation) or 2 (test), got"
            f" {int(strange[0])}"
        )
    return {part: (split == i).nonzero()[:, 0] for i, part in enumerate(PARTS)}


def _whole(values: Tensor, what: str, n: int, file: str) -> Tensor:
    """`(n,)` int64."""
    if values.shape != (n,):
        raise DataError(
            f"{file}: expected {what} of shape ({n},), one for each row of the blocks,"
            f" got {tuple(values.shape)}"
        )
    if values.is_complex() or not torch.equal(values.double(), values.long().double()):
        raise DataError(f"{file}: expected whole numbers in {what}, got others")
    return values.long()


@hookimpl
def cibench_datasets() -> list[type[AbstractDataset]]:
    """Provide the data set."""
    return [Features]

"""A table of your own (CSV or Parquet) and a mapping of its columns to agents."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, final

import numpy as np
import pandas as pd
import torch
from msgspec import Meta
from numpy.typing import NDArray

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

from ._splits import PARTS, chronological, stratified
from ._table_mapping import (
    categorical_of,
    columns_of,
    located,
    numbers,
    read_mapping,
    read_table,
)

_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?")
#: A whole number written with a point.
_WHOLE = re.compile(r"([+-]?\d+)\.0*")


@final
@dataclass(frozen=True, kw_only=True)
class Table(AbstractDataset):
    """Columns of one table, divided among agents by a TOML mapping.

    An empty cell is a value that was not recorded; an agent all of whose cells are empty
    in a row is missing for it. Columns are standardized, and categories listed, with the
    training rows alone. Without a `split` column in the mapping the split is stratified
    by class and seeded, or by time: 64 % train, 16 % validate, 20 % test.

    Args:
        path: the `.csv` or `.parquet` file.
        mapping: the TOML file; `docs/data.md` has its keys.
        title: what records and tables call the data, to tell two tables apart.
        time_series: neighbouring rows are correlated: split by time (by the mapping's
            `order` column, or as in the file) and say so in the record.
        split_seed: seed of the stratified split.
    """

    name: ClassVar[str] = "table"
    citation: ClassVar[str] = "the user's own data"
    files_needed: ClassVar[str] = "a table and a mapping: table:path=...,mapping=..."

    path: str | None = field(default=None, metadata=LOCATION)
    mapping: str | None = field(default=None, metadata=LOCATION)
    title: Annotated[str, Meta(min_length=1, max_length=60)] | None = None
    time_series: bool = False
    split_seed: Annotated[int, Meta(ge=0, le=999_999)] = 0

    def load(self, *, data_dir: Path | None = None) -> AgentDataset:
        """Read the files; `data_dir` is not used.

        Raises:
            DataError: a file cannot be read, the mapping does not fit the table, or a
                class or split has too few rows.
        """
        file = located(self.path, "path", "table")
        mapping_file = located(self.mapping, "mapping", "table")
        mapping = read_mapping(mapping_file)
        if mapping.order is not None and not self.time_series:
            raise DataError(
                f"{mapping_file.name}: expected time_series=true with an order column,"
                f" got false: the split would not follow {mapping.order!r}"
            )
        table = read_table(file)
        agents = columns_of(mapping, list(table.columns), file.name)
        categorical = categorical_of(mapping, list(table.columns), file.name)
        labelled = table[mapping.label].notna()
        unlabelled = int((~labelled).sum())
        if not labelled.any():
            raise DataError(
                f"{file.name}, column {mapping.label}: expected a label in some rows, got"
                f" none in {len(table)}"
            )
        table = table[labelled]
        if mapping.order is not None:
            times = _times(table[mapping.order], file.name)
            table = table.iloc[np.argsort(times, kind="stable")]
        labels, class_names = _classes(table[mapping.label])

        if mapping.split is not None:
            rows = _given(table[mapping.split], file.name)
        elif self.time_series:
            if len(table) < len(PARTS):
                raise DataError(
                    f"{file.name}: expected at least {len(PARTS)} labelled rows, got"
                    f" {len(table)}"
                )
            rows = chronological(torch.arange(len(table)))
        else:
            rows = stratified(labels, class_names, self.split_seed, file.name)

        train = rows["train"].numpy()
        blocks = [
            np.column_stack(
                [
                    _one_hot(table[c], train, file.name)
                    if c in categorical
                    else numbers(table[c], file.name)
                    for c in columns
                ]
            )
            for columns in agents.values()
        ]
        features = torch.from_numpy(np.hstack(blocks))
        scale = Standardizer.fit(features[rows["train"]])
        splits = {p: Split(scale(features[r]), labels[r]) for p, r in rows.items()}
        split = "mapping" if mapping.split else "time" if self.time_series else "class"
        notes = [f"split by {split}; columns standardized with training statistics"]
        if unlabelled:
            notes.append(f"{unlabelled} rows without a label were left out")
        return AgentDataset(
            name=canonical(self),
            layout=AgentLayout(tuple(agents), tuple(b.shape[1] for b in blocks)),
            train=splits["train"],
            validation=splits["validation"],
            test=splits["test"],
            class_names=class_names,
            recipe="mlp-32",
            citation=mapping.citation,
            licence=mapping.licence,
            time_series=self.time_series,
            notes=tuple(notes),
        )

    def present(self, *, data_dir: Path | None = None) -> bool:
        """Whether both files are there."""
        try:
            return all(located(text, "", "") for text in (self.path, self.mapping))
        except DataError:
            return False


def _text(value: Any) -> str:
    """A label or category as text: 1 and 1.0 are the same, space around it is none."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    text = str(value).strip()
    whole = _WHOLE.fullmatch(text)
    return whole[1] if whole else text


def _classes(series: pd.Series[Any]) -> tuple[torch.Tensor, tuple[str, ...]]:
    """`(rows,)` classes, and their names: in the order of numbers, or of text."""
    texts = [_text(value) for value in series.tolist()]
    names = sorted(set(texts))
    if all(_NUMBER.fullmatch(name) for name in names):
        names.sort(key=float)
    place = {name: i for i, name in enumerate(names)}
    labels = torch.tensor([place[text] for text in texts], dtype=torch.int64)
    return labels, tuple(names)


def _given(series: pd.Series[Any], file: str) -> dict[str, torch.Tensor]:
    """Rows of each split as the table's own column says."""
    texts = np.array([str(value) for value in series.tolist()], dtype=object)
    strange = ~np.isin(texts, PARTS)
    if strange.any():
        row = int(np.flatnonzero(strange)[0])
        raise DataError(
            f"{file}, column {series.name}: expected {', '.join(PARTS)}, got"
            f" {texts[row][:40]!r} in row {series.index[row] + 1}"
        )
    return {p: torch.from_numpy(np.flatnonzero(texts == p)) for p in PARTS}


def _times(series: pd.Series[Any], file: str) -> NDArray[np.float64]:
    """`(rows,)` numbers that sort as times, numbers or ISO dates do."""
    found: Any = series if series.dtype.kind == "M" else pd.to_numeric(
        series, errors="coerce"
    )  # fmt: skip
    if found.isna().any() or series.dtype.kind == "M":
        stamps = pd.to_datetime(series, errors="coerce", utc=True, format="ISO8601")
        found = (stamps - pd.Timestamp(0, tz="UTC")) / pd.Timedelta(seconds=1)
    times: NDArray[np.float64] = found.to_numpy(dtype=np.float64, na_value=np.nan)
    if np.isnan(times).any():
        row = int(np.flatnonzero(np.isnan(times))[0])
        raise DataError(
            f"{file}, column {series.name}: expected a number or an ISO 8601 date in"
            f" every labelled row, got {str(series.iloc[row])[:40]!r} in row"
            f" {series.index[row] + 1}"
        )
    return times


def _one_hot(
    series: pd.Series[Any], train: NDArray[np.int64], file: str
) -> NDArray[np.float64]:
    """`(rows, categories)`: 1 for a row's category, NaN where none is given.

    A category no training row has is 0 everywhere.
    """
    absent = series.isna().to_numpy()
    texts = np.array([_text(value) for value in series.tolist()], dtype=object)
    categories = sorted(set(texts[train][~absent[train]]))
    if not categories:
        raise DataError(
            f"{file}, column {series.name}: expected a category in some training row,"
            " got none; leave the column out"
        )
    hot = np.stack([texts == category for category in categories], axis=1)
    return np.where(absent[:, None], np.nan, hot.astype(np.float64))


@hookimpl
def cibench_datasets() -> list[type[AbstractDataset]]:
    """Provide the data set."""
    return [Table]

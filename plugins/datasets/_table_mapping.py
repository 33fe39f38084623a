"""The mapping of a table's columns to agents, and the table itself."""

from __future__ import annotations

import csv
import os
import re
import tomllib
from collections import Counter
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cibench import DataError
from cibench.spec import did_you_mean

_GLOB = re.compile(r"[*?\[]")
#: Cells of a CSV file that hold no value.
_EMPTY = ("", "nan", "NaN")
_Text = Annotated[str, msgspec.Meta(min_length=1)]


class Mapping(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which column is the label and which columns each agent has.

    Args:
        label: column of the class; rows without a value are left out.
        agents: for each agent its columns, by name or glob such as `lab_*`.
        split: column that says `train`, `validation` or `test`.
        order: column by which rows are put in order for `time_series`.
        categorical: columns (or globs) that become one column per training category.
        citation, licence: where the data come from and on what terms.
    """

    label: _Text
    agents: Annotated[
        dict[str, Annotated[list[_Text], msgspec.Meta(min_length=1)]],
        msgspec.Meta(min_length=1),
    ]
    split: _Text | None = None
    order: _Text | None = None
    categorical: list[_Text] = []
    citation: str = ""
    licence: str = "the user's own"


def read_mapping(path: Path) -> Mapping:
    """Read and check a mapping file.

    Raises:
        DataError: it cannot be read, or a key is absent, unknown or of a wrong type.
    """
    try:
        return msgspec.convert(tomllib.loads(path.read_text("utf-8")), Mapping)
    except msgspec.ValidationError as error:
        raise DataError(
            f"{path.name}: expected label, [agents] with a list of columns for each, and"
            " optionally split, order, categorical, citation, licence; got: "
            f"{error}"
        ) from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"{path.name}: expected a TOML file, got: {reason}") from error


def read_table(path: Path) -> pd.DataFrame:
    """Read a CSV file as text, or a Parquet file as typed; NaN where there is no value.

    Raises:
        DataError: it cannot be read, has no rows, or names a column twice.
    """
    try:
        if path.suffix == ".parquet":
            table = pd.read_parquet(path)
            names = [str(name) for name in table.columns]
        elif path.suffix == ".csv":
            names = _header(path)
            table = pd.read_csv(
                path,
                dtype=object,
                keep_default_na=False,
                na_values=list(_EMPTY),
                index_col=False,
                encoding="utf-8-sig",
            )
        else:
            raise DataError(
                f"{path.name}: expected a file that ends in .csv or .parquet, got"
                f" {path.suffix or 'no ending'}"
            )
    except ImportError as error:
        raise DataError(
            f"{path.name}: expected the package pyarrow for Parquet files, got none"
            ' installed; pip install "cibench[parquet]"'
        ) from error
    except (OSError, ValueError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise DataError(
            f"{path.name}: expected a readable table with a header, got:"
            f" {reason or str(error).strip() or type(error).__name__}"
        ) from error
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise DataError(
            f"{path.name}: expected each column once, got {twice[0]!r} twice"
        )
    if table.empty:
        raise DataError(f"{path.name}: expected at least one row, got none")
    table.columns = pd.Index(names)
    return table.reset_index(drop=True)  # rows keep their number in the file


def _header(path: Path) -> list[str]:
    """Names of the columns of a CSV file, every row of which has as many cells.

    pandas fills short rows up and cuts long ones off.

    Raises:
        DataError: a row has more or fewer cells than the header.
    """
    names: list[str] = []
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.reader(file)
        for row in rows:
            names = names or row
            if row and len(row) != len(names):
                raise DataError(
                    f"{path.name}, line {rows.line_num}: expected {len(names)} cells, as"
                    f" many as the header has, got {len(row)}"
                )
    return names


def columns_of(mapping: Mapping, columns: list[str], file: str) -> dict[str, list[str]]:
    """The columns of each agent, globs resolved in the order of the file.

    Raises:
        DataError: a column is absent, has two agents or is no feature, or an agent is
            left without columns.
    """
    special = {mapping.label, mapping.split, mapping.order} - {None}
    for name in special:
        _known(str(name), columns, file)
    owner: dict[str, str] = {}
    found: dict[str, list[str]] = {}
    for agent, patterns in mapping.agents.items():
        chosen: list[str] = []
        for pattern in patterns:
            # Never the label by a glob: that would hand the answer to an agent.
            chosen += [c for c in _matching(pattern, columns, file) if c not in special]
            if pattern in special:
                raise DataError(
                    f"{file}: expected features for agent {agent}, got {pattern!r}, which"
                    " is the mapping's label, split or order column"
                )
        chosen = list(dict.fromkeys(chosen))
        for column in chosen:
            if owner.setdefault(column, agent) != agent:
                raise DataError(
                    f"{file}: expected one agent for column {column!r}, got"
                    f" {owner[column]} and {agent}"
                )
        if not chosen:
            raise DataError(
                f"{file}: expected columns for agent {agent}, got none that match"
                f" {', '.join(patterns)}"
            )
        found[agent] = chosen
    return found


def categorical_of(mapping: Mapping, columns: list[str], file: str) -> set[str]:
    """The categorical columns.

    Raises:
        DataError: one is absent, or a glob matches none.
    """
    found: set[str] = set()
    for pattern in mapping.categorical:
        matching = _matching(pattern, columns, file)
        if not matching:
            raise DataError(
                f"{file}: expected categorical columns that match {pattern}, got none"
            )
        found.update(matching)
    return found


def _matching(pattern: str, columns: list[str], file: str) -> list[str]:
    if pattern in columns or not _GLOB.search(pattern):
        _known(pattern, columns, file)
        return [pattern]
    return [column for column in columns if fnmatchcase(column, pattern)]


def _known(name: str, columns: list[str], file: str) -> None:
    if name not in columns:
        raise DataError(
            f"{file}: expected column {name!r}, which the mapping names, got none of that"
            f" name{did_you_mean(name, columns)} among {len(columns)}"
        )


def numbers(series: pd.Series[Any], file: str) -> NDArray[np.float64]:
    """`(rows,)` values of a column; NaN where there is none.

    Raises:
        DataError: a value is not a finite number.
    """
    absent = series.isna().to_numpy()
    if series.dtype.kind in "biuf":
        values = series.to_numpy(dtype=np.float64, na_value=np.nan)
    elif series.dtype.kind in "mM":  # pandas would take nanoseconds for numbers
        values = np.full(len(series), np.nan)
    else:
        values = pd.to_numeric(series, errors="coerce").to_numpy(
            dtype=np.float64, na_value=np.nan
        )
    bad = ~absent & ~(np.abs(values) <= float(np.finfo(np.float32).max))
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise DataError(
            f"{file}, row {series.index[row] + 1}, column {series.name}: expected a finite"
            f" number or nothing, got {str(series.iloc[row])[:40]!r}; list the column under"
            " categorical if it holds categories"
        )
    return values


def located(text: str | None, option: str, dataset: str) -> Path:
    """The file an option names.

    Raises:
        DataError: the option was not given, or there is no such file.
    """
    if text is None:
        raise DataError(
            f"{dataset}: expected the option {option}=FILE, got none; see docs/data.md"
        )
    path = Path(os.path.expanduser(text))
    if not path.is_file():
        raise DataError(f"{dataset}: expected {option} to be a file, got {path}")
    return path

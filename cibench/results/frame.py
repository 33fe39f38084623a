"""A run's records as a data frame."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from .._errors import OutputError
from ..statistics import deviation, mean
from .folder import RunFolder
from .record import CellRecord
from .rows import Row, rows
from .table import attack_spec, distinctions, groups, tables

#: Rows up to which a notebook shows the tables that the command line prints.
SHOWN = 200


class Results(pd.DataFrame):
    """What `cibench.run` returns: a data frame, shown in notebooks as tables.

    Selecting, grouping and sorting give ordinary frames.

    Attributes:
        attrs: `folder`, the run's folder, and `cells`, the names of its records.
    """

    @property
    def _constructor(self) -> type[pd.DataFrame]:
        return pd.DataFrame

    @property
    def folder(self) -> Path:
        """Where the records are."""
        return Path(self.attrs["folder"])

    @property
    def records(self) -> list[CellRecord]:
        """The record of every cell, with the outcome of every sample."""
        folder = RunFolder(self.folder)
        return [folder.read_one(name) for name in self.attrs["cells"]]

    def _repr_html_(self) -> str:
        """The tables of the command line; names and notes escaped.

        A plain frame where there are many rows, or records that are there no more.
        """
        try:
            found = tables(self.records) if len(self) <= SHOWN else []
        except OutputError:
            found = []
        if not found:
            return str(self.to_html(max_rows=60))
        from tabulate import tabulate

        parts = []
        for table in found:
            body = tabulate(
                [list(row) for row in table.rows],
                headers=list(table.columns),
                tablefmt="html",
                disable_numparse=True,
            )
            notes = "".join(f"<li>{escape(note)}</li>" for note in table.notes)
            parts.append(f"<h4>{escape(table.title)}</h4>{body}<ul>{notes}</ul>")
        return f"<div>{''.join(parts)}</div>"


def results(folder: RunFolder, cells: list[str]) -> Results:
    """A row for each data set, attack and defense of the cells, as `cibench.run` says."""
    records = [folder.read_one(name) for name in cells]
    found = groups(records)
    frame = Results(
        [
            _line(group, row, apart)
            for group, apart in zip(found, distinctions(found), strict=True)
            for row in rows(group)
        ]
    )
    frame.attrs = {"folder": str(folder.path.resolve()), "cells": cells}
    return frame


def _line(group: Sequence[CellRecord], row: Row, apart: str) -> dict[str, Any]:
    first, bad = group[0], row.bad
    line: dict[str, Any] = {
        "dataset": first.dataset.spec,
        "attack": attack_spec(first),
        "defense": row.defense,
        "variant": apart,
        "status": bad[0].status if bad else "ok",
        "seeds": len(row.records),
        "n": row.samples,
    }
    for name, of in (
        ("clean", "clean"),
        ("attacked", "attacked"),
        ("undefended", "attacked_undefended"),
        ("genie", "genie"),
    ):
        values = [] if bad else row.shares(of)
        line[name] = mean(values) if values else None
        line[f"{name}_std"] = deviation(values) if values else None
    line["low"], line["high"] = (None, None) if bad else row.interval
    line["majority"] = None if bad else row.majority
    line["recovery_error"] = None if bad else row.recovery_error
    line["ms_per_sample"] = None if bad else row.milliseconds
    line["flags"] = ", ".join(row.flags)
    line["reason"] = bad[0].reason if bad else ""
    return {name: float("nan") if v is None else v for name, v in line.items()}

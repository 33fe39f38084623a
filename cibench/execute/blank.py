"""Records of cells before, or instead of, their numbers; no torch."""

from __future__ import annotations

import datetime
import re

from .._version import PROTOCOL, VERSION
from ..grid import Cell
from ..results import AttackPart, CellRecord
from .task import DatasetFacts

TIME_SERIES = (
    "neighbouring samples are correlated in time: an interval that takes them as"
    " independent is too narrow"
)

#: Stands in where a data set could not be looked at.
UNKNOWN = DatasetFacts(
    name="",
    fingerprint="",
    agents=[],
    classes=[],
    notes=[],
    time_series=False,
    personal=False,
    test_statistics=False,
    samples=0,
    embedding={},
    attacks={},
    environment={"cibench": VERSION},
)


def cell_id(cell: Cell, key: str) -> str:
    """A readable id, unique within a run."""
    attacks = "+".join(part.entry.name for part in cell.attack)
    names = [cell.dataset.entry.name, attacks, cell.defense.entry.name]
    return "--".join([*names, str(cell.seed), key[:8]])


def blank_record(
    cell: Cell,
    key: str,
    facts: DatasetFacts,
    attack: list[AttackPart],
    device: str,
) -> CellRecord:
    """The record of a cell that has not been run."""
    return CellRecord(
        protocol=PROTOCOL,
        cell=cell_id(cell, key),
        key=key,
        status="ok",
        dataset=cell.dataset.component,
        fingerprint=facts.fingerprint,
        agents=facts.agents,
        classes=facts.classes,
        embedding=facts.embedding,
        attack=attack,
        defense=cell.defense.component,
        seed=cell.seed,
        notes=[*facts.notes, *([TIME_SERIES] if facts.time_series else [])],
        environment=facts.environment,
        device=device,
        time_series=facts.time_series,
        personal=facts.personal,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


def blank_parts(cell: Cell) -> list[AttackPart]:
    """What is known of an attack whose data set, or which itself, could not be loaded."""
    return [
        AttackPart(
            component=part.component,
            agents="",
            sets=[],
            knowledge="",
            target="",
            corrupts=False,
            budget=None,
            radius=None,
        )
        for part in cell.attack
    ]


def scrub(text: str) -> str:
    """One line of limited length; of an absolute path only the last part stays."""
    text = re.sub(
        r"(?<![\w.~:/\\])(?:[A-Za-z]:)?[/\\](?:[^\s/\\'\":]+[/\\])+", "", text
    )
    return " ".join(text.split())[:500]

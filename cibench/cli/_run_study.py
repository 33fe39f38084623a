"""What a study adds to a run: `study.json` in its folder, tables by scenario."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from .._errors import OutputError
from ..execute.blank import scrub
from ..execute.describing import Described, error_of, place_of
from ..results import RunFolder
from ..results.folder import write_atomically
from ..study import Study, StudyPart, StudyRun
from ._chosen import Chosen
from ._study_cells import Block, chosen

if TYPE_CHECKING:
    from ..grid import Cell
    from ..results import CellRecord
    from ..results.table import Table


def available(wanted: Chosen, described: Described) -> tuple[Chosen, dict[str, str]]:
    """A study without the data sets that cannot be had, and why.

    Raises:
        DataError: none can; other errors: one cannot for another reason than its files.
    """
    errors = {}
    for block in wanted.blocks:
        answer = described.faults.get(place_of(block.cells[0]))
        if answer is not None:
            error = error_of(answer)
            if answer.fault != "DataError":
                raise error
            errors[block.dataset] = error
    left = [block for block in wanted.blocks if block.dataset not in errors]
    if errors and not left:
        raise next(iter(errors.values()))
    gone = {id(c) for b in wanted.blocks if b.dataset in errors for c in b.cells}
    cells = [cell for cell in wanted.cells if id(cell) not in gone]
    return replace(wanted, cells=cells, blocks=left), {
        spec: str(error) for spec, error in errors.items()
    }


def write_study(
    wanted: Chosen,
    described: Described,
    unavailable: Mapping[str, str],
    protocols: Sequence[str],
    folder: RunFolder,
) -> None:
    """Write `study.json`; before the first cell, so that an interrupted run has it."""
    study = wanted.study
    assert study is not None
    run = _with_others(
        StudyRun(
            name=wanted.name,
            study=study,
            parts=[part for b in wanted.blocks for part in _parts(b, described)],
            unavailable={spec: scrub(reason) for spec, reason in unavailable.items()},
        ),
        folder.path / "study.json",
        {protocol.name for protocol in chosen(study, protocols)},
    )
    text = msgspec.json.format(msgspec.json.encode(run), indent=2)
    write_atomically(folder.path / "study.json", text)


def stored_study(folder: Path) -> Study | None:
    """The study of a run's folder, if it was one.

    Raises:
        OutputError: `study.json` cannot be read.
    """
    found = stored_run(folder)
    return None if found is None else found.study


def stored_run(folder: Path) -> StudyRun | None:
    """The study of a run's folder and what became of it, if it was one.

    Raises:
        OutputError: `study.json` cannot be read.
    """
    path = folder / "study.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=StudyRun)
    except FileNotFoundError:
        return None
    except (msgspec.ValidationError, msgspec.DecodeError, OSError) as error:
        raise OutputError(
            f"{path}: expected a study of this version, got {error}"
        ) from error


def study_tables(
    block: Block, found: Sequence[tuple[Cell, CellRecord]]
) -> Iterator[Table]:
    """The tables of a block, scenario by scenario."""
    from ..results.table import tables

    by_attack: dict[str, list[CellRecord]] = {}
    for cell, record in found:
        by_attack.setdefault(cell.attack_spec, []).append(record)
    for scenario, attack in block.scenarios:
        for table in tables(by_attack.get(attack, [])):
            titles = scenario.label, block.protocol.name, table.title
            yield replace(table, title=" · ".join(titles))


def _parts(block: Block, described: Described) -> list[StudyPart]:
    facts = described.facts[place_of(block.cells[0])]
    return [
        StudyPart(
            protocol=block.protocol.name,
            dataset=block.dataset,
            dataset_name=block.cells[0].dataset.entry.name,
            embedding=facts.embedding,
            scenario=scenario.label,
            attack=attack,
            x=scenario.x,
            defenses=block.defenses,
            seeds=sorted({cell.seed for cell in block.cells}),
        )
        for scenario, attack in block.scenarios
    ]


def same_study(one: Study, other: Study) -> bool:
    """Whether two studies have the same cells, numbers and claims, however they are run."""
    return msgspec.structs.replace(one, run=other.run) == other


def _with_others(run: StudyRun, path: Path, chosen: set[str]) -> StudyRun:
    """The run with the protocols that an earlier run of the study left in its folder."""
    try:
        earlier = msgspec.json.decode(path.read_bytes(), type=StudyRun)
    except (msgspec.ValidationError, msgspec.DecodeError, FileNotFoundError):
        return run  # nothing there, or of another version: it is written anew
    if not same_study(earlier.study, run.study):
        return run
    order = [protocol.name for protocol in run.study.protocols]
    others = [part for part in earlier.parts if part.protocol not in chosen]
    loaded = {part.dataset for part in run.parts}
    return msgspec.structs.replace(
        run,
        parts=sorted([*run.parts, *others], key=lambda p: order.index(p.protocol)),
        unavailable={
            spec: reason
            for spec, reason in {**earlier.unavailable, **run.unavailable}.items()
            if spec not in loaded
        },
    )

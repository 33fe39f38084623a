"""Which cells of a run have no record: what was asked for, less what is here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from .._errors import CibenchError

if TYPE_CHECKING:
    from ..results import CellRecord, RunFolder
    from ._manifest import Invocation

#: Cells up to which selections are expanded, when there are several.
_EXPANDED: Final = 200_000
#: Options that do not change which cells there are.
_HOW: Final = ("timeout", "memory", "isolation")

Place = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Missing:
    """Cells that were asked for and have no record.

    Args:
        cells: how many.
        last: of those, what the last command asked for, so that `--resume` runs them.
        unsure: why there may be more.
    """

    cells: int
    last: int
    unsure: str = ""


def missing(folder: RunFolder, records: Sequence[CellRecord]) -> Missing:
    """Count the cells without a record; none where the run says nothing of itself.

    One selection, however often it was taken up, is counted. Several are expanded, for
    they may share cells: their plugins are loaded then.

    Raises:
        OutputError: the run's manifest cannot be read.
    """
    from ._manifest import read_manifest

    if not (folder.path / "run.json").exists():
        return Missing(cells=0, last=0)
    asked: dict[str, Invocation] = {}
    for one in read_manifest(folder).invocations:
        kept = {k: v for k, v in sorted(one.options.items()) if k not in _HOW}
        asked.pop(repr(kept), None)  # so that the last command's comes last
        asked[repr(kept)] = one
    counted = max((one.cells for one in asked.values()), default=0)
    counted = max(0, counted - len({_place(record) for record in records}))
    if len(asked) < 2:
        return Missing(cells=counted, last=counted)
    if sum(one.cells for one in asked.values()) > _EXPANDED:
        return Missing(cells=counted, last=counted, unsure="they are too many to list")
    try:
        places = [_places(folder, one) for one in asked.values()]
    except CibenchError as error:
        return Missing(cells=counted, last=counted, unsure=str(error))
    here = {_place(record) for record in records}
    # A command that names no recipe takes the data set's own, whichever that is.
    here |= {(*place[:-1], "") for place in here}
    blank = {_place(record)[:4] for record in records if not record.inputs}
    gone = [
        {place for place in one if place not in here and place[:4] not in blank}
        for one in places
    ]
    return Missing(cells=len(set().union(*gone)), last=len(gone[-1]))


def _place(record: CellRecord) -> Place:
    """What tells a cell from others, whatever code and data its numbers come from."""
    from ..results.table import attack_spec

    return (
        *(record.dataset.spec, attack_spec(record), record.defense.spec),
        *(str(record.seed), record.inputs.get("samples", ""), record.device),
        record.inputs.get("threads", ""),
        repr(sorted(record.embedding.items())),
    )


def _places(folder: RunFolder, one: Invocation) -> set[Place]:
    """The cells of a command, without the data sets that its study had to leave out.

    Raises:
        CibenchError: it cannot be expanded here.
    """
    from ._chosen import choose, wanted
    from ._run_study import stored_run
    from .run import command

    context = command.make_context("run", [])
    paths = {p.name for p in command.params if isinstance(p.type, click.Path)}
    given = {
        name: tuple(value)
        if isinstance(value, list)
        else Path(value)
        if name in paths
        else value
        for name, value in one.options.items()
    }
    params: Mapping[str, Any] = {**context.params, **given}
    stored = stored_run(folder.path) if {"suite", "config"} & given.keys() else None
    asked = wanted(params, given.keys(), stored.study if stored else None)
    absent = stored.unavailable if stored else {}
    settings = (
        str(asked.samples or "all"),
        str(asked.params["device"]).partition(":")[0],
        str(asked.params["threads"]),
    )
    return {
        (
            *(cell.dataset.spec, cell.attack_spec, cell.defense.spec, str(cell.seed)),
            *(*settings, _recipe(cell.embedding)),
        )
        for cell in choose(asked).cells
        if cell.dataset.spec not in absent
    }


def _recipe(text: str | None) -> str:
    from ..embedding import recipe_of
    from ..spec import resolved

    return repr(sorted(resolved(recipe_of(text)).items())) if text else ""

"""`cibench cache explain`: why cells are found in the cache, or computed again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ._completing import cells
from ._options import computation, default_cache, selection, typed_names

if TYPE_CHECKING:
    from ..execute.explaining import Explained
    from ._prepared import Prepared

#: Cells that are told in words, and causes that are counted.
SHOWN = 50
CAUSES = 8


@click.command("explain", short_help="Say why cells are found, or computed again.")
@click.argument("run", required=False, type=click.Path(path_type=Path))
@click.argument("cell", required=False, shell_complete=cells)
@selection
@computation
@click.option(
    "--cache",
    "cache_folder",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="The cache.  [default: CIBENCH_CACHE, or the user's cache folder]",
)
@click.option("--long", is_flag=True, help=f"All cells, not only {SHOWN}.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def explain_command(
    ctx: click.Context, /, run: Path | None, cell: str | None, **params: Any
) -> None:
    """Say of each cell whether its record is in the cache, and if not, what differs.

    The cells are those of the run in folder RUN, of it CELL alone (any part of a cell's id
    that fits one cell only), or what options select as for `cibench run`. For a miss it
    also says which of the artifacts that the cell needs are stored.

    \b
    cibench cache explain runs/<time>
    cibench cache explain -d copur:tau=2 -a pgd
    """  # noqa: D301
    typed = typed_names(ctx) - {"run", "cell"}
    found: dict[str, Any] = dict(params)
    if run is not None:
        from ._manifest import check_alone, taken_up

        check_alone(ctx, typed, "RUN", "leave out one of them")
        found, typed = taken_up(ctx, run, params, typed)
    from ._chosen import wanted

    stored = found.pop("study", None)
    asked = wanted(found, typed, stored)
    cache = params["cache_folder"] or default_cache()
    explained = _explained(asked, cache, run, cell)
    if params["as_json"]:
        _print_json(explained, cache)
        return
    _print(explained, long=params["long"] or len(explained) == 1)


def _explained(
    asked: Any, cache: Path, run: Path | None, cell: str | None
) -> list[Explained]:
    from ..execute.explaining import explained
    from ..execute.limits import Limits, default_memory
    from ..results import RunFolder
    from ._options import new_run
    from ._prepared import prepared, settings_of
    from ._session import Execution

    execution = Execution(1, "serial", {}, Limits(memory=default_memory()), "process")
    folder = RunFolder(run or new_run())
    with prepared(asked, execution, settings_of(asked, cache)) as ready:
        if cell is not None:
            ready = _only(ready, folder, cell)
        engine = ready.engine(folder, cached=True)
        return list(explained(engine, cache))


def _only(ready: Prepared, folder: Any, text: str) -> Prepared:
    """The one cell that a text names, by its id now or the id of its record.

    Raises:
        UsageError: none, or several.
    """
    from .._errors import UsageError
    from ..execute.blank import cell_id
    from ..execute.describing import place_of
    from ..execute.known import slot
    from ..execute.recorded import slot_of
    from ._finding import find_cell

    engine = ready.engine(folder, cached=False)
    names = {cell_id(c, engine.keys(c).cell): c for c in engine.cells}
    matching = [name for name in names if name == text] or [
        name for name in names if text in name
    ]
    cells = [names[name] for name in matching]
    if len(cells) != 1:
        record = folder.read_one(find_cell(folder, text))
        attack = "+".join(part.component.spec for part in record.attack)
        place = slot_of(record.dataset.spec, attack, record.defense.spec, record.seed)
        facts = ready.described.facts
        cells = [
            c
            for c in engine.cells
            if slot(c) == place
            and (at := place_of(c)) in facts
            and facts[at].embedding == record.embedding
        ]
    if len(cells) != 1:
        raise UsageError(
            f"cell {text!r}: expected one of the cells that the last command ran into"
            f" {folder.path}, got {len(cells)}; select it by -d, -a and --dataset instead"
        )
    return replace(ready, chosen=replace(ready.chosen, cells=cells))


def _print(explained: Sequence[Explained], *, long: bool) -> None:
    click.echo(_summary(explained))
    # What is missing is what is asked about.
    ordered = sorted(explained, key=lambda one: one.state == "hit")
    for one in ordered if long else ordered[:SHOWN]:
        click.echo(f"{one.cell.title}: {' '.join(one.words().split())}")
    if not long and len(ordered) > SHOWN:
        click.echo(f"... and {len(ordered) - SHOWN} more (--long)")


def _summary(explained: Sequence[Explained]) -> str:
    states = Counter(one.state for one in explained)
    names = [name for name in ("hit", "miss") if states[name]]
    names += sorted(states.keys() - {"hit", "miss"})
    total = f"{len(explained)} cell{'' if len(explained) == 1 else 's'}"
    text = f"{total}: " + ", ".join(f"{states[name]} {name}" for name in names)
    causes = list(_causes(explained))
    return text + (f": {', '.join(causes)}" if causes else "")


def _causes(explained: Sequence[Explained]) -> Iterator[str]:
    counts = Counter(cause for one in explained for cause in one.causes)
    for cause, n in counts.most_common(CAUSES):
        yield f"{cause} ({n})"
    if len(counts) > CAUSES:
        yield f"{len(counts) - CAUSES} more"


def _print_json(explained: Sequence[Explained], cache: Path) -> None:
    import msgspec

    states = Counter(one.state for one in explained)
    content = {
        "cache": str(cache),
        "cells": len(explained),
        "hit": states["hit"],
        "miss": states["miss"],
        "causes": dict(
            Counter(cause for one in explained for cause in one.causes).most_common()
        ),
        "list": [_cell_json(one) for one in explained],
    }
    click.echo(msgspec.json.encode(content))


def _cell_json(one: Explained) -> dict[str, Any]:
    why = one.why
    nearest = why.nearest if why is not None else None
    return {
        "cell": one.id,
        "dataset": one.cell.dataset.spec,
        "attack": one.cell.attack_spec,
        "defense": one.cell.defense.spec,
        "seed": one.cell.seed,
        "state": one.state,
        "words": one.words(),
        "nearest": None if nearest is None else nearest.cell,
        "nearest_is_own": one.own and nearest is not None,
        "differs": [
            {"input": name, "stored": stored, "now": now}
            for name, stored, now in (why.differs if why is not None else [])
        ],
        "in_folder": one.in_folder,
        "artifacts": {
            kind: "stored" if there else "missing"
            for kind, there in one.artifacts.items()
        },
    }

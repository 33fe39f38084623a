"""What `plan` does: prepare as a run would, then tell in words or JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from ..execute.history import Basis, Estimate, History
from ..execute.limits import machine_memory, readable_size
from ..execute.planning import Plan, PlannedCell, PlannedWork, State, plan
from ..results import RunFolder
from ._chosen import Wanted
from ._options import default_cache, new_run
from ._prepared import prepared, settings_of
from ._session import Execution

if TYPE_CHECKING:
    from ..execute.task import Kind

#: Reasons that are told in words, and lines that are written at once.
_REASONS: Final = 20
_AT_ONCE: Final = 1000
_STATES: Final[dict[State, str]] = {
    "cached": "cached",
    "in folder": "in the folder",
    "run": "to run",
    "skipped": "skipped",
    "failed": "that cannot be run",
}
_KINDS: Final[dict[Kind, tuple[str, str]]] = {
    "embed": ("embedding", "embeddings"),
    "refer": ("reference", "references"),
    "fit": ("fit", "fits"),
    "evaluate": ("cell", "cells"),
}
_BASES: Final[dict[Basis, str]] = {
    "options": "the same plugins with other options or settings",
    "datasets": "the same plugins on other data sets",
    "defense": "the same defense",
    "attack": "the same attack",
    "dataset": "the same data set",
    "any": "all that were ever run",
}


def plan_wanted(asked: Wanted) -> None:
    """Print the plan of what was asked for."""
    params = asked.params
    execution = Execution.of(params)
    cached = not params["no_cache"]
    folder = RunFolder(Path(params["out"] or new_run()))
    settings = settings_of(asked, default_cache() if cached else None)
    with prepared(asked, execution, settings, rerun=params["rerun"]) as found:
        engine = found.engine(folder, cached=cached, rerun=params["rerun"])
        history = History.read(default_cache(), settings)
        planned = plan(engine, history, found.session.backend.workers)
    local = execution.backend in ("serial", "loky")
    if params["as_json"]:
        _print_json(planned, found.unavailable, params)
        return
    lines = _lines(planned, execution, local=local)
    for line in [next(lines)] if params["quiet"] else lines:
        click.echo(line)
    if params["long"]:
        for at in range(0, len(planned.cells), _AT_ONCE):
            some = planned.cells[at : at + _AT_ONCE]
            click.echo("\n".join(map(_cell_line, some)))


def _lines(planned: Plan, execution: Execution, *, local: bool) -> Iterator[str]:
    counts = planned.counts
    parts = [f"{n} {_STATES[state]}" for state, n in counts.items() if n]
    if counts["run"]:
        seconds = planned.seconds
        parts.append("time unknown" if seconds is None else f"about {rough(seconds)}")
    else:
        parts.append("nothing to run")
    yield f"{_counted(len(planned.cells), 'evaluate')}: {', '.join(parts)}"
    reasons = planned.reasons
    for state, reason, n in reasons[:_REASONS]:
        yield f"{state}: {_counted(n, 'evaluate')}: {' '.join(reason.split())}"
    if len(reasons) > _REASONS:
        yield f"... and {len(reasons) - _REASONS} more reasons (--json)"
    shared = [work for work in planned.work[:-1] if work.tasks]
    if shared:
        missing = ", ".join(_counted(work.tasks, work.kind) for work in shared)
        yield f"to prepare first: {missing}"
    yield from _time(planned)
    yield from _memory(planned, execution, local=local)


def _time(planned: Plan) -> Iterator[str]:
    todo = [work for work in planned.work if work.tasks]
    if not todo:
        return
    each = ", ".join(f"{_KINDS[work.kind][1]} {_work_time(work)}" for work in todo)
    workers = planned.workers
    yield f"computing time: {each}" + (f"; {workers} at a time" if workers > 1 else "")
    for work in todo:
        if work.seconds is None:
            yield f"no history of any {_KINDS[work.kind][0]}"
        elif work.guessed:
            counted = _counted(work.tasks, work.kind)
            yield (
                f"no history for {work.guessed} of {counted}: taken as the mean of"
                f" {_means(work)}"
            )


def _means(work: PlannedWork) -> str:
    """What estimates stand in for work that was never done, the most frequent first."""
    bases = [(basis, n) for basis, n in work.bases.items() if basis != "same"]
    if len(bases) == 1:
        return _BASES[bases[0][0]]
    bases.sort(key=lambda pair: -pair[1])
    return ", ".join(f"{_BASES[basis]} ({n})" for basis, n in bases)


def _work_time(work: PlannedWork) -> str:
    return "unknown" if work.seconds is None else rough(work.seconds)


def _memory(planned: Plan, execution: Execution, *, local: bool) -> Iterator[str]:
    if not any(work.tasks for work in planned.work):
        return
    peak = planned.peak_memory
    if not peak:
        yield "memory: unknown"
        return
    text = f"memory: {readable_size(peak)} for the largest"
    if planned.workers > 1:
        all_of_them = readable_size(peak * planned.workers)
        text += f", {all_of_them} for {planned.workers} at a time"
    limit = execution.limits.memory
    if limit is not None and peak > limit:
        text += f"; more than --memory {readable_size(limit)}"
    elif local and peak * planned.workers > machine_memory():
        text += f"; more than this machine has ({readable_size(machine_memory())})"
    yield text


def _cell_line(planned: PlannedCell) -> str:
    state = f"{planned.state}: {planned.reason}" if planned.reason else planned.state
    time = "" if planned.estimate is None else f" ({_brief(planned.estimate)})"
    return f"{planned.cell.title}: {' '.join(state.split())}{time}"


def _brief(estimate: Estimate) -> str:
    seconds = f"{estimate.seconds:.2g} s"
    shown = seconds if estimate.seconds < 90 else rough(estimate.seconds)
    return shown if estimate.basis == "same" else f"perhaps {shown}"


def rough(seconds: float) -> str:
    """Seconds in units that suit an estimate, such as `12 min` or `1 h 10`.

    >>> rough(0.2), rough(700), rough(4150), rough(400_000)
    ('1 s', '12 min', '1 h 10', '4 d 15 h')
    """
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, rest = divmod(round(minutes / 10), 6)
    if hours < 48:
        return f"{hours} h {10 * rest}" if rest else f"{hours} h"
    days, hours = divmod(round(seconds / 3600), 24)
    return f"{days} d {hours} h"


def _counted(number: int, kind: Kind) -> str:
    one, several = _KINDS[kind]
    return f"{number} {one if number == 1 else several}"


def _print_json(
    planned: Plan, unavailable: Mapping[str, str], params: Mapping[str, Any]
) -> None:
    import msgspec

    counts, peak = planned.counts, planned.peak_memory
    content: dict[str, Any] = {
        "cells": len(planned.cells),
        **{state.replace(" ", "_"): n for state, n in counts.items()},
        "reasons": [
            {"state": state, "reason": reason, "cells": n}
            for state, reason, n in planned.reasons
        ],
        "unavailable": unavailable,
        "out": None if params["out"] is None else str(params["out"]),
        "workers": planned.workers,
        "seconds": planned.seconds,
        "peak_memory": peak or None,
        "work": [
            {
                "kind": work.kind,
                "tasks": work.tasks,
                "seconds": work.seconds,
                "longest": work.longest,
                "peak_memory": work.peak_memory or None,
                "history": work.bases,
            }
            for work in planned.work
        ],
    }
    if params["long"]:
        content["list"] = [_cell_json(cell) for cell in planned.cells]
    click.echo(msgspec.json.encode(content))


def _cell_json(planned: PlannedCell) -> dict[str, Any]:
    cell, estimate = planned.cell, planned.estimate
    return {
        "dataset": cell.dataset.spec,
        "attack": cell.attack_spec,
        "defense": cell.defense.spec,
        "seed": cell.seed,
        "state": planned.state.replace(" ", "_"),
        "reason": planned.reason,
        "seconds": None if estimate is None else estimate.seconds,
        "history": None if estimate is None else estimate.basis,
    }

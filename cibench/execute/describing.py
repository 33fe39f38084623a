"""Looking at data sets and attacks before anything runs, in children like all work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from .. import _errors
from .._errors import CibenchError, EnvironmentFault, UsageError
from .._sources import package_hash
from ..grid import Cell
from .backends import Backend, insistent
from .perform import Context, Work
from .settings import Settings
from .task import Answer, AttackFacts, CellRef, DatasetFacts, PluginRef, Task

#: A data set as it is read for a cell: its spec with locations, and the recipe.
Place = tuple[str, str | None]


def place_of(cell: Cell) -> Place:
    """What the facts of a cell's data set are kept under."""
    return cell.dataset.place, cell.embedding


@dataclass(frozen=True)
class Described:
    """What was found of every data set: its facts, or why it cannot be used."""

    facts: dict[Place, DatasetFacts] = field(default_factory=dict)
    faults: dict[Place, Answer] = field(default_factory=dict)

    def attack(self, cell: Cell) -> AttackFacts:
        """What the cell's attack means on its data set."""
        return self.facts[place_of(cell)].attacks[cell.attack_spec]

    def check(self, cells: Sequence[Cell]) -> None:
        """Refuse data sets that were asked for by name and attacks that fit none.

        An attack that fits some of the data sets is skipped on the others, with the
        reason; so is one that only `all` or a glob named, if any other fits.

        Raises:
            DataError, PluginError: a data set cannot be loaded.
            UsageError: no attack fits, or the recipe is unknown.
        """
        whole = [cell for cell in cells if not any(p.error for p in cell.plugins)]
        faulty = {place_of(cell): cell for cell in whole if self._faulty(cell)}
        alone = bool(faulty) and all(place_of(cell) in faulty for cell in whole)
        for place, cell in faulty.items():
            if cell.dataset.typed or alone:
                raise error_of(self.faults[place], place[0])
        # One cell for each data set and attack: a grid has many more.
        tried = {
            (place_of(cell), cell.attack_spec): cell
            for cell in whole
            if place_of(cell) in self.facts
        }
        misfits = {key: self.attack(cell).misfit for key, cell in tried.items()}
        fitting = {spec for (_, spec), misfit in misfits.items() if not misfit}
        for (place, spec), cell in tried.items():
            if misfits[place, spec]:
                typed = any(part.typed for part in cell.attack)
                if not fitting or (typed and spec not in fitting):
                    found = self.attack(cell)
                    raise _class(found.misfit_kind)(found.misfit)

    def _faulty(self, cell: Cell) -> bool:
        return place_of(cell) in self.faults


def describe(
    cells: Sequence[Cell],
    *,
    backend: Backend,
    context: Context,
    settings: Settings,
    torch_version: str,
) -> Described:
    """Look at every data set of the cells, with every attack used on it.

    Raises:
        EnvironmentFault: the workers are not what the run needs.
    """
    wanted: dict[Place, tuple[Cell, dict[int, tuple[PluginRef, ...]]]] = {}
    known: dict[int, tuple[PluginRef, ...]] = {}
    for cell in cells:
        if any(plugin.error for plugin in cell.plugins):
            continue
        _, attacks = wanted.setdefault(place_of(cell), (cell, {}))
        at = id(cell.attack)
        if at not in attacks:
            if at not in known:
                known[at] = tuple(map(PluginRef.of, cell.attack))
            attacks[at] = known[at]
    places = list(wanted)
    works = [
        Work(
            number=number,
            context=context,
            task=Task(
                kind="describe",
                cell=CellRef.of(cell),
                settings=settings,
                attacks=list(attacks.values()),
                title=f"{cell.dataset.spec}: looking at the data",
                harness=package_hash(),
                torch=torch_version,
            ),
        )
        for number, (cell, attacks) in enumerate(wanted.values())
    ]
    found = Described()
    for number, answer in insistent(backend, works):
        if answer.facts is not None:
            found.facts[places[number]] = answer.facts
        elif answer.fault == EnvironmentFault.__name__:
            raise error_of(answer)
        else:
            found.faults[places[number]] = answer
    return found


def error_of(answer: Answer, dataset: str = "") -> CibenchError:
    """The error an answer tells of, of its own class.

    Args:
        dataset: spec of the data set that was looked at, if it was that.
    """
    if answer.fault:
        return _class(answer.fault)(answer.reason)
    limits = answer.status in ("timeout", "out-of-memory")
    return _errors.PluginError(
        f"data set {dataset}: expected it to load, got {answer.status}: {answer.reason}"
        + ("; raise --timeout or --memory" if limits else "")
    )


def _class(name: str) -> type[CibenchError]:
    found = getattr(_errors, name, UsageError)
    assert issubclass(found, CibenchError)
    return found

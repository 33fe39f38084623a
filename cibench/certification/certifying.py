"""Fit the defenses of a grid and certify them, a cell at a time, in this process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from .._errors import CibenchError, EnvironmentFault, OptionError
from ..execute.runner import Runner
from ..grid import Cell
from .reasons import before_fit, check_budgets
from .recovery import Recovery, recovery
from .standing import Standing, standing


@dataclass(frozen=True)
class Certified:
    """One data set, defense and seed.

    Args:
        dataset, defense: canonical specs.
        agents: number of agents.
        options: of the defense, defaults included.
        standing: what is proved; None where it failed.
        recovery: what the certificate is made of, by number of corrupted agents, where
            that was asked for.
        fit_seconds: of the fit, which may have been stored.
        seconds: of certifying.
        error: why there is nothing; empty if all is well.
        misfit: whether that is an option that the data set has no room for.
    """

    dataset: str
    defense: str
    seed: int
    agents: int
    options: dict[str, object]
    standing: Standing | None = None
    recovery: tuple[tuple[int, Recovery], ...] = ()
    fit_seconds: float = 0.0
    seconds: float = 0.0
    error: str = ""
    misfit: bool = False


def check_cells(
    cells: Sequence[Cell],
    runner: Runner,
    *,
    corrupted: Sequence[int] | None,
    missing: int,
    warn: Callable[[str], None],
) -> list[dict[int, str]]:
    """Find what cannot be certified before anything is trained or fitted.

    Args:
        warn: told each reason once.

    Returns:
        For each cell why a number of corrupted agents cannot be certified.

    Raises:
        UsageError: a number leaves nobody honest, or nobody heard.
        DataError: a data set cannot be loaded.
    """
    known: list[dict[int, str]] = []
    told: set[str] = set()
    for cell in cells:
        dataset = runner.data.dataset(cell)
        layout, observed = dataset.layout, dataset.test.observation(dataset.layout)
        heard = int(observed.observed.sum(dim=1).max())
        check_budgets(layout, heard, max(corrupted or (0,)), missing, cell.dataset.spec)
        numbers = range(1, heard) if corrupted is None else corrupted
        found = {
            number: reason
            for number in numbers
            if (reason := before_fit(cell.defense.configured, layout, number))
        }
        known.append(found)
        for number, reason in found.items() if corrupted is not None else ():
            line = f"{cell.dataset.spec} · {cell.defense.spec}: {number}: {reason}"
            if line not in told:
                told.add(line)
                warn(line)
    return known


def certified(
    cells: Sequence[Cell],
    runner: Runner,
    *,
    corrupted: Sequence[int] | None,
    missing: int,
    taken_apart: bool,
    known: Sequence[dict[int, str]],
) -> Iterator[Certified]:
    """Certify every cell; one that fails does not stop the others.

    Args:
        corrupted, missing: as `standing` takes them.
        taken_apart: whether to give the numbers of purifiers' certificates.
        known: of `check_cells`.
    """
    for cell, reasons in zip(cells, known, strict=True):
        found = Certified(
            dataset=cell.dataset.spec,
            defense=cell.defense.spec,
            seed=cell.seed,
            agents=runner.data.dataset(cell).layout.agents,
            options=dict(cell.defense.component.options),
        )
        try:
            yield _one(cell, runner, corrupted, missing, taken_apart, reasons, found)
        except (EnvironmentFault, KeyboardInterrupt):
            raise
        except Exception as error:  # a stranger's code may raise anything
            text = " ".join(str(error).split())
            kind = (
                "" if isinstance(error, CibenchError) else f"{type(error).__name__}: "
            )
            yield replace(
                found, error=f"{kind}{text}", misfit=isinstance(error, OptionError)
            )


def _one(
    cell: Cell,
    runner: Runner,
    corrupted: Sequence[int] | None,
    missing: int,
    taken_apart: bool,
    known: dict[int, str],
    blank: Certified,
) -> Certified:
    _, clean, labels = runner.embedded(cell)
    fusion_center, fit_seconds = runner.fitted(cell)
    runner.report("certify", 0, 0)
    started = time.perf_counter()
    proved = standing(
        fusion_center,
        clean,
        labels,
        corrupted=corrupted,
        missing=missing,
        randomized=cell.defense.configured.capabilities.randomized,
        known=known,
    )
    apart = [
        (number, found)
        for number in (corrupted or ()) if taken_apart
        if (found := recovery(fusion_center, clean, number)) is not None
    ]  # fmt: skip
    return replace(
        blank,
        standing=proved,
        recovery=tuple(apart),
        fit_seconds=fit_seconds,
        seconds=time.perf_counter() - started,
    )

"""Fit the defenses of a grid and certify them, a cell at a time, in this process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

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


@dataclass(frozen=True)
class Foreseen:
    """What is known of a cell before anything is trained.

    Args:
        agents: of its data set; 0 where that cannot be had.
        reasons: why a number of corrupted agents cannot be certified.
        error: why there is nothing to certify; empty if there is.
    """

    agents: int = 0
    reasons: Mapping[int, str] = field(default_factory=dict)
    error: str = ""


def foresee(
    cells: Sequence[Cell],
    runner: Runner,
    *,
    corrupted: Sequence[int] | None,
    missing: int,
    warn: Callable[[str], None],
) -> list[Foreseen]:
    """Find what cannot be certified before anything is trained or fitted.

    A plugin that only a glob or `all` named does not stop the others.

    Args:
        corrupted, missing: as `standing` takes them.
        warn: told once why a number that was asked for cannot be certified, or, where
            none was, not even one agent.

    Returns:
        What is known of each cell.

    Raises:
        UsageError: a number leaves nobody honest, or nobody heard.
        DataError: a data set that was named cannot be loaded.
    """
    known, told = [], set()
    for cell in cells:
        error = cell.defense.error or cell.dataset.error
        try:
            found = Foreseen() if error else _foreseen(cell, runner, corrupted, missing)
        except EnvironmentFault as fault:
            if cell.dataset.typed:
                raise
            error = str(fault)
        if error:
            known.append(Foreseen(error=" ".join(error.split())))
            continue
        known.append(found)
        for number, reason in found.reasons.items():
            # Where no number was asked for, that not even one agent can be certified.
            if corrupted is None and number > 1:
                continue
            line = f"{cell.dataset.spec} · {cell.defense.spec}: {number}: {reason}"
            if line not in told:
                told.add(line)
                warn(line)
    return known


def _foreseen(
    cell: Cell, runner: Runner, corrupted: Sequence[int] | None, missing: int
) -> Foreseen:
    dataset = runner.data.dataset(cell)
    layout = dataset.layout
    heard = int(dataset.test.observation(layout).observed.sum(dim=1).max())
    check_budgets(layout, heard, max(corrupted or (0,)), missing, cell.dataset.spec)
    reasons = {
        number: reason
        for number in (range(1, heard) if corrupted is None else corrupted)
        if (reason := before_fit(cell.defense.configured, layout, number))
    }
    return Foreseen(layout.agents, reasons)


def certified(
    cells: Sequence[Cell],
    runner: Runner,
    *,
    corrupted: Sequence[int] | None,
    missing: int,
    taken_apart: bool,
    known: Sequence[Foreseen],
) -> Iterator[Certified]:
    """Certify every cell; one that fails does not stop the others.

    Args:
        corrupted, missing: as `standing` takes them.
        taken_apart: whether to give the numbers of purifiers' certificates.
        known: of `foresee`.
    """
    for cell, foreseen in zip(cells, known, strict=True):
        found = Certified(
            dataset=cell.dataset.spec,
            defense=cell.defense.spec,
            seed=cell.seed,
            agents=foreseen.agents,
            options=dict(cell.defense.component.options),
            error=foreseen.error,
        )
        if not found.error:
            try:
                reasons = foreseen.reasons
                found = _one(
                    cell, runner, corrupted, missing, taken_apart, reasons, found
                )
            except Exception as error:  # a stranger's code may raise anything
                text = " ".join(str(error).split())
                if not isinstance(error, CibenchError):
                    text = f"{type(error).__name__}: {text}"
                misfit = isinstance(error, OptionError)
                found = replace(found, error=text, misfit=misfit)
        yield found


def _one(
    cell: Cell,
    runner: Runner,
    corrupted: Sequence[int] | None,
    missing: int,
    taken_apart: bool,
    known: Mapping[int, str],
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
        if (found := recovery(fusion_center, clean, number, labels)) is not None
    ]  # fmt: skip
    return replace(
        blank,
        standing=proved,
        recovery=tuple(apart),
        fit_seconds=fit_seconds,
        seconds=time.perf_counter() - started,
    )

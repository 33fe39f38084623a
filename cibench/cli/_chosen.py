"""From the options of the command line to cells: a plain grid, or a study."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..grid import Cell, expand
from ..registry import default_registry
from ._options import PRESETS, check_together, parse_seeds

if TYPE_CHECKING:
    from ..study import Study
    from ._study_cells import Block


@dataclass(frozen=True)
class Wanted:
    """What was asked for, before any plugin is loaded.

    Args:
        params: every option's value: command line, else study file, else default.
        typed: names of those that were given on the command line.
        study: that the cells come from, if from one.
        name, title: of the study, and what messages call it.
    """

    params: Mapping[str, Any]
    typed: Collection[str]
    study: Study | None = None
    name: str = ""
    title: str = ""

    @property
    def quick(self) -> bool:
        """Whether it is for trying out."""
        return bool(self.params["quick"]) or self.params["preset"] == "quick"

    @property
    def samples(self) -> int | None:
        """Test samples to use at most; None for all."""
        if self.params["limit"] is None and self.quick:
            from ..execute.settings import QUICK_SAMPLES

            return QUICK_SAMPLES
        limit: int | None = self.params["limit"]
        return limit


@dataclass(frozen=True)
class Chosen:
    """The cells that were asked for, and the study they come from, if from one."""

    cells: list[Cell]
    study: Study | None = None
    name: str = ""
    blocks: list[Block] = field(default_factory=list)


def wanted(
    params: Mapping[str, Any], typed: Collection[str], stored: Study | None = None
) -> Wanted:
    """What was asked for, with the study's file read.

    Args:
        params: of `_options.selection`, and others.
        typed: names of those that were given rather than defaults.
        stored: a study to take instead of `--suite` or `-c`, when a run is resumed.

    Raises:
        UsageError: options contradict each other, or the study is wrong.
    """
    check_together(typed)
    study, name, title = _study(params, stored)
    return Wanted(_with_file(params, typed, study), typed, study, name, title)


def choose(asked: Wanted) -> Chosen:
    """The cells of a selection.

    Raises:
        UsageError, EmptySelectionError, EnvironmentFault: something in it is wrong.
    """
    params, typed, study = asked.params, asked.typed, asked.study
    if params["plugin_files"]:
        from ..execute.ship import add_file

        for path in params["plugin_files"]:
            add_file(path)
    quick = asked.quick
    if "seeds" in typed:
        seeds = parse_seeds(params["seeds"])[: 1 if quick else None]
    elif quick or "preset" in typed or study is None:
        seeds = list(range(PRESETS["quick" if quick else params["preset"]]))
    else:
        seeds = list(range(study.seeds))
    if study is None:
        cells = expand(
            default_registry(),
            datasets=params["datasets"],
            attacks=params["attacks"],
            defenses=params["defenses"],
            seeds=seeds,
            parameters=params["parameters"],
            exclude=params["exclude"],
            embedding=params["embedding"],
        )
        return Chosen(cells)
    from .._study_override import override
    from ._study_cells import blocks_of

    if params["parameters"]:
        raise click.UsageError(
            "-P: expected a grid of -d, -a and --dataset with it, got a study; write the"
            " values into the study's specs (docs/suites.md)"
        )
    own: dict[str, Sequence[str]] = {
        name: params[name]
        for name in ("datasets", "attacks", "defenses")
        if name in typed
    }
    if own or "embedding" in typed:
        study = override(study, embedding=params["embedding"], **own)
    blocks = blocks_of(
        study,
        params["protocols"],
        title=asked.title,
        seeds=seeds,
        exclude=params["exclude"],
    )
    # Protocols may share cells; each is run once.
    once = {_identity(cell): cell for block in blocks for cell in block.cells}
    return Chosen(list(once.values()), study, asked.name, blocks)


def _identity(cell: Cell) -> tuple[str, str | None]:
    return cell.title, cell.embedding


def _study(
    params: Mapping[str, Any], stored: Study | None
) -> tuple[Study | None, str, str]:
    """The study, its name and what messages call it."""
    from ..suites import load_suite, read_study

    config: Path | None = params["config"]
    suite: str | None = params["suite"]
    name = config.stem if config is not None else suite or ""
    title = f"study {config}" if config is not None else f"suite {suite}"
    if stored is not None:
        return stored, name, title
    if config is not None:
        return read_study(config), name, title
    if suite is not None:
        return load_suite(suite), name, title
    return None, "", ""


def _with_file(
    params: Mapping[str, Any], typed: Collection[str], study: Study | None
) -> Mapping[str, Any]:
    """Options with what the study's file says of those that were not typed.

    Raises:
        click.BadParameter: the file asks for what the option does not know.
    """
    if study is None:
        return params
    given = {
        name: value
        for name in study.run.__struct_fields__
        if (value := getattr(study.run, name)) is not None and name not in typed
    }
    if "jobs" in given:
        given["jobs"] = str(given["jobs"])
    if "exclude" in given:
        given["exclude"] = tuple(given["exclude"])
    if "preset" in given and given["preset"] not in PRESETS:
        raise click.BadParameter(
            f"expected one of {', '.join(PRESETS)}, got {given['preset']!r}",
            param_hint="[run] preset",
        )
    return {**params, **given}

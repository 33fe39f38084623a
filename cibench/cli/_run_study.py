"""`cibench run --suite NAME` and `-c FILE`: every protocol of a study in one run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from .._errors import DataError, EmptySelectionError, EnvironmentFault, UsageError
from ..grid import Cell, Plugin, check_composition, expand, expand_names
from ..registry import default_registry
from ..spec import Spec, did_you_mean, resolved
from ..study import Protocol, Study, StudyPart, StudyRun, StudyScenario, belongs
from ..suites import load_suite, read_study
from ._run_cells import finish, run_cells

if TYPE_CHECKING:
    from ..dataset import AgentDataset
    from ..execute.runner import Runner, Settings
    from ..results import CellRecord
    from ..results.table import Table


@dataclass(frozen=True)
class Block:
    """The cells of one protocol on one data set; the specs are canonical.

    Args:
        scenarios: each with its attack.
        defenses: label to defense.
    """

    protocol: Protocol
    dataset: str
    scenarios: list[tuple[StudyScenario, str]]
    defenses: dict[str, str]
    cells: list[Cell]


def run_study(
    *,
    config: Path | None,
    suite: str | None,
    protocols: Sequence[str],
    seeds: Sequence[int] | None,
    settings: Settings,
    out: Path,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> int:
    """Run a study from a file, or a shipped one; return the exit code.

    Everything that can be wrong with it is found before anything runs.

    Args:
        protocols: names of those to run; all of them if empty.
        seeds: None takes as many as the study says.

    Raises:
        UsageError: there is no such study, or something in it is wrong.
        DataError: none of its data sets is available.
    """
    from ..execute.describe import scrub
    from ..execute.runner import Runner
    from ..results import RunFolder
    from ..results.folder import write_atomically

    if config is not None:
        name, title, study = config.stem, f"study {config}", read_study(config)
    else:
        assert suite is not None
        name, title, study = suite, f"suite {suite}", load_suite(suite)
    repetitions = list(range(study.seeds)) if seeds is None else list(seeds)
    if settings.quick:
        repetitions = repetitions[:1]
    blocks = [
        block
        for protocol in _chosen(study, protocols)
        for block in _blocks(study, protocol, title, repetitions)
    ]
    _check_places(blocks, title)
    datasets: dict[str, AgentDataset] = {}
    runners = {
        block.protocol.name: Runner(
            replace(settings, embedding=block.protocol.embedding), datasets=datasets
        )
        for block in blocks
    }
    unavailable = _unavailable(blocks, runners)
    blocks = [block for block in blocks if block.dataset not in unavailable]
    for protocol, runner in runners.items():
        runner.check(
            [c for b in blocks if b.protocol.name == protocol for c in b.cells]
        )
    folder = RunFolder(out)
    folder.create()
    run = _with_others(
        StudyRun(
            name=name,
            study=study,
            parts=[p for b in blocks for p in _parts(b, runners[b.protocol.name])],
            unavailable={spec: scrub(reason) for spec, reason in unavailable.items()},
        ),
        folder.path / "study.json",
        {protocol.name for protocol in _chosen(study, protocols)},
    )
    # Before the first cell, so that an interrupted run can be reported.
    text = msgspec.json.format(msgspec.json.encode(run), indent=2)
    write_atomically(folder.path / "study.json", text)
    for spec, reason in unavailable.items():
        click.echo(f"warning: {spec} is left out: {' '.join(reason.split())}", err=True)

    outcome = run_cells(
        [(runners[block.protocol.name], block.cells) for block in blocks],
        folder,
        quiet=quiet,
        verbose=verbose,
    )
    tables = [
        table
        for block, records in zip(blocks, outcome.records, strict=True)
        for table in _tables(block, records)
    ]
    return finish(
        outcome, tables, folder, as_json=as_json, quiet=quiet, title=study.title
    )


def _chosen(study: Study, names: Sequence[str]) -> list[Protocol]:
    known = [protocol.name for protocol in study.protocols]
    for name in names:
        if name not in known:
            raise click.BadParameter(
                f"expected one of {', '.join(known)}, got {name!r}"
                f"{did_you_mean(name, known)}",
                param_hint="--protocol",
            )
    return [p for p in study.protocols if not names or p.name in names]


def _blocks(
    study: Study, protocol: Protocol, title: str, seeds: Sequence[int]
) -> list[Block]:
    from ..embedding import recipe_of

    where = f"{title}: protocols[{study.protocols.index(protocol)}]"
    if protocol.embedding is not None:
        try:
            recipe_of(protocol.embedding)
        except UsageError as error:
            raise type(error)(f"{where}.embedding: {error}") from error
    defenses = {
        label: _canonical("defense", spec, f"{where}.defenses.{label}")
        for label, spec in protocol.defenses.items()
    }
    blocks = []
    for place, text in enumerate(protocol.datasets):
        dataset = _canonical("dataset", text, f"{where}.datasets[{place}]")
        scenarios = [
            (s, _canonical("attack", s.attack, f"{title}: scenarios[{at}].attack"))
            for at, s in enumerate(study.scenarios)
            if belongs(s, protocol, text)
        ]
        if scenarios:
            # The specs as written: canonical ones leave out where files are.
            cells = expand(
                default_registry(),
                datasets=[text],
                attacks=[s.attack for s, _ in scenarios],
                defenses=list(protocol.defenses.values()),
                seeds=seeds,
            )
            blocks.append(Block(protocol, dataset, scenarios, defenses, cells))
    return blocks


def _check_places(blocks: Sequence[Block], title: str) -> None:
    """Refuse one data set at two places: records do not tell them apart."""
    known: dict[str, Plugin] = {}
    for block in blocks:
        found = block.cells[0].dataset
        if known.setdefault(block.dataset, found).configured != found.configured:
            raise UsageError(
                f"{title}: {block.dataset}: expected one place to read it from in a run,"
                " got two; run the protocols apart (--protocol)"
            )


def _canonical(kind: str, text: str, where: str) -> str:
    """The canonical spec of one plugin, or of a composed attack.

    Raises:
        UsageError, EnvironmentFault: it is not right; the message begins with `where`.
    """
    registry = default_registry()
    try:
        if expand_names(registry, kind, [text]) != [(text, True)]:
            raise UsageError(f"expected one {kind}, got the pattern {text!r}")
        specs = (
            Spec.parse_composition(text) if kind == "attack" else (Spec.parse(text),)
        )
        parts = [
            Plugin(registry.entry(kind, spec.name), registry.configure(kind, spec))
            for spec in specs
        ]
        if kind == "attack":
            check_composition(parts)
    except EmptySelectionError as error:
        raise UsageError(f"{where}: {error}") from error
    except (UsageError, EnvironmentFault) as error:
        raise type(error)(f"{where}: {error}") from error
    return "+".join(part.spec for part in parts)


def _unavailable(blocks: Sequence[Block], runners: dict[str, Runner]) -> dict[str, str]:
    """Load every data set; which cannot be had, and why.

    Raises:
        DataError: none can.
    """
    errors: dict[str, DataError] = {}
    for block in blocks:
        if block.dataset not in errors:
            try:
                runners[block.protocol.name].dataset(block.cells[0])
            except DataError as error:
                errors[block.dataset] = error
    if all(block.dataset in errors for block in blocks):
        raise next(iter(errors.values()))
    return {spec: str(error) for spec, error in errors.items()}


def _parts(block: Block, runner: Runner) -> list[StudyPart]:
    recipe = runner.recipe(runner.dataset(block.cells[0]))
    return [
        StudyPart(
            protocol=block.protocol.name,
            dataset=block.dataset,
            dataset_name=block.cells[0].dataset.entry.name,
            embedding=resolved(recipe),
            scenario=scenario.label,
            attack=attack,
            x=scenario.x,
            defenses=block.defenses,
            seeds=sorted({cell.seed for cell in block.cells}),
        )
        for scenario, attack in block.scenarios
    ]


def _with_others(run: StudyRun, path: Path, chosen: set[str]) -> StudyRun:
    """The run with the protocols that an earlier run of the study left in its folder."""
    try:
        earlier = msgspec.json.decode(path.read_bytes(), type=StudyRun)
    except (msgspec.ValidationError, msgspec.DecodeError, FileNotFoundError):
        return run  # nothing there, or of another version: it is written anew
    if earlier.study != run.study:
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


def _tables(block: Block, records: Sequence[CellRecord]) -> list[Table]:
    from ..results.table import tables

    by_attack: dict[str, list[CellRecord]] = {}
    for cell, record in zip(block.cells, records, strict=True):
        by_attack.setdefault(cell.attack_spec, []).append(record)
    return [
        replace(
            table, title=f"{scenario.label} · {block.protocol.name} · {table.title}"
        )
        for scenario, attack in block.scenarios
        for table in tables(by_attack[attack])
    ]

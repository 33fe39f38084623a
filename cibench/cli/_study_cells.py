"""The cells of a study, block by block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import click

from .._errors import EmptySelectionError, EnvironmentFault, UsageError
from ..exclusion import Axes
from ..grid import Cell, Plugin, check_composition, expand, expand_names
from ..registry import default_registry
from ..spec import Spec, did_you_mean
from ..study import Protocol, Study, StudyScenario, belongs


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


def blocks_of(
    study: Study,
    protocols: Sequence[str],
    *,
    title: str,
    seeds: Sequence[int],
    exclude: Sequence[str] = (),
) -> list[Block]:
    """The cells of the chosen protocols, by protocol and data set.

    Args:
        protocols: names of those to run; all of them if empty.
        title: what messages call the study.
        exclude: as `expand` takes it.

    Raises:
        UsageError, EmptySelectionError, EnvironmentFault: something in it is wrong.
    """
    blocks = [
        block
        for protocol in chosen(study, protocols)
        for block in _blocks(study, protocol, title, seeds)
    ]
    if exclude:
        blocks = _without(blocks, exclude)
    _check_places(blocks, title)
    return blocks


def _without(blocks: list[Block], exclude: Sequence[str]) -> list[Block]:
    """The blocks without the cells that an exclusion matches.

    A pattern has to drop a cell of one block, not of each.
    """
    dropped: dict[int, set[int]] = {at: set() for at in range(len(blocks))}
    for pattern in exclude:
        errors = []
        for at, block in enumerate(blocks):
            try:
                kept = _axes(block.cells).kept([pattern])
            except UsageError as error:
                errors.append(error)
                continue
            dropped[at] |= {place for place, keep in enumerate(kept) if not keep}
        if len(errors) == len(blocks):
            raise errors[0]
    left = []
    for at, block in enumerate(blocks):
        cells = [c for place, c in enumerate(block.cells) if place not in dropped[at]]
        if cells:
            left.append(replace(block, cells=cells))
    if not left:
        raise EmptySelectionError("--exclude: expected a cell that is left, got none")
    return left


def _axes(cells: Sequence[Cell]) -> Axes:
    """The axes of a whole product of cells."""
    return Axes(
        list({c.dataset.spec: c.dataset for c in cells}.values()),
        list(dict.fromkeys(c.seed for c in cells)),
        list({c.attack_spec: c.attack for c in cells}.values()),
        list({c.defense.spec: c.defense for c in cells}.values()),
    )


def chosen(study: Study, names: Sequence[str]) -> list[Protocol]:
    """The protocols of these names, or all.

    Raises:
        click.BadParameter: there is no such protocol.
    """
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
                embedding=protocol.embedding,
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

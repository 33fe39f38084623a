"""What to run: the cross product of data sets, attacks, defenses and seeds."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ._errors import (
    CibenchError,
    EmptySelectionError,
    OptionError,
    PluginError,
    ThreatModelError,
    UsageError,
)
from ._selection import Wanted, wanted
from ._selection import expand_names as expand_names
from ._sources import harness_hash as harness_hash
from ._sources import source_hash
from .parameters import vary
from .registry import PluginEntry, Registry
from .spec import Spec, canonical, resolved

if TYPE_CHECKING:
    from .results import Component


@dataclass(frozen=True)
class Plugin:
    """A configured plugin with its provenance."""

    entry: PluginEntry
    configured: Any
    """None where the plugin cannot be loaded."""
    typed: bool = True
    """Whether the user named it, rather than a glob or `all`."""
    given: Spec | None = None
    """The spec it was configured from, which says where its files are; if any."""
    error: str = ""
    """Why it cannot be loaded."""

    @cached_property
    def spec(self) -> str:
        """Canonical spec."""
        return self.entry.name if self.error else canonical(self.configured)

    @cached_property
    def place(self) -> str:
        """The spec it was given as, which says where its files are."""
        return str(self.given or self.spec)

    @cached_property
    def component(self) -> Component:
        """What a record keeps of it."""
        from .results import Component

        return Component(
            name=self.entry.name,
            spec=self.spec,
            options={} if self.error else resolved(self.configured),
            distribution=self.entry.distribution,
            version=self.entry.version,
            source="" if self.error else source_hash(self.entry.module),
        )


@dataclass(frozen=True)
class Cell:
    """Scenario x defense x repetition: one unit of work."""

    dataset: Plugin
    attack: tuple[Plugin, ...]
    defense: Plugin
    seed: int
    embedding: str | None = None
    """Embedding recipe by spec; None takes the data set's own."""

    @cached_property
    def attack_spec(self) -> str:
        """Canonical spec of the attack, parts joined by `+`."""
        return "+".join(part.spec for part in self.attack)

    @property
    def plugins(self) -> tuple[Plugin, ...]:
        """Data set, parts of the attack and defense."""
        return (self.dataset, *self.attack, self.defense)

    @cached_property
    def title(self) -> str:
        """The cell in one line."""
        return (
            f"{self.dataset.spec} · {self.attack_spec} · {self.defense.spec}"
            f" · seed {self.seed}"
        )


def expand(
    registry: Registry,
    *,
    datasets: Sequence[str],
    attacks: Sequence[str],
    defenses: Sequence[str],
    seeds: Sequence[int],
    parameters: Sequence[str] = (),
    exclude: Sequence[str] = (),
    embedding: str | None = None,
) -> list[Cell]:
    """The cross product, each cell once, sorted by data set, seed, attack and defense.

    A plugin that only a glob or `all` named never stops the others: one that cannot be
    loaded comes back with its `error`, one that needs options is left out.

    Args:
        registry: where plugins are looked up.
        datasets, attacks, defenses: specs, globs or `all`.
        seeds: of the repetitions.
        parameters: options to vary, as `parameters.vary` reads them.
        exclude: cells to drop, as `exclusion.Axes.kept` reads them.
        embedding: recipe of every cell; None takes each data set's own.

    Raises:
        UsageError, PluginError: a name, an option or a plugin is not right.
        EmptySelectionError: nothing is selected, or all of it is dropped.
    """
    texts = {"dataset": datasets, "attack": attacks, "defense": defenses}
    selected = vary(
        {kind: wanted(registry, kind, given) for kind, given in texts.items()},
        parameters,
    )
    configured = {
        kind: _configured(registry, kind, selected[kind]) for kind in selected
    }
    for parts in configured["attack"]:
        check_composition(parts)
    data = [plugin for (plugin,) in configured["dataset"]]
    repetitions = sorted(set(seeds))
    against = configured["attack"]
    defended = [plugin for (plugin,) in configured["defense"]]
    grid: Iterable[Any] = itertools.product(data, repetitions, against, defended)
    if exclude and data and repetitions and against and defended:
        from .exclusion import Axes

        kept = Axes(data, repetitions, against, defended).kept(exclude)
        grid = itertools.compress(grid, kept)
    cells = [
        Cell(dataset, attack, defense, seed, embedding)
        for dataset, seed, attack, defense in grid
    ]
    if not cells:
        raise EmptySelectionError(
            "the selection matches no cell"
            + (": --exclude drops all that is selected" if exclude else "")
        )
    return cells


def check_composition(parts: Sequence[Plugin]) -> None:
    """Refuse compositions whose threat models contradict each other.

    Raises:
        ThreatModelError: two parts pursue different targets, or several enumerate sets or
            search for one.
    """
    if len(parts) < 2:
        return
    threats = [part.configured.threat for part in parts]
    chosen = (threat.agents.is_worst or threat.agents.is_searched for threat in threats)
    if sum(chosen) > 1:
        raise ThreatModelError(
            "composed attack: expected at most one part with agents=worst:q, greedy:q or"
            " bandit:q, got several"
        )
    targets = {threat.target for threat in threats if threat.target != "any"}
    if len(targets) > 1:
        raise ThreatModelError(
            f"composed attack: expected one target, got {', '.join(sorted(targets))}"
        )


def _configured(
    registry: Registry, kind: str, selected: Sequence[Wanted]
) -> list[tuple[Plugin, ...]]:
    """Plugins and compositions, each once by canonical spec, in the order given."""
    known: dict[tuple[Spec, bool], Plugin] = {}
    kept: dict[str, tuple[Plugin, ...]] = {}
    unfit: list[OptionError] = []
    for one in selected:
        try:
            for spec in one.specs:
                if (spec, one.typed) not in known:
                    known[spec, one.typed] = _plugin(registry, kind, spec, one.typed)
        except OptionError as error:
            if one.typed:
                raise
            unfit.append(error)
            continue
        parts = tuple(known[spec, one.typed] for spec in one.specs)
        name = "+".join(part.spec for part in parts)
        first = kept.setdefault(name, parts)
        if any(a.configured != b.configured for a, b in zip(first, parts, strict=True)):
            raise UsageError(
                f"{name}: expected one place to read it from in a run, got two; run them"
                " apart"
            )
        if one.typed:
            kept[name] = parts
    if unfit and not kept:
        raise unfit[0]
    return list(kept.values())


def _plugin(registry: Registry, kind: str, spec: Spec, typed: bool) -> Plugin:
    """A configured plugin, or what is wrong with one that nobody typed.

    Raises:
        OptionError: an option is wrong or lacking.
        UsageError, PluginError: it was typed and there is none, or it cannot be loaded.
    """
    try:
        entry = registry.entry(kind, spec.name)
        _check_required(kind, registry.load(kind, spec.name), spec, typed=typed)
        plugin = Plugin(entry, registry.configure(kind, spec), typed, spec)
        _ = plugin.spec  # here, where a fault of its fields can still be told
    except (OptionError, KeyboardInterrupt):
        raise
    except CibenchError as error:
        fault = error
    except BaseException as error:  # a stranger's class may raise anything
        fault = PluginError(
            f"{entry.title} cannot be configured: {type(error).__name__}: {error};"
            f" reinstall or uninstall {entry.distribution}"
        )
    else:
        return plugin
    if typed:
        raise fault
    claims = (e for e in registry.entries if (e.kind, e.name) == (kind, spec.name))
    return Plugin(next(claims), None, typed, spec, str(fault))


def _check_required(kind: str, cls: type[Any], spec: Spec, *, typed: bool) -> None:
    """Refuse a spec without options that its plugin cannot do without.

    A data set whose `files_needed` shows its own spec with options, such as
    `table:path=...`, is found by these options alone; typed, it is left to `load` to say
    what it lacks.

    Raises:
        OptionError: they are not given.
    """
    given = dict(spec.options)
    for field in dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ():
        required = field.default is field.default_factory is dataclasses.MISSING
        if field.init and required and field.name not in given:
            raise OptionError(
                f"{kind} {spec.name}: expected the option {field.name}, got none"
            )
    files = str(getattr(cls, "files_needed", ""))
    if not typed and f"{spec.name}:" in files and not given:
        raise OptionError(f"{kind} {spec.name}: expected {files}; got no option")

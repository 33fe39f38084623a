"""What to run: the cross product of data sets, attacks, defenses and seeds."""

from __future__ import annotations

import fnmatch
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._errors import EmptySelectionError, ThreatModelError, UsageError
from .registry import PluginEntry, Registry
from .spec import Spec, canonical, resolved

if TYPE_CHECKING:
    from .results import Component


@dataclass(frozen=True)
class Plugin:
    """A configured plugin with its provenance."""

    entry: PluginEntry
    configured: Any
    typed: bool = True
    """Whether the user named it, rather than a glob or `all`."""

    @property
    def spec(self) -> str:
        """Canonical spec."""
        return canonical(self.configured)

    @property
    def component(self) -> Component:
        """What a record keeps of it."""
        from .results import Component

        return Component(
            name=self.entry.name,
            spec=self.spec,
            options=resolved(self.configured),
            distribution=self.entry.distribution,
            version=self.entry.version,
            source=source_hash(self.entry.module),
        )


@dataclass(frozen=True)
class Cell:
    """Scenario x defense x repetition: one unit of work."""

    dataset: Plugin
    attack: tuple[Plugin, ...]
    defense: Plugin
    seed: int

    @property
    def attack_spec(self) -> str:
        """Canonical spec of the attack, parts joined by `+`."""
        return "+".join(part.spec for part in self.attack)

    @property
    def title(self) -> str:
        """The cell in one line."""
        return (
            f"{self.dataset.spec} · {self.attack_spec} · {self.defense.spec}"
            f" · seed {self.seed}"
        )


def expand_names(
    registry: Registry, kind: str, texts: Sequence[str]
) -> list[tuple[str, bool]]:
    """Replace `all` and globs by the names they match; say which texts were typed.

    Raises:
        EmptySelectionError: a glob matches nothing.
    """
    expanded: list[tuple[str, bool]] = []
    for text in texts:
        if text == "all" or (
            "[" not in text and set("*?") & set(text.partition(":")[0])
        ):
            pattern = "*" if text == "all" else text
            matched = fnmatch.filter(registry.names(kind), pattern)
            if not matched:
                raise EmptySelectionError(
                    f"{kind} {text!r}: expected a pattern that matches a {kind}, got none"
                    f" of {', '.join(registry.names(kind))}"
                )
            expanded += [(name, False) for name in matched]
        else:
            expanded.append((text, True))
    return expanded


def expand(
    registry: Registry,
    *,
    datasets: Sequence[str],
    attacks: Sequence[str],
    defenses: Sequence[str],
    seeds: Sequence[int],
) -> list[Cell]:
    """The cross product, each cell once, sorted by data set, seed, attack and defense.

    Raises:
        UsageError, PluginError: a name, an option or a plugin is not right.
        EmptySelectionError: nothing is selected.
    """

    def configured(kind: str, spec: Spec, typed: bool) -> Plugin:
        entry = registry.entry(kind, spec.name)
        return Plugin(entry, registry.configure(kind, spec), typed)

    def plugins(kind: str, texts: Sequence[str]) -> list[Plugin]:
        names = expand_names(registry, kind, texts)
        return _once(
            [configured(kind, Spec.parse(name), typed) for name, typed in names]
        )

    compositions = {}
    for text, typed in expand_names(registry, "attack", attacks):
        specs = Spec.parse_composition(text)
        parts = tuple(configured("attack", spec, typed) for spec in specs)
        check_composition(parts)
        compositions["+".join(part.spec for part in parts)] = parts
    cells = [
        Cell(dataset, attack, defense, seed)
        for dataset in plugins("dataset", datasets)
        for seed in sorted(set(seeds))
        for attack in compositions.values()
        for defense in plugins("defense", defenses)
    ]
    if not cells:
        raise EmptySelectionError("the selection matches no cell")
    return cells


def check_composition(parts: Sequence[Plugin]) -> None:
    """Refuse compositions whose threat models contradict each other.

    Raises:
        ThreatModelError: two parts pursue different targets, or several enumerate sets.
    """
    threats = [part.configured.threat for part in parts]
    if sum(threat.agents.is_worst for threat in threats) > 1:
        raise ThreatModelError(
            "composed attack: expected at most one part with agents=worst:q, got several"
        )
    targets = {threat.target for threat in threats if threat.target != "any"}
    if len(targets) > 1:
        raise ThreatModelError(
            f"composed attack: expected one target, got {', '.join(sorted(targets))}"
        )


def _once(plugins: list[Plugin]) -> list[Plugin]:
    kept: dict[str, Plugin] = {}
    for plugin in plugins:
        if kept.setdefault(plugin.spec, plugin).configured != plugin.configured:
            raise UsageError(
                f"{plugin.spec}: expected one place to read it from in a run, got two;"
                " run them apart"
            )
    return list(kept.values())


@cache
def source_hash(module: str) -> str:
    """Hash of the source of the plugin's package, or of its module if it has no package.

    An editable install changes without changing its version.
    """
    import importlib

    top = importlib.import_module(module.partition(".")[0])
    if top.__file__ is None:  # a namespace package, which several distributions share
        top = importlib.import_module(module)
    assert top.__file__ is not None
    path = Path(top.__file__)
    packaged = hasattr(top, "__path__")
    return _hash_files(sorted(path.parent.rglob("*.py")) if packaged else [path])


#: Parts of the harness that come before or after the numbers.
_NO_NUMBERS = ("cli", "leaderboard", "report", "suites", "study.py", "bootstrap.py")


@cache
def harness_hash() -> str:
    """Hash of the harness' own sources that can change a number."""
    root = Path(__file__).parent
    files = [
        path
        for path in sorted(root.rglob("*.py"))
        if path.relative_to(root).parts[0] not in _NO_NUMBERS
    ]
    return _hash_files(files)


def _hash_files(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]

"""Content keys: what a result depends on, by name, and the hash of it; no torch.

`cibench cache explain` compares inputs name by name, so nothing that can change a number
may be missing here, and nothing else may be added.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from .._version import PROTOCOL
from ..grid import Cell, Plugin, harness_hash
from .settings import Settings
from .task import DatasetFacts


def content_key(*parts: str) -> str:
    """A hash that changes with any part."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:40]


def key_of(inputs: Mapping[str, str]) -> str:
    """The content key of named inputs, whatever their order."""
    text = json.dumps(inputs, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:40]


class CellKeys(NamedTuple):
    """Keys of a cell and of the artifacts it shares with others."""

    embedding: str
    references: str
    fit: str
    cell: str


class Keys:
    """Derives keys; remembers what the cells of a grid share."""

    def __init__(self, settings: Settings, torch_version: str) -> None:
        self._run = {
            "protocol": str(PROTOCOL),
            "harness": harness_hash(),
            "torch": torch_version,
            "device": settings.device_class,
            "threads": str(settings.threads),
        }
        self._samples = {"samples": str(settings.samples or "all")}
        self._known: dict[tuple[int, str], dict[str, str]] = {}
        self._kept: list[object] = []  # so that no identity is used twice
        self._shared: dict[tuple[object, ...], str] = {}

    def of(self, cell: Cell, facts: DatasetFacts) -> CellKeys:
        """All keys of a cell; what differs by the seed alone is hashed once."""
        place = id(cell.dataset), cell.embedding, id(facts)
        attack, defense = id(cell.attack), id(cell.defense)
        embedding = self._key("embedding", place, cell, facts, self.embedding)
        references = self._key(
            "references", (*place, attack), cell, facts, self.scenario
        )
        fit = self._key("fit", (*place, defense), cell, facts, self.fit)
        whole = content_key(references, fit, self._samples["samples"])
        return CellKeys(embedding, references, fit, whole)

    def _key(
        self,
        kind: str,
        place: tuple[object, ...],
        cell: Cell,
        facts: DatasetFacts,
        inputs: Callable[[Cell, DatasetFacts], dict[str, str]],
    ) -> str:
        """The key of all but the seed, hashed together with the seed."""
        shared = self._shared.get((kind, *place))
        if shared is None:
            self._kept += [cell, facts]
            named = {"": kind, **inputs(cell, facts)}
            del named["seed"]
            shared = self._shared[kind, *place] = key_of(named)
        return content_key(shared, str(cell.seed))

    def inputs(self, cell: Cell, facts: DatasetFacts) -> dict[str, str]:
        """What the numbers of a cell depend on."""
        return {
            **self.scenario(cell, facts),
            **self._plugin(cell.defense, "defense"),
            **self._samples,
        }

    def embedding(self, cell: Cell, facts: DatasetFacts) -> dict[str, str]:
        """What the encoders and the undefended fusion center depend on."""
        return {
            **self._run,
            "dataset": facts.name,
            "data": facts.fingerprint,
            "embedding": options_text(facts.embedding),
            "seed": str(cell.seed),
        }

    def scenario(self, cell: Cell, facts: DatasetFacts) -> dict[str, str]:
        """What the references of a scenario depend on."""
        inputs = {
            **self.embedding(cell, facts),
            **self._plugin(cell.dataset, "dataset"),
        }
        several = len(cell.attack) > 1
        for at, part in enumerate(cell.attack, 1):
            inputs |= self._plugin(part, f"attack {at}" if several else "attack")
        return inputs

    def fit(self, cell: Cell, facts: DatasetFacts) -> dict[str, str]:
        """What a fitted defense depends on."""
        return {
            **self.embedding(cell, facts),
            **self._plugin(cell.dataset, "dataset"),
            **self._plugin(cell.defense, "defense"),
        }

    def _plugin(self, plugin: Plugin, role: str) -> dict[str, str]:
        place = id(plugin), role
        if place not in self._known:
            self._kept.append(plugin)
            component = plugin.component
            self._known[place] = {
                f"{role}": plugin.entry.name,
                f"{role} options": options_text(component.options),
                f"{role} source": component.source,
                f"{role} distribution": f"{component.distribution} {component.version}",
                f"{role} module": plugin.entry.module,
            }
        return self._known[place]


def options_text(options: Mapping[str, Any]) -> str:
    """Options as canonical JSON."""
    return json.dumps(options, sort_keys=True, default=str)

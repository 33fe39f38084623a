"""Why each cell of a selection would be found or computed; no torch.

`explain` compares a cell with the records of the same cell. Where there is none, the
nearest record of the same plugins stands in, whatever its options, seed or data.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import msgspec

from ..grid import Cell
from .artifacts import Artifacts
from .blank import cell_id
from .engine import Engine
from .explain import Explanation, explain
from .known import slot
from .recorded import RecordCache
from .task import Kind

#: Records of the same plugins that a cell is compared with, at most, the newest first.
_COMPARED = 1000
_ROLE = re.compile(r"dataset|defense|attack( \d+)?")


@dataclass(frozen=True, kw_only=True)
class Explained:
    """Why a cell would be found, computed or left out.

    Args:
        id: of its record.
        refused: status and reason of a cell that cannot be run; empty otherwise.
        why: how its key compares with what is stored; None if it cannot be run.
        own: whether `why` speaks of records of this very cell.
        in_folder: whether its record is in the run's folder.
        artifacts: whether each artifact that it needs is stored; empty for a hit.
    """

    cell: Cell
    id: str
    refused: str = ""
    why: Explanation | None = None
    own: bool = True
    in_folder: bool = False
    artifacts: Mapping[Kind, bool]

    @property
    def state(self) -> str:
        """`hit`, `miss` or the status it gets without being run."""
        if self.why is None:
            return self.refused.partition(":")[0]
        return "hit" if self.why.hit else "miss"

    @property
    def causes(self) -> list[str]:
        """Names of the inputs that differ; for a miss without any, what that means."""
        if self.why is None or self.why.hit:
            return []
        if self.why.nearest is None:
            return ["nothing alike is stored"]
        return [name for name, _, _ in self.why.differs] or ["a damaged record"]

    def words(self) -> str:
        """One line for people."""
        if self.why is None:
            return self.refused
        text = self.why.words()
        if not self.own:
            begin, nearest = "miss: no record is stored for this cell", text[6:]
            text = f"{begin}; nearest: {nearest}"
        if self.artifacts:
            kinds = ", ".join(
                f"{_ARTIFACTS[kind]}: {'stored' if there else 'missing'}"
                for kind, there in self.artifacts.items()
            )
            text += f"; {kinds}"
        return text + ("; its record is in the run's folder" if self.in_folder else "")


_ARTIFACTS: Mapping[Kind, str] = {
    "embed": "embedding",
    "refer": "references",
    "fit": "fit",
}


def explained(engine: Engine, cache: Path) -> Iterator[Explained]:
    """Why each cell of an engine would be found or computed.

    Args:
        engine: nothing is run on it.
        cache: folder of records and artifacts.
    """
    records = RecordCache(cache / "records")
    relatives = _Relatives(cache / "records")
    artifacts = Artifacts(cache / "artifacts")
    for cell in engine.cells:
        keys = engine.keys(cell)
        refused = engine.refused(cell)
        name = cell_id(cell, keys.cell)
        if refused is not None:
            text = f"{refused.status}: {refused.reason}"
            yield Explained(cell=cell, id=name, refused=text, artifacts={})
            continue
        inputs = engine.inputs(cell)
        why, own = explain(slot(cell), keys.cell, inputs, records), True
        if why.nearest is None:
            near = relatives.nearest(inputs)
            if near is not None:
                why, own = explain(near, keys.cell, inputs, records), False
        yield Explained(
            cell=cell,
            id=name,
            why=why,
            own=own,
            in_folder=not why.hit and engine.known.where(cell, keys.cell) == "folder",
            artifacts={} if why.hit else artifacts.stored(keys),
        )


class _Stored(msgspec.Struct):
    """What is read of a record."""

    created: str = ""
    inputs: dict[str, str] = {}


class _File(msgspec.Struct):
    record: _Stored


class _Relatives:
    """The cached records of the same plugins, read when they are first asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def nearest(self, inputs: Mapping[str, str]) -> str | None:
        """The slot of the record with the fewest other inputs; None if there is none."""
        best: tuple[int, str | None] = (len(inputs) + 1, None)
        for slot_, stored in self._groups.get(_plugins(inputs), [])[:_COMPARED]:
            differing = sum(stored.inputs.get(k) != v for k, v in inputs.items())
            if differing < best[0]:
                best = differing, slot_
        return best[1]

    @cached_property
    def _groups(self) -> dict[tuple[str, ...], list[tuple[str, _Stored]]]:
        found = []
        for path in self._folder.glob("??/*.json"):
            try:
                stored = msgspec.json.decode(path.read_bytes(), type=_File).record
            except (OSError, msgspec.DecodeError, UnicodeDecodeError):
                continue
            found.append((path.name.partition("-")[0], stored))
        found.sort(key=lambda pair: pair[1].created, reverse=True)
        groups: dict[tuple[str, ...], list[tuple[str, _Stored]]] = {}
        for pair in found:
            groups.setdefault(_plugins(pair[1].inputs), []).append(pair)
        return groups


def _plugins(inputs: Mapping[str, str]) -> tuple[str, ...]:
    """The names of a cell's plugins, with their roles."""
    roles = sorted(name for name in inputs if _ROLE.fullmatch(name))
    return tuple(f"{role} {inputs[role]}" for role in roles)

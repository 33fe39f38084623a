"""Which artifacts cells share, which are missing, and their way to workers; no torch."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..results.folder import write_atomically
from .keys import CellKeys
from .task import Kind

#: Kinds of shared work in the order of the keys.
_KINDS: tuple[Kind, ...] = ("embed", "refer", "fit")
_SUFFIX = ".safetensors"


@dataclass(frozen=True)
class Shared:
    """Work that cells share: its kind, its artifact's key and one cell that needs it."""

    kind: Kind
    key: str
    at: int


class Artifacts:
    """The folder of artifacts as the coordinator sees it: names and files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._brought: dict[str, set[str]] = {}

    def missing(self, cells: Iterable[tuple[int, CellKeys]]) -> list[Shared]:
        """What cells need and the folder has not; each cell by number and keys."""
        first: dict[tuple[Kind, str], int] = {}
        for at, keys in cells:
            for kind, key in zip(_KINDS, keys[:3], strict=True):
                first.setdefault((kind, key), at)
        there = self._there({key for _, key in first})
        return [
            Shared(kind, key, at)
            for (kind, key), at in first.items()
            if key not in there
        ]

    def stored(self, keys: CellKeys) -> dict[Kind, bool]:
        """Whether the folder has each artifact of a cell."""
        there = self._there(keys[:3])
        return {kind: key in there for kind, key in zip(_KINDS, keys[:3], strict=True)}

    def names(self, keys: Iterable[str]) -> tuple[str, ...]:
        """Names of artifacts below the folder."""
        return tuple(map(_name, keys))

    def bring(self, embedding: str, own: str, artifacts: Mapping[str, bytes]) -> None:
        """Store artifacts that came from a worker.

        Args:
            own: key of the task's artifact; others it made, such as manifolds, may serve
                every later task of the embedding.
        """
        for name, content in artifacts.items():
            path = self._folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, content)
            if name != _name(own):
                self._brought.setdefault(embedding, set()).add(name)

    def content(self, keys: CellKeys) -> dict[str, bytes]:
        """What a worker without the folder needs for a cell, as far as it is there."""
        names = {_name(key) for key in keys[:3]}
        names |= self._brought.get(keys.embedding, set())
        found = {name: self._folder / name for name in sorted(names)}
        return {n: path.read_bytes() for n, path in found.items() if path.exists()}

    def _there(self, keys: Iterable[str]) -> set[str]:
        """Those of some keys that the folder has; subfolders are listed, once each."""
        wanted: dict[str, set[str]] = {}
        for key in keys:
            wanted.setdefault(key[:2], set()).add(key)
        found: set[str] = set()
        for name, some in wanted.items():
            try:
                listed = set(os.listdir(self._folder / name))
            except FileNotFoundError:
                continue
            found |= {key for key in some if f"{key}{_SUFFIX}" in listed}
        return found


def _name(key: str) -> str:
    return f"{key[:2]}/{key}{_SUFFIX}"

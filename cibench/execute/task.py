"""What travels between the coordinator and the processes that work: plain data."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from .._sources import package_hash
from ..grid import Cell, Plugin
from ..registry import PluginEntry, Registry
from ..results import AttackPart
from ..results.record import Status
from ..spec import Spec
from .settings import Settings

Kind = Literal["describe", "embed", "refer", "fit", "evaluate", "replay"]


class _Base(msgspec.Struct, frozen=True, kw_only=True):
    """Immutable, keyword-only."""


class PluginRef(_Base, frozen=True, kw_only=True):
    """A plugin to be configured in another process."""

    entry: PluginEntry
    spec: str
    """With the options that say where files are, and what the plugin made of them."""
    source: str
    """Hash of the source of its package where the run was started."""

    @classmethod
    def of(cls, plugin: Plugin) -> PluginRef:
        """The reference of a configured plugin."""
        found = Spec.parse(plugin.spec)
        if plugin.given:
            options = {**dict(plugin.given.options), **dict(found.options)}
            found = Spec(found.name, tuple(options.items()))
        return cls(entry=plugin.entry, spec=str(found), source=plugin.component.source)

    def configure(self, registry: Registry) -> Plugin:
        """The plugin, configured in this process.

        Raises:
            UsageError, PluginError: it is not what the run was started with.
        """
        spec = Spec.parse(self.spec)
        entry = registry.entry(self.entry.kind, self.entry.name)
        return Plugin(entry, registry.configure(entry.kind, spec), given=spec)


class CellRef(_Base, frozen=True, kw_only=True):
    """A cell by its plugins' specs."""

    dataset: PluginRef
    attack: tuple[PluginRef, ...]
    defense: PluginRef
    seed: int
    embedding: str | None

    @classmethod
    def of(cls, cell: Cell) -> CellRef:
        """The reference of a cell."""
        return cls(
            dataset=PluginRef.of(cell.dataset),
            attack=tuple(map(PluginRef.of, cell.attack)),
            defense=PluginRef.of(cell.defense),
            seed=cell.seed,
            embedding=cell.embedding,
        )


class AttackFacts(_Base, frozen=True, kw_only=True):
    """What an attack means on a data set."""

    misfit: str = ""
    """Why it does not fit the data set."""
    misfit_kind: str = ""
    """Name of the error's class."""
    parts: list[AttackPart] = []
    """As records hold them, without radii."""


class DatasetFacts(_Base, frozen=True, kw_only=True):
    """What is to be known of a data set before anything is computed on it."""

    name: str
    fingerprint: str
    agents: list[str]
    classes: list[str]
    notes: list[str]
    time_series: bool
    personal: bool
    test_statistics: bool
    samples: int
    """Test samples that are used."""
    embedding: dict[str, bool | int | float | str | None]
    """The resolved recipe."""
    attacks: dict[str, AttackFacts]
    """By the attack's canonical spec."""
    environment: dict[str, str]
    """Versions and threads of the process that looked."""


class Task(_Base, frozen=True, kw_only=True):
    """One unit of work for a process of its own.

    Args:
        kind: `describe` looks at the data set; `embed`, `refer` and `fit` leave artifacts
            that cells share; `evaluate` computes one cell; `replay` decides once more on
            what its witness sent.
        cell: any cell that needs the result.
        attacks: for `describe`: the attacks to look at.
        title: what progress shows.
        harness: hash of the package that the run was started with.
        torch: its version of torch.
        fingerprint: of the data, once that is known.
        makes: names of the artifacts the task is for, below the artifacts' folder.
        witness: for `replay`: the file.
    """

    kind: Kind
    cell: CellRef
    settings: Settings
    attacks: list[tuple[PluginRef, ...]] = []
    title: str = ""
    harness: str = ""
    torch: str = ""
    fingerprint: str = ""
    makes: tuple[str, ...] = ()
    witness: bytes = b""


class Answer(_Base, frozen=True, kw_only=True):
    """What became of a task, whatever happened to it.

    Args:
        status: as in records.
        reason: why it is not `ok`, in one line.
        fault: name of the error's class where the surroundings or the command are to
            blame rather than the cell, so that the run cannot go on.
        record: the cell's record as JSON.
        witness: what the attack sent, where that was asked for.
        facts: what `describe` found.
        decisions: what `replay` found, by name of the outcomes.
        seconds: wall time.
        peak_memory: bytes resident at most, where measured.
        log: what the task printed.
        stray: whether it left processes behind, which were ended.
        artifacts: content of artifacts where they travel, by file name.
    """

    status: Status = "ok"
    reason: str = ""
    fault: str = ""
    record: bytes | None = None
    witness: bytes | None = None
    facts: DatasetFacts | None = None
    decisions: dict[str, list[int]] | None = None
    seconds: float = 0.0
    peak_memory: int | None = None
    log: bytes = b""
    stray: bool = False
    artifacts: dict[str, bytes] = {}


def task_of(kind: Kind, cell: Cell) -> Task:
    """A task on a cell, without the run's settings."""
    shown = {
        "embed": f"embedding · {cell.dataset.spec}",
        "refer": f"references · {cell.dataset.spec} · {cell.attack_spec}",
        "fit": f"fit · {cell.dataset.spec} · {cell.defense.spec}",
    }
    title = f"{shown[kind]} · seed {cell.seed}" if kind in shown else cell.title
    return Task(
        kind=kind,
        cell=CellRef.of(cell),
        settings=Settings(),
        title=title,
        harness=package_hash(),
    )


def encode_task(task: Task) -> bytes:
    """A task as bytes."""
    return msgspec.msgpack.encode(task, enc_hook=_path)


def decode_task(content: bytes) -> Task:
    """A task from bytes."""
    return msgspec.msgpack.decode(content, type=Task, dec_hook=_as)


def encode_answer(answer: Answer) -> bytes:
    """An answer as bytes."""
    return msgspec.msgpack.encode(answer)


def decode_answer(content: bytes) -> Answer:
    """An answer from bytes."""
    return msgspec.msgpack.decode(content, type=Answer)


def _path(value: object) -> object:
    if isinstance(value, Path):
        return str(value)
    raise NotImplementedError(f"cannot send {type(value).__name__}")


def _as(kind: type, value: object) -> object:
    if issubclass(kind, Path):
        return Path(str(value))
    raise NotImplementedError(f"cannot receive {kind.__name__}")

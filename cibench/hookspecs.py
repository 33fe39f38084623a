"""The hooks a plugin module may implement; every hook returns values."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from .attack import AbstractAttack
    from .dataset import AbstractDataset
    from .defense import AbstractDefense
    from .results import CellRecord

PROJECT = "cibench"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def cibench_defenses() -> list[type[AbstractDefense]]:  # type: ignore[empty-body]
    """Return the defense classes this module provides."""


@hookspec
def cibench_attacks() -> list[type[AbstractAttack]]:  # type: ignore[empty-body]
    """Return the attack classes this module provides."""


@hookspec
def cibench_datasets() -> list[type[AbstractDataset]]:  # type: ignore[empty-body]
    """Return the data set classes this module provides."""


@hookspec
def cibench_cell_finished(record: CellRecord) -> None:
    """Observe a finished cell."""

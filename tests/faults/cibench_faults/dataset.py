"""A data set that cannot be loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, final

from cibench import AbstractDataset, AgentDataset, DataError, hookimpl

from .deeds import DEEDS


@final
@dataclass(frozen=True, kw_only=True)
class Crashing(AbstractDataset):
    """Do a deed, then say that there is nothing.

    Args:
        deed: what to do.
    """

    name: ClassVar[str] = "crashing"

    deed: str = "segfaults"

    def load(self, *, data_dir: Path | None = None) -> AgentDataset:
        DEEDS[self.deed]()
        raise DataError("crashing: expected some data, got none")


@hookimpl
def cibench_datasets() -> list[type[AbstractDataset]]:
    return [Crashing]

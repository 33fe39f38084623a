"""Missing features: compromised agents fall silent (the paper's threat model B)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from cibench import AbstractAttack, Criterion, Observation, Victim, hookimpl

from .. import papers


@final
@dataclass(frozen=True, kw_only=True)
class Missing(AbstractAttack):
    """Send nothing. `agents=worst:q` tries every set of q agents: exact for this threat.

    Source: Liu, Xie, Koyejo and Li 2022, Eq. 2.
    """

    name: ClassVar[str] = "missing"
    citation: ClassVar[str] = "Liu, Xie, Koyejo, Li: CoPur. NeurIPS 2022, Eq. 2"
    bibtex: ClassVar[str] = papers.COPUR
    may_drop: ClassVar[bool] = True
    may_corrupt: ClassVar[bool] = False

    def run(
        self,
        victim: Victim,
        observation: Observation,
        criterion: Criterion,
        *,
        compromised: Tensor,
        radius: Tensor | None,
        generator: torch.Generator,
    ) -> Observation:
        """Mark the compromised agents as missing."""
        return observation.without(compromised)


@hookimpl
def cibench_attacks() -> list[type[AbstractAttack]]:
    """Provide `missing`."""
    return [Missing]

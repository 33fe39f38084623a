"""No attack: every agent honest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from cibench import AbstractAttack, Criterion, Observation, Victim, hookimpl


@final
@dataclass(frozen=True, kw_only=True)
class NoAttack(AbstractAttack):
    """Nobody is compromised: clean accuracy."""

    name: ClassVar[str] = "none"
    may_corrupt: ClassVar[bool] = False

    agents: str = "none"

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
        """Return the observation as it is."""
        return observation


@hookimpl
def cibench_attacks() -> list[type[AbstractAttack]]:
    """Provide `none`."""
    return [NoAttack]

"""Feature flipping that does something else first."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, final

import torch
from torch import Tensor

from cibench import AbstractAttack, Criterion, Observation, Victim, hookimpl

from .deeds import DEEDS


@final
@dataclass(frozen=True, kw_only=True)
class Rogue(AbstractAttack):
    """Do a deed, then flip.

    Args:
        agents: compromised agents.
        deed: what to do.
    """

    name: ClassVar[str] = "rogue"

    deed: str = "nothing"

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
        DEEDS.get(self.deed, DEEDS["nothing"])()
        features = -10.0 * observation.features
        if self.deed == "writes":
            for tensor in (observation.features, observation.observed, compromised):
                tensor.fill_(1)
            criterion.labels.fill_(0)
        if self.deed == "nan":
            features = features * torch.nan
        if self.deed == "shape":
            return observation[:-1]
        if self.deed == "width":
            return observation.with_features(features[:, :-1])
        if self.deed == "dtype":
            return replace(observation, features=features.to(torch.complex128))
        if self.deed == "none":
            return None  # type: ignore[return-value]
        return observation.with_features(features)


@hookimpl
def cibench_attacks() -> list[type[AbstractAttack]]:
    return [Rogue]

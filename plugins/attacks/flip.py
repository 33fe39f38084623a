"""Feature flipping: compromised agents send h_i = -A l_i."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, final

import torch
from msgspec import Meta
from torch import Tensor

from cibench import AbstractAttack, Criterion, Observation, Victim, hookimpl

from .. import papers


@final
@dataclass(frozen=True, kw_only=True)
class Flip(AbstractAttack):
    """Send the negative of the own block, amplified; needs no knowledge of any model.

    Args:
        agents: compromised agents.
        amplification: A in h_i = -A l_i; the paper uses 1, 3, 5, 10 and 20.

    Source: Liu, Xie, Koyejo and Li 2022, section 6 (feature-flipping attack).
    """

    name: ClassVar[str] = "flip"
    citation: ClassVar[str] = "Liu, Xie, Koyejo, Li: CoPur. NeurIPS 2022, section 6"
    bibtex: ClassVar[str] = papers.COPUR

    amplification: Annotated[float, Meta(gt=0)] = 10.0

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
        """Flip and amplify the compromised blocks."""
        own = observation.layout.expand(compromised)
        flipped = -self.amplification * observation.features
        return observation.with_features(
            torch.where(own, flipped, observation.features)
        )


@hookimpl
def cibench_attacks() -> list[type[AbstractAttack]]:
    """Provide `flip`."""
    return [Flip]

"""Gaussian noise: compromised agents add noise to their block or send nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, final

import torch
from msgspec import Meta
from torch import Tensor

from cibench import AbstractAttack, Criterion, Observation, Victim, hookimpl

from ._blocks import block_rms, replaced


@final
@dataclass(frozen=True, kw_only=True)
class Gaussian(AbstractAttack):
    """Noise in units of the own block: the floor any other attack has to beat.

    Args:
        agents: compromised agents.
        scale: deviation of the noise over the root mean square of the sample's block; the
            default gives it the size of the default of `flip`.
        mode: `add` it to the block, or `replace` the block by it.
        budget: largest norm of a block's change as a multiple of the agent's median clean
            block norm; none for no bound.
    """

    name: ClassVar[str] = "gaussian"

    scale: Annotated[float, Meta(gt=0)] = 10.0
    mode: Literal["add", "replace"] = "add"
    budget: Annotated[float, Meta(gt=0)] | None = None

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
        """Draw the noise of every block and send that of the compromised ones."""
        noise = torch.randn(observation.features.shape, generator=generator)
        sent = self.scale * block_rms(observation) * noise.to(observation.features)
        if self.mode == "add":
            sent = observation.features + sent
        return replaced(observation, compromised, sent)


@hookimpl
def cibench_attacks() -> list[type[AbstractAttack]]:
    """Provide `gaussian`."""
    return [Gaussian]

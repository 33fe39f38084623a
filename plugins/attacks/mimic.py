"""Mimicry: compromised agents send the mean of their blocks over a class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, final

import torch
from msgspec import Meta
from torch import Tensor

from cibench import AbstractAttack, Criterion, Observation, Victim, hookimpl

from ._blocks import replaced
from ._descent import block_scale


@final
@dataclass(frozen=True, kw_only=True)
class Mimic(AbstractAttack):
    """Look like a typical sample of one class; needs recordings and no model.

    The class is the target; untargeted, the other class whose centroid is nearest to the
    sample in the own blocks, the one it is most easily mistaken for. A sample stays clean
    if no class serves of which every compromised agent has a recording.

    Args:
        agents: compromised agents.
        scale: distance from the mean of all recordings, where the centroid's is 1: more
            exaggerates the class.
        target: `any`, `other` (of two classes), or a class by name or index.
        count_target: count samples already labelled as the target, too, as the code
            released with the CoPur paper does.
        budget: largest norm of a block's change as a multiple of the agent's median clean
            block norm; none for no bound.
    """

    name: ClassVar[str] = "mimic"

    scale: Annotated[float, Meta(gt=0)] = 1.0
    target: str = "any"
    count_target: bool = False
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
        """Choose a class for each sample and send its centroid."""
        recorded, labels = victim.recordings()
        layout = observation.layout
        classes = 1 + int(torch.cat([labels, criterion.labels]).max())
        if criterion.target is not None:
            classes = max(classes, 1 + int(criterion.target.max()))
        known = layout.expand(recorded.observed).double()
        values = recorded.filled(0.0).double()
        member = torch.nn.functional.one_hot(labels, classes).double()
        centroids = (member.T @ values) / (member.T @ known).clamp_min(1.0)
        mean = values.sum(dim=0) / known.sum(dim=0).clamp_min(1.0)
        lacking = (member.T @ recorded.observed.double() == 0).double()
        usable = compromised.double() @ lacking.T == 0
        every = torch.arange(classes, device=labels.device)
        if criterion.target is None:
            suits = usable & (every != criterion.labels[:, None])
        else:
            suits = usable & (every == criterion.target[:, None])
        scale = block_scale(recorded).double()
        unit = torch.where(scale > 0, scale, 1.0)
        own = layout.expand(compromised)
        here = torch.where(own, observation.filled(0.0).double(), 0.0) / unit
        there = centroids / unit
        squares = own.double() @ there.square().T - 2 * here @ there.T
        chosen = squares.masked_fill(~suits, torch.inf).argmin(dim=1)
        sent = mean + self.scale * (centroids[chosen] - mean)
        serves = suits.any(dim=1, keepdim=True)
        return replaced(observation, compromised & serves, sent)


@hookimpl
def cibench_attacks() -> list[type[AbstractAttack]]:
    """Provide `mimic`."""
    return [Mimic]

"""A masked autoencoder: predicts every agent's block from the blocks that are kept."""

from __future__ import annotations

from dataclasses import replace
from typing import final

import torch
from torch import Tensor, nn

from cibench import Observation, mlp


@final
class MaskedAutoencoder(nn.Module):
    """Predicts every block from the blocks that are kept.

    Args:
        mean: `(width,)` mean of clean features.
        unit: `(width,)` scale of each column's agent.
        agents: number of agents, whose mask is part of the input.
        hidden: width of both hidden layers.
    """

    mean: Tensor
    unit: Tensor

    def __init__(
        self,
        mean: Tensor,
        unit: Tensor,
        agents: int,
        hidden: int,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("unit", unit)
        width = len(mean)
        self.layers = mlp((width + agents, hidden, hidden, width), 0.0, generator)
        self.layers.to(mean)

    def standard(self, observation: Observation) -> Tensor:
        """`(n, width)` features in units of the agents' scales, 0 where masked."""
        values = (observation.filled(0.0).to(self.mean) - self.mean) / self.unit
        return torch.where(observation.layout.expand(observation.observed), values, 0.0)

    def forward(self, observation: Observation) -> Tensor:
        """`(n, width)` predictions, in units of the agents' scales."""
        values = self.standard(observation)
        mask = observation.observed.to(values)
        found: Tensor = self.layers(torch.cat([values, mask], dim=1))
        return found

    def complete(self, observation: Observation) -> Tensor:
        """`(n, width)` features, masked blocks predicted from the others."""
        predicted = self(observation) * self.unit + self.mean
        return observation.filled(predicted.to(observation.features.dtype))


def random_agents(observation: Observation, generator: torch.Generator) -> Observation:
    """Keep a random number of random agents of each sample, one at least."""
    heard = observation.observed
    share = torch.rand((len(heard), 1), generator=generator)
    draw = torch.rand(heard.shape, generator=generator)
    first = draw == draw.masked_fill(~heard.cpu(), 2.0).amin(dim=1, keepdim=True)
    kept = ((draw < share) | first).to(heard.device)
    return replace(observation, observed=heard & kept)

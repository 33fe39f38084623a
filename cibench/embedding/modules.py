"""Encoders per agent, the fusion head and the undefended fusion center."""

from __future__ import annotations

from itertools import pairwise
from typing import final

import torch
from torch import Tensor, nn

from ..defense import Decision, FusionCenter
from ..layout import AgentLayout
from ..observation import Observation
from .recipe import EmbeddingRecipe


def mlp(
    widths: tuple[int, ...],
    slope: float,
    generator: torch.Generator,
    *,
    glorot: bool = False,
) -> nn.Module:
    """A multilayer perceptron with leaky ReLU between its linear layers.

    Weights are drawn from `generator`, uniform with variance 1 / fan-in, or 2 / (fan-in +
    fan-out) by the rule of Glorot and Bengio 2010; biases start at 0.
    """
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(widths):
        # Without values: `nn.Linear(...)` alone would draw from the global generator, and
        # `nn.utils.skip_init` imports sympy, which takes longer than a small cell.
        linear = nn.Linear(fan_in, fan_out, device="meta")
        linear.weight = nn.Parameter(torch.empty(fan_out, fan_in))
        linear.bias = nn.Parameter(torch.empty(fan_out))
        with torch.no_grad():
            bound = (3.0 / ((fan_in + fan_out) / 2 if glorot else fan_in)) ** 0.5
            linear.weight.uniform_(-bound, bound, generator=generator)
            linear.bias.zero_()
        layers += [linear, nn.LeakyReLU(slope)]
    return nn.Sequential(*layers[:-1])


@final
class Encoders(nn.Module):
    """One local feature extractor per agent: raw blocks in, embedded blocks out."""

    def __init__(
        self, raw: AgentLayout, recipe: EmbeddingRecipe, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.raw = raw
        self.layout = raw
        self.encoders: nn.ModuleList | None = None
        if recipe.block is not None:
            self.layout = AgentLayout(raw.names, (recipe.block,) * raw.agents)
            middle = () if recipe.hidden is None else (recipe.hidden,)
            glorot = recipe.schedule == "released"
            self.encoders = nn.ModuleList(
                mlp((width, *middle, recipe.block), 0.0, generator, glorot=glorot)
                for width in raw.widths
            )
        self.non_negative = recipe.output == "relu"

    def forward(self, observation: Observation) -> Observation:
        """Embed; a value an agent did not record counts as its training mean (0)."""
        values = torch.nan_to_num(observation.filled(0.0), nan=0.0)
        if self.encoders is not None:
            values = torch.cat(
                [
                    encoder(values[:, columns])
                    for encoder, columns in zip(
                        self.encoders, self.raw.slices, strict=True
                    )
                ],
                dim=1,
            )
        if self.non_negative:
            values = values.relu()
        return Observation(values, observation.observed, self.layout)


def fusion_head(
    width: int, classes: int, recipe: EmbeddingRecipe, generator: torch.Generator
) -> nn.Module:
    """The model on top of the joint embedding: one hidden layer, logits out."""
    return mlp(
        (width, recipe.head, classes),
        recipe.slope,
        generator,
        glorot=recipe.schedule == "released",
    )


@final
class UndefendedFusionCenter(FusionCenter):
    """The fusion head on the joint embedding, missing blocks filled: no defense.

    Args:
        head: `(n, width)` features to `(n, classes)` logits.
        fill: `(width,)` what stands for a missing block.
    """

    fill: Tensor

    def __init__(self, head: nn.Module, fill: Tensor) -> None:
        super().__init__()
        self.head = head
        self.register_buffer("fill", fill)

    def decide(self, observation: Observation) -> Decision:
        """Fill what is missing and decide."""
        return Decision(logits=self.head(observation.filled(self.fill)))

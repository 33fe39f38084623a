"""Gradient descent on the adversary's loss over the compromised blocks.

The loop is shared; a step rule and a loss are its parts. The best point seen is kept, the
last one included: a descent that passes through success does not lose it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from cibench import Criterion, Observation, project


class StepRule(Protocol):
    """Turns a gradient into a change of the features."""

    def __call__(self, gradient: Tensor) -> Tensor:
        """`(n, width)` gradient of the loss to `(n, width)` change."""


class Differentiated(Protocol):
    """What a descent asks of a victim: a gradient, and the logits it belongs to."""

    def loss_gradient(
        self, observation: Observation, loss: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor]:
        """See `cibench.Victim`."""


class Steepest:
    """Plain gradient steps of a fixed size: the rule of the CoPur paper."""

    def __init__(self, size: float) -> None:
        self.size = size

    def __call__(self, gradient: Tensor) -> Tensor:
        """See `StepRule`."""
        return -self.size * gradient


class Adam:
    """Adam with bias correction; the size of a step is given per column.

    Args:
        size: `(width,)` length of the first step in each column, or `(n, 1)` of each
            sample.
        growth: factor between one step and the next: small steps search near the clean
            embedding, later ones reach far where nothing bounds the attack.

    Source: Kingma and Ba 2015.
    """

    def __init__(self, size: Tensor, growth: float = 1.0) -> None:
        self.size = size
        self.growth = growth
        self.steps = 0
        self.mean: Tensor | float = 0.0
        self.square: Tensor | float = 0.0

    def __call__(self, gradient: Tensor) -> Tensor:
        """See `StepRule`."""
        # Scale each sample's gradient, so that tiny ones survive the epsilon below.
        norm = torch.linalg.vector_norm(gradient, dim=1, keepdim=True)
        gradient = gradient / norm.clamp_min(1e-30)
        self.steps += 1
        self.mean = 0.9 * self.mean + 0.1 * gradient
        self.square = 0.999 * self.square + 0.001 * gradient.square()
        mean = self.mean / (1 - 0.9**self.steps)
        square = self.square / (1 - 0.999**self.steps)
        size = self.size * self.growth ** (self.steps - 1)
        return -size * mean / (square.sqrt() + 1e-12)


def block_scale(observation: Observation) -> Tensor:
    """`(width,)` root mean square of each agent's observed values, per column."""
    layout = observation.layout
    known = layout.expand(observation.observed)
    squares = torch.where(known, observation.features, 0.0).square().sum(0)
    total = torch.stack([squares[s].sum() for s in layout.slices])
    count = torch.stack([known[:, s].sum() for s in layout.slices]).clamp_min(1)
    return layout.expand((total / count).sqrt()[None]).squeeze(0)


def descend(
    victim: Differentiated,
    observation: Observation,
    criterion: Criterion,
    *,
    start: Tensor,
    movable: Tensor,
    steps: int,
    rule: StepRule,
    loss: Callable[[Criterion, Tensor], Tensor],
    radius: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Descend from `start`, moving only `movable` columns.

    Args:
        observation: the clean observation.
        start: `(n, width)` first iterate.
        movable: `(n, width)` boolean: columns of compromised agents.
        loss: maps criterion and logits to `(n,)` losses.
        radius: `(agents,)` largest norm of a block's change; None for no bound.

    Returns:
        `(n, width)` best iterates and their `(n,)` logit margins: negative is success.
    """
    norms = observation.layout.block_norms
    current = start if radius is None else project(start, observation, radius)
    best, best_margin = current, torch.full_like(start[:, 0], torch.inf)
    for step in range(steps + 1):
        gradient, logits = victim.loss_gradient(
            observation.with_features(current), lambda z: loss(criterion, z)
        )
        margin = criterion.margin(logits)
        better = margin < best_margin
        best = torch.where(better[:, None], current, best)
        best_margin = torch.where(better, margin, best_margin)
        if step == steps:
            break
        gradient = torch.where(movable, gradient.nan_to_num(0.0), 0.0)
        change = rule(gradient)
        if radius is not None:
            # In a Euclidean ball the steepest way is the gradient's, not its signs'.
            ratio = norms(change) / norms(gradient).clamp_min(1e-30)
            change = -gradient * observation.layout.expand(ratio)
        current = torch.where(movable, current + change, current)
        if radius is not None:
            current = project(current, observation, radius)
    return best, best_margin

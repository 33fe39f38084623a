"""Whether the gradient an adversary gets is the way down: checked without gradients.

Where a decision is smooth, its central differences say what its gradient is. Where it is
piecewise constant, as a vote is, it has none, and a surrogate may stand in: then a step
along the surrogate's gradient must do more than a random step of the same length.

Source: the test by finite differences of Athalye, Carlini and Wagner 2018 and Carlini et
al. 2019, as an angle.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .defense import SURROGATE, Decision, FusionCenter
from .observation import Observation
from .threat import Criterion

#: Half the distance of a central difference, in lengths of the adversary's clean blocks.
DISTANCE = 1e-2
#: Random directions, all orthogonal to the gradient.
DIRECTIONS = 8
#: Lengths of the steps that are tried along the gradient and along random directions.
LENGTHS = (0.1, 0.5, 1.0)
#: A change of the margin below this share of the largest logit is rounding.
ROUNDING = 1e-6


@dataclass(frozen=True)
class GradientCheck:
    """What was found; None where nothing can be said.

    Args:
        cosine: median over samples of the cosine between the gradient and the decision's
            own slope; None where the decision of most samples is locally constant.
        descends: share of samples for which the best of some steps along the gradient
            lowers the margin more than the best of random steps of the same lengths, among
            those for which they differ.
    """

    cosine: float | None
    descends: float | None


def check_gradient(
    center: FusionCenter,
    observation: Observation,
    criterion: Criterion,
    *,
    own: Tensor,
    length: Tensor,
    generator: torch.Generator,
    route: str = SURROGATE,
) -> GradientCheck:
    """Compare the gradient of the margin that an adversary gets with the decision's slope.

    The slope's share along the gradient is one central difference. The rest is estimated
    by differences along random directions orthogonal to it: over p movable columns the
    mean square of such a difference is the rest's square over p - 1.

    Args:
        observation: where to look, `n` samples.
        own: `(n, agents)` blocks the adversary can move; none of them is missing.
        length: `(n,)` norm of those blocks.
        generator: draws the directions.
        route: which derivative the adversary follows; one that is not there is the
            surrogate.
    """
    movable = observation.layout.expand(own)
    gradient = _gradient(center, observation, criterion, route)
    gradient = torch.where(movable, gradient.nan_to_num(0.0, 0.0, 0.0), 0.0)
    norm = torch.linalg.vector_norm(gradient, dim=1)
    usable = (norm > 0) & (length > 0)
    if not usable.any():
        return GradientCheck(None, None)

    def margin(direction: Tensor, step: Tensor) -> Tensor:
        moved = observation.features + step[:, None] * direction
        moved = moved.to(observation.features.dtype)
        return _margin(center, observation.with_features(moved), criterion)

    steepest = gradient / norm.clamp_min(1e-300)[:, None]
    random = [_orthogonal(steepest, movable, generator) for _ in range(DIRECTIONS)]
    half = DISTANCE * length
    changes = torch.stack(
        [margin(u, half) - margin(u, -half) for u in (steepest, *random)]
    )
    with torch.no_grad():
        largest = center(observation).logits.abs().amax(dim=1).double()
    flat = changes.abs() <= ROUNDING * largest
    # A vote may change sides along some direction and is as flat as before elsewhere.
    constant = flat[0] & (flat[1:].double().mean(dim=0) >= 0.5)
    cosine = None
    if (constant & usable).sum() * 2 <= usable.sum():
        columns = movable.sum(dim=1).double()
        rest = (columns - 1) * changes[1:].square().mean(dim=0)
        whole = (changes[0].square() + rest).sqrt()
        angle = changes[0] / whole.clamp_min(1e-300)
        cosine = float(angle[usable & ~constant].median())
    along = torch.stack([margin(steepest, -s * length) for s in LENGTHS]).amin(dim=0)
    aside = torch.stack([margin(random[0], -s * length) for s in LENGTHS]).amin(dim=0)
    differs = usable & ((along - aside).abs() > ROUNDING * largest)
    descends = None
    if differs.any():
        descends = float((along < aside)[differs].double().mean())
    return GradientCheck(cosine, descends)


def _gradient(
    center: FusionCenter, observation: Observation, criterion: Criterion, route: str
) -> Tensor:
    known = route if route in center.routes else SURROGATE
    with torch.enable_grad():
        features = observation.features.detach().clone().requires_grad_()
        here = observation.with_features(features)
        logits = center.differentiable_logits(here, known)
        margin = criterion.margin(logits).sum()
        if not margin.requires_grad:
            return torch.zeros_like(features).double()
        found = torch.autograd.grad(margin, features, allow_unused=True)[0]
    return torch.zeros_like(features).double() if found is None else found.double()


def _margin(
    center: FusionCenter, observation: Observation, criterion: Criterion
) -> Tensor:
    with torch.no_grad():
        decision: Decision = center(observation)
    return criterion.margin(decision.logits.double())


def _orthogonal(
    steepest: Tensor, movable: Tensor, generator: torch.Generator
) -> Tensor:
    """`(n, width)` random unit vectors over the movable columns, orthogonal to another."""
    drawn = torch.randn(steepest.shape, generator=generator, dtype=torch.float64)
    drawn = torch.where(movable, drawn.to(steepest.device), 0.0)
    drawn = drawn - (drawn * steepest).sum(dim=1, keepdim=True) * steepest
    norm: Tensor = torch.linalg.vector_norm(drawn, dim=1, keepdim=True)
    return drawn / norm.clamp_min(math.sqrt(torch.finfo(drawn.dtype).tiny))

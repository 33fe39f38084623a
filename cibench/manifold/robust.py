"""The robust fit of a code: Eq. 5 of the CoPur paper, solved to convergence.

    minimize over z   sum over observed agents i of || [h - D(z)]_i ||_2

by iteratively reweighted Gauss-Newton steps in the code. For an affine decoder this is the
Weiszfeld algorithm, drawn towards Newton's as its steps succeed, and the minimum is global.

1. Norms are smoothed to sqrt(||r||^2 + eps^2); eps falls to a floor far below the scale of
   the residuals, so that exact recovery (zero residual) stays differentiable.
2. Steps are damped (Levenberg-Marquardt) and accepted only if the sample's own objective
   does not rise beyond rounding; samples that have converged are left out of further work.
3. All in float64: a payload of 1e15 squares to 1e30.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..layout import AgentLayout
from ..observation import Observation
from .affine import AffineManifold
from .base import Manifold

#: Iterations from every start before the best one goes on.
SHORT = 3
CONVERGED, MAX_ITERATIONS, NON_FINITE, NO_AGENTS = range(4)


@dataclass(frozen=True, eq=False)
class RobustFit:
    """Result of `robust_fit`.

    Args:
        code: `(n, rank)` float64 minimizer.
        objective: `(n,)` sum of block norms at the minimizer.
        status: `(n,)` uint8 index into `SOLVER_STATUS`.
        iterations: steps taken by the slowest sample.
    """

    code: Tensor
    objective: Tensor
    status: Tensor
    iterations: int


def smoothed_norms(manifold: Manifold, residual: Tensor, eps: Tensor) -> Tensor:
    """`(n, agents)` block norms, smoothed at zero by `eps` of shape `(n, 1)`."""
    norms = manifold.layout.block_norms(residual)
    return torch.hypot(norms, eps.expand_as(norms))


def starting_codes(manifold: Manifold, observation: Observation) -> Tensor:
    """`(starts, n, rank)` codes to start from.

    The encoding of what arrived and, unless the manifold is affine (one minimum), the
    encodings with each agent in turn replaced by the training mean: the start that leaves
    out the corrupted agent is near the clean code.
    """
    received = observation.filled(manifold.mean)
    starts = [manifold.encode(received)]
    if manifold.family != "affine":
        for columns in manifold.layout.slices:
            imputed = received.clone()
            imputed[:, columns] = manifold.mean[columns]
            starts.append(manifold.encode(imputed))
    return torch.stack(starts)


def robust_fit(
    manifold: Manifold,
    observation: Observation,
    *,
    max_iterations: int = 200,
    tolerance: float = 1e-8,
) -> RobustFit:
    """Find the point of the manifold nearest to the observed blocks in the l2,1 norm.

    Args:
        manifold: float64; what a clean joint embedding may be.
        observation: `n` samples; missing agents do not enter.
        max_iterations: limit per sample.
        tolerance: stop when a step lowers the objective by less than this share.
    """
    observation = observation.with_features(observation.filled(0.0).double())
    if isinstance(manifold, AffineManifold) and _worthwhile(manifold):
        manifold, observation = manifold.compressed(observation)
    starts = starting_codes(manifold, observation)
    if len(starts) == 1:
        return _descend(manifold, observation, starts[0], max_iterations, tolerance)
    k, n, rank = starts.shape
    repeated = observation[torch.arange(n, device=starts.device).repeat(k)]
    short = _descend(manifold, repeated, starts.reshape(k * n, rank), SHORT, tolerance)
    best = short.objective.reshape(k, n).argmin(dim=0)
    chosen = short.code.reshape(k, n, rank)[best, torch.arange(n, device=best.device)]
    return _descend(manifold, observation, chosen, max_iterations, tolerance)


def _worthwhile(manifold: AffineManifold) -> bool:
    """Whether the compressed problem has at most two thirds of the columns."""
    widths, rank = manifold.layout.widths, manifold.rank
    fewer = sum(min(width, rank) + 1 for width in widths)
    return 3 * fewer <= 2 * manifold.layout.width


def _descend(
    manifold: Manifold,
    observation: Observation,
    start: Tensor,
    max_iterations: int,
    tolerance: float,
) -> RobustFit:
    n, rank = start.shape
    code = start.clone()
    status = torch.full((n,), MAX_ITERATIONS, dtype=torch.uint8, device=code.device)
    silent = ~observation.observed.any(dim=1)
    status[silent] = NO_AGENTS
    code[silent] = manifold.encode(manifold.mean[None]).expand(int(silent.sum()), rank)

    active = (~silent).nonzero().squeeze(1)
    received, heard = observation.filled(0.0)[active], observation.observed[active]
    known = manifold.layout.expand(heard)
    z = code[active]
    image = manifold.decode(z)
    residual = torch.where(known, received - image, 0.0)
    first = manifold.layout.block_norms(residual)
    # Scale of honest residuals: the median over agents is not moved by a minority.
    scale = first.masked_fill(~heard, torch.nan).nanmedian(dim=1, keepdim=True).values
    size = manifold.layout.block_norms(received).masked_fill(~heard, torch.nan)
    size = size.nanmedian(dim=1, keepdim=True).values
    # Not from `scale`: a payload reaches every block of the start through the encoder.
    floor = 1e-10 * torch.where(size > 0, size, scale) + 1e-300
    eps = torch.maximum(0.1 * scale, floor)
    damping = torch.full_like(eps, 1e-6)
    newton = torch.zeros_like(eps)
    norms = smoothed_norms(manifold, residual, eps)
    objective = (norms * heard).sum(1)

    steps = 0
    for steps in range(1, max_iterations + 1):
        if len(active) == 0:
            break
        weights = heard / norms
        slope = manifold.pullback(z, residual * manifold.layout.expand(weights))
        along = None
        if newton.any():
            along = manifold.pullbacks(z, residual) * weights[:, :, None] ** 1.5
            along = newton.sqrt()[:, :, None] * along
        step, info = manifold.step(z, weights, slope, damping, along)
        step = torch.where((info == 0)[:, None] & step.isfinite(), step, 0.0)
        proposal = z + step
        new_image = manifold.decode(proposal)
        new_residual = torch.where(known, received - new_image, 0.0)
        new_norms = smoothed_norms(manifold, new_residual, eps)
        gain = _gain(manifold.layout, residual, new_image - image, norms, new_norms)
        gain = (gain * heard).sum(1)
        # Rounding may show as a rise; 1e-14 of what was received is not one.
        accept = (gain >= -1e-4 * floor.squeeze(1)) & (info == 0)

        z = torch.where(accept[:, None], proposal, z)
        residual = torch.where(accept[:, None], new_residual, residual)
        image = torch.where(accept[:, None], new_image, image)
        plain = (newton == 0) & ~accept[:, None]
        damping = torch.where(plain, damping * 10, damping / 3).clamp(1e-12, 1e6)
        # Towards Newton's step while that succeeds, back to the majorizer's otherwise.
        newton = torch.where(accept[:, None], 0.5 * (1 + newton), 0.0)
        at_floor = (eps <= floor).squeeze(1)
        # Measured by the typical block: a payload must not loosen the rule.
        typical = norms.masked_fill(~heard, torch.nan).nanmedian(dim=1).values
        small = gain.abs() <= tolerance * typical + 1e-3 * floor.squeeze(1)
        stuck = (plain & (damping >= 1e6)).squeeze(1)
        finished = at_floor & ((accept & small) | stuck)
        # Smoothing falls once a level is solved well enough, at least every step.
        eps = torch.maximum(torch.where(accept[:, None], 0.2 * eps, eps), floor)
        eps = torch.where(stuck[:, None], torch.maximum(0.2 * eps, floor), eps)
        norms = smoothed_norms(manifold, residual, eps)
        objective = (norms * heard).sum(1)
        broken = ~torch.isfinite(objective)

        leaving = finished | broken
        if leaving.any() or steps == max_iterations:
            code[active] = torch.where(broken[:, None], start[active], z)
            status[active[finished]] = CONVERGED
            status[active[broken]] = NON_FINITE
            stay = ~leaving
            active, z, residual = active[stay], z[stay], residual[stay]
            image, newton = image[stay], newton[stay]
            received, heard, known = received[stay], heard[stay], known[stay]
            eps, floor, damping = eps[stay], floor[stay], damping[stay]
            norms, objective = norms[stay], objective[stay]
    final = torch.where(
        manifold.layout.expand(observation.observed),
        observation.filled(0.0) - manifold.decode(code),
        0.0,
    )
    total = manifold.layout.block_norms(final).sum(1)
    return RobustFit(code, total, status, steps)


def _gain(
    layout: AgentLayout, residual: Tensor, moved: Tensor, norms: Tensor, new: Tensor
) -> Tensor:
    """`(n, agents)` norms less new norms, free of cancellation beside a huge payload.

    `a - b = (a^2 - b^2) / (a + b)`, and the difference of squares is an inner product
    with `moved`, the change of the decoded point.
    """
    products = (2 * residual - moved) * moved
    sums = torch.zeros_like(norms).index_add_(
        1, layout.owner.to(moved.device), products
    )
    return sums / (norms + new)

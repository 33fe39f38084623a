"""CoPur's second stage, Eq. 6, solved to convergence from the solution of Eq. 5.

    minimize over l   sum over observed i of ||[h - l]_i|| + tau sum over all i of
                      ||[D(E(l)) - l]_i||

1. Both norms vanish at good solutions, so they are smoothed by a hundredth of the sample's
   typical residual; where Eq. 5 recovered exactly, that is nothing.
2. Missing agents have no data term: their part of l follows the manifold alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cibench import Manifold, Observation, RobustFit

from ._chain import Chain
from ._lbfgs import minimize_each

SMOOTHING = 1e-2
MAX_ITERATIONS = 60
TOLERANCE = 1e-6
_CONVERGED, _MAX_ITERATIONS = 0, 1


def eq6(
    chain: Chain, observation: Observation, received: Tensor, tau: float, eps: Tensor
) -> tuple[Tensor, Tensor]:
    """Value `(n,)` and gradient `(n, width)` of the smoothed Eq. 6 at `observation`.

    Args:
        observation: the point l as features, and which agents were heard.
        received: `(n, width)` h, missing blocks at any finite value.
        eps: `(n, 1)` smoothing of the norms.
    """
    layout, point = observation.layout, observation.features
    image, outputs = chain.forward(point)
    away, off = point - received, image - point
    eps = eps.expand(-1, layout.agents)
    fit = torch.hypot(layout.block_norms(away), eps)
    residual = torch.hypot(layout.block_norms(off), eps)
    heard = observation.observed.to(point.dtype)
    value = (heard * fit + tau * residual).sum(1)
    unit = off * layout.expand(tau / residual)
    gradient = away * layout.expand(heard / fit) + chain.pullback(outputs, unit) - unit
    return value, gradient


def refine(
    manifold: Manifold, observation: Observation, fit: RobustFit, *, tau: float
) -> tuple[Tensor, Tensor]:
    """`(n, width)` D(E(l)) at the minimizer of Eq. 6, and `(n,)` solver status.

    Args:
        fit: the solution of Eq. 5 for the same observation: the start.
        tau: weight of the manifold residual.
    """
    layout = manifold.layout
    start = manifold.decode(fit.code)
    received = torch.where(
        layout.expand(observation.observed), observation.filled(0.0).double(), start
    )
    norms = layout.block_norms(received - start)
    typical = norms.masked_fill(~observation.observed, torch.nan)
    typical = typical.nanmedian(dim=1, keepdim=True).values.nan_to_num(0.0)
    size = layout.block_norms(start).mean(dim=1, keepdim=True)
    eps = SMOOTHING * typical + 1e-9 * size + 1e-300
    chain = Chain(manifold, torch.float64)

    def objective(points: Tensor, samples: Tensor) -> tuple[Tensor, Tensor]:
        here = observation[samples].with_features(points)
        return eq6(chain, here, received[samples], tau, eps[samples])

    found = minimize_each(
        objective,
        start,
        reach=(typical + 0.1 * size).squeeze(1),
        # Not the value: a payload would loosen the rule.
        scale=(layout.agents * typical + 1e-3 * size).squeeze(1),
        max_iterations=MAX_ITERATIONS,
        tolerance=TOLERANCE,
    )
    status = torch.where(
        (fit.status == _CONVERGED) & ~found.converged, _MAX_ITERATIONS, fit.status
    )
    # Without any agent heard, Eq. 6 has no data; the training mean stands.
    silent = ~observation.observed.any(dim=1, keepdim=True)
    purified = torch.where(silent, start, chain.forward(found.point)[0])
    return purified, status.to(torch.uint8)

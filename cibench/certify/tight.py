"""A convex fit that comes with a proof: within a stated gap of the least objective.

The fit of an affine manifold, `F(z) = sum over heard i of ||r_i||`, is solved by
`robust_fit`. A method whose number of steps is bounded then proves how near that is, and
answers itself where it is not near enough: beside payloads that nobody foresaw.

1. It is Newton's method on `sum psi(s ||r_i||)`, `psi(x) = sqrt(1 + x^2) - log(1 +
   sqrt(1 + x^2))`, for growing s. That is `s sum t_i - sum log(t_i^2 - ||r_i||^2)` with
   the best t_i put in: the barrier of `||r_i|| <= t_i`, minimized over t. Barriers of
   second-order cones are self-concordant, and so is a minimum over some of the variables:
   damped steps reach each s, and the sequence its end, within a number of steps that
   depends on the agents and on `log(F / limit)` alone, not on the payload.
2. At its minimizer the multipliers `y_i = s r_i / (1 + sqrt(1 + s^2 ||r_i||^2))` meet the
   dual's equation with norms below 1, and each block's share of the gap, `||r_i|| - <y_i,
   r_i>`, is at most `2 / s`. So `s = 4 agents / limit` leaves half of the limit over.

Both hold in exact arithmetic. In float64 a gap below about `1e-12 F` cannot be shown;
whoever bounds what blocks may be, bounds F.

Source: Nesterov and Nemirovskii 1994, sections 2.2 and 5.4; Andersen, Christiansen, Conn
    and Overton 2000.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .._errors import UsageError
from ..manifold.affine import AffineManifold
from ..manifold.robust import robust_fit
from ..observation import Observation
from .duality import proved_gap

#: The path's growth of s, and a decrement at which s grows.
_GROWTH, _NEAR = 10.0, 0.25
#: Steps; beyond what is proved for 20 agents and a limit of 1e-12 F.
_STEPS = 200_000


@dataclass(frozen=True, eq=False)
class TightFit:
    """Result of `tight_fit` for `n` samples.

    Args:
        code: `(n, rank)` float64.
        gap: `(n,)` bound of `F(code) - min F`, in the units of the features.
        objective: `(n,)` F(code).
        status: `(n,)` uint8 index into `SOLVER_STATUS`.
        resumed: samples that the bounded method answers.
    """

    code: Tensor
    gap: Tensor
    objective: Tensor
    status: Tensor
    resumed: int


def tight_fit(
    manifold: AffineManifold,
    observation: Observation,
    limit: float,
    *,
    max_iterations: int = 200,
) -> TightFit:
    """Fit the manifold to the observed blocks within a stated gap, sample by sample.

    Args:
        manifold: float64.
        observation: `n` samples, finite; missing agents do not enter.
        limit: largest gap, above 0, in the units of the features.
        max_iterations: of the first method.

    Returns:
        Codes; `gap <= limit` unless rounding is in the way.

    Raises:
        UsageError: the limit is not above 0, or a block that was heard is not finite.
    """
    if not limit > 0:
        raise UsageError(f"limit: expected a number above 0, got {limit:g}")
    observation = observation.with_features(observation.filled(0.0).double())
    if not bool(torch.isfinite(observation.features).all()):
        raise UsageError("observation: expected finite heard blocks, got others")
    fit = robust_fit(manifold, observation, max_iterations=max_iterations)
    code, multipliers = settled(manifold, observation, fit.code, limit)
    known = manifold.basis, manifold.mean, observation
    first = proved_gap(*known, fit.code, multipliers)
    again = proved_gap(*known, code, multipliers)
    wide = (first.gap > limit) & (again.gap < first.gap)
    status = torch.where(wide, (again.gap > limit).to(fit.status), fit.status)
    return TightFit(
        torch.where(wide[:, None], code, fit.code),
        torch.where(wide, again.gap, first.gap),
        torch.where(wide, again.objective, first.objective),
        status,
        int(wide.sum()),
    )


def settled(
    manifold: AffineManifold, observation: Observation, code: Tensor, limit: float
) -> tuple[Tensor, Tensor]:
    """`(n, rank)` codes within half of `limit`, from any codes: the bounded method.

    Args:
        manifold, observation, limit: as in `tight_fit`, in float64.
        code: `(n, rank)` where it starts.

    Returns:
        The codes and `(n, width)` multipliers, for `proved_gap`.
    """
    layout, z = manifold.layout, code.clone()
    active = observation.observed.any(dim=1).nonzero()[:, 0]
    received, heard = observation.filled(0.0), observation.observed
    damping = torch.full_like(z[:, :1], 1e-14)
    sums = _residuals(manifold, received, heard, z)[1].sum(dim=1)
    last = 4.0 * layout.agents / limit
    s = (layout.agents / sums.clamp_min(1e-300)).clamp(max=last)[:, None]
    for _ in range(_STEPS):
        if not len(active):
            break
        here, known = z[active], heard[active]
        residual, norms = _residuals(manifold, received[active], known, here)
        root = torch.hypot(torch.ones_like(norms), s[active] * norms)
        weights = known * s[active] ** 2 / (1 + root)
        slope = manifold.pullback(here, residual * layout.expand(weights))
        along = manifold.pullbacks(here, residual)
        along = along * (weights / root.sqrt())[:, :, None]
        step, info = manifold.step(here, weights, slope, damping[active], along)
        square = (slope * step).sum(dim=1)
        good = (info == 0) & torch.isfinite(square) & (square >= 0)
        decrement = torch.where(good, square, 0.0).sqrt()
        size = torch.where(decrement > _NEAR, 1 / (1 + decrement), 1.0)
        z[active] = torch.where(good[:, None], here + size[:, None] * step, here)
        at_end = (s[active] >= last).squeeze(1)
        done = good & at_end & (decrement < 1e-3)
        # Not definite by rounding: a heavier diagonal keeps the step one of descent.
        damping[active[~good]] *= 100
        given_up = (damping[active] > 1).squeeze(1)
        ready = active[good & (decrement < _NEAR)]
        s[ready] = (_GROWTH * s[ready]).clamp(max=last)
        active = active[~(done | given_up)]
    residual, norms = _residuals(manifold, received, heard, z)
    shares = s / (1 + torch.hypot(torch.ones_like(norms), s * norms))
    return z, residual * layout.expand(shares)


def _residuals(
    manifold: AffineManifold, received: Tensor, heard: Tensor, code: Tensor
) -> tuple[Tensor, Tensor]:
    """`(n, width)` residuals, 0 where nothing was heard, and their block norms."""
    known = manifold.layout.expand(heard)
    residual = torch.where(known, received - manifold.decode(code), 0.0)
    return residual, manifold.layout.block_norms(residual)

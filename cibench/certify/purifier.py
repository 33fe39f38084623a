"""Which decisions of a convex purifier outlast corrupted agents, sample by sample.

A purifier answers a point l of an affine manifold whose sum of block distances to what was
heard is within eps of the least; a head decides at l. Take a clean sample, its point p of
the manifold (the purifier's own clean answer, of which nothing else is asked), the agents
H heard in it, and q corrupted agents T among those, who send anything or nothing. With
delta the sum of `||h_i - p_i||` over the honest agents S = H without T, which is at most
that over H less its q smallest terms, and U the agents missing from the start,

    ||l - p||  <=  Delta  =  (2 delta + eps) / gamma,    gamma = min over T of gamma(T, U),

as in `recovery_radius`: honest agents send their clean blocks. A decision that stands in
the ball of radius Delta around p stands.

**Silence is covered.** Let some agents V of T send nothing. The fit is then over S and
over T without V, and the error v = l - p has

    sum_S ||v_i|| - sum_(T without V) ||v_j||  <=  2 delta + eps.

S is the same as before, and the second sum has fewer terms. So the left side is at least
`sum_S ||v_i|| - sum_T ||v_j||`, which is at least `gamma(T, U) ||v||`: `gamma(T without V,
U and V) >= gamma(T, U)`. Silence helps no adversary, and pairs of corrupted and silent
sets need not be tried.

**What is assumed.** The fit is within eps at every input that can be sent, which whoever
deploys it has to see to (`tight_fit`, behind a bound of the blocks); whom nothing was heard
of stays silent; the head is the one that decides; and arithmetic is float64 up to the head,
whose rounding belongs to `lead`.

Source: Liu, Xie, Koyejo and Li 2022, theorem 4 and remark 5, in sharper form.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from math import comb

import torch
from torch import Tensor

from .._errors import UsageError
from ..manifold.affine import AffineManifold
from ..observation import Observation
from .leverage.family import MAX_SETS
from .recovery import recovery_radius, recovery_rate

#: `(n, width)` points and `(n,)` radii to `(n,)` lower bounds of the decided class's lead.
Lead = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class PurifierCertificate:
    """What is proved of `n` decisions for a number of corrupted agents; float64.

    Args:
        residual: `(n,)` delta, the largest over sets of corrupted agents; in the units of
            the features, as `gap` and `distance`.
        gap: `(n,)` eps.
        rate: `(n,)` lower bound of gamma; 0 if nothing is proved.
        distance: `(n,)` Delta; infinite where the rate is 0.
        lead: `(n,)` lower bound of the lead of the class decided, within the distance;
            minus infinity where that is infinite.
        certified: `(n,)` booleans: the lead is above 0.
        deployed: `(n,)` booleans: the same with a limit in place of delta, for samples
            whose residual over all agents heard is within it; none without a limit.
    """

    residual: Tensor
    gap: Tensor
    rate: Tensor
    distance: Tensor
    lead: Tensor
    certified: Tensor
    deployed: Tensor


class RecoveryRates:
    """Recovery rates of a manifold, bounded once for each set of agents heard.

    Args:
        manifold: its basis is the matrix W.
        tolerance: of `recovery_rate`.
    """

    def __init__(self, manifold: AffineManifold, *, tolerance: float = 5e-3) -> None:
        self.manifold = manifold
        self.tolerance = tolerance
        self._known: dict[tuple[tuple[bool, ...], int], float] = {}

    def lower(self, heard: Tensor, corrupted: int) -> Tensor:
        """`(n,)` float64 lower bounds of gamma, the least over sets of corrupted agents.

        0 where there are more sets than `recovery_rate` takes: nothing is proved then.

        Args:
            heard: `(n, agents)` booleans.
            corrupted: agents among those heard.
        """
        patterns, which = torch.unique(heard, dim=0, return_inverse=True)
        rates = [self._rate(tuple(one), corrupted) for one in patterns.tolist()]
        return torch.tensor(rates, dtype=torch.float64, device=heard.device)[which]

    def _rate(self, heard: tuple[bool, ...], corrupted: int) -> float:
        # For any v the largest q of n blocks hold q / n of the sum, or more.
        if sum(heard) <= 2 * corrupted or comb(sum(heard), corrupted) > MAX_SETS:
            return 0.0
        if (heard, corrupted) not in self._known:
            layout = self.manifold.layout
            missing = [
                n for n, here in zip(layout.names, heard, strict=True) if not here
            ]
            bounds = recovery_rate(
                self.manifold.basis,
                layout,
                corrupted,
                missing,
                tolerance=self.tolerance,
            )
            self._known[heard, corrupted] = bounds.lower
        return self._known[heard, corrupted]


def certify_purifier(
    rates: RecoveryRates,
    observation: Observation,
    points: Tensor,
    corrupted: int,
    *,
    gap: Tensor | float,
    lead: Lead,
    every: bool = True,
    limit: float = math.inf,
) -> PurifierCertificate:
    """Certify the decisions at purified points, whatever so many agents send or withhold.

    Args:
        rates: of the manifold.
        observation: `n` clean samples, as the fit receives them.
        points: `(n, width)` float64 points of the manifold at which the head decides them.
        corrupted: agents among those heard, from 0: any set of them.
        gap: eps: within how much of the least every deployed fit is; `(n,)` or a number.
        lead: what the head's decision has over others around a point, such as
            `smallest_lead` or `deployed_lead` of the head.
        every: bound the rate of all samples; otherwise those that no rate could certify
            are left at 0, which spares most of the work where little is certified.
        limit: of the residual over all agents heard, such as `conformal_limit` of clean
            samples: who deploys a purifier knows this, and no clean sample's delta.

    Raises:
        UsageError: `corrupted` is below 0, or points are not finite or of another shape.
    """
    if corrupted < 0:
        raise UsageError(f"corrupted: expected at least 0, got {corrupted}")
    n, width = observation.features.shape
    if points.shape != (n, width) or not bool(torch.isfinite(points).all()):
        raise UsageError(
            f"points: expected finite numbers of shape ({n}, {width}), got"
            f" {tuple(points.shape)}"
        )
    manifold, layout = rates.manifold, observation.layout
    points = points.double()
    heard = observation.observed
    known = layout.expand(heard)
    received = observation.filled(0.0).double()
    norms = layout.block_norms(torch.where(known, received - points, 0.0))
    size = torch.linalg.vector_norm(points, dim=1) + manifold.mean.norm()
    unit = 4 * width * torch.finfo(torch.float64).eps
    # Up to the rounding of sums; of points by their own size.
    residual = _largest(norms, heard, corrupted) * (1 + unit) + unit * size
    eps = torch.as_tensor(gap, dtype=points.dtype, device=points.device).expand(n)

    def distance(rate: Tensor, delta: Tensor) -> Tensor:
        found: Tensor = recovery_radius(delta, rate, eps) * (1 + unit) + unit * size
        return found

    def ahead(far: Tensor) -> Tensor:
        near = torch.isfinite(far)
        found = torch.full_like(far, -torch.inf)
        if near.any():
            found[near] = lead(points[near], far[near]).to(found)
        return found

    count = heard.sum(dim=1).double()
    # gamma is at most (n - 2 q) / sqrt(n): equal blocks, and no set does better.
    most = ((count - 2 * corrupted) / count.clamp_min(1).sqrt()).clamp_min(0.0)
    asked = torch.ones_like(heard[:, 0])
    if not every:
        asked = ahead(distance(most, residual)) > 0
    rate = torch.zeros_like(residual)
    if asked.any():
        rate[asked] = rates.lower(heard[asked], corrupted)
    far = distance(rate, residual)
    leads = ahead(far)
    deployed = _largest(norms, heard, 0) * (1 + unit) + unit * size <= limit
    if deployed.any():
        deployed &= ahead(distance(rate, torch.full_like(residual, limit))) > 0
    return PurifierCertificate(residual, eps, rate, far, leads, leads > 0, deployed)


def _largest(norms: Tensor, heard: Tensor, corrupted: int) -> Tensor:
    """`(n,)` sums of block norms over agents heard, but for the smallest ones."""
    least = norms.masked_fill(~heard, torch.inf).sort(dim=1).values[:, :corrupted]
    kept: Tensor = norms.sum(dim=1) - least.nan_to_num(posinf=0.0).sum(dim=1)
    return kept.clamp_min(0.0)

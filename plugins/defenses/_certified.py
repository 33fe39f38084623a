"""What makes an affine purifier certifiable: bounded blocks, and fits with a proved gap."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import final

import torch
from torch import Tensor, nn

from cibench import (
    AffineManifold,
    AgentLayout,
    ContractError,
    FusionCenter,
    Observation,
    Training,
)
from cibench.certify import (
    Lead,
    PurifierCertificate,
    RecoveryRates,
    certify_purifier,
    conformal_limit,
    lead_rounding,
    smallest_lead,
    tight_fit,
)

#: What a fusion center has as `certify`, and as `certificate_parts`.
Certify = Callable[[Observation, int], Tensor]
Parts = Callable[[Observation, int], dict[str, Tensor]]

#: Radius of the ball that blocks are moved into, in the largest clean deviation.
REACH = 100.0
#: Chance that a fresh clean sample's residual is above the limit in the facts.
MISS = 0.1


@final
@dataclass(frozen=True, eq=False, kw_only=True)
class Guard:
    """A fit whose gap is proved for every sample, whatever was received.

    Blocks outside a ball around the mean are moved to its surface, each by itself: what
    agents send is bounded then, and with it rounding. Clean blocks lie far inside; one
    that does not is moved when its sample is clean as when that is attacked, so that
    nothing here is assumed of it. A fit that misses the limit is an error, never an answer.

    Args:
        manifold: float64.
        rates: its recovery rates, kept.
        reach: radius of the ball, in the units of the features.
        limit: largest gap, in the same units.
        max_iterations: of the robust fit, before the slower method goes on.
        residual_limit: what a fresh clean sample's residual exceeds with chance `MISS`.
    """

    manifold: AffineManifold
    rates: RecoveryRates
    reach: float
    limit: float
    max_iterations: int
    residual_limit: float = math.inf

    @property
    def facts(self) -> dict[str, float | int | str]:
        """The gap, and the residual of clean samples where there are enough to tell."""
        facts: dict[str, float | int | str] = {"gap_limit": self.limit}
        if math.isfinite(self.residual_limit):
            facts["residual_limit"] = self.residual_limit
            facts["residual_miss"] = MISS
        return facts

    def bounded(self, observation: Observation) -> Observation:
        """Float64 blocks of at most `reach` from the mean; others as they are."""
        layout, mean = observation.layout, self.manifold.mean
        away = observation.filled(0.0).double() - mean
        norms = layout.block_norms(away)
        far = norms > self.reach
        share = torch.where(far, self.reach / norms.clamp_min(1e-300), 1.0)
        moved = mean + away * layout.expand(share)
        values = torch.where(layout.expand(far), moved, observation.features.double())
        return observation.with_features(values)

    @torch.no_grad()
    def purify(self, observation: Observation) -> tuple[Tensor, Tensor]:
        """`(n, width)` float64 points of the manifold and `(n,)` solver status.

        Raises:
            ContractError: a gap is above the limit: rounding was in the way.
        """
        fit = tight_fit(
            self.manifold,
            self.bounded(observation),
            self.limit,
            max_iterations=self.max_iterations,
        )
        if not bool((fit.gap <= self.limit).all()):
            worst = float(fit.gap.amax())
            raise ContractError(
                f"copur gap: expected fits within {self.limit:g} of the least objective,"
                f" got {worst:g}; allow a larger gap"
            )
        return self.manifold.decode(fit.code), fit.status

    def residuals(self, observation: Observation) -> Tensor:
        """`(n,)` sums over heard agents of the distances of blocks to the purified."""
        bounded, points = self.bounded(observation), self.purify(observation)[0]
        norms = observation.layout.block_norms(bounded.filled(0.0) - points)
        return (norms * observation.observed).sum(dim=1)

    def certify(
        self,
        center: FusionCenter,
        lead: Lead,
        observation: Observation,
        corrupted: int,
    ) -> Tensor:
        """`(n,)`: whether a fusion center's decision stands for every set of agents.

        Args:
            center: what decides behind this purifier.
            lead: of its head, as in `cibench.certify.certify_purifier`.
            observation: clean samples; one with a block that the center refuses is not
                certified.
            corrupted: agents, among those heard, that may send anything or nothing.
        """
        found = self._proved(center, lead, observation, corrupted, every=False)
        return found.certified

    def certificate_parts(
        self,
        center: FusionCenter,
        lead: Lead,
        observation: Observation,
        corrupted: int,
    ) -> dict[str, Tensor]:
        """`(n,)` float64 fields of `PurifierCertificate` by name; arguments as above."""
        found = self._proved(center, lead, observation, corrupted, every=True)
        return {f.name: getattr(found, f.name).double() for f in fields(found)}

    def _proved(
        self,
        center: FusionCenter,
        lead: Lead,
        observation: Observation,
        corrupted: int,
        *,
        every: bool,
    ) -> PurifierCertificate:
        rejected = center(observation).rejected
        assert rejected is not None
        heard = observation.without(rejected)
        found = certify_purifier(
            self.rates,
            self.bounded(heard),
            torch.cat([self.purify(part)[0] for part in center._chunks(heard)]),
            corrupted,
            gap=self.limit,
            lead=lead,
            every=every,
            limit=self.residual_limit if every else math.inf,
        )
        # Whose clean block is refused could send a good one: an agent more.
        whole = ~rejected.any(dim=1)
        return replace(
            found,
            lead=torch.where(whole, found.lead, -torch.inf),
            certified=found.certified & whole,
            deployed=found.deployed & whole,
        )


def uncertifiable(
    name: str, gap: float | None, layout: AgentLayout, corrupted: int
) -> str | None:
    """Why the defense of that name and gap certifies nothing against so many agents."""
    if gap is None:
        return f"its fits have no proved gap; give it one, as in {name}:gap=0.001"
    if 2 * corrupted < layout.agents:
        return None
    return (
        f"{corrupted} of {layout.agents} agents are no minority: they agree on any point of"
        " the manifold as well as the others do"
    )


def guard_for(
    manifold: AffineManifold, training: Training, gap: float, max_iterations: int
) -> Guard:
    """The guard whose radius and limit follow from clean training samples.

    Args:
        gap: as a share of the median over training samples of the sum of their blocks'
            distances from the mean.
    """
    clean = training.train
    away = clean.filled(manifold.mean).double() - manifold.mean
    norms = clean.layout.block_norms(away)
    guard = Guard(
        manifold=manifold,
        rates=RecoveryRates(manifold),
        reach=REACH * float(norms.amax()),
        limit=max(gap * float(norms.sum(dim=1).median()), 1e-300),
        max_iterations=max_iterations,
    )
    limit = conformal_limit(guard.residuals(training.validation), MISS)
    return replace(guard, residual_limit=limit)


def head_lead(head: nn.Module, manifold: AffineManifold) -> Lead:
    """The lead of a head on a manifold, less what its own floating point may cost it."""
    dtype = next(head.parameters()).dtype

    def lead(points: Tensor, radius: Tensor) -> Tensor:
        found = smallest_lead(head, points, radius, manifold.basis)
        return found - lead_rounding(head, points, radius, dtype)

    return lead

"""Collusion: corrupted agents agree on a false point of the manifold."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, final

import torch
from msgspec import Meta
from torch import Tensor

from cibench import (
    AbstractAttack,
    AffineManifold,
    Criterion,
    Manifold,
    Observation,
    Victim,
    hookimpl,
    project,
)
from cibench.manifold import fit_affine

from .. import papers
from ._best import Best
from ._blocks import replaced
from ._descent import Adam, block_scale
from ._donors import Donors
from ._latent import false_points
from ._outweigh import Outweigh

#: Code widths of the adversary's own manifold, where none is given.
WIDTHS = (4, 8, 16, 32)
#: Multiples of the shift that are tried: the inequality does not depend on its length.
LENGTHS = (1.0, 2.0, 4.0, 8.0)


@final
@dataclass(frozen=True, kw_only=True)
class Collusion(AbstractAttack):
    """Shift the compromised blocks along one direction of the manifold of clean data.

    What all compromised agents send fits a clean embedding that differs from the true one
    by one common shift. A robust fit in the sum of block norms goes with them as soon as
    the shift is longer on their blocks, all together, than on the honest ones; the shift
    is chosen so that it is, and that the model decides wrongly at the false point. The
    manifold is the adversary's own: principal components of clean training embeddings; and
    the defense's, where it purifies onto one that is not affine: there the agents send the
    blocks of a false point whose fit is cheaper than the true one's.

    Args:
        agents: compromised agents.
        knowledge: `adaptive`: gradients and answers of the whole defended pipeline.
        target: `any`, `other` (of two classes), or a class by name or index.
        count_target: count samples already labelled as the target, too, as the code
            released with the CoPur paper does.
        budget: largest norm of a block's change as a multiple of the agent's median clean
            block norm; none for no bound.
        width: width of the manifold's code; none tries 4, 8, 16 and 32.
        steps: gradient steps from each start.
        slack: how much longer the shift is to be on the compromised blocks.

    Source: the direction is the worst case of Liu, Xie, Koyejo and Li 2022, theorem 2.
    """

    name: ClassVar[str] = "collusion"
    citation: ClassVar[str] = (
        "after Liu, Xie, Koyejo, Li: CoPur. NeurIPS 2022, theorem 2"
    )
    bibtex: ClassVar[str] = papers.COPUR

    knowledge: Literal["adaptive"] = "adaptive"
    target: str = "any"
    count_target: bool = False
    budget: Annotated[float, Meta(gt=0)] | None = None
    width: Annotated[int, Meta(ge=1)] | None = None
    steps: Annotated[int, Meta(ge=1)] = 30
    slack: Annotated[float, Meta(ge=1)] = 1.1

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
        """Send the best of the shifts, sample by sample, or the clean blocks."""
        recorded, _ = victim.recordings()
        best = Best(victim, criterion)
        best.offer(observation)
        for width in self._widths(recorded):
            manifold = fit_affine(recorded, width).to(observation.features.device)
            outweigh = Outweigh(manifold, observation.observed, compromised)
            others = manifold.encode(recorded.filled(manifold.mean).double())
            for begin in self._starts(
                outweigh, observation, manifold, others, generator
            ):
                shift = self._directed(
                    victim, observation, criterion, manifold, outweigh, begin
                )
                for length in LENGTHS:
                    moved = _shifted(observation, manifold, length * shift)
                    if radius is not None:
                        moved = project(moved, observation, radius)
                    best.offer(replaced(observation, compromised, moved))
        curved = victim.manifold
        if curved is not None and curved.family != "affine":
            for moved in self._latent(
                victim, observation, criterion, curved, compromised
            ):
                if radius is not None:
                    moved = project(moved, observation, radius)
                best.offer(replaced(observation, compromised, moved))
        return best.result(observation)

    def _latent(
        self,
        victim: Victim,
        observation: Observation,
        criterion: Criterion,
        manifold: Manifold,
        compromised: Tensor,
    ) -> Iterator[Tensor]:
        """Points of the defense's manifold, from the clean code and from recordings'."""
        recorded, labels = victim.recordings()
        donors = Donors(
            recorded=recorded,
            labels=labels,
            criterion=criterion,
            compromised=compromised,
        )
        honest = observation.observed & ~compromised
        nearest = donors.nearest(observation, honest, block_scale(recorded))
        lent = recorded.filled(manifold.mean.to(recorded.features))[
            nearest.clamp_min(0)
        ]
        clean = observation.filled(manifold.mean.to(observation.features))
        for begin in (clean, lent):
            yield false_points(
                victim,
                observation,
                criterion,
                manifold,
                compromised,
                manifold.encode(begin.to(manifold.mean)),
                steps=self.steps,
                slack=self.slack,
            )

    def _widths(self, recorded: Observation) -> list[int]:
        most = min(recorded.layout.width, len(recorded) - 1)
        if self.width is not None:
            return [min(self.width, most)]
        return [width for width in WIDTHS if width <= most] or [most]

    def _starts(
        self,
        outweigh: Outweigh,
        observation: Observation,
        manifold: AffineManifold,
        others: Tensor,
        generator: torch.Generator,
    ) -> list[Tensor]:
        """Shifts to start from: what outweighs most, either way, and to a recording."""
        code = manifold.encode(observation.filled(manifold.mean).double())
        size = code.norm(dim=1, keepdim=True).clamp_min(1e-12)
        most = size * torch.nn.functional.normalize(outweigh.most(generator), dim=1)
        drawn = torch.randint(len(others), (len(code),), generator=generator)
        return [most, -most, others.to(code)[drawn.to(code.device)] - code]

    def _directed(
        self,
        victim: Victim,
        observation: Observation,
        criterion: Criterion,
        manifold: AffineManifold,
        outweigh: Outweigh,
        begin: Tensor,
    ) -> Tensor:
        """`(n, rank)` shifts that outweigh, at whose false point the margin is least.

        At the false point all agents agree, and a purifier leaves the gradient alone.
        """
        shift, found = begin, begin
        lowest = torch.full_like(begin[:, 0], torch.inf)
        size = 0.2 * begin.norm(dim=1, keepdim=True) / manifold.rank**0.5
        rule = Adam(size)
        for _ in range(self.steps):
            false = observation.with_features(_shifted(observation, manifold, shift))
            gradient, logits = victim.loss_gradient(false, criterion.margin)
            excess, outward = outweigh.excess(shift, self.slack)
            # Until the inequality holds, nothing else counts.
            value = torch.where(
                excess > 0, 1e6 + excess, criterion.margin(logits).double()
            )
            better = value < lowest
            found = torch.where(better[:, None], shift, found)
            lowest = torch.where(better, value, lowest)
            inward = gradient.nan_to_num(0.0).double() @ manifold.basis
            slope = torch.where((excess > 0)[:, None], outward, inward)
            shift = shift + rule(slope)
        return found


def _shifted(
    observation: Observation, manifold: AffineManifold, shift: Tensor
) -> Tensor:
    """`(n, width)` features, every block moved along the manifold."""
    moved = observation.features.double() + shift @ manifold.basis.T
    return moved.to(observation.features.dtype)


@hookimpl
def cibench_attacks() -> list[type[AbstractAttack]]:
    """Provide `collusion`."""
    return [Collusion]

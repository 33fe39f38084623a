"""Square attack on blocks: random search by answers alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, final

import torch
from msgspec import Meta
from torch import Tensor

from cibench import AbstractAttack, Criterion, Observation, Victim, hookimpl, project

from .. import papers
from ._best import Best
from ._blocks import replaced
from ._descent import block_scale

#: Shares of the steps after which the part of the columns that changes is halved.
HALVED = (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)


@final
@dataclass(frozen=True, kw_only=True)
class SquareBlocks(AbstractAttack):
    """Change random columns of the compromised blocks; keep what harms.

    Each proposal sets a random part of a sample's compromised columns to plus or minus one
    size. With a budget the size fills the ball; without one it is drawn anew, between a
    tenth and thirty times the root mean square of the agent's block. It is kept if the
    margin of the model falls. Nothing but answers is asked for: where this breaks more
    than an attack with gradients, the gradients mislead.

    Args:
        agents: compromised agents.
        knowledge: `query` and `adaptive` ask the defense for answers, `fusion` the
            undefended fusion center; gradients are not used.
        target: `any`, `other` (of two classes), or a class by name or index.
        count_target: count samples already labelled as the target, too, as the code
            released with the CoPur paper does.
        budget: largest norm of a block's change as a multiple of the agent's median clean
            block norm; none for no bound.
        steps: proposals for each sample.
        part: share of the columns that the first proposals change.

    Source: after Andriushchenko, Croce, Flammarion and Hein 2020, whose squares are of an
        image.
    """

    name: ClassVar[str] = "square-blocks"
    citation: ClassVar[str] = (
        "after Andriushchenko, Croce, Flammarion, Hein: Square attack. ECCV 2020"
    )
    bibtex: ClassVar[str] = papers.SQUARE

    knowledge: Literal["query", "fusion", "adaptive"] = "query"
    target: str = "any"
    count_target: bool = False
    budget: Annotated[float, Meta(gt=0)] | None = None
    steps: Annotated[int, Meta(ge=1)] = 300
    part: Annotated[float, Meta(gt=0, le=1)] = 0.8

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
        """Search, and return the best that was found for each sample."""
        clean, layout = observation.features, observation.layout
        scale, own = block_scale(observation), layout.expand(compromised)
        if radius is not None:
            widths = torch.tensor(layout.widths).to(radius)
            scale = layout.expand((radius / widths.sqrt())[None]).squeeze(0)
        best = Best(victim, criterion)
        best.offer(observation)
        for step in range(self.steps):
            assert best.observation is not None
            kept = best.observation.features
            share = self.part * 0.5 ** sum(step > mark * self.steps for mark in HALVED)
            draws = torch.rand((3, *clean.shape), generator=generator).to(clean)
            sizes = torch.rand((len(clean), 1), generator=generator).to(clean)
            chosen, signs = draws[0] < share, torch.where(draws[1] < 0.5, -1.0, 1.0)
            # At least one column, or a proposal would be the same again.
            order = draws[2].masked_fill(~own, 2.0)
            chosen |= order == order.amin(dim=1, keepdim=True)
            size = scale if radius is not None else scale * 0.1 * 300**sizes
            proposal = torch.where(chosen, clean + signs * size, kept)
            if radius is not None:
                proposal = project(proposal, observation, radius)
            best.offer(replaced(observation, compromised, proposal))
        return best.result(observation)


@hookimpl
def cibench_attacks() -> list[type[AbstractAttack]]:
    """Provide `square-blocks`."""
    return [SquareBlocks]

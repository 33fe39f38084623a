"""NES: descent along gradients that are estimated from answers alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, final

import torch
from msgspec import Meta
from torch import Tensor

from cibench import AbstractAttack, Criterion, Observation, Victim, hookimpl

from .. import papers
from ._descent import Adam, block_scale, descend


@final
@dataclass(frozen=True, eq=False)
class _Estimated:
    """A victim whose gradients are differences of answers.

    Args:
        victim: answers.
        movable: `(n, width)` columns that are moved.
        deviation: `(width,)` of the noise.
        pairs: of opposite noise for each gradient.
        generator: of the noise.
    """

    victim: Victim
    movable: Tensor
    deviation: Tensor
    pairs: int
    generator: torch.Generator

    def loss_gradient(
        self, observation: Observation, loss: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor]:
        """As `Victim.loss_gradient`, up to a factor for each column's units."""
        features = observation.features
        total = torch.zeros_like(features)
        for _ in range(self.pairs):
            noise = torch.randn(features.shape, generator=self.generator).to(features)
            noise = torch.where(self.movable, noise, 0.0)
            ahead, behind = (
                loss(
                    self.victim.logits(
                        observation.with_features(
                            features + sign * self.deviation * noise
                        )
                    )
                )
                for sign in (1.0, -1.0)
            )
            total = total + (ahead - behind)[:, None] * noise
        scale = torch.where(self.deviation > 0, self.deviation, 1.0)
        gradient = total / (2 * self.pairs * scale)
        return gradient, self.victim.logits(observation)


@final
@dataclass(frozen=True, kw_only=True)
class NES(AbstractAttack):
    """The steps of `pgd` along estimated gradients: no derivative of the model is used.

    A defense that hides its gradients hides nothing from this attack.

    Args:
        agents: compromised agents.
        knowledge: `query` and `adaptive` ask the defense for answers, `fusion` the
            undefended fusion center; gradients are not used.
        target: `any`, `other` (of two classes), or a class by name or index.
        count_target: count samples already labelled as the target, too, as the code
            released with the CoPur paper does.
        budget: largest norm of a block's change as a multiple of the agent's median clean
            block norm; none for no bound.
        steps: steps from the clean embedding.
        pairs: of opposite noise for each step; two answers each.
        deviation: of the noise, in units of the block's root mean square.
        step: size of the first step in units of the block's root mean square.
        growth: factor between a step's size and the next one's.

    Source: Ilyas, Engstrom, Athalye and Lin 2018.
    """

    name: ClassVar[str] = "nes"
    citation: ClassVar[str] = (
        "Ilyas, Engstrom, Athalye, Lin: Black-box adversarial attacks... ICML 2018"
    )
    bibtex: ClassVar[str] = papers.ILYAS

    knowledge: Literal["query", "fusion", "adaptive"] = "query"
    target: str = "any"
    count_target: bool = False
    budget: Annotated[float, Meta(gt=0)] | None = None
    steps: Annotated[int, Meta(ge=1)] = 30
    pairs: Annotated[int, Meta(ge=1)] = 10
    deviation: Annotated[float, Meta(gt=0)] = 0.1
    step: Annotated[float, Meta(gt=0)] = 0.5
    growth: Annotated[float, Meta(ge=1)] = 1.05

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
        """Return the best iterate, sample by sample."""
        movable = observation.layout.expand(compromised)
        scale = block_scale(observation)
        estimated = _Estimated(
            victim, movable, self.deviation * scale, self.pairs, generator
        )
        found, _ = descend(
            estimated,
            observation,
            criterion,
            start=observation.features,
            movable=movable,
            steps=self.steps,
            rule=Adam(self.step * scale, self.growth),
            loss=Criterion.margin,
            radius=radius,
        )
        return observation.with_features(found)


@hookimpl
def cibench_attacks() -> list[type[AbstractAttack]]:
    """Provide `nes`."""
    return [NES]

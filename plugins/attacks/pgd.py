"""Projected gradient descent on the compromised blocks, unbounded unless given a budget."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, final

import torch
from msgspec import Meta
from torch import Tensor

from cibench import AbstractAttack, Criterion, Observation, Victim, hookimpl

from .. import papers
from ._descent import Adam, block_scale, descend
from ._routes import Draws, Route, Routed
from ._starts import start


@final
@dataclass(frozen=True, kw_only=True)
class PGD(AbstractAttack):
    """Descend the logit margin with steps that follow the scale of each block.

    The update is Adam on the normalized gradient, so neither the size of a gradient nor
    the units of an embedding decide whether the attack works: plain steps of fixed size
    can leave even an undefended model standing (`pgd-paper` keeps them). The best iterate
    of all starts is returned.

    Args:
        agents: compromised agents.
        knowledge: `adaptive` attacks the whole defended pipeline, `fusion` the undefended
            fusion center only (the attacker of the CoPur paper).
        target: `any`, `other` (of two classes), or a class by name or index.
        count_target: count samples already labelled as the target, too, as the code
            released with the CoPur paper does.
        budget: largest norm of a block's change as a multiple of the agent's median clean
            block norm; none for no bound, as in the paper.
        steps: gradient steps from each start.
        step: size of the first step in units of the block's root mean square.
        growth: factor between a step's size and the next one's.
        restarts: starts. The first is the clean embedding, then other samples' blocks and
            noise in turn: a purifier's gradient vanishes far from what it believes in.
        loss: `margin` of the logits, or cross-entropy (`ce`).
        gradient: which derivative of the defense: its `surrogate`; `implicit`, the
            optimum's own; `unrolled`, through every step of a solver; `bpda`, one that
            stands in for the purifier's; `votes`, of the sum of what votes. One that the
            defense does not have is its surrogate.
        draws: gradients that are averaged over the defense's randomness (EOT).

    Source: Madry et al. 2018; margin loss of Carlini and Wagner 2017; unprojected in Liu,
        Xie, Koyejo and Li 2022.
    """

    name: ClassVar[str] = "pgd"
    citation: ClassVar[str] = (
        "Madry et al.: Towards deep learning models resistant... 2018"
    )
    bibtex: ClassVar[str] = papers.MADRY + papers.CARLINI

    knowledge: Literal["adaptive", "fusion"] = "adaptive"
    target: str = "any"
    count_target: bool = False
    budget: Annotated[float, Meta(gt=0)] | None = None
    steps: Annotated[int, Meta(ge=1)] = 50
    step: Annotated[float, Meta(gt=0)] = 0.5
    growth: Annotated[float, Meta(ge=1)] = 1.05
    restarts: Annotated[int, Meta(ge=1)] = 2
    loss: Literal["margin", "ce"] = "margin"
    gradient: Route = "surrogate"
    draws: Draws = 1

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
        """Return the best iterate of all starts, sample by sample."""
        movable = observation.layout.expand(compromised)
        scale = block_scale(observation)
        routed = Routed(victim, self.gradient, self.draws, generator)
        best = observation.features
        best_margin = torch.full_like(best[:, 0], torch.inf)
        for restart in range(self.restarts):
            found, margin = descend(
                routed,
                observation,
                criterion,
                start=start(restart, observation, movable, scale, generator),
                movable=movable,
                steps=self.steps,
                rule=Adam(self.step * scale, self.growth),
                loss=Criterion.margin
                if self.loss == "margin"
                else Criterion.cross_entropy,
                radius=radius,
            )
            better = margin < best_margin
            best = torch.where(better[:, None], found, best)
            best_margin = torch.where(better, margin, best_margin)
        return observation.with_features(best)


@hookimpl
def cibench_attacks() -> list[type[AbstractAttack]]:
    """Provide `pgd`."""
    return [PGD]

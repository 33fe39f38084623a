"""Votes: descend what the voters lack to elect another class, class by class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, final

import torch
from msgspec import Meta
from torch import Tensor

from cibench import AbstractAttack, Criterion, Observation, Victim, hookimpl

from .. import papers
from ._best import Best
from ._blocks import replaced
from ._descent import Adam, block_scale, descend
from ._routes import Routed


@final
@dataclass(frozen=True, kw_only=True)
class AblationVotes(AbstractAttack):
    """Win votes for one wrong class at a time, from the voters that can be reached.

    A vote has no derivative, and the mean probability of the voters saturates where blocks
    are unbounded. What a voter lacks in margin to vote for a class does neither, and is
    nothing once the vote is won; the mean over the voters is descended, for the target or
    for each of the likeliest wrong classes. The votes themselves decide which point is
    sent. Of a defense without votes it descends the margin between the classes.

    Args:
        agents: compromised agents.
        knowledge: `adaptive` knows the voters.
        target: `any`, `other` (of two classes), or a class by name or index.
        count_target: count samples already labelled as the target, too, as the code
            released with the CoPur paper does.
        budget: largest norm of a block's change as a multiple of the agent's median clean
            block norm; none for no bound.
        steps: gradient steps for each class.
        step: size of the first step in units of the block's root mean square.
        growth: factor between a step's size and the next one's.
        classes: most wrong classes that are tried.

    Source: after Levine and Feizi 2020, whose certificate counts the votes in reach.
    """

    name: ClassVar[str] = "ablation-votes"
    citation: ClassVar[str] = (
        "after Levine, Feizi: Robustness certificates for sparse adversarial attacks by"
        " randomized ablation. AAAI 2020"
    )
    bibtex: ClassVar[str] = papers.LEVINE

    knowledge: Literal["adaptive"] = "adaptive"
    target: str = "any"
    count_target: bool = False
    budget: Annotated[float, Meta(gt=0)] | None = None
    steps: Annotated[int, Meta(ge=1)] = 50
    step: Annotated[float, Meta(gt=0)] = 0.5
    growth: Annotated[float, Meta(ge=1)] = 1.05
    classes: Annotated[int, Meta(ge=1)] = 3

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
        """Return the best point of all classes by the votes, sample by sample."""
        movable = observation.layout.expand(compromised)
        scale = block_scale(observation)
        voters = Routed(victim, "votes", 1, generator)
        best = Best(victim, criterion)
        best.offer(observation)
        for aim in self._aims(criterion, victim.logits(observation)):
            found, _ = descend(
                voters,
                observation,
                # The nearest to this class is kept, not the first to leave its own.
                Criterion(criterion.labels, aim),
                start=observation.features,
                movable=movable,
                steps=self.steps,
                rule=Adam(self.step * scale, self.growth),
                loss=_lacking if "votes" in victim.routes else Criterion.margin,
                radius=radius,
            )
            best.offer(replaced(observation, compromised, found))
        return best.result(observation)

    def _aims(self, criterion: Criterion, logits: Tensor) -> list[Tensor]:
        """`(n,)` classes to win votes for, in turn."""
        if criterion.target is not None:
            return [criterion.target]
        own = criterion.labels[:, None]
        wrong = logits.scatter(1, own, -torch.inf).argsort(dim=1, descending=True)
        return list(wrong[:, : min(self.classes, logits.shape[1] - 1)].unbind(dim=1))


def _lacking(criterion: Criterion, scores: Tensor) -> Tensor:
    """`(n,)` what the voters lack for the class aimed at."""
    assert criterion.target is not None
    return -scores.gather(1, criterion.target[:, None]).squeeze(1)


@hookimpl
def cibench_attacks() -> list[type[AbstractAttack]]:
    """Provide `ablation-votes`."""
    return [AblationVotes]

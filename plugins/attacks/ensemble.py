"""Ensemble: every way to attack a known defense, on the samples that still stand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, final

import torch
from msgspec import Meta
from torch import Tensor

from cibench import AbstractAttack, Criterion, Observation, Victim, hookimpl

from .. import papers
from ._descent import block_scale
from ._members import MEMBERS, Shared
from ._standing import Standing
from .apgd import radii_of


@final
@dataclass(frozen=True, kw_only=True)
class Ensemble(AbstractAttack):
    """Attack by all means of an adversary who knows the defense; worst case per sample.

    Payloads that need no gradient (silence, flips, another class's typical or recorded
    blocks), what breaks the undefended fusion center, descents along every derivative that
    the defense has, votes, Auto-PGD in balls of several radii, collusion on a manifold,
    ways to recordings, and searches by answers alone. Each member meets the samples that
    withstood the ones before, so a defense costs as much as it withstands.

    Args:
        agents: compromised agents, which may also fall silent.
        knowledge: `adaptive`: the whole defended pipeline.
        target: `any`, `other` (of two classes), or a class by name or index.
        count_target: count samples already labelled as the target, too, as the code
            released with the CoPur paper does.
        budget: largest norm of a block's change as a multiple of the agent's median clean
            block norm; none for no bound.
        members: names of the members to try, joined by `/`, or `all`.
        steps: gradient steps of a descent from the clean blocks; other members take half
            as many.
        draws: gradients that are averaged over the defense's randomness (EOT).

    Raises:
        ValueError: a member does not exist.

    Source: the idea of Croce and Hein 2020 (AutoAttack): several attacks, one number.
    """

    name: ClassVar[str] = "ensemble"
    citation: ClassVar[str] = (
        "after Croce, Hein: Reliable evaluation of adversarial robustness... ICML 2020"
    )
    bibtex: ClassVar[str] = papers.CROCE
    may_drop: ClassVar[bool] = True

    knowledge: Literal["adaptive"] = "adaptive"
    target: str = "any"
    count_target: bool = False
    budget: Annotated[float, Meta(gt=0)] | None = None
    members: str = "all"
    steps: Annotated[int, Meta(ge=2)] = 40
    draws: Annotated[int, Meta(ge=1)] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        unknown = set(self.members.split("/")) - set(MEMBERS)
        if unknown and self.members != "all":
            raise ValueError(
                f"members: expected all, or some of {', '.join(MEMBERS)} joined by /, got"
                f" {self.members!r}"
            )

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
        """Try every member on who still stands; return the best point of all."""
        standing = Standing(victim, observation, criterion, compromised, radius)
        units = block_scale(observation)
        shared = Shared(
            victim=victim,
            units=units,
            radii=[radius] if radius is not None else radii_of(observation, units),
            radius=radius,
            generator=generator,
            steps=self.steps,
            draws=self.draws,
        )
        for name, attempts in MEMBERS.items():
            if self.members == "all" or name in self.members.split("/"):
                for attempt in attempts(shared):
                    standing.attempt(attempt)
        return standing.best


@hookimpl
def cibench_attacks() -> list[type[AbstractAttack]]:
    """Provide `ensemble`."""
    return [Ensemble]

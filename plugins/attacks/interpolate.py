"""Interpolation: corrupted agents go part of the way to a recorded sample, or past it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, final

import torch
from msgspec import Meta
from torch import Tensor

from cibench import AbstractAttack, Criterion, Observation, Victim, hookimpl, project

from ._best import Best
from ._blocks import replaced
from ._donors import Donors

#: How often the way to the breakdown point is halved.
HALVINGS = 10


@final
@dataclass(frozen=True, kw_only=True)
class Interpolate(AbstractAttack):
    """Send points between the clean blocks and those of recordings of another class.

    A defense that rejects what is far off may follow what is half as far. Each sample
    sends the point with the smallest margin of the model the adversary asks, or, with
    `send=least`, the first point of that way from which on it succeeds.

    Args:
        agents: compromised agents.
        knowledge: `query` and `adaptive` ask the defense for answers, `fusion` the
            undefended fusion center; gradients are not used.
        target: `any`, `other` (of two classes), or a class by name or index: the class
            of the recordings.
        count_target: count samples already labelled as the target, too, as the code
            released with the CoPur paper does.
        budget: largest norm of a block's change as a multiple of the agent's median clean
            block norm; none for no bound.
        candidates: recordings that are tried.
        points: points on the way to each.
        reach: where the last point lies; 1 is the recording, more is past it.
        send: `worst`, or `least`: the breakdown point, found by halving.
    """

    name: ClassVar[str] = "interpolate"

    knowledge: Literal["query", "fusion", "adaptive"] = "query"
    target: str = "any"
    count_target: bool = False
    budget: Annotated[float, Meta(gt=0)] | None = None
    candidates: Annotated[int, Meta(ge=1)] = 5
    points: Annotated[int, Meta(ge=1)] = 10
    reach: Annotated[float, Meta(gt=0)] = 1.5
    send: Literal["worst", "least"] = "worst"

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
        """Try every point of every way; return the best for each sample."""
        recorded, labels = victim.recordings()
        donors = Donors(
            recorded=recorded,
            labels=labels,
            criterion=criterion,
            compromised=compromised,
        )
        clean = observation.features

        def at(ends: Tensor, share: Tensor | float) -> Observation:
            sent = clean + share * (ends - clean)
            if radius is not None:
                sent = project(sent, observation, radius)
            return replaced(observation, compromised, sent)

        best = Best(victim, criterion)
        best.offer(observation)
        ends, share = clean, torch.zeros_like(clean[:, :1])
        for chosen in donors.drawn(self.candidates, generator):
            there = donors.sent(observation, chosen).features
            for point in range(1, self.points + 1):
                part = self.reach * point / self.points
                better = best.offer(at(there, part))[:, None]
                ends = torch.where(better, there, ends)
                share = torch.where(better, part, share)
        if self.send == "worst":
            return best.result(observation)
        low = torch.zeros_like(share)
        for _ in range(HALVINGS):
            middle = (low + share) / 2
            logits = victim.logits(at(ends, middle))
            won = criterion.succeeded(logits)[:, None]
            low = torch.where(won, low, middle)
            share = torch.where(won, middle, share)
        least = at(ends, share)
        # Where no point succeeds the best one is kept, and so is a lone island of success.
        won = criterion.succeeded(victim.logits(least))[:, None]
        worst = best.result(observation)
        return worst.with_features(torch.where(won, least.features, worst.features))


@hookimpl
def cibench_attacks() -> list[type[AbstractAttack]]:
    """Provide `interpolate`."""
    return [Interpolate]

"""Which derivative of a defense a descent follows, and the mean over its randomness."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal, final

import torch
from msgspec import Meta
from torch import Tensor

from cibench import Observation, Victim

#: Options that attacks with gradients share. `implicit` is the surrogate of defenses that
#: solve a problem; a form that a defense does not have is its surrogate.
Route = Literal["surrogate", "implicit", "unrolled", "bpda", "votes"]
Draws = Annotated[int, Meta(ge=1)]

#: Relative size of what makes a defense draw anew whose noise is a function of its input.
JITTER = 1e-6


@final
@dataclass(frozen=True, eq=False)
class Routed:
    """A victim along one route, averaged over draws of its randomness.

    Expectation over transformation: the mean gradient over several questions about nearly
    the same point, which differ in their last digits, so that noise is drawn anew for each
    whether it comes from a generator or from the input.

    Args:
        victim: whose gradients are asked for.
        route: see `Victim.loss_gradient`.
        draws: questions for each gradient; 1 asks about the very point.
        generator: of the last digits.

    Source: Athalye, Engstrom, Ilyas and Kwok 2018.
    """

    victim: Victim
    route: str
    draws: int
    generator: torch.Generator

    def loss_gradient(
        self, observation: Observation, loss: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor]:
        """The mean gradient, and the mean of the logits."""
        ask = self.victim.loss_gradient
        gradient, logits = ask(observation, loss, route=self.route)
        for _ in range(self.draws - 1):
            features = observation.features
            noise = torch.randn(features.shape, generator=self.generator).to(features)
            near = observation.with_features(features * (1 + JITTER * noise))
            more, answers = ask(near, loss, route=self.route)
            gradient, logits = gradient + more, logits + answers
        return gradient / self.draws, logits / self.draws

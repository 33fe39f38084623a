"""CoPur's purifier as published: a fixed number of gradient steps, then the head."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import final

import torch
from torch import Tensor, nn

from cibench import FittedManifold, Observation

from ._chain import Chain
from ._purified import MEMORY, PurifyingFusionCenter
from ._released import STAGE1_STEPS, STAGE2_STEPS, released_purify

#: Index of "fixed-steps" in `cibench.SOLVER_STATUS`.
FIXED_STEPS = 4


@final
class FixedSteps(PurifyingFusionCenter):
    """The released algorithm: a fixed number of gradient steps."""

    def __init__(
        self,
        fitted: FittedManifold,
        head: nn.Module,
        tau: float,
        *,
        released: bool,
        effort: int = 1,
    ) -> None:
        super().__init__(fitted, head)
        self.tau = tau
        self.released = released
        self.effort = effort
        self.chain = Chain(fitted.manifold, next(head.parameters()).dtype)
        # No Jacobian is formed here: a step keeps a few joint embeddings.
        self.samples_per_chunk = MEMORY // (8 * 12 * fitted.manifold.layout.width)

    def with_effort(self, factor: int) -> FixedSteps:
        """With so many times the steps of either stage."""
        return FixedSteps(
            self.fitted,
            self.head,
            self.tau,
            released=self.released,
            effort=factor * self.effort,
        )

    def purify(self, observation: Observation) -> tuple[Tensor, Tensor]:
        purified = released_purify(
            self.chain,
            observation,
            observation.filled(0.0),
            tau=self.tau,
            all_agents=self.released,
            stop_below=0.1 if self.released else 0.0,
            effort=self.effort,
        )
        status = torch.full_like(
            observation.observed[:, 0], FIXED_STEPS, dtype=torch.uint8
        )
        return purified, status

    @property
    def routes(self) -> Mapping[str, Callable[[Observation], Tensor]]:
        """Every step, differentiated."""
        return {"unrolled": self.unrolled}

    def samples_per_gradient(self, route: str) -> int:
        """A graph through all steps keeps what each computes."""
        if route != "unrolled":
            return super().samples_per_gradient(route)
        layers = sum(len(bias) for _, bias, _ in self.chain.layers)
        floats = 8 * self.manifold.layout.width + 3 * layers
        return max(1, MEMORY // (4 * (STAGE1_STEPS + STAGE2_STEPS) * floats))

    def unrolled(self, observation: Observation) -> Tensor:
        """The answer with the derivative of all its steps."""
        return self.answers(self.purify(observation)[0])

    def surrogate(self, observation: Observation) -> Tensor:
        """The purified answer with the derivative of D(E(.)) at the purified point.

        Backward pass differentiable approximation (Athalye, Carlini and Wagner 2018).
        """
        with torch.no_grad():
            purified, _ = self.purify(observation)
        received = observation.filled(0.0)
        nearby = self.chain.forward(purified + (received - received.detach()))[0]
        return self.answers(purified + (nearby - nearby.detach()))

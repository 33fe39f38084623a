"""What purifying defenses share: features in, features out, then the fusion head."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Annotated, Literal

import torch
from msgspec import Meta
from torch import Tensor, nn

from cibench import (
    Decision,
    FittedManifold,
    FusionCenter,
    Manifold,
    ManifoldRecipe,
    Observation,
)

#: The options every purifying defense takes for its manifold.
Family = Literal["affine", "mlp", "auto"]
Width = Annotated[int, Meta(ge=1)] | None
Spread = Annotated[float, Meta(ge=0)]


#: Most bytes the working set of a batch may take.
MEMORY = 512 * 2**20


class PurifyingFusionCenter(FusionCenter):
    """A fusion head behind a purifier.

    Args:
        fitted: the manifold and how it was found.
        head: trained on the manifold's output.
    """

    def __init__(self, fitted: FittedManifold, head: nn.Module) -> None:
        super().__init__()
        self.fitted = fitted
        self.manifold = fitted.manifold
        self.head = head
        layout, rank = self.manifold.layout, self.manifold.rank
        # An autoencoder's Jacobian, three times over, from one start more than agents.
        starts = 1 if self.manifold.family == "affine" else layout.agents + 1
        jacobian = 0 if self.manifold.family == "affine" else layout.width * rank
        floats = starts * (3 * jacobian + 3 * rank * rank + 12 * layout.width)
        self.samples_per_chunk = max(1, MEMORY // (8 * floats))

    @property
    def facts(self) -> dict[str, float | int | str]:
        """The manifold that was selected and what it leaves unexplained."""
        return {
            "manifold": self.manifold.family,
            "code_width": self.manifold.rank,
            "validation_residual": self.fitted.residual,
            **{f"recovery {name}": e for name, e in self.fitted.recovery.items()},
        }

    @property
    def routes(self) -> Mapping[str, Callable[[Observation], Tensor]]:
        """The derivative of D(E(.)) in place of the purifier's."""
        return {"bpda": self.bpda}

    @property
    def purifies_onto(self) -> Manifold:
        """The manifold."""
        return self.manifold

    def answers(self, purified: Tensor) -> Tensor:
        """`(n, classes)` differentiable logits of purified features."""
        logits: Tensor = self.head(purified)
        return logits

    def bpda(self, observation: Observation) -> Tensor:
        """The purified answer with the derivative of D(E(.)) at the purified point.

        Backward pass differentiable approximation (Athalye, Carlini and Wagner 2018): it
        does not vanish where the purifier rejects a block.
        """
        received = observation.filled(0.0)
        with torch.no_grad():
            purified = self.purify(observation)[0].to(received.dtype)
        away = received - received.detach()
        nearby = self.manifold.reconstruct((purified + away).to(self.manifold.mean))
        nearby = nearby.to(received.dtype)
        return self.answers(purified + (nearby - nearby.detach()))

    @abstractmethod
    def purify(self, observation: Observation) -> tuple[Tensor, Tensor | None]:
        """`(n, width)` purified features, and `(n,)` solver status if there is one."""

    def decide(self, observation: Observation) -> Decision:
        """Purify, then decide."""
        purified, status = self.purify(observation)
        purified = purified.to(observation.features.dtype)
        return Decision(logits=self.head(purified), purified=purified, status=status)


def manifold_recipe(
    family: Family, width: int | None, spread: float = 0.0
) -> ManifoldRecipe:
    """The recipe for a defense's manifold options."""
    return ManifoldRecipe(family=family, width=width, spread=spread)

"""What purifying defenses share: features in, features out, then the fusion head."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Literal

from msgspec import Meta
from torch import Tensor, nn

from cibench import Decision, FusionCenter, Manifold, ManifoldRecipe, Observation

#: The options every purifying defense takes for its manifold.
Family = Literal["affine", "mlp", "auto"]
Width = Annotated[int, Meta(ge=1)] | None


class PurifyingFusionCenter(FusionCenter):
    """A fusion head behind a purifier.

    Args:
        manifold: float64.
        head: trained on the manifold's output.
    """

    def __init__(self, manifold: Manifold, head: nn.Module) -> None:
        super().__init__()
        self.manifold = manifold
        self.head = head

    @abstractmethod
    def purify(self, observation: Observation) -> tuple[Tensor, Tensor | None]:
        """`(n, width)` purified features, and `(n,)` solver status if there is one."""

    def decide(self, observation: Observation) -> Decision:
        """Purify, then decide."""
        purified, status = self.purify(observation)
        purified = purified.to(observation.features.dtype)
        return Decision(logits=self.head(purified), purified=purified, status=status)


def manifold_recipe(family: Family, width: int | None) -> ManifoldRecipe:
    """The recipe for a defense's manifold options."""
    return ManifoldRecipe(family=family, width=width)

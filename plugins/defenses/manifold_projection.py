"""Manifold projection: decide on D(E(h)), the received features mapped to the manifold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar, final

import torch
from torch import Tensor

from cibench import AbstractDefense, FusionCenter, Observation, Training, hookimpl

from .. import papers
from ._purified import Family, PurifyingFusionCenter, Width, manifold_recipe


@final
class _Projection(PurifyingFusionCenter):
    @property
    def routes(self) -> Mapping[str, Callable[[Observation], Tensor]]:
        """None: the surrogate is the very derivative."""
        return {}

    def purify(self, observation: Observation) -> tuple[Tensor, None]:
        """D(E(h)), missing blocks filled with the training mean."""
        received = observation.filled(self.manifold.mean.to(observation.features))
        return self.manifold.reconstruct(received.double()), None


@final
@dataclass(frozen=True, kw_only=True)
class ManifoldProjection(AbstractDefense):
    """One pass through the autoencoder, then the fusion head trained on its output.

    Differentiable; no guarantee: a corrupted block's projection onto the manifold is
    unbounded (CoPur paper, section 4).

    Args:
        manifold: `affine` (the problem is convex: one global minimum, found in
            microseconds), `mlp` (the paper's autoencoder, several starts), or `auto`:
            whichever recovers simulated corruptions of validation data better.
        width: width of the code; none selects it by the same rule.

    Source: Liu, Xie, Koyejo and Li 2022, section 4.
    """

    name: ClassVar[str] = "manifold-projection"
    citation: ClassVar[str] = "Liu, Xie, Koyejo, Li: CoPur. NeurIPS 2022, section 4"
    bibtex: ClassVar[str] = papers.COPUR
    known_failures: ClassVar[Mapping[str, str]] = MappingProxyType(
        {
            "check_accuracy_with_missing_agents": "one pass takes the training mean of a"
            " missing block for what was sent, and so draws the answer to the mean: the"
            " method itself, which `copur` mends by fitting to the agents heard"
        }
    )

    manifold: Family = "affine"
    width: Width = None

    def fit(self, training: Training, *, generator: torch.Generator) -> FusionCenter:
        """Fit the manifold and the head on its output."""
        recipe = manifold_recipe(self.manifold, self.width)
        return _Projection(training.manifold(recipe), training.manifold_head(recipe))


@hookimpl
def cibench_defenses() -> list[type[AbstractDefense]]:
    """Provide `manifold-projection`."""
    return [ManifoldProjection]

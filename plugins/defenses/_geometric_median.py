"""The weighted geometric median of each sample's points.

    minimize over z   sum over known points i of weights_i || points_i - z ||

is Eq. 5 on the affine manifold whose blocks are all the same, each in units of its weight:
`robust_fit` solves it in float64 (Weiszfeld's algorithm, drawn towards Newton's), and its
implicit derivative carries over. Convex; a minority of the weight cannot move it far.

Source: Weiszfeld 1937; Vardi and Zhang 2000; breakdown point in Lopuhaa and Rousseeuw 1991.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cibench import (
    AffineManifold,
    AgentLayout,
    Manifold,
    Observation,
    RobustFit,
    differentiable_code,
    robust_fit,
)


class GeometricMedian:
    """Solver for points of a given width.

    Args:
        weights: `(points,)` float64 positive weights.
        width: of a point.
    """

    def __init__(self, weights: Tensor, width: int) -> None:
        names = tuple(f"point{i}" for i in range(len(weights)))
        layout = AgentLayout(names, (width,) * len(weights))
        # Orthonormal columns; a code is the median times `size`.
        self.weights = weights
        self.size = torch.linalg.vector_norm(weights)
        identity = torch.eye(width).to(weights)
        basis = ((weights / self.size)[:, None, None] * identity).flatten(0, 1)
        self.manifold: Manifold = AffineManifold(
            layout, torch.zeros_like(basis[:, 0]), basis
        )

    def observation(self, points: Tensor, known: Tensor) -> Observation:
        """The `(n, points, width)` points as blocks of a joint embedding."""
        scaled = points.double() * self.weights[:, None]
        return Observation(scaled.flatten(1), known, self.manifold.layout)

    def solve(self, points: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """`(n, width)` medians, 0 where no point is known, and `(n,)` solver status."""
        fit: RobustFit = robust_fit(self.manifold, self.observation(points, known))
        return fit.code / self.size, fit.status

    def differentiable(self, points: Tensor, known: Tensor) -> Tensor:
        """`(n, width)` medians with the derivative of the implicit function theorem."""
        observation = self.observation(points, known)
        with torch.no_grad():
            fit = robust_fit(self.manifold, observation)
        median: Tensor = differentiable_code(self.manifold, observation, fit.code)
        return median.div(self.size)

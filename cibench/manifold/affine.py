"""An affine manifold: principal components of the joint embedding, gaps imputed."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from ..layout import AgentLayout
from ..observation import Observation
from .base import Manifold
from .spread import spread_basis


@final
class AffineManifold(Manifold):
    """`decode(z) = mean + z V'` with orthonormal columns V; `encode` projects onto it.

    Args:
        layout: the agents' embedded blocks.
        mean: `(width,)` offset.
        basis: `(width, rank)` orthonormal columns V.
    """

    family = "affine"
    basis: Tensor
    grams: Tensor

    def __init__(self, layout: AgentLayout, mean: Tensor, basis: Tensor) -> None:
        super().__init__(layout, mean)
        self.register_buffer("basis", basis)
        grams = torch.stack([basis[s].T @ basis[s] for s in layout.slices])
        self.register_buffer("grams", grams, persistent=False)
        sizes = grams.diagonal(dim1=1, dim2=2).mean(dim=1)
        even = sizes[:, None, None] * torch.eye(basis.shape[1]).to(grams)
        same = bool(((grams - even).abs() <= 1e-12 * sizes.max()).all())
        # Blocks that are the same rotation in other units, as points of a median are.
        self._sizes = sizes if same else None
        # In a tuple, for a submodule would be part of the state.
        self._smaller: tuple[AffineManifold, list[tuple[Tensor, Tensor]]] | None = None

    @property
    def rank(self) -> int:
        """Width of the code."""
        return self.basis.shape[1]

    def encode(self, features: Tensor) -> Tensor:
        """Coordinates of the orthogonal projection."""
        return (features - self.mean) @ self.basis

    def decode(self, code: Tensor) -> Tensor:
        """The point with these coordinates."""
        return torch.addmm(self.mean, code, self.basis.T)

    def gram(self, code: Tensor, weights: Tensor) -> Tensor:
        """See `Manifold`; the Gram matrix of each block is computed once."""
        m, r = self.layout.agents, self.rank
        return (weights @ self.grams.reshape(m, r * r)).reshape(-1, r, r)

    def compressed(
        self, observation: Observation
    ) -> tuple[AffineManifold, Observation]:
        """The same fit in fewer columns: block norms of residuals are unchanged.

        With V_i = Q_i R_i, a block's residual h_i - mean_i - V_i z splits into
        `Q_i'(h_i - mean_i) - R_i z` and what lies outside the span of V_i, of which the
        norm alone matters: one column more. Codes stay the same.
        """
        center = observation.features - self.mean
        if self._smaller is None or self._smaller[0].mean.device != center.device:
            axes = [tuple(torch.linalg.qr(self.basis[s])) for s in self.layout.slices]
            zero = torch.zeros_like(self.basis[:1])
            rows = [torch.cat([inner, zero]) for _, inner in axes]
            layout = AgentLayout(self.layout.names, tuple(len(r) for r in rows))
            basis = torch.cat(rows)
            mean = zero.new_zeros(len(basis))
            self._smaller = AffineManifold(layout, mean, basis), axes
        smaller, axes = self._smaller
        columns = []
        for s, (outer, _) in zip(self.layout.slices, axes, strict=True):
            inside = center[:, s] @ outer
            outside = center[:, s] - inside @ outer.T
            columns += [inside, torch.linalg.vector_norm(outside, dim=1, keepdim=True)]
        features = torch.cat(columns, dim=1)
        return smaller, Observation(features, observation.observed, smaller.layout)

    def step(
        self,
        code: Tensor,
        weights: Tensor,
        slope: Tensor,
        damping: Tensor,
        along: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """See `Manifold`; where every block's Gram matrix is a multiple of the identity.

        (a I - B'B)^-1 = (I + B' (a I - B B')^-1 B) / a: a system of the agents' number.
        """
        if self._sizes is None:
            return super().step(code, weights, slope, damping, along)
        size = weights @ self._sizes.to(weights)
        level = (size * (1 + 2 * damping.squeeze(1)) + 1e-300)[:, None]
        if along is None:
            return slope / level, torch.zeros_like(size, dtype=torch.int32)
        small = torch.diag_embed(level.expand(-1, along.shape[1])) - along @ along.mT
        factor, info = torch.linalg.cholesky_ex(small)
        inner = torch.cholesky_solve(along @ slope[:, :, None], factor)
        return (slope + (along.mT @ inner).squeeze(2)) / level, info

    def pullback(self, code: Tensor, vector: Tensor) -> Tensor:
        """See `Manifold`."""
        return vector @ self.basis

    def pullbacks(self, code: Tensor, vector: Tensor) -> Tensor:
        """See `Manifold`."""
        return torch.stack(
            [vector[:, s] @ self.basis[s] for s in self.layout.slices], dim=1
        )

    def layers(self) -> list[tuple[Tensor, Tensor, float | None]]:
        """See `Manifold`."""
        return [
            (self.basis.T, -self.mean @ self.basis, None),
            (self.basis, self.mean, None),
        ]


def fit_affine(
    observation: Observation, rank: int, sweeps: int = 20, *, spread: float = 0.0
) -> AffineManifold:
    """Principal components of rank `rank`, missing blocks imputed by the fit itself.

    Alternates a truncated singular value decomposition with imputation of the missing
    blocks from it, starting from the column means (the EM algorithm for principal
    components without noise model); one sweep where nothing is missing.

    Args:
        observation: clean training embeddings.
        rank: of the manifold, from 1 to the width or the number of samples less one.
        sweeps: most rounds of imputation.
        spread: at least 0; above it the basis gives up some of what it explains so that no
            agent holds much of a direction, see `cibench.manifold.spread`.

    Raises:
        ValueError: the rank exceeds the width or the number of samples less one.

    Source: Roweis 1998 (EM for PCA); Mazumder, Hastie and Tibshirani 2010.
    """
    layout = observation.layout
    limit = min(layout.width, len(observation) - 1)
    if not 1 <= rank <= limit:
        raise ValueError(f"rank: expected 1 to {limit}, got {rank}")
    known = layout.expand(observation.observed)
    wide = observation.with_features(observation.features.double())
    counts = known.sum(0).clamp_min(1)
    mean = wide.filled(0.0).sum(0) / counts
    values = torch.where(known, wide.features, mean)
    basis = covariance = torch.empty(0)
    for _ in range(1 if bool(known.all()) else sweeps):
        mean = values.mean(0)
        covariance = (values - mean).T @ (values - mean)
        basis = torch.linalg.eigh(covariance).eigenvectors[:, -rank:].flip(1)
        fitted = mean + ((values - mean) @ basis) @ basis.T
        values = torch.where(known, wide.features, fitted)
    basis = spread_basis(covariance, basis, layout, spread)
    return AffineManifold(layout, mean, basis.contiguous())

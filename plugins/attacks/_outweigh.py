"""Shifts along a manifold that are longer on some agents' blocks than on the others'.

With W_i the rows of an affine decoder that belong to agent i, T the compromised agents, S
the honest ones heard, a shift v of the code outweighs if

    sum_T ||W_j v|| > sum_S ||W_i v||.

The l2,1 fit of what T send, shifted by v, then prefers the false point (CoPur, theorem 2).
"""

from __future__ import annotations

import torch
from torch import Tensor

from cibench import AffineManifold

#: Random starts of the ascent, and its steps.
STARTS, STEPS = 3, 30


class Outweigh:
    """The inequality, sample by sample.

    Args:
        manifold: affine, float64.
        observed: `(n, agents)` who was heard.
        compromised: `(n, agents)` who is corrupted.
    """

    def __init__(
        self, manifold: AffineManifold, observed: Tensor, compromised: Tensor
    ) -> None:
        self.manifold = manifold
        self.corrupted = (compromised & observed).double()
        self.honest = (observed & ~compromised).double()

    def sides(self, shift: Tensor) -> tuple[Tensor, Tensor]:
        """`(n,)` sums of block norms of `(n, rank)` shifts: corrupted, honest agents."""
        norms = self.manifold.layout.block_norms(shift @ self.manifold.basis.T)
        return (norms * self.corrupted).sum(dim=1), (norms * self.honest).sum(dim=1)

    def excess(self, shift: Tensor, slack: float) -> tuple[Tensor, Tensor]:
        """How far a shift is from outweighing, and the slope of that.

        Returns:
            `(n,)` log of `slack` honest over corrupted, positive where it does not
            outweigh; and its `(n, rank)` gradient.
        """
        with torch.enable_grad():
            point = shift.detach().requires_grad_()
            corrupted, honest = self.sides(point)
            tiny = 1e-300
            value = (slack * honest + tiny).log() - (corrupted + tiny).log()
            (gradient,) = torch.autograd.grad(value.sum(), point)
        return value.detach(), gradient.nan_to_num(0.0, 0.0, 0.0)

    def most(self, generator: torch.Generator) -> Tensor:
        """`(n, rank)` shifts that outweigh most, as far as an ascent finds them.

        Each step maximizes the linear part of the corrupted side over the ball of the
        honest side, whose norm is bounded by a quadratic one (minorize, majorize). The
        ratio never falls.
        """
        layout, basis = self.manifold.layout, self.manifold.basis
        n, rank = len(self.corrupted), self.manifold.rank
        best = torch.zeros(n, rank).to(basis)
        ratio = torch.full((n,), -1.0).to(basis)
        for _ in range(STARTS):
            shift = torch.randn((n, rank), generator=generator).to(basis)
            for _ in range(STEPS):
                image = shift @ basis.T
                norms = layout.block_norms(image)
                floor = 1e-9 * norms.mean(dim=1, keepdim=True) + 1e-300
                units = image * layout.expand(self.corrupted / (norms + floor))
                # A ridge, for honest agents may not see every direction.
                gram = self.manifold.gram(shift, self.honest / (norms + floor))
                diagonal = gram.diagonal(dim1=1, dim2=2)
                diagonal += 1e-9 * diagonal.mean(dim=1, keepdim=True) + 1e-300
                factor = torch.linalg.cholesky_ex(gram).L
                slope = (units @ basis)[:, :, None]
                shift = torch.cholesky_solve(slope, factor).squeeze(2)
                shift = torch.nn.functional.normalize(shift.nan_to_num(0.0), dim=1)
            corrupted, honest = self.sides(shift)
            found = corrupted / honest.clamp_min(1e-12)
            better = found > ratio
            best = torch.where(better[:, None], shift, best)
            ratio = torch.where(better, found, ratio)
        return best

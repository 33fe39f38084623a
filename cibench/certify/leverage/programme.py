"""Constraints on linear policies, each of which is a lower bound of the constant.

For honest agents i and corrupted ones j, matrices A_ji with `sum_i A_ji B_i = B_j` for
every j bound the ratio: with unit vectors u_j along the B_j y,

    sum_j ||B_j y|| = sum_i (sum_j A_ji' u_j)' B_i y <= max_i g_i sum_i ||B_i y||,

    g_i = max ||sum_j A_ji' u_j|| <= || [A_ji / s_ij]_j ||,  sum_j s_ij^2 = 1.

The last step is the Cauchy-Schwarz inequality, with the A_ji / s_ij below one another; the
norm is the largest singular value. A term g ||y|| of the ratio is one more block, g I.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from .blocks import Blocks
from .family import Family, members

#: Points that a dual matrix suggests.
SUGGESTED = 4


@dataclass(frozen=True, eq=False)
class Programme:
    """The constraint `A B = V` for several pairs of sets, in units of a goal.

    Args:
        rows: `(sets, honest, rows, rank)` the B_i of the honest agents.
        basis: `(sets, honest * rows, rank)` Q with orthonormal columns: B = Q R.
        inverse: `(sets, rank, rank)` the computed inverse of R.
        target: `(sets, all rows of parts, rank)` V: the corrupted B_j over the goal.
        heights: rows of each part of V.
        extra: `(sets,)` what rounding adds to the numerator over the goal, times `||y||`.
        rounding: `(sets,)` how far `sum_i ||B_i y||` may be off, times `||y||`.
    """

    rows: Tensor
    basis: Tensor
    inverse: Tensor
    target: Tensor
    heights: tuple[int, ...]
    extra: Tensor
    rounding: Tensor

    @property
    def wanted(self) -> Tensor:
        """`(sets, all rows of parts, rank)`: A Q of every policy A that is feasible."""
        return self.target @ self.inverse

    def some(self, chosen: Tensor) -> Programme:
        """That of some of the pairs."""
        return Programme(
            rows=self.rows[chosen],
            basis=self.basis[chosen],
            inverse=self.inverse[chosen],
            target=self.target[chosen],
            heights=self.heights,
            extra=self.extra[chosen],
            rounding=self.rounding[chosen],
        )

    def by_agent(self, policy: Tensor) -> Tensor:
        """`(sets, honest, all rows of parts, rows)` views of policies."""
        split = torch.unflatten(policy, 2, self.rows.shape[1:3])
        view: Tensor = split.transpose(1, 2)
        return view

    def by_row(self, squares: Tensor) -> Tensor:
        """Repeat numbers `(..., parts)` for every row of a part."""
        heights = torch.tensor(self.heights, device=squares.device)
        return squares.repeat_interleave(heights, dim=-1)

    def suggested(self, dual: Tensor) -> Tensor:
        """`(sets, 4, rank)` leading directions of dual matrices, zeros beyond the rank.

        Args:
            dual: `(sets, all rows of parts, honest * rows)` what is clipped off policies:
                near a matrix of rank one times the transposed rows if the bound is tight.
        """
        axes = torch.linalg.svd(dual @ self.basis, full_matrices=False).Vh
        points = axes[:, :SUGGESTED] @ self.inverse.transpose(1, 2)
        found = points.new_zeros((len(points), SUGGESTED, points.shape[2]))
        found[:, : points.shape[1]] = normalize(points, dim=2)
        return found  # type: ignore[no-any-return]


def pose(blocks: Blocks, sets: Family, goal: Tensor, pull: Tensor | None) -> Programme:
    """The constraint for each pair of sets.

    Args:
        blocks: the decoder.
        sets: the pairs.
        goal: `(sets,)` ratio that is good enough.
        pull: `(sets,)` g of the ratio; none for 0.
    """
    bad, good = members(sets.corrupted), members(sets.honest)
    parts = [blocks.values[bad].flatten(1, 2)]
    heights = [blocks.values.shape[1]] * bad.shape[1]
    extra = blocks.rounding[bad].sum(1)
    identity = torch.eye(blocks.rank).to(blocks.values)
    if pull is not None:
        parts.append(pull[:, None, None] * identity)
        heights.append(blocks.rank)
        extra = extra + pull * blocks.drift
    rows = blocks.values[good]
    basis, factor = torch.linalg.qr(rows.flatten(1, 2))
    inverse = torch.linalg.solve_triangular(
        factor, identity.expand(len(sets), -1, -1), upper=True
    )
    return Programme(
        rows=rows,
        basis=basis,
        inverse=inverse,
        target=torch.cat(parts, dim=1) / goal[:, None, None],
        heights=tuple(heights),
        extra=extra / goal,
        rounding=blocks.rounding[good].sum(1),
    )

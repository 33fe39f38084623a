"""The decoder's blocks in the coordinates in which bounds are computed.

What is bounded depends on Range(W) alone, so W is replaced by W G, with G of full column
rank and W G orthonormal up to rounding: ker W drops out. Columns are first brought to one
size by powers of two, which is exact: how long a column is says nothing of the range, and a
short one is no kernel. What is left below `max(width, code) 2^-52` of the largest singular
value then is taken for rounding of a W of lower rank. Block i becomes W_i G, or its
triangular factor where it is taller than wide; short ones are padded with zeros, so that
all have one shape. How far rounding can have moved a norm is bounded block by block.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..._errors import UsageError
from ...layout import AgentLayout

#: Distance from 1 to the next float64.
EPS = 2.0**-52
#: Most binary orders of magnitude between two columns.
APART = 400


@dataclass(frozen=True, eq=False)
class Blocks:
    """Matrices B_i with `| ||W_i G y|| - ||B_i y|| | <= rounding_i ||y||` for every y.

    Args:
        values: `(agents, rows, rank)` the B_i, float64.
        rounding: `(agents,)`.
        drift: `| ||W G y|| - ||y|| | <= drift ||y||`, all agents' blocks taken together.
        basis: `(code, rank)` G.
        negligible: singular values of some agents' rows of W G that count as zero.
    """

    values: Tensor
    rounding: Tensor
    drift: float
    basis: Tensor
    negligible: float

    @property
    def rank(self) -> int:
        """Rank of W."""
        return self.values.shape[2]

    @cached_property
    def flat(self) -> Tensor:
        """`(agents * rows, rank)`: the B_i below one another."""
        return self.values.reshape(-1, self.rank)

    @cached_property
    def grams(self) -> Tensor:
        """`(agents, rank, rank)`: `B_i' B_i`."""
        return self.values.transpose(1, 2) @ self.values

    def images(self, y: Tensor) -> Tensor:
        """`(..., agents, rows)`: the `B_i y` of points `(..., rank)`."""
        return (y @ self.flat.T).reshape(*y.shape[:-1], *self.values.shape[:2])

    def norms(self, y: Tensor) -> Tensor:
        """`(..., agents)`: the `||B_i y||` of points `(..., rank)`."""
        norms: Tensor = torch.linalg.vector_norm(self.images(y), dim=-1)
        return norms


def compress(weight: Tensor, layout: AgentLayout) -> Blocks:
    """Drop ker W, make the columns orthonormal, shorten tall blocks.

    Args:
        weight: `(width, code)` W, of any floating type and any rank above 0.
        layout: the agents' blocks, of that width.

    Raises:
        UsageError: W has another height, entries that are not finite, zeros only, or
            columns that differ in size beyond all measure.
    """
    w, exponents = _evened(_checked(weight, layout))
    _, s, vh = torch.linalg.svd(w, full_matrices=False)
    threshold = max(w.shape) * EPS
    rank = int((s > threshold * s[0]).sum())
    basis = vh[:rank].T / s[:rank]
    u = w @ basis
    # A computed inner product of n terms is wrong by at most n + 2 eps of its terms' sizes.
    wrong = (w.shape[1] + 2) * EPS * (w.abs() @ basis.abs())
    values = u.new_zeros((layout.agents, min(max(layout.widths), rank), rank))
    rounding = u.new_zeros(layout.agents)
    for i, columns in enumerate(layout.slices):
        block = u[columns]
        rounding[i] = torch.linalg.matrix_norm(wrong[columns])
        if len(block) > rank:
            rounding[i] += qr_rounding(block)
            block = torch.linalg.qr(block, mode="r").R
        values[i, : len(block)] = block
    gram = u.T @ u - torch.eye(rank).to(u)
    drift = torch.linalg.matrix_norm(gram) + torch.linalg.matrix_norm(wrong)
    drift += (len(u) + 2) * EPS * torch.linalg.matrix_norm(u) ** 2
    negligible = threshold * float(s[0] / s[rank - 1])
    codes = _scaled(basis, exponents[:, None])
    return Blocks(values, rounding, float(drift), codes, negligible)


def qr_rounding(matrix: Tensor) -> Tensor:
    """`(...,)` how far the computed triangular factor is from one of `(..., rows, k)`.

    Of a matrix this near, in the Frobenius norm, it is the exact factor.

    Source: Higham 2002, theorem 19.4, with 8 for the small constant.
    """
    size = matrix.shape[-2] * matrix.shape[-1]
    norm: Tensor = torch.linalg.matrix_norm(matrix)
    return 8 * size * EPS * norm


def _checked(weight: Tensor, layout: AgentLayout) -> Tensor:
    """W in float64."""
    if weight.ndim != 2 or len(weight) != layout.width or not weight.shape[1]:
        raise UsageError(
            f"W: expected a matrix with {layout.width} rows, the width of the layout,"
            f" got shape {tuple(weight.shape)}"
        )
    if weight.is_complex():
        raise UsageError(f"W: expected real numbers, got {weight.dtype}")
    w = weight.detach().double()
    wrong = int((~w.isfinite()).sum())
    if wrong:
        raise UsageError(f"W: expected finite entries, got {wrong} that are not")
    if not bool(w.any()):
        raise UsageError("W: expected an entry that is not zero, got zeros only")
    return w


def _evened(w: Tensor) -> tuple[Tensor, Tensor]:
    """W D with columns of largest entry in [1/2, 1) or zero, and exponents of D >= 1.

    D is a multiple of the powers of two that were used: codes matter up to their length.
    """
    largest = w.abs().amax(dim=0)
    sizes = torch.frexp(largest).exponent
    used = sizes[largest > 0]
    apart = int(used.max() - used.min())
    if apart > APART:
        raise UsageError(
            f"W: expected columns whose sizes differ by a factor of 2^{APART} at most, got"
            f" 2^{apart}; scale the code"
        )
    up = torch.where(largest > 0, int(used.max()) - sizes, 0)
    return _scaled(w, -torch.where(largest > 0, sizes, 0)), up


def _scaled(values: Tensor, exponents: Tensor) -> Tensor:
    """Times powers of two, in two steps: 2^1000 twice is more than a float64 holds."""
    half = torch.div(exponents, 2, rounding_mode="floor")
    return torch.ldexp(torch.ldexp(values, half), exponents - half)

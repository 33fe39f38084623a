"""Bounds that hold for real numbers, from quantities computed with rounding.

Every inner product of n terms, computed in float64, is within (n + 2) eps of the sum of its
terms' sizes; summed over a product of matrices that is (n + 2) eps times the product of
Frobenius norms. All else that is inexact (the coordinates, shortened blocks, the policy's
constraint) is measured and bounded the same way, and charged to the bound.

Source: Higham 2002, sections 3.1 and 3.5.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .blocks import EPS, Blocks
from .family import Family
from .programme import Programme


def sound_ratio(programme: Programme, policy: Tensor, squares: Tensor) -> Tensor:
    """`(sets,)` upper bound of ratio over goal that policies prove, rounding included.

    With E_j the residuals of the constraint, sigma a lower bound of the smallest singular
    value of the honest rows B, g = max_i g_i and d the rounding of `sum_i ||B_i y||`,

        ratio <= g + (g d + sum_j ||E_j|| + extra) / (sigma - d),

    for `||y|| <= sum_i ||W_i G y|| / (sigma - d)`. Infinite where sigma is not above d.

    Args:
        programme: the constraint.
        policy: `(sets, all rows of parts, honest * rows)`.
        squares: `(sets, honest, parts)` squared scales of each agent.
    """
    norm = torch.linalg.matrix_norm
    rows, rank = programme.rows.flatten(1, 2), programme.rows.shape[3]
    # One correction: the residual falls to what rounding allows.
    residual = programme.target - policy @ rows
    policy = policy + residual @ programme.inverse @ programme.basis.transpose(1, 2)
    residual = programme.target - policy @ rows
    size = norm(rows)
    wrong = (rows.shape[1] + 3) * EPS * (norm(policy) * size + norm(programme.target))
    wrong = len(programme.heights) ** 0.5 * (wrong + norm(residual))
    scaled = programme.by_agent(policy) * programme.by_row(squares).rsqrt()[..., None]
    gram = scaled.transpose(2, 3) @ scaled
    # Products and eigenvalues are wrong by some eps of the trace.
    trace = gram.diagonal(dim1=2, dim2=3).sum(2)
    top = torch.linalg.eigvalsh(gram)[..., -1].clamp_min(0.0)
    top = top + 8 * (gram.shape[3] + scaled.shape[2]) * EPS * trace
    gain = (top * squares.sum(2)).amax(1).sqrt()
    gain = gain * (1 + (16 + len(programme.heights)) * EPS)
    # R is exact for a matrix near B; its computed inverse X leaves F = R X - I, and
    # ||R^-1|| <= ||X|| / (1 - ||F||), which is at most 2 ||X|| for ||F|| < 1/2.
    inverse = norm(programme.inverse)
    off = (rank + 4) * EPS * size * inverse
    sigma = 0.5 / inverse - 8 * rows.shape[1] * rank * EPS * size - programme.rounding
    slack = (gain * programme.rounding + wrong + programme.extra) / sigma
    proved = (gain + slack) * (1 + 16 * EPS)
    usable = (off < 0.5) & (sigma > 0) & proved.isfinite()
    return torch.where(usable, proved, torch.inf)


def sound_ends(blocks: Blocks, sets: Family, points: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of block norms at points, moved by the rounding so as to be sound.

    Args:
        blocks: the decoder.
        sets: the pairs.
        points: `(sets, rank)` of unit length.

    Returns:
        `(sets,)` lower limits of `sum_T ||W_j G y||`, at least 0, and upper limits of
        `sum_S ||W_i G y||`.
    """
    norms = blocks.norms(points)
    rank, rows = blocks.rank, blocks.values.shape[1]
    frobenius = torch.linalg.matrix_norm(blocks.values)
    wrong = 2 * blocks.rounding + (rank + rows + 8) * EPS * frobenius
    least = ((norms - wrong) * sets.corrupted).sum(1).clamp_min(0.0)
    most = ((norms + wrong) * sets.honest).sum(1)
    return least, most

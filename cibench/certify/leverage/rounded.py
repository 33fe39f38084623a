"""Bounds that hold for real numbers, from quantities computed with rounding.

Every inner product of n terms, computed in float64, is within (n + 2) eps of the sum of its
terms' sizes; summed over a product of matrices that is (n + 2) eps times the product of
Frobenius norms. All else that is inexact (the coordinates, shortened blocks, the policy's
constraint) is measured and bounded the same way, and charged to the bound.

Source: Higham 2002, sections 3.1 and 3.5.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .blocks import EPS, Blocks
from .family import Family


@dataclass(frozen=True, eq=False)
class Programme:
    """Constraint on policies, for several pairs of sets: `sum_i A_i B_i = V`.

    Args:
        rows: `(sets, honest, rows, rank)` the B_i.
        basis: `(sets, honest * rows, rank)` Q with orthonormal columns: B = Q R.
        factor: `(sets, rank, rank)` R.
        inverse: `(sets, rank, rank)` computed inverse of R.
        target: `(sets, rows of V, rank)` V.
        extra: `(sets,)` the numerator at y is at most `||V y|| + extra ||y||`.
        rounding: `(sets,)` `sum_S ||B_i y||` is within this times `||y||`.
    """

    rows: Tensor
    basis: Tensor
    factor: Tensor
    inverse: Tensor
    target: Tensor
    extra: Tensor
    rounding: Tensor


def sound_ratio(programme: Programme, policy: Tensor) -> Tensor:
    """`(sets,)` upper bound of the ratio that policies prove, rounding included.

    With E the residual of the constraint, sigma a lower bound of the smallest singular
    value of B, and d the rounding of `sum_S ||B_i y||`,

        ratio <= max_i ||A_i|| + (max_i ||A_i|| d + ||E|| + extra) / (sigma - d),

    for `||y|| <= sum_S ||W_i G y|| / (sigma - d)`. Infinite where sigma is not above d.

    Args:
        programme: the constraint.
        policy: `(sets, rows of V, honest * rows)` the A_i, one beside another.
    """
    norm = torch.linalg.matrix_norm
    rows, rank = programme.rows.flatten(1, 2), programme.rows.shape[3]
    agents, height = programme.rows.shape[1:3]
    # One correction: the residual falls to what rounding allows.
    residual = programme.target - policy @ rows
    policy = policy + residual @ programme.inverse @ programme.basis.transpose(1, 2)
    residual = programme.target - policy @ rows
    size = norm(rows)
    wrong = norm(residual) + (rows.shape[1] + 3) * EPS * (
        norm(policy) * size + norm(programme.target)
    )
    a = torch.unflatten(policy, 2, (agents, height)).transpose(1, 2)
    across = a.transpose(2, 3)
    gram = a @ across if a.shape[2] < a.shape[3] else across @ a
    largest = torch.linalg.eigvalsh(gram)[..., -1].amax(1).clamp_min(0.0)
    # The Gram matrix and its eigenvalue: each is relative to the trace.
    trace = gram.diagonal(dim1=2, dim2=3).sum(2).amax(1)
    gain = (largest + 8 * (a.shape[2] + a.shape[3]) * EPS * trace).sqrt()
    # R is exact for a matrix near B; its computed inverse X leaves F = R X - I, and
    # ||R^-1|| <= ||X|| / (1 - ||F||), which is at most twice ||X|| for ||F|| < 1/2.
    inverse = norm(programme.inverse)
    off = (rank + 2) * EPS * norm(programme.factor) * inverse
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

"""Lower bounds: linear policies, each of which is a certificate.

The corrupted agents' part of the ratio is bounded by one norm: for any s_j > 0,

    g ||y|| + sum_T ||B_j y|| <= ||V y||,  V = ||s|| [g I / s_0; B_j / s_j, j in T],

with equality at the best point known if s_j^2 is the size of term j there. Matrices A_i
with `sum_S A_i B_i = V` then bound the ratio by max_i ||A_i||, for
`||V y|| = ||sum_i A_i B_i y|| <= max_i ||A_i|| sum_S ||B_i y||`.

The first A is the weighted least-squares one, with the weights of the ascent's fixed point.
Douglas-Rachford splitting then lowers the largest singular value: it alternates between the
affine space of the constraint, on which every iterate is feasible and so a certificate, and
the proximal map of the largest singular value, which clips them at one level. It stops as
soon as the goal is reached. What the splitting clips at the end estimates the dual matrix;
the singular vectors of it are points from which the ascent may reach a higher ratio.

Source: the relaxation is the dual of the nuclear-norm form of the problem; Eckstein and
Bertsekas 1992 (Douglas-Rachford splitting).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .blocks import Blocks, qr_rounding
from .family import Family, members
from .rounded import Programme, sound_ratio

#: Step of the splitting, in units of the goal.
STEP = 8.0
#: Steps between two looks at the largest singular value.
LOOK = 3
#: Points that a dual matrix suggests.
SUGGESTED = 4
#: Numbers in the policies worked on at once: what a processor's cache holds.
_WORKING_SET = 2**19


@dataclass(frozen=True, eq=False)
class Policies:
    """What the policies of some pairs of sets prove.

    Args:
        ratio: `(sets,)` that no point exceeds, rounding included; infinite for none.
        suggested: `(sets, 4, rank)` points that may have a higher ratio than is known.
    """

    ratio: Tensor
    suggested: Tensor


def improve(
    blocks: Blocks,
    sets: Family,
    points: Tensor,
    *,
    goal: Tensor,
    known: Tensor,
    pull: Tensor | None = None,
    steps: int,
) -> Policies:
    """Bound the ratio of each pair of sets, as far down as a goal.

    Args:
        blocks: the decoder.
        sets: the pairs.
        points: `(sets, rank)` best point known of each.
        goal: `(sets,)` ratio that is good enough, above 0.
        known: `(sets,)` ratio that is reached at some point, at most the goal.
        pull: `(sets,)` g of the ratio; none for 0.
        steps: most steps of the splitting.
    """
    rows = int(sets.corrupted[0].sum()) * blocks.values.shape[1]
    height = min(rows, blocks.rank) if pull is None else blocks.rank
    size = max(1, _WORKING_SET // (max(height, blocks.rank) * len(blocks.flat)))
    found = [
        _improve(
            blocks,
            sets.part(part),
            points[part],
            goal[part],
            known[part],
            None if pull is None else pull[part],
            steps,
        )
        for part in torch.split(torch.arange(len(sets), device=points.device), size)
    ]
    return Policies(
        torch.cat([one.ratio for one in found]),
        torch.cat([one.suggested for one in found]),
    )


def _improve(
    blocks: Blocks,
    sets: Family,
    points: Tensor,
    goal: Tensor,
    known: Tensor,
    pull: Tensor | None,
    steps: int,
) -> Policies:
    programme = _pose(blocks, sets, points, goal, pull)
    norms = blocks.norms(points).gather(1, members(sets.honest))
    weights = norms / norms.mean(1, keepdim=True).clamp_min(1e-300)
    first = _weighted(programme, weights.clamp_min(0.05))
    level = (0.5 * (1.0 + known / goal)).clamp(max=1.0 - 1e-12)
    policy, dual = _split(programme, first, level, steps)
    suggested = points[:, None].repeat(1, SUGGESTED, 1)
    unsolved = dual.flatten(1).any(1)
    if bool(unsolved.any()):
        axes = torch.linalg.svd(dual[unsolved], full_matrices=False).Vh[:, :SUGGESTED]
        found = axes @ programme.inverse[unsolved].transpose(1, 2)
        suggested[unsolved, : axes.shape[1]] = torch.nn.functional.normalize(
            found, dim=2
        )
    return Policies(goal * sound_ratio(programme, policy), suggested)


def _pose(
    blocks: Blocks, sets: Family, points: Tensor, goal: Tensor, pull: Tensor | None
) -> Programme:
    """The constraint `sum_S A_i B_i = V / goal`."""
    count, rank = points.shape
    bad, good = members(sets.corrupted), members(sets.honest)
    terms = blocks.norms(points).gather(1, bad)
    stacked, extra = blocks.values[bad], blocks.rounding[bad].sum(1)
    parts = [stacked[:, j] for j in range(bad.shape[1])]
    if pull is not None:
        terms = torch.cat([terms, (pull * points.norm(dim=1))[:, None]], 1)
        parts.append(pull[:, None, None] * torch.eye(rank).to(points))
        extra = extra + pull * blocks.drift
    # Of terms that vanish at the point something is kept: elsewhere they may not.
    shares = terms / terms.sum(1, keepdim=True).clamp_min(1e-300) + 1e-3
    scales = (shares.sum(1, keepdim=True) / shares).sqrt() / goal[:, None]
    target = torch.cat(
        [scales[:, j, None, None] * part for j, part in enumerate(parts)], dim=1
    )
    extra = extra / goal + qr_rounding(target)
    if target.shape[1] > rank:
        target = torch.linalg.qr(target, mode="r").R
    rows = blocks.values[good]
    basis, factor = torch.linalg.qr(rows.flatten(1, 2))
    identity = torch.eye(rank).to(points).expand(count, -1, -1)
    inverse = torch.linalg.solve_triangular(factor, identity, upper=True)
    return Programme(
        rows=rows,
        basis=basis,
        factor=factor,
        inverse=inverse,
        target=target,
        extra=extra,
        rounding=blocks.rounding[good].sum(1),
    )


def _weighted(programme: Programme, weights: Tensor) -> Tensor:
    """`(sets, rows of V, honest rows)` minimizer of `sum_i weights_i ||A_i||_F^2`."""
    basis = programme.basis
    shrunk = basis / weights.repeat_interleave(programme.rows.shape[2], 1)[..., None]
    factor = torch.linalg.cholesky(basis.transpose(1, 2) @ shrunk)
    right = (programme.target @ programme.inverse).transpose(1, 2)
    return torch.cholesky_solve(right, factor).transpose(1, 2) @ shrunk.transpose(1, 2)


def _split(
    programme: Programme, start: Tensor, level: Tensor, steps: int
) -> tuple[Tensor, Tensor]:
    """Policies with singular values of at most 1, or as low as was reached; and duals."""
    shape = programme.rows.shape[1:3]
    basis, across = programme.basis, programme.basis.transpose(1, 2)
    wanted = programme.target @ programme.inverse
    best, lowest = start.clone(), torch.full_like(level, torch.inf)
    dual = torch.zeros_like(wanted)
    live = torch.arange(len(start), device=start.device)
    state = start
    for step in range(steps):
        feasible = state + (wanted - state @ basis) @ across
        if step % LOOK == 0:
            top = _largest(torch.unflatten(feasible, 2, shape))
            better = top < lowest[live]
            best[live[better]], lowest[live[better]] = feasible[better], top[better]
            on = lowest[live] > 1.0
            if not bool(on.all()):
                live, state, feasible, level = (
                    live[on],
                    state[on],
                    feasible[on],
                    level[on],
                )
                basis, across, wanted = basis[on], across[on], wanted[on]
            if not len(live):
                break
        reflected = 2.0 * feasible - state
        clipped = _clip(torch.unflatten(reflected, 2, shape), level).flatten(2)
        if step == steps - 1:
            dual[live] = (reflected - clipped) @ basis
        state = state + clipped - feasible
    return best, dual


def _largest(policy: Tensor) -> Tensor:
    """`(sets,)` largest singular value of `(sets, rows of V, agents, rows)` policies."""
    gram, _ = _gram(policy.transpose(1, 2))
    largest: Tensor = torch.linalg.eigvalsh(gram)[..., -1].amax(1)
    return largest.clamp_min(0.0).sqrt()


def _clip(policy: Tensor, level: Tensor) -> Tensor:
    """Proximal map of `STEP` times the largest singular value, where it is above a level.

    Singular values of a pair of sets are clipped at the level, or where what is cut off
    them adds up to `STEP`, if that is higher.
    """
    x = policy.transpose(1, 2)
    gram, left = _gram(x)
    squares, vectors = torch.linalg.eigh(gram)
    values = squares.clamp_min(0.0).sqrt()
    falling = values.flatten(1).sort(dim=1, descending=True).values
    count = torch.arange(1, falling.shape[1] + 1, device=x.device)
    means = (falling.cumsum(1) - STEP) / count
    above = (falling > means).sum(1, keepdim=True).clamp_min(1)
    cut = torch.maximum(level, means.gather(1, above - 1).squeeze(1))
    factor = (cut[:, None, None] / values.clamp_min(1e-300)).clamp(max=1.0)
    if left:
        y = (vectors * factor[:, :, None]) @ (vectors.transpose(2, 3) @ x)
    else:
        y = ((x @ vectors) * factor[:, :, None]) @ vectors.transpose(2, 3)
    clipped: Tensor = y.transpose(1, 2)
    return clipped


def _gram(x: Tensor) -> tuple[Tensor, bool]:
    """The smaller of `x x'` and `x' x`, and whether it is the former."""
    left = x.shape[-2] < x.shape[-1]
    across = x.transpose(-2, -1)
    return (x @ across if left else across @ x), left

"""Lower bounds: linear policies, made better until a goal is reached.

The first policy is the weighted least-squares one, in closed form, with the weights of the
ascent's fixed point. Its scales are those for which the Cauchy-Schwarz inequality is an
equality at the best point known. The splitting improves it; where that does not reach the
goal, and matrices are not too large, policy and scales are improved together.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .blocks import Blocks
from .family import Family, members
from .joint import split_jointly
from .programme import Programme, pose
from .rounded import sound_ratio
from .splitting import split

#: Rows of the largest matrices whose scales are improved, too.
JOINT = 72
#: Least share of a block in squared scales: a term that vanishes at one point may not at
#: another.
LEAST = 1e-3
#: Numbers in the policies worked on at once: what a processor's cache holds, and what
#: keeps an accelerator busy.
_WORKING_SET = {True: 2**19, False: 2**24}


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
        steps: most steps of each splitting.
    """
    height = int(sets.corrupted[0].sum()) * blocks.values.shape[1]
    height += blocks.rank if pull is not None else 0
    numbers = _WORKING_SET[points.device.type == "cpu"]
    size = max(1, numbers // (max(height, blocks.rank) * len(blocks.flat)))
    found = []
    for part in torch.split(torch.arange(len(sets), device=points.device), size):
        some, g, near = (
            sets.part(part),
            None if pull is None else pull[part],
            points[part],
        )
        programme = pose(blocks, some, goal[part], g)
        terms = blocks.norms(near).gather(1, members(some.corrupted))
        if g is not None:
            terms = torch.cat([terms, (g * near.norm(dim=1))[:, None]], dim=1)
        norms = blocks.norms(near).gather(1, members(some.honest))
        level = (0.5 * (1.0 + known[part] / goal[part])).clamp(max=1.0 - 1e-12)
        one = _improve(programme, terms, norms, level, steps)
        # What is not suggested stays where it is.
        none = (one.suggested == 0).all(2, keepdim=True)
        suggested = torch.where(none, near[:, None], one.suggested)
        found.append(Policies(goal[part] * one.ratio, suggested))
    return Policies(
        torch.cat([one.ratio for one in found]),
        torch.cat([one.suggested for one in found]),
    )


def _improve(
    programme: Programme, terms: Tensor, norms: Tensor, level: Tensor, steps: int
) -> Policies:
    """The ratio over the goal.

    Args:
        programme: the constraint.
        terms: `(sets, parts)` terms of the numerator at the best point known.
        norms: `(sets, honest)` terms of the denominator there.
        level: `(sets,)` that the splittings aim at.
        steps: most steps of each.
    """
    squares = terms / terms.sum(1, keepdim=True).clamp_min(1e-300) + LEAST
    squares = squares / squares.sum(1, keepdim=True)
    start = _least_squares(programme, norms)
    policy, lowest, dual = split(programme, squares, start, level, steps)
    scales = squares[:, None].expand(-1, norms.shape[1], -1)
    ratio = sound_ratio(programme, policy, scales)
    on = lowest > 1.0
    several = len(programme.heights) > 1
    if (
        several
        and sum(programme.heights) + programme.rows.shape[2] <= JOINT
        and bool(on.any())
    ):
        rest = programme.some(on)
        policy, scales, again = split_jointly(
            rest, squares[on], policy[on], level[on], steps
        )
        ratio[on] = torch.minimum(ratio[on], sound_ratio(rest, policy, scales))
        dual[on] = again
    suggested = programme.some(on).suggested(dual[on])
    everywhere = suggested.new_zeros((len(on), *suggested.shape[1:]))
    everywhere[on] = suggested
    return Policies(ratio, everywhere)


def _least_squares(programme: Programme, norms: Tensor) -> Tensor:
    """The policy that minimizes `sum_i ||A_i||_F^2 norms_i`, small norms raised."""
    sizes = norms / norms.mean(1, keepdim=True).clamp_min(1e-300)
    columns = sizes.clamp_min(0.05).repeat_interleave(programme.rows.shape[2], 1)
    shrunk = programme.basis / columns[:, :, None]
    factor = torch.linalg.cholesky(programme.basis.transpose(1, 2) @ shrunk)
    right = programme.wanted.transpose(1, 2)
    codes = torch.cholesky_solve(right, factor).transpose(1, 2)
    return codes @ shrunk.transpose(1, 2)

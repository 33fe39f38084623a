"""Douglas-Rachford splitting: policies whose largest singular value is small.

Two maps alternate: the projection to the policies that meet the constraint, after which
every iterate is a certificate, and the proximal map of the largest singular value, which
clips the singular values at one level. What is minimized does not fall below a level a
little under the goal, so that the splitting ends once the goal is reached. The scales are
the same for every honest agent, and fixed.

Source: Lions and Mercier 1979; Eckstein and Bertsekas 1992.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .programme import Programme

#: Step of the proximal map, in units of the goal.
STEP = 8.0
#: Steps between two looks at the largest singular value.
LOOK = 3


def split(
    programme: Programme, squares: Tensor, start: Tensor, level: Tensor, steps: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Lower the bound that policies prove until it is at most 1.

    Args:
        programme: the constraint.
        squares: `(sets, parts)` squares of the scales, that sum to 1.
        start: `(sets, all rows of parts, honest * rows)` policies.
        level: `(sets,)` below which nothing is clipped, under 1.
        steps: most steps.

    Returns:
        The best policies, `(sets,)` their largest scaled singular values, and what was
        clipped off in the last step, zeros where the goal was reached.
    """
    scales = programme.by_row(squares).sqrt()[:, :, None]
    basis, wanted = programme.basis, programme.wanted / scales
    state = start / scales
    best, lowest = state.clone(), torch.full_like(level, torch.inf)
    dual = torch.zeros_like(state)
    live = torch.arange(len(state), device=state.device)
    for step in range(steps):
        feasible = state + (wanted - state @ basis) @ basis.transpose(1, 2)
        if step % LOOK == 0 or step == steps - 1:
            top = largest(programme.by_agent(feasible))
            better = top < lowest[live]
            best[live[better]], lowest[live[better]] = feasible[better], top[better]
            on = lowest[live] > 1.0
            if not bool(on.all()):
                live, state, feasible = live[on], state[on], feasible[on]
                basis, wanted, level = basis[on], wanted[on], level[on]
            if not len(live):
                break
        reflected = 2.0 * feasible - state
        clipped = _clip(programme.by_agent(reflected), level)
        clipped = clipped.transpose(1, 2).flatten(2)
        if step == steps - 1:
            dual[live] = reflected - clipped
        state = state + clipped - feasible
    return best * scales, lowest, dual


def largest(policy: Tensor) -> Tensor:
    """`(sets,)` largest singular value of `(sets, honest, height, width)` matrices."""
    gram = policy.transpose(2, 3) @ policy
    top: Tensor = torch.linalg.eigvalsh(gram)[..., -1].amax(1)
    return top.clamp_min(0.0).sqrt()


def _clip(x: Tensor, level: Tensor) -> Tensor:
    """Clip singular values at a level, or where what is cut off adds up to `STEP`."""
    squares, vectors = torch.linalg.eigh(x.transpose(2, 3) @ x)
    values = squares.clamp_min(0.0).sqrt()
    falling = values.flatten(1).sort(dim=1, descending=True).values
    count = torch.arange(1, falling.shape[1] + 1, device=x.device)
    means = (falling.cumsum(1) - STEP) / count
    above = (falling > means).sum(1, keepdim=True).clamp_min(1)
    cut = torch.maximum(level, means.gather(1, above - 1).squeeze(1))
    factor = (cut[:, None, None] / values.clamp_min(1e-300)).clamp(max=1.0)
    clipped: Tensor = ((x @ vectors) * factor[:, :, None]) @ vectors.transpose(2, 3)
    return clipped

"""Policies and scales found together: the tightest of these bounds.

The scaled matrix of agent i has norm at most t if its squared scales c_ij, which sum to t,
make

    M_i = [ diag(c_ij I)   A_i  ]
          [     A_i'       t I  ]

positive semidefinite. Douglas-Rachford splitting again, between these cones and the
matrices of that form whose A meets the constraint. It costs the eigenvalues of matrices
larger by the corrupted blocks, so it comes after the splitting with fixed scales.

Source: the matrix inequality is the S-lemma, see Boyd and Vandenberghe 2004, B.2.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .programme import Programme
from .splitting import LOOK, largest

#: Step of the proximal map, in units of the goal.
STEP = 2.0
#: Least share of a part in the squared scales of an agent.
LEAST = 1e-4


def split_jointly(
    programme: Programme, squares: Tensor, start: Tensor, level: Tensor, steps: int
) -> tuple[Tensor, Tensor, Tensor]:
    """As `split`, with squared scales of each agent's own.

    Args:
        programme: the constraint.
        squares: `(sets, parts)` squared scales to start from, that sum to 1.
        start: `(sets, all rows of parts, honest * rows)` policies to start from.
        level: `(sets,)` t, under 1.
        steps: most steps.

    Returns:
        The best policies, their `(sets, honest, parts)` squared scales, and what was
        clipped off policies in the last step, zeros where the goal was reached.
    """
    count, agents, width = programme.rows.shape[:3]
    high = sum(programme.heights)
    sizes = torch.tensor(programme.heights, device=start.device).to(start)
    free = (1.0 / sizes).sum()
    shares = squares[:, None].expand(-1, agents, -1)
    best, found = start.clone(), shares.clone()
    lowest, dual = torch.full_like(level, torch.inf), torch.zeros_like(start)
    live = torch.arange(count, device=start.device)
    state = _matrices(programme, start, shares * level[:, None, None], level)
    basis, wanted = programme.basis, programme.wanted
    for step in range(steps):
        policy = 0.5 * (
            state[:, :, :high, high:] + state[:, :, high:, :high].transpose(2, 3)
        )
        policy = policy.transpose(1, 2).flatten(2)
        policy = policy + (wanted - policy @ basis) @ basis.transpose(1, 2)
        diagonal = state.diagonal(dim1=2, dim2=3)[:, :, :high]
        parts = torch.split(diagonal, list(programme.heights), dim=2)
        scales = torch.stack([part.mean(2) for part in parts], dim=2)
        corner = state.diagonal(dim1=2, dim2=3)[:, :, high:].mean(2)
        # The proximal map of STEP times t, no lower than the level; given t, the nearest
        # scales that sum to it: a part of many rows moves less.
        sums = scales.sum(2)
        t = (sums / free + width * corner).sum(1) - STEP
        t = torch.maximum(t / (agents * (1.0 / free + width)), level)
        scales = scales + (t[:, None] - sums)[..., None] / sizes / free
        if step % LOOK == 0 or step == steps - 1:
            shares = scales.clamp_min(LEAST)
            shares = shares / shares.sum(2, keepdim=True)
            rows = programme.by_row(shares).rsqrt()[..., None]
            top = largest(programme.by_agent(policy) * rows)
            better = top < lowest[live]
            best[live[better]], lowest[live[better]] = policy[better], top[better]
            found[live[better]] = shares[better]
            on = lowest[live] > 1.0
            if not bool(on.all()):
                live, state, policy = live[on], state[on], policy[on]
                scales, t, level = scales[on], t[on], level[on]
                basis, wanted = basis[on], wanted[on]
            if not len(live):
                break
        feasible = _matrices(programme, policy, scales, t)
        reflected = 2.0 * feasible - state
        values, vectors = torch.linalg.eigh(reflected)
        positive = (vectors * values.clamp_min(0.0)[:, :, None]) @ vectors.transpose(
            2, 3
        )
        if step == steps - 1:
            clipped = (reflected - positive)[:, :, :high, high:]
            dual[live] = clipped.transpose(1, 2).flatten(2)
        state = state + positive - feasible
    return best, found, dual


def _matrices(
    programme: Programme, policy: Tensor, scales: Tensor, level: Tensor
) -> Tensor:
    """`(sets, honest, n, n)` the M_i, n the rows of all parts and of one agent."""
    a = programme.by_agent(policy)
    corner = programme.by_row(scales).diag_embed()
    rest = level[:, None, None].expand(-1, a.shape[1], a.shape[3]).diag_embed()
    above, below = (
        torch.cat([corner, a], dim=3),
        torch.cat([a.transpose(2, 3), rest], dim=3),
    )
    return torch.cat([above, below], dim=2)

"""A basis that trades what it explains for how evenly agents share its directions.

Principal components explain most, and may rest on one agent: a unit direction of the code
whose energy is all in one agent's block is that agent's to choose. With orthonormal columns
V and G_j = V_j' V_j, the largest eigenvalue of G_j is the largest share of a direction's
energy that agent j holds; the G_j sum to the identity. The basis minimizes

    -tr(V' C V) / tr(C) + weight * (sum_j tr(G_j^8))^(1/8),

in which the second term is a smooth bound from above of the largest share of any agent.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..layout import AgentLayout

#: Power of the Schatten norm: large, so that the worst direction counts.
POWER = 8
#: Steps and first step length of the descent; bases have orthonormal columns.
STEPS, RATE = 300, 0.03


def largest_shares(basis: Tensor, layout: AgentLayout) -> Tensor:
    """`(agents,)` largest share of a direction's energy in each agent's block.

    Args:
        basis: `(width, rank)` orthonormal columns.
        layout: blocks of its rows.
    """
    blocks = [basis[s] for s in layout.slices]
    return torch.stack([torch.linalg.matrix_norm(b, 2).square() for b in blocks])


def spread_basis(
    covariance: Tensor, basis: Tensor, layout: AgentLayout, weight: float
) -> Tensor:
    """`(width, rank)` orthonormal columns, never worse by the sum above than `basis`.

    Args:
        covariance: `(width, width)` C, float64.
        basis: `(width, rank)` where the descent starts.
        layout: blocks of the rows.
        weight: of the shares, at least 0; 0 returns `basis`.
    """
    if weight == 0:
        return basis
    total = covariance.trace().clamp_min(torch.finfo(covariance.dtype).tiny)
    free = basis.clone().requires_grad_()
    descent = torch.optim.Adam([free], lr=RATE)
    best, least = basis, math.inf
    for step in range(STEPS + 1):
        with torch.enable_grad():
            columns = torch.linalg.qr(free).Q
            explained = (columns * (covariance @ columns)).sum() / total
            loss = weight * _concentration(columns, layout) - explained
        if loss.item() < least:
            least, best = loss.item(), columns.detach()
        if step == STEPS:
            break
        descent.zero_grad()
        loss.backward()
        for group in descent.param_groups:
            group["lr"] = RATE * (1 + math.cos(math.pi * step / STEPS)) / 2
        descent.step()
    return best


def _concentration(basis: Tensor, layout: AgentLayout) -> Tensor:
    """Schatten norm of all agents' Gram matrices together."""
    sums = []
    for s in layout.slices:
        # The smaller of the two Gram matrices has the same eigenvalues.
        block = basis[s] if s.stop - s.start <= basis.shape[1] else basis[s].T
        sums.append(torch.linalg.matrix_power(block @ block.T, POWER).trace())
    return torch.stack(sums).sum() ** (1 / POWER)

"""Collusion on the very manifold of a defense, which need not be affine.

Compromised agents send D(z)_T, the blocks of one point of the manifold. Where all others
are honest, the fit in the sum of block norms at z and at the clean code z* cost

    sum_S ||l_i - D(z)_i||   and   sum_T ||D(z)_j - D(z*)_j|| + sum_S ||l_i - D(z*)_i||,

and a robust fit prefers z once the first is smaller.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cibench import Criterion, Manifold, Observation, Victim

from ._descent import Adam


def objectives(
    manifold: Manifold, observation: Observation, compromised: Tensor, code: Tensor
) -> tuple[Tensor, Tensor]:
    """`(n,)` cost of the fit at false codes, and at the clean ones.

    Args:
        observation: clean, in the manifold's dtype.
        compromised: `(n, agents)` who sends the false point's blocks.
        code: `(n, rank)` false codes, under autograd if they ask for it.
    """
    norms = manifold.layout.block_norms
    clean = observation.filled(manifold.mean)
    true = manifold.reconstruct(clean).detach()
    point = manifold.decode(code)
    theirs = compromised & observation.observed
    honest = observation.observed & ~compromised
    false = (norms(clean - point) * honest).sum(dim=1)
    kept = (norms(point - true) * theirs).sum(dim=1)
    return false, kept + (norms(clean - true) * honest).sum(dim=1)


def false_points(
    victim: Victim,
    observation: Observation,
    criterion: Criterion,
    manifold: Manifold,
    compromised: Tensor,
    begin: Tensor,
    *,
    steps: int,
    slack: float,
) -> Tensor:
    """`(n, width)` points of the manifold that win the fit, with the least margin there.

    Args:
        begin: `(n, rank)` codes to start from.
        slack: how much cheaper the false point is to be.
    """
    dtype = observation.features.dtype
    wide = observation.with_features(observation.features.to(manifold.mean))
    code, found = begin, begin
    lowest = torch.full_like(begin[:, 0], torch.inf)
    size = 0.2 * begin.norm(dim=1, keepdim=True).clamp_min(1e-12) / manifold.rank**0.5
    rule = Adam(size)
    for _ in range(steps):
        with torch.enable_grad():
            leaf = code.detach().requires_grad_()
            false, true = objectives(manifold, wide, compromised, leaf)
            excess = (slack * false + 1e-300).log() - (true + 1e-300).log()
            (outward,) = torch.autograd.grad(excess.sum(), leaf)
        excess = excess.detach()
        everywhere = observation.with_features(manifold.decode(code).to(dtype))
        gradient, logits = victim.loss_gradient(everywhere, criterion.margin)
        margin = criterion.margin(logits).to(lowest)
        # Until the false point wins, nothing else counts.
        value = torch.where(excess > 0, 1e6 + excess, margin)
        better = value < lowest
        found = torch.where(better[:, None], code, found)
        lowest = torch.where(better, value, lowest)
        inward = manifold.pullback(code, gradient.nan_to_num(0.0).to(code))
        slope = torch.where((excess > 0)[:, None], outward.nan_to_num(0.0), inward)
        code = code + rule(slope)
    return manifold.decode(found).to(dtype)

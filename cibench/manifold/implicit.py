"""The derivative of the robust fit with respect to the received features.

At the minimizer z* of F(z; h) = sum_i ||h_i - D(z)_i||, one Newton step written as a
differentiable function of h,

    z(h) = z* + H^-1 J' [ r_i / ||r_i|| ](h),     H = sum_i J_i' P_i J_i / ||r_i||,
    P_i = I - r_i r_i' / ||r_i||^2,

has the value z* (the bracket sums to zero there) and the derivative
dz*/dh_j = H^-1 J_j' P_j / ||r_j|| of the implicit function theorem; exact for an affine
decoder, Gauss-Newton otherwise. It shows the adversary that the influence of a corrupted
block decays like 1/||r_j||.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..observation import Observation
from .base import Manifold

#: Residuals below this share of the sample's median are smoothed in the derivative.
SMOOTHING = 1e-3


def differentiable_code(
    manifold: Manifold, observation: Observation, code: Tensor
) -> Tensor:
    """`(n, rank)` code equal to `code`, with the derivative of the robust fit.

    Args:
        manifold: the manifold the code was fitted on.
        observation: float64 features that may require a gradient.
        code: `(n, rank)` minimizer of Eq. 5 for this observation, detached.
    """
    layout = observation.layout
    known = layout.expand(observation.observed)
    residual = torch.where(known, observation.filled(0.0) - manifold.decode(code), 0.0)
    norms = layout.block_norms(residual)
    # The median: a payload must not blur the honest agents' curvature.
    heard = norms.detach().masked_fill(~observation.observed, torch.nan)
    eps = (
        SMOOTHING * heard.nanmedian(dim=1, keepdim=True).values.nan_to_num(0.0) + 1e-12
    )
    smooth = torch.hypot(norms, eps.expand_as(norms))
    direction = residual / layout.expand(smooth)
    pull = manifold.pullback(code, direction)

    with torch.no_grad():
        curvature = manifold.gram(code, observation.observed / smooth)
        along = manifold.pullbacks(code, direction) * smooth[:, :, None] ** -0.5
        curvature -= along.mT @ along
        diagonal = curvature.diagonal(dim1=1, dim2=2)
        diagonal += 1e-6 * diagonal.mean(dim=1, keepdim=True) + 1e-12
        factor, info = torch.linalg.cholesky_ex(curvature)
        # Curvature may vanish along the residuals; such a sample gets no derivative.
        factor = torch.where(
            (info == 0)[:, None, None], factor, torch.full_like(factor, torch.inf)
        )
    change = (pull - pull.detach())[:, :, None]
    return code + torch.cholesky_solve(change, factor).squeeze(2).nan_to_num(0.0)

"""The robust fit, differentiated through a fixed number of its steps.

    z <- z + (sum_i J_i' J_i / ||r_i||)^-1 sum_i J_i' r_i / ||r_i||,   r = h - D(z)

(Weiszfeld's algorithm in the code; Gauss-Newton for a decoder that is not affine.) The
derivative at the optimum alone vanishes like 1/||r_j|| for a block j that the fit rejects;
through the first steps from the encoding of what arrived, such a block still counts.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cibench import Manifold, Observation

#: Steps that are differentiated.
STEPS = 12
#: Norms are smoothed by this share of a sample's typical residual.
SMOOTHING = 1e-2


def unrolled_code(
    manifold: Manifold, observation: Observation, start: Tensor
) -> Tensor:
    """`(n, rank)` code after `STEPS` steps, under autograd.

    Args:
        observation: float64 features that may require a gradient.
        start: `(n, rank)` first code, which may depend on the features.
    """
    layout = manifold.layout
    known = layout.expand(observation.observed)
    received = observation.filled(0.0)
    code = start
    for _ in range(STEPS):
        residual = torch.where(known, received - manifold.decode(code), 0.0)
        norms = layout.block_norms(residual)
        heard = norms.detach().masked_fill(~observation.observed, torch.nan)
        typical = heard.nanmedian(dim=1, keepdim=True).values.nan_to_num(0.0)
        smooth = (norms.square() + (SMOOTHING * typical).square() + 1e-24).sqrt()
        weights = observation.observed / smooth
        gram = manifold.gram(code, weights)
        diagonal = gram.diagonal(dim1=1, dim2=2).mean(dim=1)
        ridge = 1e-6 * diagonal.detach() + 1e-12
        slope = manifold.pullback(code, residual * layout.expand(weights))
        eye = torch.eye(manifold.rank, dtype=gram.dtype, device=gram.device)
        factor, _ = torch.linalg.cholesky_ex(gram + ridge[:, None, None] * eye)
        code = code + torch.cholesky_solve(slope[:, :, None], factor).squeeze(2)
    return code

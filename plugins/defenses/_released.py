"""CoPur's purifier as released: a fixed number of gradient steps, batched over samples.

Stage 1   l' <- l' - 0.1   d/dl' sum_i rms_i(h - D(E(l')))                 100 steps
Stage 2   l  <- l  - 0.001 d/dl  sum_i rms_i(h - l) + tau rms_i(D(E(l)) - l)  10 steps

starting at l' = D(E(h)) and l = D(E(l')); the result is D(E(l)). Differences:

1. Block norms are per sample and root mean squares (norm / sqrt(width)), the form the
   published step sizes belong to; the paper writes l2 norms.
2. Stage 1 sums over observed agents, as the paper does; `all_agents` sums over all of them
   with missing blocks at zero, as the released code does.
3. `stop_below` freezes a sample in a stage once its gradient norm is below the bound (the
   released ExtraSensory script uses 0.1).
4. The root is guarded at zero residual, where the released code divides by zero.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cibench import Observation

from ._chain import Chain

STAGE1_STEPS, STAGE1_RATE = 100, 0.1
STAGE2_STEPS, STAGE2_RATE = 10, 1e-3
_TINY = 1e-24


def unit_blocks(values: Tensor, weights: Tensor, observation: Observation) -> Tensor:
    """Gradient of `sum_i weights_i rms_i(values)`; may be written over `values`."""
    layout = observation.layout
    if len(set(layout.widths)) == 1:
        blocks = values.view(-1, layout.agents, layout.widths[0])
        squares = torch.einsum("nmw,nmw->nm", blocks, blocks)
        factor = weights * (squares * layout.widths[0] + _TINY).rsqrt_()
        if values.requires_grad:
            return (blocks * factor[:, :, None]).flatten(1)
        return blocks.mul_(factor[:, :, None]).flatten(1)
    widths = torch.tensor(layout.widths, device=values.device)
    squares = layout.block_norms(values).square()
    factor = weights * (squares * widths + _TINY).rsqrt()
    return values * layout.expand(factor)


def released_purify(
    chain: Chain,
    observation: Observation,
    received: Tensor,
    *,
    tau: float,
    all_agents: bool,
    stop_below: float,
    effort: int = 1,
) -> Tensor:
    """`(n, width)` purified features D(E(l)).

    Args:
        chain: D(E(.)) in the dtype of `received`.
        observation: which agents were heard.
        received: `(n, width)` received features, missing blocks at zero.
        tau: penalty weight of stage 2.
        all_agents: whether stage 1 also fits missing blocks, as zeros.
        stop_below: gradient norm below which a sample stops moving in a stage.
        effort: times the published steps of either stage.
    """
    heard = observation.observed.to(received.dtype)
    everyone = torch.ones_like(heard)
    stage1 = everyone if all_agents else heard

    def moved(point: Tensor, gradient: Tensor, rate: float) -> Tensor:
        if stop_below > 0:
            norms = torch.linalg.vector_norm(gradient, dim=1, keepdim=True)
            gradient = torch.where(norms < stop_below, 0.0, gradient)
        if gradient.requires_grad:  # every step is differentiated
            return point - rate * gradient
        return point.add_(gradient, alpha=-rate)

    point = chain.forward(received)[0].clone()
    for _ in range(effort * STAGE1_STEPS):
        image, outputs = chain.forward(point)
        unit = unit_blocks(image - received, stage1, observation)
        point = moved(point, chain.pullback(outputs, unit), STAGE1_RATE)

    point = chain.forward(point)[0].clone()
    for _ in range(effort * STAGE2_STEPS):
        image, outputs = chain.forward(point)
        fit = unit_blocks(point - received, heard, observation)
        off = unit_blocks(image - point, tau * everyone, observation)
        gradient = fit + chain.pullback(outputs, off) - off
        point = moved(point, gradient, STAGE2_RATE)
    return chain.forward(point)[0]

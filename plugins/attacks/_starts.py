"""Where descents start: a purifier's gradient vanishes far from what it believes in."""

from __future__ import annotations

import torch
from torch import Tensor

from cibench import Observation


def start(
    restart: int,
    observation: Observation,
    movable: Tensor,
    scale: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """`(n, width)` first iterate of a restart.

    The first is the clean embedding; then come, in turn, another sample's blocks, 1 to 4
    times as large; the clean blocks with noise from a tenth to ten times their scale; and
    the clean blocks moved along the line between two other samples, as far as they are
    apart or twice that: a point that fits the clean data's own directions of variation.

    Args:
        restart: number of the restart, from 0.
        movable: `(n, width)` boolean: columns of compromised agents.
        scale: `(width,)` unit of the noise.
    """
    if restart == 0:
        return observation.features
    features = observation.filled(0.0)
    n = len(features)
    draw = torch.rand((n, 1), generator=generator).to(features)
    if restart % 3 == 0:
        ends = (torch.randperm(n, generator=generator) for _ in range(2))
        one, other = (features[end.to(features.device)] for end in ends)
        drawn = features + (1 + draw) * (one - other)
    elif restart % 3 == 1:
        donors = torch.randperm(n, generator=generator).to(features.device)
        drawn = features[donors] * (1 + 3 * draw)
    else:
        noise = torch.randn(features.shape, generator=generator).to(features)
        drawn = features + 10 ** (2 * draw - 1) * scale * noise
    return torch.where(movable, drawn, observation.features)

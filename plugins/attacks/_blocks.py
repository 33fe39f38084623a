"""Sizes of clean blocks, and sending others in their place."""

from __future__ import annotations

import torch
from torch import Tensor

from cibench import Observation


def block_rms(observation: Observation) -> Tensor:
    """`(n, width)` root mean square of each sample's own block, per column.

    A block that is missing has none: 0.
    """
    layout = observation.layout
    norms = layout.block_norms(observation.filled(0.0))
    widths = torch.tensor(layout.widths).to(norms)
    return layout.expand(norms / widths.sqrt())


def replaced(observation: Observation, agents: Tensor, blocks: Tensor) -> Observation:
    """The same observation with other blocks of some agents.

    Args:
        agents: `(n, agents)` boolean: whose blocks are replaced.
        blocks: `(n, width)` what they send; read under `agents` only.
    """
    own = observation.layout.expand(agents)
    blocks = blocks.to(observation.features)
    return observation.with_features(torch.where(own, blocks, observation.features))

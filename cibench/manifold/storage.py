"""A fitted manifold as named tensors, and back."""

from __future__ import annotations

import torch
from torch import Tensor

from ..layout import AgentLayout
from ..seeds import scoped_generator
from .affine import AffineManifold
from .autoencoder import AutoEncoder
from .base import Manifold
from .select import FittedManifold

_RECOVERY = "recovery "


def manifold_tensors(fitted: FittedManifold) -> dict[str, Tensor]:
    """Everything about a fitted manifold, as tensors."""
    state = dict(fitted.manifold.state_dict())
    state["residual"] = torch.tensor(fitted.residual, dtype=torch.float64)
    for candidate, error in fitted.recovery.items():
        state[_RECOVERY + candidate] = torch.tensor(error, dtype=torch.float64)
    return state


def manifold_from(tensors: dict[str, Tensor], layout: AgentLayout) -> FittedManifold:
    """The inverse of `manifold_tensors`."""
    recovery = {
        name.removeprefix(_RECOVERY): float(value)
        for name, value in tensors.items()
        if name.startswith(_RECOVERY)
    }
    manifold: Manifold
    if "basis" in tensors:
        manifold = AffineManifold(layout, tensors["mean"], tensors["basis"])
    else:
        hidden, rank = tensors["decoder.0.weight"].shape
        manifold = AutoEncoder(
            layout,
            tensors["mean"],
            tensors["scale"],
            rank,
            hidden=hidden,
            generator=scoped_generator(0),
        ).to(tensors["mean"])
        manifold.load_state_dict(
            {k: v for k, v in tensors.items() if k in manifold.state_dict()}
        )
    manifold.eval().requires_grad_(False)
    return FittedManifold(manifold, float(tensors["residual"]), recovery)

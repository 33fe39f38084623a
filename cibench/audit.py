"""Whether what an attack sent keeps to its threat model, without asking the attack."""

from __future__ import annotations

import torch
from torch import Tensor

from ._errors import ContractError
from .attack import AbstractAttack
from .observation import Observation


def audit(
    clean: Observation,
    attacked: Observation,
    compromised: Tensor,
    radius: Tensor | None,
    attack: AbstractAttack,
) -> None:
    """Recompute, independently of the attack, that it stayed within its threat model.

    Raises:
        ContractError: an honest block or mask bit changed, a block that may not change
            did, or the budget is exceeded.
    """
    layout = clean.layout
    differs = torch.stack(
        [
            # Bit patterns, so that NaN equals itself and 0 does not equal -0.
            (_bits(attacked.features[:, s]) != _bits(clean.features[:, s])).any(dim=1)
            for s in layout.slices
        ],
        dim=1,
    )
    may_differ = compromised & clean.observed & attack.threat.may_corrupt
    may_vanish = compromised & attack.threat.may_drop
    vanished = clean.observed & ~attacked.observed
    appeared = attacked.observed & ~clean.observed
    for name, bad in (
        ("blocks it does not control changed", differs & ~may_differ),
        ("agents it may not silence are missing", vanished & ~may_vanish),
        ("missing agents appeared", appeared),
    ):
        if bad.any():
            raise ContractError(
                f"attack {attack.name}: expected changes within its threat model, but"
                f" {name} in {int(bad.any(dim=1).sum())} samples"
            )
    if radius is not None:
        own = clean.features.double()
        change = attacked.features.double() - own
        norms = layout.block_norms(torch.where(layout.expand(may_differ), change, 0.0))
        # Adding a small change to a large feature rounds at the feature's scale.
        size = layout.block_norms(torch.where(layout.expand(may_differ), own, 0.0))
        slack = torch.finfo(clean.features.dtype).eps * size
        if not (norms <= radius.double() * (1 + 1e-5) + slack).all():
            raise ContractError(
                f"attack {attack.name}: expected block changes of norm at most"
                f" {radius.tolist()}, got up to {norms.amax(dim=0).tolist()}"
            )


def _bits(values: Tensor) -> Tensor:
    kinds = {4: torch.int32, 8: torch.int64, 2: torch.int16}
    return values.contiguous().view(kinds[values.element_size()])

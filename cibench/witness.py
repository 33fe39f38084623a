"""Witnesses: what an attack sent, kept so that anyone can score it again.

A witness is a safetensors file of three tensors for `n` test samples and `m` agents:
`features (n, width)` float32, zero wherever an agent is not compromised; `observed (n, m)`
bool, what the fusion center heard; `compromised (n, m)` bool. Honest blocks are not in it:
whoever replays a witness takes those from embeddings computed anew, and so trusts nothing
of it but its word for what an adversary could have sent.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ._errors import ContractError
from .layout import AgentLayout
from .observation import Observation
from .results import CellRecord

NAMES = ("compromised", "features", "observed")


def witness_tensors(
    features: Tensor | None, observed: Tensor | None, compromised: Tensor | None
) -> dict[str, Tensor]:
    """The tensors of a witness, on the CPU."""
    assert features is not None
    assert observed is not None
    assert compromised is not None
    found = {"compromised": compromised, "features": features, "observed": observed}
    return {name: tensor.detach().cpu().contiguous() for name, tensor in found.items()}


def packed(record: CellRecord, tensors: Mapping[str, Tensor]) -> bytes:
    """A witness of a cell as a file."""
    # One entry: safetensors writes several in an order that changes.
    return save(dict(tensors), {"cibench witness": record.key})


def unpacked(content: bytes, layout: AgentLayout, n: int) -> dict[str, Tensor]:
    """The tensors of a witness file of `n` samples, checked against a layout.

    Raises:
        ContractError: it is no witness of this layout, or touches honest blocks.
    """
    try:
        found = load(content)
    except (SafetensorError, ValueError, KeyError) as error:
        raise ContractError(
            f"witness: expected a safetensors file, got {error}"
        ) from error
    if tuple(sorted(found)) != NAMES:
        raise ContractError(
            f"witness: expected tensors {', '.join(NAMES)}, got"
            f" {', '.join(sorted(found)) or 'none'}"
        )
    shapes = {
        "compromised": (n, layout.agents),
        "features": (n, layout.width),
        "observed": (n, layout.agents),
    }
    for name, shape in shapes.items():
        kind = torch.float32 if name == "features" else torch.bool
        got = found[name]
        if tuple(got.shape) != shape or got.dtype is not kind:
            raise ContractError(
                f"witness: expected {name} of shape {shape} and type {kind}, got"
                f" {tuple(got.shape)} and {got.dtype}"
            )
    outside = ~layout.expand(found["compromised"])
    touched = (outside & (found["features"] != 0)).any(dim=1)
    if touched.any():
        raise ContractError(
            "witness: expected zeros in the blocks of honest agents, got other values in"
            f" {int(touched.sum())} of {n} samples"
        )
    return found


def replayed(witness: Mapping[str, Tensor], clean: Observation) -> Observation:
    """What the fusion center receives: a witness on clean embeddings.

    An agent that recorded nothing stays missing, whatever the witness says.
    """
    device = clean.features.device
    on = {name: tensor.to(device) for name, tensor in witness.items()}
    own = on["compromised"] & clean.observed
    features = torch.where(
        clean.layout.expand(own), on["features"].to(clean.features), clean.features
    )
    observed = clean.observed & (on["observed"] | ~own)
    return Observation(features, observed, clean.layout)

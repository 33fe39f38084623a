"""Replaying a witness: what an attack sent, once more into the defense it was for."""

from __future__ import annotations

import torch
from torch import Tensor

from .._errors import ContractError
from ..defense import FusionCenter
from ..embedding import Training
from ..observation import Observation
from ..oracle import OracleFusionCenter
from ..references import decide, predictions
from ..scenario import Draw, Scenario
from ..witness import replayed, unpacked

#: How far norms may be above the radius: embeddings on other hardware round differently.
_SLACK = 1e-4


def replay(
    scenario: Scenario,
    training: Training,
    *,
    fusion_center: FusionCenter,
    witness: bytes,
) -> dict[str, list[int]]:
    """Decide afresh on what a witness sent, on clean embeddings computed here.

    Args:
        scenario: of the cell, on those embeddings.
        fusion_center: the fitted defense.
        witness: a file as `cibench.witness` makes it.

    Returns:
        Outcomes by name, `(n,)` each: as far as they follow from a witness.

    Raises:
        ContractError: it is no witness of this scenario, or exceeds the threat model.
    """
    clean, labels = scenario.clean, scenario.labels
    tensors = unpacked(witness, clean.layout, len(clean))
    tensors = {name: tensor.to(labels.device) for name, tensor in tensors.items()}
    compromised = tensors["compromised"]
    received = replayed(tensors, clean)
    draws = list(scenario.draws(_found(scenario, compromised)))
    received = _audited(scenario, draws, compromised, received)
    deployed = fusion_center
    if isinstance(fusion_center, OracleFusionCenter):
        deployed = fusion_center.told(compromised)

    def decided(center: FusionCenter, observation: Observation) -> list[int]:
        found: list[int] = predictions(decide(center, observation)[0]).tolist()
        return found

    undefended = training.undefended
    found = {
        "labels": labels.tolist(),
        "clean_undefended": decided(undefended, clean),
        "clean": decided(fusion_center, clean),
        "attacked": decided(deployed, received),
    }
    if len(draws) == 1:
        found["genie"] = decided(undefended, clean.without(compromised))
        if not scenario.reads_defense:
            found["attacked_undefended"] = decided(undefended, received)
    return found


def _found(scenario: Scenario, compromised: Tensor) -> tuple[int, ...] | None:
    """The agents that a search found, as far as a witness tells; None without a search.

    Raises:
        ContractError: they are not as many, or not the same in every sample.
    """
    part = scenario.searched
    if part is None:
        return None
    rule = scenario.attack[part].threat.agents
    found = tuple(a for a in scenario.candidates() if compromised[:, a].all())
    if len(found) != rule.count(scenario.clean.layout):
        raise ContractError(
            f"witness: expected one set for all samples as agents={rule.rule} finds it,"
            f" got {len(found)} agents in all of them"
        )
    return found


def _audited(
    scenario: Scenario, draws: list[Draw], compromised: Tensor, received: Observation
) -> Observation:
    """What is received if every part kept to its threat model.

    Blocks that a part may only silence are taken from the clean embeddings of this machine.

    Raises:
        ContractError: agents were not drawn, fell silent or changed more than they may.
    """
    rest = torch.ones(len(compromised), dtype=torch.bool, device=compromised.device)
    features = received.features
    for draw in draws:
        mine = rest & (draw.compromised == compromised).all(dim=1)
        rest &= ~mine
        for at, mask in enumerate(draw.masks):
            own = mask & mine[:, None]
            features = _audited_part(scenario, at, own, received, features)
    if rest.any():
        raise ContractError(
            "witness: expected the compromised agents that the harness draws, got others"
            f" in {int(rest.sum())} of {len(rest)} samples"
        )
    return received.with_features(features)


def _audited_part(
    scenario: Scenario, at: int, own: Tensor, received: Observation, features: Tensor
) -> Tensor:
    threat, clean = scenario.attack[at].threat, scenario.clean
    name = scenario.specs[at]
    vanished = own & clean.observed & ~received.observed
    if vanished.any() and not threat.may_drop:
        raise ContractError(
            f"witness: expected agents of {name} to be heard, which may not silence them,"
            f" got silence in {int(vanished.any(dim=1).sum())} samples"
        )
    # What lies under a silent agent carries no information.
    heard = own & clean.observed & received.observed
    wide = clean.layout.expand(heard)
    change = received.features.double() - clean.features.double()
    norms = clean.layout.block_norms(torch.where(wide, change, 0.0))
    size = clean.layout.block_norms(torch.where(wide, clean.features.double(), 0.0))
    radius = scenario.radius(at)
    if not threat.may_corrupt:
        radius = torch.zeros_like(scenario.median_norms)
    if radius is not None:
        over = ~(norms <= radius.double() * (1 + _SLACK) + _SLACK * size)
        if over.any():
            raise ContractError(
                f"witness: expected changes of norm at most {radius.tolist()} under"
                f" {name}, got more in {int(over.any(dim=1).sum())} samples"
            )
    if threat.may_corrupt:
        return features
    return torch.where(clean.layout.expand(own), clean.features, features)

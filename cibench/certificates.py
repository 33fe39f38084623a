"""What a fitted defense proves of its clean decisions, for the record."""

from __future__ import annotations

import torch
from torch import Tensor

from ._errors import ContractError
from .defense import FusionCenter
from .observation import Observation
from .references import decide, predictions
from .results.record import Certificate
from .scenario import Scenario


def certificates(fusion_center: FusionCenter, scenario: Scenario) -> list[Certificate]:
    """Certificates on the clean test embeddings, in a cell that compromises nobody.

    They do not depend on the attack, so that other cells leave them out. A fusion center
    that certifies has `certify(observation, corrupted) -> (n,)` booleans, whether the
    decision stands whatever that many agents send, or `radius(observation)`, the `(n,)`
    certified l2 radius and the `(n,)` class it is for. Either may be None instead. What
    `certify` rests on may be in `certificate_parts(observation, corrupted)`, `(n,)` float64
    tensors by name, which no record holds.

    Raises:
        ContractError: it returned something else.
    """
    if scenario.searched is not None or any(
        agents is None or agents for d in scenario.draws() for agents in d.sets
    ):
        return []
    found, clean = [], scenario.clean
    name = type(fusion_center).__name__
    certify = getattr(fusion_center, "certify", None)
    radius = getattr(fusion_center, "radius", None)
    with torch.no_grad():
        if callable(certify):
            held = torch.zeros(len(clean), dtype=torch.float64)
            standing = torch.ones(len(clean), dtype=torch.bool)
            for corrupted in range(1, clean.layout.agents + 1):
                answer = _checked(certify(clean, corrupted), clean, name, "certify")
                standing &= answer.bool().cpu()
                if not standing.any():
                    break
                held[standing] = corrupted
            found.append(_certificate("agents", held, 1.0))
        if callable(radius):
            sizes, classes = radius(clean)
            sizes = _checked(sizes, clean, name, "radius").double().cpu()
            decided = predictions(decide(fusion_center, clean)[0]).cpu()
            # A radius for another class than the one decided says nothing of it.
            sizes = torch.where(
                classes.cpu() == decided, sizes, torch.zeros_like(sizes)
            )
            alpha = fusion_center.facts.get("alpha", 0.001)
            found.append(_certificate("l2", sizes, 1.0 - float(alpha)))
    return found


def contradicted(
    fusion_center: FusionCenter,
    clean: Observation,
    compromised: Tensor,
    before: Tensor,
    after: Tensor,
) -> None:
    """Refuse certificates that an attack has proved wrong: no number may stand on them.

    Args:
        fusion_center: with or without `certify`.
        clean: the clean embeddings of `n` samples.
        compromised: `(n, agents)` agents under the adversary's control.
        before, after: `(n,)` decisions on clean and on attacked embeddings.

    Raises:
        ContractError: a decision changed although it is certified for as many agents.
    """
    certify = getattr(fusion_center, "certify", None)
    if not callable(certify):
        return
    name = type(fusion_center).__name__
    corrupted = (compromised & clean.observed).sum(dim=1)
    changed = (before != after) & (corrupted > 0)
    for count in sorted(set(corrupted[changed].tolist())):
        given = clean[changed & (corrupted == count)]
        with torch.no_grad():
            held = _checked(certify(given, count), given, name, "certify").bool()
        if held.any():
            raise ContractError(
                f"{name}.certify: expected certified decisions to stand, got"
                f" {int(held.sum())} of {len(before)} that {count} corrupted agents"
                " changed: the certificate is contradicted"
            )


def _certificate(kind: str, radius: Tensor, confidence: float) -> Certificate:
    shown = [float(f"{value:.6g}") for value in radius.tolist()]
    return Certificate(kind=kind, radius=shown, confidence=confidence)  # type: ignore[arg-type]


def _checked(answer: Tensor, clean: object, name: str, method: str) -> Tensor:
    n = len(clean)  # type: ignore[arg-type]
    if not isinstance(answer, Tensor) or answer.shape != (n,):
        raise ContractError(
            f"{name}.{method}: expected a tensor of shape ({n},), got"
            f" {getattr(answer, 'shape', type(answer).__name__)}"
        )
    if not torch.isfinite(answer.double()).all():
        raise ContractError(f"{name}.{method}: expected finite radii, got others")
    return answer

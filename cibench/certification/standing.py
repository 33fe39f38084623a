"""Certified accuracy of one fitted defense: decided rightly, and proved to stand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .._errors import ContractError, UsageError
from ..certify import missing_tolerance
from ..defense import FusionCenter
from ..observation import Observation
from ..references import decide, predictions
from .reasons import after_fit, beyond, by_recovery

#: What every certificate against corrupted agents says.
ANYTHING = (
    "the decision stands whichever heard agents are corrupted, up to that number, whatever"
    " they send, silence included"
)
#: What a recovery radius takes for granted beside it.
RECOVERY = (
    "the purified point is within Delta = (2 delta + gap) / gamma of the one of the clean"
    " embedding; delta is each clean sample's own residual, which a benchmark knows and a"
    " deployed fusion center does not"
)
#: What trying all sets of silent agents says.
SILENCE = (
    "the decision is the same without any set of so many agents: all sets are tried"
)


@dataclass(frozen=True)
class Standing:
    """What is proved of a fitted defense on clean samples.

    Args:
        samples: number of samples.
        clean: share of them that it decides rightly.
        corrupted: share that it decides rightly and that stand, by number of corrupted
            agents.
        missing: the same by number of silent agents.
        reasons: why the share is 0, by number of corrupted agents; 0 is for all numbers.
        confidence: chance that one sample's certificate is right.
        assumptions: what the certificates say, and what they take for granted.
    """

    samples: int
    clean: float
    corrupted: Mapping[int, float] = field(default_factory=dict)
    missing: Mapping[int, float] = field(default_factory=dict)
    reasons: Mapping[int, str] = field(default_factory=dict)
    confidence: float = 1.0
    assumptions: tuple[str, ...] = ()


def standing(
    fusion_center: FusionCenter,
    clean: Observation,
    labels: Tensor,
    *,
    corrupted: Sequence[int] | None = None,
    missing: int = 0,
    randomized: bool = False,
    known: Mapping[int, str] | None = None,
) -> Standing:
    """Certify the clean decisions of a fitted defense.

    A fusion center that certifies has `certify(observation, corrupted) -> (n,)` booleans:
    whether the decision stands whatever that many agents do. What stands against more
    agents must stand against fewer: a sample counts up to the first number it falls at.

    Args:
        fusion_center: the fitted defense.
        clean: `n` samples as received from honest agents.
        labels: `(n,)` true classes.
        corrupted: numbers of corrupted agents, ascending; None for 1, 2, ... until nothing
            stands.
        missing: largest number of silent agents; every set of so many is tried.
        randomized: whether decisions depend on chance, so that trying proves nothing.
        known: reasons why a number cannot be certified, found earlier.

    Raises:
        ContractError: the fusion center broke its contract.
    """
    decided = predictions(decide(fusion_center, clean)[0])
    right = decided == labels.to(decided.device)
    shares, reasons = _corrupted(fusion_center, clean, right, corrupted, known or {})
    silent: dict[int, float] = {}
    assumptions: list[str] = []
    if any(shares.values()):
        assumptions.append(ANYTHING)
        assumptions += [RECOVERY] if by_recovery(fusion_center) else []
    if missing and not randomized:
        silent = _silent(fusion_center, clean, right, missing)
        assumptions.append(SILENCE)
    elif missing:
        assumptions.append("silent agents: not tried, as decisions depend on chance")
    chance = (
        fusion_center.facts.get("certify_alpha", 0.0) if any(shares.values()) else 0.0
    )
    return Standing(
        samples=len(clean),
        clean=_share(right),
        corrupted=shares,
        missing=silent,
        reasons=reasons,
        confidence=1.0 - float(chance),
        assumptions=tuple(assumptions),
    )


def _corrupted(
    fusion_center: FusionCenter,
    clean: Observation,
    right: Tensor,
    numbers: Sequence[int] | None,
    known: Mapping[int, str],
) -> tuple[dict[int, float], dict[int, str]]:
    """Certified accuracy, and why it is 0, by number of corrupted agents."""
    if not callable(getattr(fusion_center, "certify", None)):
        lacking = "it has no certificate"
        if callable(getattr(fusion_center, "radius", None)):
            lacking = "it certifies an l2 radius, and agents may send anything"
        return dict.fromkeys(numbers or (), 0.0), {0: known.get(1, lacking)}
    shares: dict[int, float] = {}
    reasons: dict[int, str] = {}
    stands = torch.ones_like(right)
    heard = int(clean.observed.sum(dim=1).max()) if len(clean) else 0
    for number in range(1, heard) if numbers is None else numbers:
        reason = known.get(number)
        try:
            reason = reason or after_fit(fusion_center, clean.layout, number)
            if reason is None and bool(stands.any()):
                found = _certified(fusion_center, clean, number)
                stands = stands & found.to(right.device)
                if not bool((stands & right).any()):
                    reason = _shortfall(fusion_center, clean, number)
        except UsageError as error:  # such as more sets of agents than can be tried
            reason = str(error)
        if reason is not None:
            stands = torch.zeros_like(stands)
        shares[number] = _share(stands & right)
        if reason is not None:
            reasons[number] = reason
        if numbers is None and not shares[number]:
            break
    return shares, reasons


def _certified(fusion_center: FusionCenter, clean: Observation, number: int) -> Tensor:
    """`(n,)` what `certify` says, checked."""
    with torch.no_grad():
        found = fusion_center.certify(clean, number)  # type: ignore[operator]
    kind = getattr(found, "dtype", type(found).__name__)
    if kind != torch.bool or found.shape != (len(clean),):
        raise ContractError(
            f"{type(fusion_center).__name__}.certify: expected {len(clean)} booleans, got"
            f" {kind} of shape {tuple(getattr(found, 'shape', ()))}"
        )
    answer: Tensor = found
    return answer


def _shortfall(fusion_center: FusionCenter, clean: Observation, number: int) -> str:
    """What is missing where no right decision stands."""
    if not by_recovery(fusion_center):
        plain = f"no right decision stands against {number}"
        return beyond(fusion_center, number) or plain
    found = parts(fusion_center, clean, number)
    distance, radius = found.get("distance"), found.get("radius")
    if distance is None or not bool(torch.isfinite(distance).any()):
        return f"the recovery rate is not above 0 for {number} corrupted"
    text = f"the purified point may move by {float(distance.min()):.3g} or more"
    if radius is None:
        return f"{text}, further than any right decision stands"
    return f"{text}, decisions stand within {float(radius.max()):.3g} at most"


def parts(
    fusion_center: FusionCenter, clean: Observation, number: int
) -> dict[str, Tensor]:
    """`(n,)` numbers that a certificate by recovery radius is made of, checked.

    `residual` (delta), `gap` (of the solver), `rate` (gamma), `distance` (Delta), and
    `radius` or `lead`, as far as the fusion center has them.

    Raises:
        ContractError: one is not a number for each sample.
    """
    with torch.no_grad():
        found = fusion_center.certificate_parts(clean, number)  # type: ignore[operator]
    for name, values in found.items():
        shape = getattr(values, "shape", None)
        if shape != (len(clean),) or bool(values.isnan().any()):
            raise ContractError(
                f"{type(fusion_center).__name__}.certificate_parts: expected {name} to be"
                f" {len(clean)} numbers, got"
                f" {type(values).__name__ if shape is None else tuple(shape)}"
            )
    return {name: values.double().cpu() for name, values in found.items()}


def _silent(
    fusion_center: FusionCenter, clean: Observation, right: Tensor, most: int
) -> dict[int, float]:
    def classify(observation: Observation) -> Tensor:
        return predictions(decide(fusion_center, observation)[0])

    tolerated = missing_tolerance(classify, clean, most).to(right.device)
    return {
        number: _share(right & (tolerated >= number)) for number in range(1, most + 1)
    }


def _share(which: Tensor) -> float:
    return float(which.double().mean()) if len(which) else 0.0

"""What a purifier's certificate is made of: residual, leverage, recovery rate, distance."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..certify import leverage, recovery_radius, recovery_rate
from ..defense import FusionCenter
from ..observation import Observation
from ..references import decide, predictions
from .reasons import by_recovery, decoder
from .standing import parts


@dataclass(frozen=True)
class Recovery:
    """The certificate of a purifier against a number of corrupted agents, in numbers.

    Lengths are in the units of the embedding.

    Args:
        rank: width of the manifold's code.
        residual: median and 90 % quantile over clean test samples of delta: the sum over
            the agents heard, or over those that may be honest where the certificate counts
            these alone, of the norms of clean block minus point of the manifold.
        leverage: lower and upper bound of the leverage constant with every agent heard.
        rate: gamma that is proved: of the worst sample, or with every agent heard.
        distance: median and 90 % quantile of Delta; infinite where gamma is 0. Where the
            defense has no certificate, of a fit that is exact.
        limit: of delta for fresh clean samples, a split-conformal quantile, as the fact
            `residual_limit` has it; None without one.
        deployed: share of samples decided rightly and certified by that limit alone, of
            those within it; None without one.
        reason: why the leverage constant is 0; empty if it is not.
    """

    rank: int
    residual: tuple[float, float]
    leverage: tuple[float, float]
    rate: float
    distance: tuple[float, float]
    reason: str = ""
    limit: float | None = None
    deployed: float | None = None


def recovery(
    fusion_center: FusionCenter, clean: Observation, corrupted: int, labels: Tensor
) -> Recovery | None:
    """Take a purifier's certificate apart; None for a defense without a manifold.

    Its own `certificate_parts` are taken where it has them. Else delta is the residual of
    `D(E(h))`, and gamma that of the decoder's last layer with every agent heard: sufficient
    for a decoder that is affine, a bound over a larger set for another one.

    Args:
        fusion_center: the fitted defense.
        clean: test samples as received from honest agents.
        corrupted: number of corrupted agents.
        labels: `(n,)` true classes.
    """
    manifold, weight = fusion_center.purifies_onto, decoder(fusion_center)
    if manifold is None or weight is None:
        return None
    constant = leverage(weight, clean.layout, corrupted)
    told = fusion_center.facts.get("residual_limit")
    limit = told if isinstance(told, float) else None
    deployed = None if limit is None else 0.0
    if by_recovery(fusion_center) and not constant.exact_zero:
        found = parts(fusion_center, clean, corrupted)
        residual, rate = found["residual"], float(found["rate"].min())
        distance = found["distance"]
        if limit is not None and "deployed" in found:
            right = predictions(decide(fusion_center, clean)[0]) == labels
            stands = right.cpu() & (found["deployed"] > 0)
            deployed = float(stands.double().mean())
    else:
        with torch.no_grad():
            residual = manifold.residual(clean).double().cpu()
        rate = 0.0
        if constant.upper > 0.5:
            rate = recovery_rate(weight, clean.layout, corrupted).lower
        distance = recovery_radius(residual, rate)
    return Recovery(
        rank=manifold.rank,
        residual=_quantiles(residual),
        leverage=(constant.lower, constant.upper),
        rate=rate,
        distance=_quantiles(distance),
        reason=constant.reason or "",
        limit=limit,
        deployed=deployed,
    )


def _quantiles(values: Tensor) -> tuple[float, float]:
    """Median and 90 % quantile: values that were reached, infinite ones included."""
    ordered = values.sort().values
    places = [-(-len(ordered) * share // 100) - 1 for share in (50, 90)]
    return float(ordered[places[0]]), float(ordered[places[1]])

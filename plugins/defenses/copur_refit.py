"""CoPur, then drop: agents far from the robust fit are dropped, the others decide."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from cibench import (
    AbstractDefense,
    Capabilities,
    FittedManifold,
    FusionCenter,
    Manifold,
    Observation,
    Training,
    differentiable_code,
    hookimpl,
    robust_fit,
)

from .. import papers
from ._dropout_head import fit_dropout_head
from ._dropping import (
    DROP_CHANCE,
    DroppingFusionCenter,
    Most,
    Quantile,
    conformal_quantile,
    strict_minority,
    worst_above,
)
from ._purified import Family, Width, manifold_recipe
from .copur import CoPur


@final
class _Refit(DroppingFusionCenter):
    """Drop what the robust fit leaves unexplained.

    Args:
        inner: decides on the agents that are left.
        fitted: the manifold.
        most: limit of agents dropped, or None.
    """

    thresholds: Tensor

    def __init__(
        self, inner: FusionCenter, fitted: FittedManifold, most: int | None
    ) -> None:
        super().__init__(inner)
        self.manifold = fitted.manifold
        self.most = most
        self.samples_per_chunk = min(1024, inner.samples_per_chunk)
        everyone = torch.full_like(fitted.manifold.mean, torch.inf)
        self.register_buffer("thresholds", everyone[: fitted.manifold.layout.agents])

    @property
    def facts(self) -> dict[str, float | int | str]:
        """The manifold that was selected."""
        return {"manifold": self.manifold.family, "code_width": self.manifold.rank}

    @property
    def purifies_onto(self) -> Manifold:
        """The manifold."""
        return self.manifold

    def residuals(self, observation: Observation) -> Tensor:
        """`(n, agents)` block norms of what Eq. 5 leaves unexplained."""
        fit = robust_fit(self.manifold, observation)
        away = observation.filled(0.0).double() - self.manifold.decode(fit.code)
        return self.manifold.layout.block_norms(away)

    def calibrate(self, clean: Observation, quantile: float) -> None:
        """Set each agent's threshold to a quantile of its residuals on clean samples."""
        with torch.no_grad():
            found = conformal_quantile(self.residuals(clean), clean.observed, quantile)
        self.thresholds = found

    def suspicion(self, observation: Observation) -> Tensor:
        with torch.no_grad():
            fit = robust_fit(self.manifold, observation)
        code = differentiable_code(self.manifold, observation, fit.code)
        away = observation.features - self.manifold.decode(code)
        return self.manifold.layout.block_norms(away) / self.thresholds

    def suspects(self, observation: Observation) -> Tensor:
        limit = strict_minority(observation.observed, self.most)
        ratios = self.residuals(observation) / self.thresholds
        return worst_above(ratios, observation.observed, limit)


@final
@dataclass(frozen=True, kw_only=True)
class CoPurRefit(AbstractDefense):
    """Purify, declare the agents with a large residual corrupted, decide without them.

    The robust fit of Eq. 5 moves a corrupted block's influence into its residual, where a
    threshold finds it; honest blocks then speak for themselves instead of through the
    manifold. Thresholds are quantiles of each agent's residual on clean validation data.

    Args:
        quantile: share of clean residuals that stay below an agent's threshold.
        most: most agents dropped; none allows fewer than half of those heard.
        then: what decides on the rest: `head`, trained with dropped agents, or `refit`,
            the robust fit of the manifold to the rest and the head on its output.
        manifold: family of the manifold, as in `copur`.
        width: width of its code; none selects it by recovery.

    Source: after Liu, Xie, Koyejo and Li 2022, Eq. 5; thresholds by split conformal
        prediction (Vovk, Gammerman and Shafer 2005).
    """

    name: ClassVar[str] = "copur-refit"
    citation: ClassVar[str] = (
        "After Liu, Xie, Koyejo, Li: CoPur. NeurIPS 2022, Eq. 5, with outlier rejection"
    )
    bibtex: ClassVar[str] = papers.COPUR
    capabilities: ClassVar[Capabilities] = Capabilities(optimizes_at_inference=True)

    quantile: Quantile = 0.95
    most: Most = None
    then: Literal["head", "refit"] = "head"
    manifold: Family = "affine"
    width: Width = None

    def fit(self, training: Training, *, generator: torch.Generator) -> FusionCenter:
        """Fit the manifold, calibrate the thresholds and train the head."""
        fitted = training.manifold(manifold_recipe(self.manifold, self.width))
        inner: FusionCenter
        if self.then == "head":
            inner = fit_dropout_head(training, chance=DROP_CHANCE, generator=generator)
        else:
            copur = CoPur(refine=False, manifold=self.manifold, width=self.width)
            inner = copur.fit(training, generator=generator)
        center = _Refit(inner, fitted, self.most)
        center.calibrate(training.validation, self.quantile)
        return center


@hookimpl
def cibench_defenses() -> list[type[AbstractDefense]]:
    """Provide `copur-refit`."""
    return [CoPurRefit]

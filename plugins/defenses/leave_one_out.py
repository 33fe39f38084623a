"""Leave-one-out consistency: drop agents that the others do not predict."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from cibench import (
    AbstractDefense,
    AgentLayout,
    FusionCenter,
    Observation,
    Training,
    hookimpl,
    mean_features,
    simulate_corruption,
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
)

#: Ridge strengths tried, in units of the mean variance of a column.
STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0, 10.0)


#: Patterns of heard agents whose predictors a fusion center remembers.
REMEMBERED = 128


def leave_one_out_errors(
    covariance: Tensor,
    strength: float,
    centered: Tensor,
    observation: Observation,
    remembered: dict[bytes, Tensor] | None = None,
) -> Tensor:
    """`(n, width)` each heard block less its ridge prediction from the other heard ones.

    With K = C + strength I over the heard columns, block i's error is
    `[(K^-1)_ii]^-1 [K^-1 h]_i`: one factorization predicts every block. It is made once
    for each pattern of heard agents.

    Args:
        covariance: `(width, width)` C of clean features.
        centered: `(n, width)` float64 features less their mean.
        observation: which agents were heard.
        remembered: predictors by pattern, of the same covariance and strength; extended.

    Source: the inverse of a partitioned matrix; Rasmussen and Williams 2006, section
        5.4.2, for blocks of one column.
    """
    layout = observation.layout
    patterns, which = torch.unique(observation.observed, dim=0, return_inverse=True)
    heard = torch.where(layout.expand(observation.observed), centered, 0.0)
    remembered = {} if remembered is None else remembered
    errors = torch.zeros_like(heard)
    for index, pattern in enumerate(patterns):
        key = bytes(pattern.tolist())
        if key not in remembered:
            if len(remembered) >= REMEMBERED:
                remembered.clear()
            mask = layout.expand(pattern[None]).squeeze(0).to(covariance)
            remembered[key] = _predictor(covariance, strength, mask, layout)
        rows = which == index
        errors[rows] = heard[rows] @ remembered[key]
    return errors


def _predictor(
    covariance: Tensor, strength: float, mask: Tensor, layout: AgentLayout
) -> Tensor:
    """`(width, width)` matrix that maps heard features to the errors of all blocks."""
    kernel = covariance * mask * mask[:, None] + strength * torch.eye(len(mask)).to(
        mask
    )
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(kernel))
    blocks = [
        torch.linalg.solve(inverse[s, s], inverse[:, s].T).T for s in layout.slices
    ]
    return torch.cat(blocks, dim=1) * mask


def clean_covariance(centered: Tensor, observation: Observation) -> Tensor:
    """`(width, width)` covariance over the samples in which both agents were heard.

    Its negative eigenvalues, which missing blocks may cause, are set to 0 (the nearest
    covariance; Higham 1988).
    """
    known = observation.layout.expand(observation.observed).to(centered)
    heard = torch.where(known > 0, centered, 0.0)
    covariance = heard.T @ heard / (known.T @ known).clamp_min(1.0)
    values, vectors = torch.linalg.eigh(covariance)
    nearest: Tensor = (vectors * values.clamp_min(0.0)) @ vectors.T
    return nearest


@final
class _Consistency(DroppingFusionCenter):
    """Drop the least predictable agent until all are predictable.

    Args:
        inner: decides on the agents that are left.
        mean: `(width,)` mean of clean features.
        scale: `(agents,)` root mean square of each agent's clean columns.
        covariance: `(width, width)` of clean features in these units.
        strength: of the ridge.
        most: limit of agents dropped, or None.
    """

    mean: Tensor
    scale: Tensor
    covariance: Tensor
    thresholds: Tensor

    def __init__(
        self,
        inner: FusionCenter,
        mean: Tensor,
        scale: Tensor,
        covariance: Tensor,
        strength: float,
        most: int | None,
    ) -> None:
        super().__init__(inner)
        self.register_buffer("mean", mean)
        self.register_buffer("scale", scale)
        self.register_buffer("covariance", covariance)
        self.register_buffer("thresholds", torch.full_like(scale, torch.inf))
        self.strength = strength
        self.most = most
        self._remembered: dict[bytes, Tensor] = {}

    @property
    def facts(self) -> dict[str, float | int | str]:
        """The ridge that was picked."""
        return {"strength": self.strength}

    def errors(self, observation: Observation) -> Tensor:
        """`(n, agents)` norms of prediction errors, in units of the agents' scales."""
        centered = observation.filled(0.0).double() - self.mean
        centered = centered / observation.layout.expand(self.scale[None])
        return observation.layout.block_norms(
            leave_one_out_errors(
                self.covariance, self.strength, centered, observation, self._remembered
            )
        )

    def calibrate(self, clean: Observation, quantile: float) -> None:
        """Set each agent's threshold to a quantile of its errors on clean samples."""
        found = conformal_quantile(self.errors(clean), clean.observed, quantile)
        self.thresholds = found

    def first_hits(self, corrupted: Observation, changed: Tensor) -> float:
        """Share of samples whose first accusation names one of the `changed` agents."""
        ratios = self.errors(corrupted) / self.thresholds
        worst = ratios.masked_fill(~corrupted.observed, -torch.inf).max(dim=1)
        right = changed.gather(1, worst.indices[:, None]).squeeze(1)
        return float((right & (worst.values > 1)).double().mean())

    def suspicion(self, observation: Observation) -> Tensor:
        return self.errors(observation) / self.thresholds

    def suspects(self, observation: Observation) -> Tensor:
        dropped = torch.zeros_like(observation.observed)
        limit = strict_minority(observation.observed, self.most)
        active = (limit > 0).nonzero().squeeze(1)
        while len(active) > 0:
            rest = observation[active].without(dropped[active])
            ratios = self.errors(rest) / self.thresholds
            worst = ratios.masked_fill(~rest.observed, -torch.inf).max(dim=1)
            going = worst.values > 1
            active, agents = active[going], worst.indices[going]
            dropped[active, agents] = True
            active = active[dropped[active].sum(dim=1) < limit[active]]
        return dropped


@final
@dataclass(frozen=True, kw_only=True)
class LeaveOneOut(AbstractDefense):
    """Predict each block from the other heard ones; drop the agent that fits least; repeat.

    The prediction is ridge regression on clean training embeddings, of the strength whose
    first accusation is right most often under simulated corruption of validation data: a
    ridge that predicts clean data best follows a corrupted block furthest. The agent whose
    error is furthest above a quantile of its clean validation errors is dropped, the others
    are predicted anew without it, until none is above or too few would be left. A head
    trained with dropped agents decides on the rest. Corrupted agents that agree vouch for
    one another.

    Args:
        quantile: share of clean errors that stay below an agent's threshold.
        most: most agents dropped; none allows fewer than half of those heard.

    Source: ridge regression of Hoerl and Kennard 1970; thresholds by split conformal
        prediction (Vovk, Gammerman and Shafer 2005).
    """

    name: ClassVar[str] = "leave-one-out"
    citation: ClassVar[str] = (
        "Hoerl, Kennard: Ridge regression. 1970; Vovk et al.: conformal prediction. 2005"
    )
    bibtex: ClassVar[str] = papers.RIDGE + papers.CONFORMAL

    quantile: Quantile = 0.95
    most: Most = None

    def fit(self, training: Training, *, generator: torch.Generator) -> FusionCenter:
        """Fit the ridge, pick its strength, calibrate and train the head."""
        train, clean = training.train, training.validation
        # First: whether the head is stored or trained decides how much randomness it takes.
        corrupted = simulate_corruption(clean, generator)
        head = fit_dropout_head(training, chance=DROP_CHANCE, generator=generator)
        mean = mean_features(train).double()
        centered = train.filled(mean).double() - mean
        scale = scales(centered, train)
        units = train.layout.expand(scale[None])
        covariance = clean_covariance(centered / units, train)
        centers = [
            _Consistency(head, mean, scale, covariance, strength, self.most)
            for strength in STRENGTHS
        ]
        corrupted = corrupted.with_features(corrupted.features.double())
        away = corrupted.filled(0.0) - clean.filled(0.0)
        changed = (clean.layout.block_norms(away) > 0) & clean.observed
        for center in centers:
            center.calibrate(clean, self.quantile)
        return max(centers, key=lambda center: center.first_hits(corrupted, changed))


def scales(centered: Tensor, observation: Observation) -> Tensor:
    """`(agents,)` root mean square of each agent's columns over samples that heard it."""
    widths = torch.tensor(observation.layout.widths).to(centered)
    squares = observation.layout.block_norms(centered).square() * observation.observed
    count = observation.observed.sum(dim=0).clamp_min(1)
    found = (squares.sum(dim=0) / count / widths).sqrt()
    return torch.where(found > 0, found, 1.0)


@hookimpl
def cibench_defenses() -> list[type[AbstractDefense]]:
    """Provide `leave-one-out`."""
    return [LeaveOneOut]

"""Norm clipping: scale every block back to the norms seen in clean training data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from torch import Tensor, nn

from cibench import (
    AbstractDefense,
    Decision,
    FusionCenter,
    Observation,
    Training,
    UndefendedFusionCenter,
    hookimpl,
    mean_features,
)

from .. import papers
from ._dropping import Quantile


@final
class _Clip(FusionCenter):
    """A fusion center on clipped blocks.

    Args:
        undefended: decides on what clipping leaves.
        center: `(width,)` point blocks are pulled towards.
        whiten: per agent `(d, d)` matrix; the norm of a whitened block is what is clipped.
        radii: `(agents,)` largest norms.
    """

    center: Tensor
    radii: Tensor

    def __init__(
        self,
        undefended: UndefendedFusionCenter,
        center: Tensor,
        whiten: list[Tensor],
        radii: Tensor,
    ) -> None:
        super().__init__()
        self.undefended = undefended
        self.register_buffer("center", center)
        self.register_buffer("radii", radii)
        self.whiten = nn.ParameterList(whiten).requires_grad_(False)

    def clip(self, observation: Observation) -> Tensor:
        """`(n, width)` float64 features, blocks pulled inside their radii."""
        away = observation.filled(0.0).double() - self.center
        sizes = distances(away, observation, list(self.whiten))
        share = torch.where(sizes > self.radii, self.radii / sizes, 1.0)
        return self.center + away * observation.layout.expand(share)

    def decide(self, observation: Observation) -> Decision:
        """Clip, fill what is missing and decide."""
        clipped = self.clip(observation).to(observation.features.dtype)
        received = observation.with_features(clipped)
        purified = received.filled(self.undefended.fill)
        return Decision(logits=self.undefended.head(purified), purified=purified)


def distances(away: Tensor, observation: Observation, whiten: list[Tensor]) -> Tensor:
    """`(n, agents)` norms of whitened blocks; with a derivative at zero."""
    columns = observation.layout.slices
    squares = [
        (away[:, s] @ matrix).square().sum(1)
        for s, matrix in zip(columns, whiten, strict=True)
    ]
    sizes: Tensor = (torch.stack(squares, dim=1) + 1e-300).sqrt()
    return sizes


def shrunk_covariance(samples: Tensor) -> Tensor:
    """`(d, d)` covariance of centered `(n, d)` samples, shrunk towards a sphere.

    Embedded blocks are often of low rank; the shrinkage of least expected error makes
    their covariance invertible.

    Source: Ledoit and Wolf 2004, section 3.2.
    """
    n, d = samples.shape
    covariance = samples.T @ samples / n
    sphere = covariance.diagonal().mean() * torch.eye(d).to(samples)
    distance = (covariance - sphere).square().sum()
    spread = samples.square().sum(1).square().mean() - covariance.square().sum()
    share = (spread / n / distance.clamp_min(1e-300)).clamp(0, 1)
    return share * sphere + (1 - share) * covariance


def whitener(samples: Tensor) -> Tensor:
    """`(d, d)` inverse root of the shrunk covariance; the identity for constant samples."""
    values, vectors = torch.linalg.eigh(shrunk_covariance(samples))
    floor = 1e-12 * values.max()
    if not floor > 0:
        return torch.eye(samples.shape[1]).to(samples)
    root: Tensor = (vectors * values.clamp_min(floor).rsqrt()) @ vectors.T
    return root


@final
@dataclass(frozen=True, kw_only=True)
class NormClip(AbstractDefense):
    """Clip each agent's block to a quantile of its clean training norms, then decide.

    An attack that only amplifies must beat this; one that keeps its block's norm is not
    touched.

    Args:
        quantile: share of clean training blocks that are left as they are.
        distance: `norm` scales blocks towards zero by their Euclidean norm;
            `mahalanobis` towards the training mean, measured by the agent's covariance.

    Source: Sun, Kairouz, Suresh and McMahan 2019 (norm thresholding, of updates there).
    """

    name: ClassVar[str] = "norm-clip"
    citation: ClassVar[str] = (
        "Sun, Kairouz, Suresh, McMahan: Can You Really Backdoor FL? 2019, section 4"
    )
    bibtex: ClassVar[str] = papers.SUN

    quantile: Quantile = 0.99
    distance: Literal["norm", "mahalanobis"] = "norm"

    def fit(self, training: Training, *, generator: torch.Generator) -> FusionCenter:
        """Measure clean blocks."""
        train, layout = training.train, training.layout
        values = train.filled(0.0).double()
        if self.distance == "norm":
            center = torch.zeros_like(values[0])
            whiten = [torch.eye(width).to(values) for width in layout.widths]
        else:
            center = mean_features(train).double()
            whiten = [
                whitener((values - center)[heard][:, s])
                if heard.any()
                else torch.eye(s.stop - s.start).to(values)
                for s, heard in zip(layout.slices, train.observed.T, strict=True)
            ]
        sizes = distances(values - center, train, whiten)
        sizes = sizes.masked_fill(~train.observed, torch.nan)
        # An agent never heard while training has no norm to go by: it is not trusted.
        radii = torch.nanquantile(sizes, self.quantile, dim=0).nan_to_num(0.0)
        return _Clip(training.undefended, center, whiten, radii)


@hookimpl
def cibench_defenses() -> list[type[AbstractDefense]]:
    """Provide `norm-clip`."""
    return [NormClip]

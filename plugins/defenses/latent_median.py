"""Latent median: each agent estimates a common latent; their geometric median decides."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, final

import torch
from msgspec import Meta
from torch import Tensor, nn

from cibench import (
    AbstractDefense,
    Capabilities,
    Decision,
    FusionCenter,
    Observation,
    OptionError,
    Training,
    drop_agents,
    fit_head,
    fusion_head,
    hookimpl,
    recovery_error,
    simulate_corruption,
)

from .. import papers
from ._common_latent import fit_common_latent, inverse_residuals, latent_points
from ._dropping import DROP_CHANCE
from ._geometric_median import GeometricMedian
from ._purified import MEMORY, Width

#: Latent widths tried when the option leaves the width open: those of the manifolds.
WIDTHS = (2, 4, 8, 16, 32)

_PARTS = ("mean", "maps", "weights", "decoder")


@final
class _LatentMedian(FusionCenter):
    """A head on the geometric median of the agents' latents.

    Args:
        head: on the latent.
        mean: `(width,)` mean of clean features.
        maps: `(width, rank)` rows of each agent's map to the latent.
        weights: `(agents,)` of the median.
        decoder: `(rank, width)` least-squares map of medians back to features.
        recovery: relative recovery error under simulated corruption, per width.
    """

    mean: Tensor
    maps: Tensor
    weights: Tensor
    decoder: Tensor

    def __init__(
        self, head: nn.Module, parts: dict[str, Tensor], recovery: dict[str, float]
    ) -> None:
        super().__init__()
        self.head = head
        for name in _PARTS:
            self.register_buffer(name, parts[name])
        agents, rank = len(self.weights), self.maps.shape[1]
        self.recovery = recovery
        self.median = GeometricMedian(self.weights, rank)
        floats = 4 * rank * rank + 16 * agents * rank + 4 * len(self.mean)
        self.samples_per_chunk = max(1, MEMORY // (8 * floats))

    @property
    def facts(self) -> dict[str, float | int | str]:
        """The width that was selected, and the breakdown point of the median."""
        return {
            "latent_width": self.maps.shape[1],
            "largest_weight_share": float(self.weights.max() / self.weights.sum()),
            **{f"recovery {name}": e for name, e in self.recovery.items()},
        }

    def latent(self, observation: Observation) -> tuple[Tensor, Tensor]:
        """`(n, rank)` float64 median and `(n,)` solver status."""
        points = latent_points(self.mean, self.maps, observation)
        return self.median.solve(points, observation.observed)

    def decide(self, observation: Observation) -> Decision:
        latent, status = self.latent(observation)
        dtype = observation.features.dtype
        return Decision(
            logits=self.head(latent.to(dtype)),
            purified=(self.mean + latent @ self.decoder).to(dtype),
            status=status,
        )

    def surrogate(self, observation: Observation) -> Tensor:
        """The head on the median with its implicit derivative."""
        points = latent_points(self.mean, self.maps, observation)
        latent = self.median.differentiable(points, observation.observed)
        logits: Tensor = self.head(latent.to(observation.features.dtype))
        return logits


@final
@dataclass(frozen=True, kw_only=True)
class LatentMedian(AbstractDefense):
    """Each agent maps its block to a common latent; the geometric median decides.

    The maps are MAXVAR generalized canonical correlation on clean training embeddings. The
    median is the l2,1 program of CoPur with identical blocks: corrupted agents that hold
    less than half of the weight cannot move it far. Weights are inverse root mean square
    distances to the latent on training data; the head is trained on clean medians, with
    and without dropped agents. Weak where no agent alone determines the latent.

    Args:
        width: width of the latent; none selects it as the manifold's is: by recovery of
            the features under simulated corruption of validation data.
        ridge: added to each block's variances, as a share of their mean.

    Source: Kettenring 1971 (MAXVAR); Weiszfeld 1937 (median); Pillutla, Kakade and
        Harchaoui 2022 (geometric median against corrupted agents).
    """

    name: ClassVar[str] = "latent-median"
    citation: ClassVar[str] = (
        "Kettenring: MAXVAR. 1971; Pillutla, Kakade, Harchaoui: RFA. 2022, section 3"
    )
    bibtex: ClassVar[str] = papers.MAXVAR + papers.RFA
    capabilities: ClassVar[Capabilities] = Capabilities(optimizes_at_inference=True)

    width: Width = None
    ridge: Annotated[float, Meta(ge=0)] = 1e-2

    def fit(self, training: Training, *, generator: torch.Generator) -> FusionCenter:
        """Fit the maps of each candidate width, keep the best and train the head."""
        clean = training.validation
        # Outside `fit`: what follows must not depend on whether the maps are stored.
        corrupted = simulate_corruption(
            clean.with_features(clean.filled(0.0).double()), generator
        )

        def fit() -> dict[str, Tensor]:
            return self._select(training, corrupted)

        tensors = training.reuse("common latent", fit)
        recovery = {k: float(v) for k, v in tensors.items() if k not in _PARTS}
        rank = tensors["maps"].shape[1]
        head = fusion_head(rank, training.classes, training.recipe, generator)
        head.to(training.train.features)
        center = _LatentMedian(head, tensors, recovery)
        head.load_state_dict(
            training.reuse("head", lambda: _fit_head(center, training, generator))
        )
        head.eval().requires_grad_(False)
        return center

    def _select(self, training: Training, corrupted: Observation) -> dict[str, Tensor]:
        train, clean = training.train, training.validation
        limit = min(train.layout.width, len(train) - 1)
        widths = [w for w in WIDTHS if w <= limit] or [limit]
        if self.width is not None:
            if self.width > limit:
                raise OptionError(
                    f"latent-median width: expected at most {limit}, the width of the joint"
                    " embedding or the number of training samples less one, got"
                    f" {self.width}"
                )
            widths = [self.width]
        best, found = torch.inf, {}
        recovery = {}
        for done, width in enumerate(widths, start=1):
            parts = self._candidate(train, width)
            center = _LatentMedian(nn.Identity(), parts, {})
            purified = center.mean + center.latent(corrupted)[0] @ center.decoder
            error = recovery_error(purified, clean, center.mean).mean()
            recovery[str(width)] = error
            if float(error) < best:
                best, found = float(error), parts
            training.progress("common latents", done, len(widths))
        return {**found, **recovery}

    def _candidate(self, train: Observation, width: int) -> dict[str, Tensor]:
        common = fit_common_latent(train, width, self.ridge)
        points = latent_points(common.mean, common.maps, train)
        weights = inverse_residuals(points, common.latent, train.observed)
        medians, _ = GeometricMedian(weights, width).solve(points, train.observed)
        known = train.layout.expand(train.observed)
        centered = torch.where(known, train.filled(0.0).double() - common.mean, 0.0)
        gram = medians.T @ medians
        gram += 1e-9 * gram.diagonal().mean() * torch.eye(width).to(gram)
        gram += 1e-300 * torch.eye(width).to(gram)
        decoder = torch.linalg.solve(gram, medians.T @ centered)
        return {
            "mean": common.mean,
            "maps": common.maps,
            "weights": weights,
            "decoder": decoder,
        }


def _fit_head(
    center: _LatentMedian, training: Training, generator: torch.Generator
) -> dict[str, Tensor]:
    """Train the head on clean medians: of all agents heard, and of a random part."""

    def medians(clean: Observation) -> Tensor:
        part = drop_agents(clean.observed, DROP_CHANCE, generator)
        both = clean, replace(clean, observed=part)
        found = torch.cat([center.latent(observation)[0] for observation in both])
        return found.to(clean.features.dtype)

    head = fit_head(
        medians(training.train),
        training.train_labels.repeat(2),
        medians(training.validation),
        training.validation_labels.repeat(2),
        training.classes,
        training.recipe,
        generator,
        training.progress,
    )
    return dict(head.state_dict())


@hookimpl
def cibench_defenses() -> list[type[AbstractDefense]]:
    """Provide `latent-median`."""
    return [LatentMedian]

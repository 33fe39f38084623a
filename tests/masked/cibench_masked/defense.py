"""Defenses that mask their gradients on purpose; none of them protects anything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, final

import torch
from msgspec import Meta
from torch import Tensor

from cibench import (
    AbstractDefense,
    Capabilities,
    Decision,
    FusionCenter,
    ManifoldRecipe,
    Observation,
    Training,
    UndefendedFusionCenter,
    hookimpl,
)


class _Rounded(UndefendedFusionCenter):
    """Rounds what arrives: the derivative is zero almost everywhere."""

    step = 0.25

    def decide(self, observation: Observation) -> Decision:
        rounded = self.step * (observation.filled(0.0) / self.step).round()
        return super().decide(observation.with_features(rounded))


class _Detached(UndefendedFusionCenter):
    """Decides as undefended; all but every fourth column is cut off the graph."""

    def decide(self, observation: Observation) -> Decision:
        features = observation.filled(0.0)
        kept = torch.arange(features.shape[1], device=features.device) % 4 == 0
        return super().decide(
            observation.with_features(torch.where(kept, features, features.detach()))
        )


class _Posing(UndefendedFusionCenter):
    """Decides as undefended; its surrogate's derivative is that of something else."""

    def surrogate(self, observation: Observation) -> Tensor:
        with torch.no_grad():
            logits = self.decide(observation).logits
        features = observation.filled(0.0)
        shape = features.shape[1], logits.shape[1]
        drawn = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        other = features @ drawn.to(features)
        return logits + (other - other.detach())


class _Noisy(UndefendedFusionCenter):
    """Adds noise that nobody can foresee."""

    def decide(self, observation: Observation) -> Decision:
        features = observation.filled(0.0)
        noise = features.std() * torch.randn_like(features)
        return super().decide(observation.with_features(features + noise))


class _Early(FusionCenter):
    """A robust fit to a manifold whose solver takes too few steps."""

    def __init__(self, training: Training, steps: int) -> None:
        super().__init__()
        recipe = ManifoldRecipe(family="affine")
        self.manifold = training.manifold(recipe).manifold
        self.head = training.manifold_head(recipe)
        self.steps = steps
        codes = self.manifold.encode(training.train.filled(0.0))
        self.size = 0.1 * float(torch.linalg.vector_norm(codes, dim=1).median())

    def with_effort(self, factor: int) -> FusionCenter:
        longer = _Early.__new__(_Early)
        longer.__dict__.update(self.__dict__)
        longer.steps = factor * self.steps
        return longer

    def decide(self, observation: Observation) -> Decision:
        layout, received = observation.layout, observation.filled(0.0)
        code = torch.zeros_like(self.manifold.encode(received))
        for step in range(self.steps):
            residual = received - self.manifold.decode(code)
            residual = residual * layout.expand(observation.observed)
            norms = layout.block_norms(residual).clamp_min(1e-6)
            pull = self.manifold.pullback(code, residual / layout.expand(norms))
            code = code + self.size / (1 + 0.1 * step) * pull
        purified = self.manifold.decode(code).to(received.dtype)
        stopped = torch.ones(len(received), dtype=torch.uint8, device=received.device)
        return Decision(logits=self.head(purified), purified=purified, status=stopped)


@final
@dataclass(frozen=True, kw_only=True)
class Masked(AbstractDefense):
    """Look robust without being so.

    Args:
        by: `rounding` what arrives, `detached` columns, a `posing` surrogate, fresh `noise`
            at each question, or a solver that stops `early`.
        steps: of the solver that stops early.
    """

    name: ClassVar[str] = "masked"
    capabilities: ClassVar[Capabilities] = Capabilities(optimizes_at_inference=True)

    by: Literal["rounding", "detached", "posing", "noise", "early"] = "rounding"
    steps: Annotated[int, Meta(ge=1)] = 2

    def fit(self, training: Training, *, generator: torch.Generator) -> FusionCenter:
        """Wrap the undefended fusion center, or fit a manifold."""
        if self.by == "early":
            return _Early(training, self.steps)
        kinds = {
            "rounding": _Rounded,
            "detached": _Detached,
            "posing": _Posing,
            "noise": _Noisy,
        }
        undefended = training.undefended
        return kinds[self.by](undefended.head, undefended.fill)


@hookimpl
def cibench_defenses() -> list[type[AbstractDefense]]:
    """Provide `masked`."""
    return [Masked]

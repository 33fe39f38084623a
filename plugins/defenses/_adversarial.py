"""Adversarial training of the fusion head on the joint embedding: what AT and BAT share.

1. Clean embeddings in, encoders fixed: the attack is on what agents send, not on sensors.
2. The attack is the paper's: plain gradient steps of fixed size on cross-entropy, without
   a projection unless there is a budget, and the last iterate counts.
3. With a budget, steps are 2.5 / steps of the radius along each block's gradient (Madry et
   al. 2018): a fixed step says nothing about how far a ball reaches.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn

from cibench import (
    AbstractDefense,
    Criterion,
    FusionCenter,
    Observation,
    Training,
    UndefendedFusionCenter,
    fusion_head,
    minimize,
    project,
)


@dataclass(frozen=True, kw_only=True)
class Attack:
    """Gradient steps against the head that is being trained.

    Args:
        fill: `(width,)` what stands for a missing block.
        steps: number of steps.
        step: factor of the gradient, without a radius.
        radius: `(agents,)` largest norm of a block's change, or None.
    """

    fill: Tensor
    steps: int
    step: float
    radius: Tensor | None

    def __call__(
        self,
        head: nn.Module,
        observation: Observation,
        criterion: Criterion,
        moved: Tensor,
    ) -> Tensor:
        """`(n, width)` features after the last step; missing blocks stay filled.

        Args:
            moved: `(n, agents)` blocks to move.
        """
        layout = observation.layout
        clean = observation.with_features(observation.filled(self.fill).detach())
        current = clean.features
        movable = layout.expand(
            moved & observation.observed & criterion.eligible[:, None]
        )
        for _ in range(self.steps if movable.any() else 0):
            with torch.enable_grad():
                point = current.requires_grad_()
                loss = criterion.cross_entropy(head(point)).sum()
                (gradient,) = torch.autograd.grad(loss, point)
            gradient = torch.where(movable, gradient.nan_to_num(0.0), 0.0)
            current = point.detach() - self._sized(clean, gradient)
            if self.radius is not None:
                current = project(current, clean, self.radius)
        return current

    def _sized(self, clean: Observation, gradient: Tensor) -> Tensor:
        if self.radius is None:
            return self.step * gradient
        norms = clean.layout.block_norms(gradient).clamp_min(1e-30)
        size = 2.5 * self.radius / self.steps
        return gradient * clean.layout.expand(size / norms)


@dataclass(frozen=True, kw_only=True)
class AbstractAdversarialTraining(AbstractDefense):
    """A fresh fusion head trained on embeddings perturbed against itself.

    Args:
        target: of the training attack: `any` (leave the label), `other` (of two classes),
            or a class by 0-based index.
        steps: gradient steps of the training attack.
        step: factor of the gradient; without effect given a budget.
        clean_fraction: share of training samples left clean.
        clip: largest norm of a training step's gradient.
        budget: largest norm of a block's change as a multiple of the agent's median clean
            block norm; none for no bound.
        epochs: most passes over the training split, the recipe's own limit included.
    """

    target: str = "any"
    steps: Annotated[int, Meta(ge=1)] = 30
    step: Annotated[float, Meta(gt=0)] = 0.5
    clean_fraction: Annotated[float, Meta(ge=0, le=1)] = 0.0
    clip: Annotated[float, Meta(gt=0)] = 1.0
    budget: Annotated[float, Meta(gt=0)] | None = None
    epochs: Annotated[int, Meta(ge=1)] = 60

    @staticmethod
    @abstractmethod
    def choose(observed: Tensor, generator: torch.Generator) -> Tensor:
        """`(n, agents)` observed agents to the blocks the training attack moves."""

    def fit(self, training: Training, *, generator: torch.Generator) -> FusionCenter:
        """Train the head.

        The weights kept are those of the lowest loss on validation data under the same
        attack, the clean share counted with its weight.

        Raises:
            ThreatModelError: the data set has no such target class.
        """
        return _fit_head(training, self, generator)


def _fit_head(
    training: Training,
    options: AbstractAdversarialTraining,
    generator: torch.Generator,
) -> UndefendedFusionCenter:
    recipe, labels = training.recipe, training.train_labels
    fill = training.undefended.fill
    head = fusion_head(training.layout.width, training.classes, recipe, generator)
    head.to(training.train.features)
    # Class names are not part of what a defense may learn from; numbers do.
    classes = tuple(str(i) for i in range(training.classes))
    criterion = Criterion.of(options.target, labels, classes)
    held_out = Criterion.of(options.target, training.validation_labels, classes)
    held_out_moved = options.choose(training.validation.observed, generator)
    radius = None
    if options.budget is not None:
        radius = options.budget * _median_norms(training.train)
    attack = Attack(fill=fill, steps=options.steps, step=options.step, radius=radius)
    share, parameters = options.clean_fraction, list(head.parameters())

    def loss(indices: Tensor) -> Tensor:
        indices = indices.to(labels.device)
        batch = training.train[indices]
        moved = options.choose(batch.observed, generator)
        clean = torch.rand(len(indices), generator=generator).to(labels.device) < share
        values = attack(head, batch, criterion[indices], moved & ~clean[:, None])
        value = nn.functional.cross_entropy(head(values), labels[indices])
        # A loss scaled by a constant has a gradient scaled by it: clipping in one place.
        gradients = torch.autograd.grad(value, parameters, retain_graph=True)
        norm = torch.cat([part.flatten() for part in gradients]).norm()
        scale: Tensor = (options.clip / norm.clamp_min(1e-30)).clamp(max=1.0)
        return value * scale

    def validation_loss() -> Tensor:
        total = torch.zeros_like(fill[0])
        for weight, moved in (
            (share, torch.zeros_like(held_out_moved)), (1 - share, held_out_moved)
        ):  # fmt: skip
            if weight:
                values = attack(head, training.validation, held_out, moved)
                total = total + weight * nn.functional.cross_entropy(
                    head(values), training.validation_labels
                )
        return total

    def fit() -> dict[str, Tensor]:
        minimize(
            head,
            loss,
            validation_loss,
            n=len(labels),
            epochs=min(options.epochs, recipe.epochs),
            patience=recipe.patience,
            batch=recipe.batch,
            learning_rate=recipe.learning_rate,
            weight_decay=recipe.weight_decay,
            generator=generator,
            progress=training.progress,
            phase=options.name,
        )
        return dict(head.state_dict())

    head.load_state_dict(training.reuse(f"head of {options.name}", fit))
    return UndefendedFusionCenter(head.eval().requires_grad_(False), fill)


def _median_norms(train: Observation) -> Tensor:
    """`(agents,)` median clean block norm over the samples whose agent was heard."""
    norms = train.layout.block_norms(train.filled(0.0))
    heard = norms.masked_fill(~train.observed, torch.nan)
    return heard.nanmedian(dim=0).values.nan_to_num(0.0)

"""A fusion head that copes with missing agents: trained with random agents dropped."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from cibench import (
    Training,
    UndefendedFusionCenter,
    drop_agents,
    fusion_head,
    mean_features,
    minimize,
)


def fit_dropout_head(
    training: Training, *, chance: float, generator: torch.Generator
) -> UndefendedFusionCenter:
    """Train a head on the clean embeddings, each agent of a sample dropped by chance.

    A dropped block is filled with the training mean, as missing blocks are later. The
    weights of the lowest validation loss, averaged over fixed drops, are kept.

    Source: Neverova, Wolf, Taylor and Nebout 2016 (ModDrop).
    """
    recipe, train, labels = training.recipe, training.train, training.train_labels
    fill = mean_features(train)
    head = fusion_head(training.layout.width, training.classes, recipe, generator)
    head.to(train.features)
    held_out = [
        replace(
            training.validation,
            observed=drop_agents(training.validation.observed, part, generator),
        ).filled(fill)
        for part in (0.0, chance, chance)
    ]

    def loss(indices: Tensor) -> Tensor:
        indices = indices.to(labels.device)
        batch = train[indices]
        heard = replace(batch, observed=drop_agents(batch.observed, chance, generator))
        return nn.functional.cross_entropy(head(heard.filled(fill)), labels[indices])

    def validation_loss() -> Tensor:
        losses = [
            nn.functional.cross_entropy(head(values), training.validation_labels)
            for values in held_out
        ]
        return torch.stack(losses).mean()

    def fit() -> dict[str, Tensor]:
        minimize(
            head,
            loss,
            validation_loss,
            n=len(labels),
            epochs=recipe.epochs,
            patience=recipe.patience,
            batch=recipe.batch,
            learning_rate=recipe.learning_rate,
            weight_decay=recipe.weight_decay,
            generator=generator,
            progress=training.progress,
            phase="dropout head",
        )
        return dict(head.state_dict())

    head.load_state_dict(training.reuse(f"dropout head {chance}", fit))
    return UndefendedFusionCenter(head.eval().requires_grad_(False), fill)

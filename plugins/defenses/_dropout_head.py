"""A fusion head that copes with missing agents: trained with random agents dropped."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from cibench import (
    Training,
    UndefendedFusionCenter,
    drop_agents,
    fusion_head,
    mean_features,
)

from ._random_inputs import fit_on_random_inputs


def fit_dropout_head(
    training: Training, *, chance: float, generator: torch.Generator
) -> UndefendedFusionCenter:
    """Train a head on the clean embeddings, each agent of a sample dropped by chance.

    A dropped block is filled with the training mean, as missing blocks are later. The
    weights of the lowest validation loss, averaged over fixed drops, are kept.

    Source: Neverova, Wolf, Taylor and Nebout 2016 (ModDrop).
    """
    recipe, train = training.recipe, training.train
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

    def draw(indices: Tensor) -> Tensor:
        batch = train[indices]
        heard = drop_agents(batch.observed, chance, generator)
        return replace(batch, observed=heard).filled(fill)

    label = f"dropout head {chance}"
    fit_on_random_inputs(
        training, head, draw, held_out, label=label, generator=generator
    )
    return UndefendedFusionCenter(head, fill)

"""Training a model on inputs drawn anew at every step, by the recipe of the data set."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from cibench import Training, minimize


def fit_on_random_inputs(
    training: Training,
    model: nn.Module,
    draw: Callable[[Tensor], Tensor],
    held_out: Sequence[Tensor],
    *,
    label: str,
    generator: torch.Generator,
    criterion: Callable[[Tensor, Tensor], Tensor] = nn.functional.cross_entropy,
) -> nn.Module:
    """Minimize a criterion; the weights of the lowest validation loss are kept.

    Args:
        model: `(n, inputs)` to what the criterion takes, such as `(n, classes)` logits;
            its weights are the start.
        draw: maps indices of training samples to their inputs.
        held_out: inputs of all validation samples, drawn once; the loss is their mean.
        label: names the artifact, and the phase in the progress.
        criterion: maps what the model gives and the labels to the loss.

    Returns:
        The model, in evaluation mode, without gradients.
    """
    recipe, labels = training.recipe, training.train_labels

    def loss(indices: Tensor) -> Tensor:
        indices = indices.to(labels.device)
        return criterion(model(draw(indices)), labels[indices])

    def validation_loss() -> Tensor:
        losses = [
            criterion(model(values), training.validation_labels) for values in held_out
        ]
        return torch.stack(losses).mean()

    def fit() -> dict[str, Tensor]:
        minimize(
            model,
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
            phase=label,
        )
        return dict(model.state_dict())

    model.load_state_dict(training.reuse(label, fit))
    return model.eval().requires_grad_(False)

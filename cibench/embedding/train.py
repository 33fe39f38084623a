"""Training loops: encoders with their fusion head, and a head on given features."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from ..dataset import AgentDataset
from ..observation import Observation
from .modules import Encoders, UndefendedFusionCenter, fusion_head
from .recipe import EmbeddingRecipe
from .released import (
    ENCODER_BATCH,
    ENCODER_EPOCHS,
    HEAD_BATCH,
    HEAD_EPOCHS,
    released_descent,
)

#: Called with (phase, done, total) as training goes on.
Progress = Callable[[str, int, int], None]


def silent(phase: str, done: int, total: int) -> None:
    """Report nothing."""


def batches(n: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Random mini-batches of indices that cover `n` samples once."""
    order = torch.randperm(n, generator=generator)
    for start in range(0, n, size):
        yield order[start : start + size]


def minimize(
    module: nn.Module,
    loss: Callable[[Tensor], Tensor],
    validation_loss: Callable[[], Tensor],
    *,
    n: int,
    epochs: int,
    patience: int,
    batch: int,
    learning_rate: float,
    weight_decay: float,
    generator: torch.Generator,
    progress: Progress = silent,
    phase: str = "",
    good_enough: float = -torch.inf,
) -> float:
    """Train with AdamW, keep the weights of the lowest validation loss, stop early.

    Args:
        loss: maps a batch of sample indices to a scalar.
        validation_loss: scalar of the current weights; never the test split.
        good_enough: stop as soon as the validation loss is at most this.

    Returns:
        The lowest validation loss, whose weights `module` then holds.
    """
    optimizer = torch.optim.AdamW(
        module.parameters(), lr=learning_rate, weight_decay=weight_decay, foreach=True
    )
    best, best_state, since = torch.inf, copy.deepcopy(module.state_dict()), 0
    for epoch in range(epochs):
        module.train()
        for indices in batches(n, batch, generator):
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss(indices))
            optimizer.step()
        module.eval()
        with torch.no_grad():
            current = float(validation_loss())
        since += 1
        if current < best:
            best, best_state, since = current, copy.deepcopy(module.state_dict()), 0
        progress(phase, epoch + 1, epochs)
        if since >= patience or best <= good_enough:
            break
    module.load_state_dict(best_state)
    return best


def drop_agents(observed: Tensor, chance: float, generator: torch.Generator) -> Tensor:
    """Drop each agent of each sample with some chance, but never the last one heard."""
    if chance == 0:
        return observed
    draw = torch.rand(observed.shape, generator=generator).to(observed.device)
    kept = observed & (draw >= chance)
    return torch.where(kept.any(dim=1, keepdim=True), kept, observed)


def mean_features(embedded: Observation) -> Tensor:
    """`(width,)` mean of each column over the samples whose agent was heard."""
    weight = embedded.layout.expand(embedded.observed).to(embedded.features.dtype)
    return (embedded.filled(0.0) * weight).sum(0) / weight.sum(0).clamp_min(1.0)


def fit_embedding(
    dataset: AgentDataset,
    recipe: EmbeddingRecipe,
    generator: torch.Generator,
    device: torch.device,
    progress: Progress = silent,
) -> tuple[Encoders, UndefendedFusionCenter]:
    """Train encoders and the undefended fusion center jointly.

    Cross-entropy on logits; agent dropout as the recipe says; the weights of the lowest
    validation loss are kept. The fill of missing blocks is the mean of the embedding over
    the training split (over the batch while training), or zero.
    """
    encoders = Encoders(dataset.layout, recipe, generator)
    head = fusion_head(
        encoders.layout.width, len(dataset.class_names), recipe, generator
    )
    both = nn.ModuleList([encoders, head]).to(device)
    train = dataset.train.observation(dataset.layout).to(device)
    labels = dataset.train.labels.to(device)
    validation = dataset.validation.observation(dataset.layout).to(device)
    validation_labels = dataset.validation.labels.to(device)
    zero = torch.zeros(encoders.layout.width, device=device)

    def fill_of(embedded: Observation) -> Tensor:
        return mean_features(embedded) if recipe.fill == "mean" else zero

    def loss(indices: Tensor) -> Tensor:
        indices = indices.to(device)
        embedded = encoders(train[indices])
        fill = fill_of(embedded)
        heard = replace(
            embedded,
            observed=drop_agents(embedded.observed, recipe.agent_dropout, generator),
        )
        return nn.functional.cross_entropy(head(heard.filled(fill)), labels[indices])

    def validation_loss() -> Tensor:
        fill = fill_of(encoders(train))
        logits = head(encoders(validation).filled(fill))
        return nn.functional.cross_entropy(logits, validation_labels)

    if recipe.schedule == "released":
        released_descent(
            both,
            loss,
            n=len(labels),
            epochs=ENCODER_EPOCHS,
            batch=ENCODER_BATCH,
            generator=generator,
            decayed=True,
            validation_loss=validation_loss,
            progress=progress,
            phase="embedding",
        )
    else:
        minimize(
            both,
            loss,
            validation_loss,
            n=len(labels),
            epochs=recipe.epochs,
            patience=recipe.patience,
            batch=recipe.batch,
            learning_rate=recipe.learning_rate,
            weight_decay=recipe.weight_decay,
            generator=generator,
            progress=progress,
            phase="embedding",
        )
    with torch.no_grad():
        fill = fill_of(encoders(train))
    return encoders, UndefendedFusionCenter(head, fill)


def fit_head(
    features: Tensor,
    labels: Tensor,
    validation_features: Tensor,
    validation_labels: Tensor,
    classes: int,
    recipe: EmbeddingRecipe,
    generator: torch.Generator,
    progress: Progress = silent,
) -> nn.Module:
    """Train a fusion head on given `(n, width)` features, by the recipe's schedule."""
    head = fusion_head(features.shape[1], classes, recipe, generator)
    head.to(features.device, features.dtype)

    def loss(indices: Tensor) -> Tensor:
        indices = indices.to(features.device)
        return nn.functional.cross_entropy(head(features[indices]), labels[indices])

    def validation_loss() -> Tensor:
        return nn.functional.cross_entropy(head(validation_features), validation_labels)

    if recipe.schedule == "released":
        released_descent(
            head,
            loss,
            n=len(labels),
            epochs=HEAD_EPOCHS,
            batch=HEAD_BATCH,
            generator=generator,
            progress=progress,
            phase="fusion head",
        )
        return head
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
        progress=progress,
        phase="fusion head",
    )
    return head

"""Trimmed mean: a head for each agent, fused without the lowest and the highest values."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, final

import torch
from msgspec import Meta
from torch import Tensor, nn

from cibench import (
    AbstractDefense,
    Decision,
    FusionCenter,
    Observation,
    Training,
    fit_head,
    hookimpl,
)

#: The version of cibench's plugin interface that this was written for.
CIBENCH_PLUGIN_API = "1.0"


def trimmed_mean(values: Tensor, present: Tensor, trim: int) -> Tensor:
    """Mean over agents of what is left without the extremes, class by class.

    Args:
        values: `(n, agents, classes)`.
        present: `(n, agents)` boolean: whose values count.
        trim: values to leave out at each end; fewer where not enough are present, so that
            one or two stay (then it is the median).

    Returns:
        `(n, classes)`; zeros where nobody is present.
    """
    heard = present.sum(dim=1)
    lowest = torch.minimum(
        torch.full_like(heard, trim), ((heard - 1) // 2).clamp_min(0)
    )
    absent = torch.full_like(values, torch.inf)
    ordered = torch.where(present[:, :, None], values, absent).sort(dim=1).values
    place = torch.arange(values.shape[1], device=values.device)[None]
    kept = (place >= lowest[:, None]) & (place < (heard - lowest)[:, None])
    total = torch.where(kept[:, :, None], ordered, 0.0).sum(dim=1)
    return total / kept.sum(dim=1, keepdim=True).clamp_min(1)


@final
class TrimmedMeanFusionCenter(FusionCenter):
    """One head per agent, and the trimmed mean of their log-probabilities."""

    def __init__(self, heads: nn.ModuleList, trim: int) -> None:
        super().__init__()
        self.heads = heads
        self.trim = trim

    def decide(self, observation: Observation) -> Decision:
        features = observation.filled(0.0)
        values = [
            torch.log_softmax(head(features[:, columns]), dim=1)
            for head, columns in zip(self.heads, observation.layout.slices, strict=True)
        ]
        fused = trimmed_mean(torch.stack(values, 1), observation.observed, self.trim)
        return Decision(logits=fused)


@final
@dataclass(frozen=True, kw_only=True)
class TrimmedMean(AbstractDefense):
    """Decide by the trimmed mean of what each agent's own head says.

    Args:
        trim: values left out at each end, for each class: how many corrupted agents it is
            to withstand.
    """

    name: ClassVar[str] = "trimmed-mean"
    citation: ClassVar[str] = (
        "Yin, Chen, Kannan, Bartlett: Byzantine-Robust Distributed Learning. ICML 2018"
    )

    trim: Annotated[int, Meta(ge=0)] = 1

    def fit(self, training: Training, *, generator: torch.Generator) -> FusionCenter:
        """Train a head for each agent on the samples in which it was heard."""
        heads = []
        for agent, columns in enumerate(training.layout.slices):
            known = training.train.observed[:, agent]
            checked = training.validation.observed[:, agent]
            heads.append(
                fit_head(
                    training.train.features[known][:, columns],
                    training.train_labels[known],
                    training.validation.features[checked][:, columns],
                    training.validation_labels[checked],
                    training.classes,
                    training.recipe,
                    generator,
                )
            )
        center = TrimmedMeanFusionCenter(nn.ModuleList(heads), self.trim)
        return center.requires_grad_(False)


@hookimpl
def cibench_defenses() -> list[type[AbstractDefense]]:
    return [TrimmedMean]

"""Agent dropout: a fusion head trained with random agents missing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, final

import torch
from msgspec import Meta

from cibench import AbstractDefense, FusionCenter, Training, hookimpl

from .. import papers
from ._dropout_head import fit_dropout_head


@final
@dataclass(frozen=True, kw_only=True)
class AgentDropout(AbstractDefense):
    """Retrain the fusion head on embeddings whose agents are dropped by chance.

    The head learns to spread its decision over the agents, which helps where they fall
    silent. Nothing limits what a corrupted agent that is heard can do. The encoders stay
    as they are; a recipe's `agent_dropout` trains them in the same way.

    Args:
        chance: that an agent of a training sample is dropped; never all of them.

    Source: Neverova, Wolf, Taylor and Nebout 2016 (ModDrop).
    """

    name: ClassVar[str] = "agent-dropout"
    citation: ClassVar[str] = (
        "Neverova, Wolf, Taylor, Nebout: ModDrop: adaptive multi-modal gesture"
        " recognition. TPAMI 2016"
    )
    bibtex: ClassVar[str] = papers.MODDROP

    chance: Annotated[float, Meta(ge=0, lt=1)] = 0.5

    def fit(self, training: Training, *, generator: torch.Generator) -> FusionCenter:
        """Train the head."""
        return fit_dropout_head(training, chance=self.chance, generator=generator)


@hookimpl
def cibench_defenses() -> list[type[AbstractDefense]]:
    """Provide `agent-dropout`."""
    return [AgentDropout]

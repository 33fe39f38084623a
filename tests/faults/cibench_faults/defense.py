"""The undefended fusion center, which does something else first."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import ClassVar, final

import torch

from cibench import (
    AbstractDefense,
    Decision,
    FusionCenter,
    Observation,
    Training,
    hookimpl,
)

from .deeds import DEEDS

WRONG = {
    "nan": lambda logits: logits * torch.nan,
    "shape": lambda logits: logits[:-1],
    "classes": lambda logits: torch.cat([logits, logits], dim=1),
    "dtype": lambda logits: logits.long(),
    "complex": lambda logits: logits.to(torch.complex64),
    "none": lambda logits: None,
}


@final
class _Center(FusionCenter):
    def __init__(self, training: Training, deed: str, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds
        self.undefended = training.undefended
        self.deed = deed

    def decide(self, observation: Observation) -> Decision:
        DEEDS.get(self.deed, DEEDS["nothing"])()
        if self.deed == "naps":
            time.sleep(self.seconds / 2)  # a cell decides twice
        if self.deed == "writes-weights":
            for parameter in self.undefended.parameters():
                parameter.data.add_(1)
        decision = self.undefended.decide(observation)
        if self.deed == "writes-features":
            observation.features.fill_(7)
            observation.observed.fill_(False)
        if self.deed in WRONG:
            return replace(decision, logits=WRONG[self.deed](decision.logits))
        return decision


@final
@dataclass(frozen=True, kw_only=True)
class Faulty(AbstractDefense):
    """Do a deed when fitted, another one when asked.

    Args:
        fit_deed: when fitted.
        deed: at every decision.
        seconds: how long each cell naps, for `deed=naps`.
        number: tells equal ones apart.
    """

    name: ClassVar[str] = "faulty"

    fit_deed: str = "nothing"
    deed: str = "nothing"
    seconds: float = 0.1
    number: int = 0

    def fit(self, training: Training, *, generator: torch.Generator) -> FusionCenter:
        DEEDS.get(self.fit_deed, DEEDS["nothing"])()
        if self.fit_deed == "writes-training":
            training.train.features.fill_(7)
            training.train_labels.fill_(0)
            training.validation.observed.fill_(False)
        if self.fit_deed == "writes-weights":
            for parameter in training.undefended.parameters():
                parameter.data.mul_(-1)
        if self.fit_deed == "none":
            return None  # type: ignore[return-value]
        return _Center(training, self.deed, self.seconds)


@hookimpl
def cibench_defenses() -> list[type[AbstractDefense]]:
    return [Faulty]

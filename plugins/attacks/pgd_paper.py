"""The CoPur paper's PGD: plain gradient steps of fixed size through the fusion center."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, final

import torch
from msgspec import Meta
from torch import Tensor

from cibench import AbstractAttack, Criterion, Observation, Victim, hookimpl

from .. import papers
from ._descent import Steepest, descend


@final
@dataclass(frozen=True, kw_only=True)
class PaperPGD(AbstractAttack):
    """Unprojected gradient steps on cross-entropy, blind to the defense.

    Defaults are the paper's for ExtraSensory; for NUS-WIDE it uses
    `step=0.1,steps=50,target=grass`. Gradients are those of the undefended fusion center,
    so against a purifier this is a transfer attack. The best iterate is returned where the
    paper returns the last.

    Args:
        agents: compromised agents.
        knowledge: `fusion` is the paper's attacker.
        target: `other` (of two classes), a class by name or index, or `any`.
        count_target: count samples already labelled as the target, too, as the code
            released with the CoPur paper does.
        steps: gradient steps from the clean embedding.
        step: factor of the gradient.

    Source: Liu, Xie, Koyejo and Li 2022, section 6.
    """

    name: ClassVar[str] = "pgd-paper"
    citation: ClassVar[str] = "Liu, Xie, Koyejo, Li: CoPur. NeurIPS 2022, section 6"
    bibtex: ClassVar[str] = papers.COPUR

    knowledge: Literal["fusion", "adaptive"] = "fusion"
    target: str = "other"
    count_target: bool = False
    steps: Annotated[int, Meta(ge=1)] = 30
    step: Annotated[float, Meta(gt=0)] = 0.5

    def run(
        self,
        victim: Victim,
        observation: Observation,
        criterion: Criterion,
        *,
        compromised: Tensor,
        radius: Tensor | None,
        generator: torch.Generator,
    ) -> Observation:
        """Return the best iterate, sample by sample."""
        found, _ = descend(
            victim,
            observation,
            criterion,
            start=observation.features,
            movable=observation.layout.expand(compromised),
            steps=self.steps,
            rule=Steepest(self.step),
            loss=Criterion.cross_entropy,
            radius=radius,
        )
        return observation.with_features(found)


@hookimpl
def cibench_attacks() -> list[type[AbstractAttack]]:
    """Provide `pgd-paper`."""
    return [PaperPGD]

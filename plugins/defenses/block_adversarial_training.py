"""Block adversarial training (BAT): one random agent is attacked per training sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from cibench import AbstractDefense, hookimpl

from .. import papers
from ._adversarial import AbstractAdversarialTraining


@final
@dataclass(frozen=True, kw_only=True)
class BlockAdversarialTraining(AbstractAdversarialTraining):
    """Train the fusion head on PGD examples in which one agent's block is perturbed.

    Closer to the threat than `adversarial-training`, whose options it shares; it prepares
    for one corrupted agent, and for the training attack only.

    Args:
        target: of the training attack: `any` (leave the label), `other` (of two classes),
            or a class by 0-based index, which the defender of the paper knows.
        steps: gradient steps of the training attack.
        step: factor of the gradient; without effect given a budget.
        clean_fraction: share of training samples left clean; 0, as in the paper, is none.
        clip: largest norm of a training step's gradient.
        budget: largest norm of a block's change as a multiple of the agent's median clean
            block norm; none for no bound, as in the paper.
        epochs: most passes over the training split, the recipe's own limit included.

    Source: Liu, Xie, Koyejo and Li 2022 (BAT).
    """

    name: ClassVar[str] = "block-adversarial-training"
    citation: ClassVar[str] = "Liu, Xie, Koyejo, Li: CoPur. NeurIPS 2022 (BAT)"
    bibtex: ClassVar[str] = papers.COPUR

    @staticmethod
    def choose(observed: Tensor, generator: torch.Generator) -> Tensor:
        """One random observed agent per sample; none where none is heard."""
        scores = torch.rand(observed.shape, generator=generator).to(observed.device)
        chosen = scores.masked_fill(~observed, -1.0).argmax(dim=1, keepdim=True)
        return torch.zeros_like(observed).scatter(1, chosen, value=True) & observed


@hookimpl
def cibench_defenses() -> list[type[AbstractDefense]]:
    """Provide `block-adversarial-training`."""
    return [BlockAdversarialTraining]

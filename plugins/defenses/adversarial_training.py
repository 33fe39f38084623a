"""Adversarial training (AT): a fusion head trained on embeddings attacked as a whole."""

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
class AdversarialTraining(AbstractAdversarialTraining):
    """Train the fusion head on PGD examples in which every agent's block is perturbed.

    Without a budget, as in the paper, the examples can be anything the steps reach, and
    the head that copes best may be one that ignores its input: read accuracy on clean
    inputs beside accuracy under attack.

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

    Source: Madry et al. 2018; on the joint embedding in Liu, Xie, Koyejo and Li 2022 (AT).
    """

    name: ClassVar[str] = "adversarial-training"
    citation: ClassVar[str] = (
        "Madry et al.: Towards deep learning models resistant to adversarial attacks."
        " ICLR 2018; AT of Liu, Xie, Koyejo, Li: CoPur. NeurIPS 2022"
    )
    bibtex: ClassVar[str] = papers.MADRY + papers.COPUR

    @staticmethod
    def choose(observed: Tensor, generator: torch.Generator) -> Tensor:
        """Every observed agent."""
        return observed


@hookimpl
def cibench_defenses() -> list[type[AbstractDefense]]:
    """Provide `adversarial-training`."""
    return [AdversarialTraining]

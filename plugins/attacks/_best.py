"""The best of several attempts, sample by sample, by the answers of the known model."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from cibench import Criterion, Observation, Victim


def succeeded(criterion: Criterion, logits: Tensor, abstained: Tensor | None) -> Tensor:
    """`(n,)` successes; a refusal leaves the true class, and reaches no target."""
    found = criterion.succeeded(logits)
    if abstained is None:
        return found
    return found | abstained if criterion.target is None else found & ~abstained


class Best:
    """What was offered for each sample with the smallest logit margin.

    A success comes before any margin: at a tie of two logits the margin alone does not
    say which class is decided.

    Args:
        victim: answers with the logits of the model the adversary knows.
        criterion: what counts as success.
    """

    def __init__(self, victim: Victim, criterion: Criterion) -> None:
        self.victim = victim
        self.criterion = criterion
        self.observation: Observation | None = None
        self.margin = torch.empty(0)
        self.success = torch.empty(0, dtype=torch.bool)

    def offer(self, sent: Observation) -> Tensor:
        """Ask for the decisions on one more attempt; `(n,)` where it is the best yet."""
        logits = self.victim.logits(sent)
        margin = self.criterion.margin(logits)
        success = succeeded(self.criterion, logits, self.victim.abstained)
        if self.observation is None:
            self.observation, self.margin, self.success = sent, margin, success
            return torch.ones_like(success)
        closer = (success == self.success) & (margin < self.margin)
        better = (success & ~self.success) | closer
        wide = better[:, None]
        self.observation = replace(
            sent,
            features=torch.where(wide, sent.features, self.observation.features),
            observed=torch.where(wide, sent.observed, self.observation.observed),
        )
        self.margin = torch.where(better, margin, self.margin)
        self.success = self.success | success
        return better

    def result(self, otherwise: Observation) -> Observation:
        """The best attempts, or `otherwise` if nothing was offered."""
        return otherwise if self.observation is None else self.observation

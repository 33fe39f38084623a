"""Metrics of predictions: pure functions of tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from .results import Proportion


def proportion(holds: Tensor, counted: Tensor | None = None) -> Proportion:
    """How many of the counted samples something holds for.

    Args:
        holds: `(n,)` booleans.
        counted: `(n,)` booleans; None counts every sample.
    """
    counted = torch.ones_like(holds) if counted is None else counted
    return Proportion(successes=int((holds & counted).sum()), n=int(counted.sum()))


def balanced_accuracy(predicted: Tensor, labels: Tensor, classes: int) -> float:
    """Mean over the classes that occur of the share decided correctly."""
    right = torch.bincount(labels[predicted == labels], minlength=classes)
    total = torch.bincount(labels, minlength=classes)
    occurs = total > 0
    return float((right[occurs].double() / total[occurs]).mean())


def majority_share(labels: Tensor) -> float:
    """Share of the largest class: the accuracy of always answering it."""
    return int(torch.bincount(labels).max()) / len(labels)

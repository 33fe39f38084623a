"""Threat models: who is compromised, what they know and want, and how far they go."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor

from ._errors import ThreatModelError
from .agents import AgentSelection


class Knowledge(StrEnum):
    """What the adversary knows and may call, weakest first."""

    OBLIVIOUS = "oblivious"
    """Its own agents' features only; no model."""
    QUERY = "query"
    """Answers of the defended fusion center, no gradients."""
    FUSION = "fusion"
    """The undefended fusion center with gradients: the attacker of the CoPur paper."""
    ADAPTIVE = "adaptive"
    """The whole defended pipeline with gradients."""


@dataclass(frozen=True)
class ThreatModel:
    """Who is compromised, what they know, what they want and how far they may go.

    Args:
        agents: which agents are compromised.
        knowledge: what the adversary may call.
        target: `any` (untargeted: leave the true class), `other` (the other of two
            classes), or a class by name or 0-based index.
        budget: largest Euclidean norm of the change of a block, as a multiple of the
            agent's median clean block norm; None for no bound, as in the paper.
        may_drop: whether compromised agents may fall silent.
        may_corrupt: whether compromised agents may send other values.
        counts_target: whether samples whose label is the target class count as well.
    """

    agents: AgentSelection
    knowledge: Knowledge
    target: str = "any"
    budget: float | None = None
    may_drop: bool = False
    may_corrupt: bool = True
    counts_target: bool = False

    @property
    def may_ask(self) -> bool:
        """Whether the adversary gets answers of the defense."""
        return self.knowledge in (Knowledge.QUERY, Knowledge.ADAPTIVE)


@dataclass(frozen=True, eq=False)
class Criterion:
    """What counts as success of the adversary: one boolean per sample.

    Args:
        labels: `(n,)` true classes.
        target: `(n,)` target classes, or None for an untargeted attack.
        counts_target: whether samples whose label is the target count, as in the code
            released with the CoPur paper.
    """

    labels: Tensor
    target: Tensor | None = None
    counts_target: bool = False

    @property
    def eligible(self) -> Tensor:
        """`(n,)` samples that count: those whose label is not already the target."""
        if self.target is None or self.counts_target:
            return torch.ones_like(self.labels, dtype=torch.bool)
        return self.target != self.labels

    def succeeded(self, logits: Tensor) -> Tensor:
        """`(n,)` whether each decision is what the adversary wants."""
        prediction = logits.argmax(dim=1)
        if self.target is None:
            return prediction != self.labels
        return prediction == self.target

    def margin(self, logits: Tensor) -> Tensor:
        """`(n,)` logit margin to success: negative where the attack succeeds.

        Source: Carlini and Wagner 2017, the function f6 without its floor.
        """
        wanted_from = self.labels if self.target is None else self.target
        own = logits.gather(1, wanted_from[:, None]).squeeze(1)
        hidden = torch.zeros_like(logits).scatter(1, wanted_from[:, None], -torch.inf)
        other = (logits + hidden).amax(dim=1)
        return own - other if self.target is None else other - own

    def cross_entropy(self, logits: Tensor) -> Tensor:
        """`(n,)` loss to descend: to the target, or away from the label."""
        if self.target is None:
            return -torch.nn.functional.cross_entropy(
                logits, self.labels, reduction="none"
            )
        return torch.nn.functional.cross_entropy(logits, self.target, reduction="none")

    def copy(self) -> Criterion:
        """The same criterion in tensors of its own."""
        target = None if self.target is None else self.target.clone()
        return Criterion(self.labels.clone(), target, self.counts_target)

    def __getitem__(self, samples: slice | Tensor) -> Criterion:
        """The criterion restricted to some samples."""
        target = None if self.target is None else self.target[samples]
        return Criterion(self.labels[samples], target, self.counts_target)

    @classmethod
    def of(
        cls,
        target: str,
        labels: Tensor,
        class_names: tuple[str, ...],
        *,
        counts_target: bool = False,
    ) -> Criterion:
        """Resolve a threat model's `target` for a data set.

        Raises:
            ThreatModelError: the class does not exist, or `other` with more than two.
        """
        if target == "any":
            return cls(labels)
        if target == "other":
            if len(class_names) != 2:
                raise ThreatModelError(
                    "target=other: expected a data set of two classes, got"
                    f" {len(class_names)}; name a class instead"
                )
            return cls(labels, 1 - labels, counts_target)
        if target in class_names:
            index = class_names.index(target)
        elif target.isdecimal() and int(target) < len(class_names):
            index = int(target)
        else:
            raise ThreatModelError(
                f"target: expected any, other, a class ({', '.join(class_names)}) or an"
                f" index below {len(class_names)}, got {target!r}"
            )
        return cls(labels, torch.full_like(labels, index), counts_target)

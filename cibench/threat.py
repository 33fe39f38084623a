"""Threat models: who is compromised, what they know and want, and how far they go."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor

from ._errors import ThreatModelError
from .layout import AgentLayout

#: `worst:q` runs the attack once per set; more sets than this are refused.
MAX_SETS = 1000


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
class AgentSelection:
    """Which agents the adversary controls.

    `rule` is one of `none`, `all`, `last`, `random:q` (one set of q agents per sample,
    drawn by the harness), `worst:q` (every set of q agents is tried), or agents by name
    or 1-based number joined by `/`, with ranges of numbers: `7/10`, `8-10`,
    `audio/time`.

    Raises:
        ThreatModelError: the rule cannot be parsed.

    Example:
        >>> layout = AgentLayout(("a", "b", "c"), (1, 1, 1))
        >>> AgentSelection("2-3").fixed(layout)
        (1, 2)
    """

    rule: str

    def __post_init__(self) -> None:
        kind, _, count = self.rule.partition(":")
        counted = kind in ("random", "worst")
        good_count = count.isdecimal() and int(count) >= 1
        if not self.rule or (counted and not good_count):
            raise ThreatModelError(
                "agents: expected none, all, last, random:q, worst:q with q >= 1,"
                f" or agents such as 7/10 or 8-10, got {self.rule!r}"
            )

    @property
    def is_worst(self) -> bool:
        """Whether every set of agents is tried."""
        return self.rule.startswith("worst:")

    @property
    def is_random(self) -> bool:
        """Whether the harness draws a set for each sample."""
        return self.rule.startswith("random:")

    def _count(self, layout: AgentLayout) -> int:
        count = int(self.rule.partition(":")[2])
        if count > layout.agents:
            raise ThreatModelError(
                f"agents={self.rule}: expected at most {layout.agents} compromised"
                f" agents, the number of agents, got {count}"
            )
        return count

    def fixed(self, layout: AgentLayout) -> tuple[int, ...]:
        """0-based agents of a rule that names them.

        Raises:
            ThreatModelError: an agent is not in the layout, or is named twice.
        """
        if self.rule == "none":
            return ()
        if self.rule == "all":
            return tuple(range(layout.agents))
        if self.rule == "last":
            return (layout.agents - 1,)
        chosen: list[int] = []
        for part in self.rule.split("/"):
            span = re.fullmatch(r"(\d+)-(\d+)", part)
            if span:
                first, last = layout.index(span[1]), layout.index(span[2])
                if first > last:
                    raise ThreatModelError(
                        f"agents: expected a rising range, got {part!r}"
                    )
                chosen += range(first, last + 1)
            else:
                chosen.append(layout.index(part))
        if len(set(chosen)) != len(chosen):
            raise ThreatModelError(
                f"agents: expected each agent once, got {self.rule!r}"
            )
        return tuple(sorted(chosen))

    def sets(self, layout: AgentLayout) -> Iterator[tuple[int, ...]]:
        """Every set `worst:q` tries, or the one set of a fixed rule."""
        if not self.is_worst:
            yield self.fixed(layout)
            return
        count = self._count(layout)
        if math.comb(layout.agents, count) > MAX_SETS:
            raise ThreatModelError(
                f"agents={self.rule}: expected at most {MAX_SETS} sets, got"
                f" {math.comb(layout.agents, count)}; choose a smaller q"
            )
        yield from itertools.combinations(range(layout.agents), count)

    def masks(
        self, layout: AgentLayout, samples: int, generator: torch.Generator
    ) -> Iterator[tuple[tuple[int, ...] | None, Tensor]]:
        """Yield `(set, (samples, agents) boolean mask)`; the set is None if it varies."""
        if self.is_random:
            scores = torch.rand((samples, layout.agents), generator=generator)
            chosen = scores.argsort(dim=1)[:, : self._count(layout)]
            mask = torch.zeros((samples, layout.agents), dtype=torch.bool)
            yield None, mask.scatter(1, chosen, value=True)
            return
        for agents in self.sets(layout):
            mask = torch.zeros((samples, layout.agents), dtype=torch.bool)
            mask[:, list(agents)] = True
            yield agents, mask

    def check(self, layout: AgentLayout) -> None:
        """Raise `ThreatModelError` if the rule does not fit the layout."""
        if self.is_random:
            self._count(layout)
        else:
            next(self.sets(layout))


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

"""Which agents an adversary controls: rules that name, draw, try or search for them."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ._errors import ThreatModelError
from .layout import AgentLayout

#: `worst:q` and `greedy:q` run the attack once per set; more sets than this are refused.
MAX_SETS = 1000
#: Rules that search for one set against the very defense.
_SEARCHED = ("greedy", "bandit")


@dataclass(frozen=True)
class AgentSelection:
    """Which agents the adversary controls.

    `rule` is one of `none`, `all`, `last`, `random:q` (one set of q agents per sample,
    drawn by the harness), `worst:q` (every set of q agents is tried), `greedy:q` or
    `bandit:q` (one set of q agents is searched for against the very defense, see
    `agent_search`), or agents by name or 1-based number joined by `/`, with ranges of
    numbers: `7/10`, `8-10`, `audio/time`.

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
        counted = kind in ("random", "worst", *_SEARCHED)
        good_count = count.isdecimal() and int(count) >= 1
        if not self.rule or (counted and not good_count):
            raise ThreatModelError(
                "agents: expected none, all, last, random:q, worst:q with q >= 1,"
                " greedy:q, bandit:q, or agents such as 7/10 or 8-10, got"
                f" {self.rule!r}"
            )

    @property
    def is_worst(self) -> bool:
        """Whether every set of agents is tried."""
        return self.rule.startswith("worst:")

    @property
    def is_random(self) -> bool:
        """Whether the harness draws a set for each sample."""
        return self.rule.startswith("random:")

    @property
    def is_searched(self) -> bool:
        """Whether one set is searched for, so that it depends on the defense."""
        return self.rule.partition(":")[0] in _SEARCHED

    @property
    def is_fixed(self) -> bool:
        """Whether the rule itself says which agents."""
        return not (self.is_worst or self.is_random or self.is_searched)

    def count(self, layout: AgentLayout) -> int:
        """The q of a rule that has one.

        Raises:
            ThreatModelError: there are fewer agents.
        """
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

    def sets(
        self, layout: AgentLayout, found: Sequence[int] | None = None
    ) -> Iterator[tuple[int, ...]]:
        """Every set `worst:q` tries, or the one set of a fixed rule or of a search.

        Args:
            found: the set that a search found.

        Raises:
            ThreatModelError: the rule does not fit, or asks for a search and `found` is
                None.
        """
        if self.is_searched:
            if found is None:
                raise ThreatModelError(
                    f"agents={self.rule}: expected the set that a search found, got none:"
                    " it depends on the defense"
                )
            yield tuple(found)
            return
        if not self.is_worst:
            yield self.fixed(layout)
            return
        count = self.count(layout)
        if math.comb(layout.agents, count) > MAX_SETS:
            raise ThreatModelError(
                f"agents={self.rule}: expected at most {MAX_SETS} sets, got"
                f" {math.comb(layout.agents, count)}; choose a smaller q"
            )
        yield from itertools.combinations(range(layout.agents), count)

    def masks(
        self,
        layout: AgentLayout,
        samples: int,
        generator: torch.Generator,
        found: Sequence[int] | None = None,
    ) -> Iterator[tuple[tuple[int, ...] | None, Tensor]]:
        """Yield `(set, (samples, agents) boolean mask)`; the set is None if it varies.

        Args:
            found: the set that a search found.
        """
        if self.is_random:
            scores = torch.rand((samples, layout.agents), generator=generator)
            chosen = scores.argsort(dim=1)[:, : self.count(layout)]
            mask = torch.zeros((samples, layout.agents), dtype=torch.bool)
            yield None, mask.scatter(1, chosen, value=True)
            return
        for agents in self.sets(layout, found):
            mask = torch.zeros((samples, layout.agents), dtype=torch.bool)
            mask[:, list(agents)] = True
            yield agents, mask

    def check(self, layout: AgentLayout) -> None:
        """Raise `ThreatModelError` if the rule does not fit the layout."""
        if self.rule.startswith("greedy:"):
            count = self.count(layout)
            runs = sum(layout.agents - taken for taken in range(count))
            if runs > MAX_SETS:
                raise ThreatModelError(
                    f"agents={self.rule}: expected a search of at most {MAX_SETS} sets,"
                    f" got {runs}; choose bandit:{count} or a smaller q"
                )
        elif self.is_random or self.is_searched:
            self.count(layout)
        else:
            next(self.sets(layout))

"""Which sets of agents are corrupted, and which are missing."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..._errors import ThreatModelError, UsageError
from ...agents import AgentSelection
from ...layout import AgentLayout

#: More sets than this are refused.
MAX_SETS = 100_000

#: A number of agents, whichever they are, or agents by name or 1-based number.
Agents = int | str | Sequence[str]


@dataclass(frozen=True, eq=False)
class Family:
    """Pairs of disjoint sets of agents, of the same sizes.

    Args:
        layout: the agents.
        corrupted: `(sets, agents)` booleans.
        missing: `(sets, agents)` booleans.
    """

    layout: AgentLayout
    corrupted: Tensor
    missing: Tensor

    def __len__(self) -> int:
        return len(self.corrupted)

    @property
    def honest(self) -> Tensor:
        """`(sets, agents)` booleans: heard and not corrupted."""
        return ~(self.corrupted | self.missing)

    def part(self, chosen: Tensor) -> Family:
        """Some of the pairs, by index or mask."""
        return Family(self.layout, self.corrupted[chosen], self.missing[chosen])

    def names(self, number: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Names of the corrupted and of the missing agents of a pair."""
        named = self.layout.names
        masks = (self.corrupted[number], self.missing[number])
        first, second = (tuple(named[i] for i in members(m).tolist()) for m in masks)
        return first, second


def members(mask: Tensor) -> Tensor:
    """`(..., size)` agents that masks `(..., agents)` of the same size hold, in order."""
    size = int(mask.sum(-1).amax()) if mask.numel() else 0
    order = torch.argsort((~mask).to(torch.int8), dim=-1, stable=True)
    return order[..., :size]


def family(
    layout: AgentLayout, corrupted: Agents, missing: Agents, device: torch.device
) -> Family:
    """Every pair that the arguments allow.

    Raises:
        UsageError: no agent is left honest, or there are too many pairs.
        ThreatModelError: an agent is unknown, named twice, or both corrupted and missing.
    """
    bad, gone = (
        _chosen(name, agents, layout)
        for name, agents in (("corrupted", corrupted), ("missing", missing))
    )
    q, u, m = _size(bad), _size(gone), layout.agents
    if u >= m:
        raise UsageError(f"missing: expected fewer than the {m} agents, got {u}")
    if q >= m - u:
        raise UsageError(
            f"corrupted: expected fewer than the {m - u} agents heard, got {q}"
        )
    if not isinstance(bad, int) and not isinstance(gone, int):
        both = sorted(set(bad) & set(gone))
        if both:
            raise ThreatModelError(
                "agents: expected none both corrupted and missing, got"
                f" {', '.join(layout.names[i] for i in both)}"
            )
    count = math.comb(m, u) if isinstance(gone, int) else 1
    count *= math.comb(m - u, q) if isinstance(bad, int) else 1
    if count > MAX_SETS:
        raise UsageError(
            f"sets of agents: expected at most {MAX_SETS}, got {count}; name the agents"
        )
    pairs = [
        (t, absent)
        for absent in _sets(gone, range(m))
        for t in _sets(bad, [i for i in range(m) if i not in absent])
        if not set(t) & set(absent)
    ]
    return Family(
        layout, *(_masks(side, m).to(device) for side in zip(*pairs, strict=True))
    )


def _chosen(name: str, agents: Agents, layout: AgentLayout) -> int | tuple[int, ...]:
    if isinstance(agents, bool | float):
        raise UsageError(f"{name}: expected a number of agents or names, got {agents}")
    if isinstance(agents, int):
        if agents < 0:
            raise UsageError(f"{name}: expected a number of agents >= 0, got {agents}")
        return agents
    rule = agents if isinstance(agents, str) else "/".join(agents)
    return AgentSelection(rule or "none").fixed(layout)


def _size(chosen: int | tuple[int, ...]) -> int:
    return chosen if isinstance(chosen, int) else len(chosen)


def _sets(
    chosen: int | tuple[int, ...], agents: Sequence[int]
) -> list[tuple[int, ...]]:
    if isinstance(chosen, int):
        return list(itertools.combinations(agents, chosen))
    return [chosen]


def _masks(sets: Sequence[tuple[int, ...]], agents: int) -> Tensor:
    """`(sets, agents)` booleans."""
    index = torch.tensor(sets, dtype=torch.long).reshape(len(sets), -1)
    return torch.zeros((len(sets), agents), dtype=torch.bool).scatter(
        1, index, value=True
    )

"""Searching for the one set of agents that hurts a defense most, where there are many.

The searches know a defense by its answers to attacks alone: `judge` attacks with a set and
tells how the defense stands. Both keep to a bounded number of attacks, and neither need
find the worst set of all: what they report is an upper bound of the accuracy under it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from scipy.special import betaincinv
from torch import Tensor

#: Samples by which sets are compared.
SAMPLES = 128
#: Sets that the bandit pulls, and the samples attacked in each pull.
PULLS = 128
BATCH = 16
#: Sets that it compares by all samples in the end.
FINALISTS = 4

Agents = tuple[int, ...]
#: Samples decided rightly under attack and their mean margin; the smaller, the worse.
Standing = tuple[int, float]


class Judge(Protocol):
    """Tells how a defense stands under attack."""

    def __call__(self, agents: Agents, samples: Tensor | None = None) -> Standing:
        """Attack with a set of agents.

        Args:
            samples: indices of those attacked; None attacks all.
        """


def greedy(candidates: Sequence[int], count: int, judge: Judge) -> Agents:
    """Grow a set agent by agent, keeping the one under which the defense stands worst.

    Exact where the harm of a set is the sum of its agents' harms; the first of several
    that are equally bad is kept. With m candidates this judges m + (m - 1) + ... sets.

    Args:
        candidates: agents to choose from.
        count: agents to choose.

    Example:
        >>> harm = [3, 1, 4, 1, 5]
        >>> greedy(range(5), 2, lambda agents: (-sum(harm[a] for a in agents), 0.0))
        (2, 4)
    """
    found: Agents = ()
    for _ in range(count):
        grown = [tuple(sorted({*found, agent})) for agent in candidates]
        found = min((one for one in grown if len(one) > len(found)), key=judge)
    return found


def bandit(
    candidates: Sequence[int],
    count: int,
    judge: Judge,
    *,
    samples: int,
    generator: torch.Generator,
) -> Agents:
    """Thompson sampling: pull sets of agents that seem to do harm, and learn from each.

    Every agent has a Beta posterior of the share of samples that a set with it breaks.
    Each of `PULLS` pulls draws a share for every agent, attacks a fresh batch with the
    agents of the largest ones, and credits each of them with the share it broke. In the
    end `FINALISTS` sets are judged by all samples: the agents of the largest posterior
    means, then the sets that broke the largest share when pulled.

    Departures from the source: there a set is an arm, and sets that never did best are
    left out; here agents are arms, for there are too many sets to pull each.

    Args:
        candidates: agents to choose from.
        count: agents to choose.
        samples: samples that `judge` knows.

    Source: Yao, Li, Xue and Liu 2024, algorithm 1.
    """
    hits = torch.ones(len(candidates), dtype=torch.float64)
    misses = torch.ones_like(hits)
    shares: dict[Agents, list[float]] = {}

    def named(scores: Tensor) -> Agents:
        best = scores.argsort(descending=True, stable=True)[:count].tolist()
        return tuple(sorted(candidates[at] for at in best))

    place = {agent: at for at, agent in enumerate(candidates)}
    for _ in range(PULLS):
        uniform = torch.rand(len(candidates), generator=generator, dtype=hits.dtype)
        drawn = torch.from_numpy(
            betaincinv(hits.numpy(), misses.numpy(), uniform.numpy())
        )
        agents = named(drawn)
        batch = torch.randperm(samples, generator=generator)[:BATCH]
        broken = 1.0 - judge(agents, batch)[0] / len(batch)
        shares.setdefault(agents, []).append(broken)
        chosen = [place[agent] for agent in agents]
        hits[chosen] += broken
        misses[chosen] += 1.0 - broken
    pulled = sorted(shares, key=lambda one: -sum(shares[one]) / len(shares[one]))
    finalists = list(dict.fromkeys([named(hits / (hits + misses)), *pulled]))
    return min(finalists[:FINALISTS], key=judge)

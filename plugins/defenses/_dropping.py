"""What defenses that drop suspected agents share: thresholds, limits, the decision."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor

from cibench import Decision, FusionCenter, Observation

#: Option types that these defenses share.
Quantile = Annotated[float, Meta(gt=0, lt=1)]
Most = Annotated[int, Meta(ge=0)] | None

#: Chance of an agent to be dropped while the head that decides on the rest is trained: the
#: default of `agent-dropout`, so that this head is that defense.
DROP_CHANCE = 0.5


class DroppingFusionCenter(FusionCenter):
    """Another fusion center behind a choice of agents to drop.

    Args:
        inner: decides on the agents that are left.
    """

    def __init__(self, inner: FusionCenter) -> None:
        super().__init__()
        self.inner = inner

    @abstractmethod
    def suspects(self, observation: Observation) -> Tensor:
        """`(n, agents)` booleans: heard agents to drop; float64 features."""

    @abstractmethod
    def suspicion(self, observation: Observation) -> Tensor:
        """`(n, agents)` how far each agent is on its way to be dropped, 1 at its threshold.

        Differentiable, in float64; only what dropped agents score is read.
        """

    def rest(self, observation: Observation) -> Observation:
        """The observation without the suspects; the choice carries no derivative."""
        with torch.no_grad():
            wide = observation.with_features(observation.filled(0.0).double())
            return observation.without(self.suspects(wide))

    def decide(self, observation: Observation) -> Decision:
        """Decide on the agents that are left."""
        return self.inner.decide(self.rest(observation))

    @property
    def routes(self) -> Mapping[str, Callable[[Observation], Tensor]]:
        """A derivative as if nobody were dropped."""
        return {"bpda": self.bpda}

    def bpda(self, observation: Observation) -> Tensor:
        """The true decision with the derivative it has where nobody is dropped."""
        with torch.no_grad():
            logits = self.decide(observation).logits
        kept = self.inner.surrogate(observation)
        return logits + (kept - kept.detach())

    def surrogate(self, observation: Observation) -> Tensor:
        """The true decision; its derivative leads back to where nobody is dropped.

        With the choice held fixed, a dropped block has no derivative, and an adversary who
        is found out once stays out. So where agents are dropped, there is added

            s'(suspicion) (logits with them - logits) + s^3 (logits with them)',

        s = 1 / (1 + suspicion): towards the threshold where that pays, and near it on with
        the attack (a straight-through estimator; Bengio, Leonard and Courville 2013).
        """
        rest = self.rest(observation)
        logits = self.inner.surrogate(rest)
        dropped = observation.observed & ~rest.observed
        rows = dropped.any(dim=1).nonzero().squeeze(1)
        if len(rows) == 0:
            return logits
        here = observation[rows]
        wide = here.with_features(here.filled(0.0).double())
        level = torch.where(dropped[rows], self.suspicion(wide), 0.0).sum(dim=1)
        share = (1.0 / (1.0 + level)).to(logits.dtype)[:, None]
        kept = self.inner.surrogate(here)
        back = share * (kept - logits[rows]).detach() + share.detach() ** 3 * kept
        return logits.index_add(0, rows, back - back.detach())


def conformal_quantile(scores: Tensor, known: Tensor, quantile: float) -> Tensor:
    """`(m,)` thresholds a fresh clean score exceeds with chance `1 - quantile` at most.

    The `ceil((k + 1) quantile)`-th smallest of an agent's `k` scores, the largest if there
    are too few, infinity if there is none.

    Args:
        scores: `(n, m)` scores of clean samples.
        known: `(n, m)` which of them count.

    Source: Vovk, Gammerman and Shafer 2005 (split conformal prediction).
    """
    ordered = scores.masked_fill(~known, torch.inf).sort(dim=0).values
    count = known.sum(0)
    # 1e-9: 100 * 0.99 must not be rounded up to the next rank.
    rank = torch.ceil((count + 1) * quantile - 1e-9).long()
    position = torch.minimum(rank, count).clamp_min(1) - 1
    return ordered.gather(0, position[None]).squeeze(0)


def strict_minority(observed: Tensor, most: int | None) -> Tensor:
    """`(n,)` agents that may be dropped: fewer than half of those heard, at most `most`."""
    limit = (observed.sum(dim=1) - 1).clamp_min(0) // 2
    return limit if most is None else limit.clamp_max(most)


def worst_above(ratios: Tensor, observed: Tensor, limit: Tensor) -> Tensor:
    """`(n, agents)` the heard agents of largest ratio above 1, at most `limit` of them.

    Args:
        ratios: `(n, agents)` score over threshold.
        limit: `(n,)` most agents to mark.
    """
    ratios = ratios.masked_fill(~observed, -torch.inf)
    order = ratios.argsort(dim=1, descending=True, stable=True)
    rank = order.argsort(dim=1)
    return (ratios > 1) & (rank < limit[:, None])

"""Several attacks in turn, each on the samples that still stand after the ones before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cibench import Criterion, Observation, Victim, project

from ._best import succeeded
from ._blocks import replaced


@dataclass(frozen=True, eq=False, kw_only=True)
class Left:
    """What an attack is given: the samples that are left, and what is known of them.

    Args:
        victim: the defense, for these samples.
        clean: their clean embeddings.
        nearest: what was sent so far with the smallest margin.
        criterion: what counts as success.
        compromised: `(k, agents)` blocks the adversary controls.
    """

    victim: Victim
    clean: Observation
    nearest: Observation
    criterion: Criterion
    compromised: Tensor


#: Times a success is asked again before it counts: a defense may answer by chance.
AGAIN = 3


class Standing:
    """The best point so far for each sample, and the samples that withstand it.

    Success is what the defense answers, and answers again; once it is had, a sample costs
    nothing more.

    Args:
        victim: answers with the logits of the defense.
        observation: clean embeddings.
        criterion: what counts as success.
        compromised: `(n, agents)` blocks the adversary controls.
        radius: `(agents,)` largest norm of a block's change, or None.
    """

    def __init__(
        self,
        victim: Victim,
        observation: Observation,
        criterion: Criterion,
        compromised: Tensor,
        radius: Tensor | None,
    ) -> None:
        self.victim = victim
        self.clean = observation
        self.criterion = criterion
        self.compromised = compromised
        self.radius = radius
        self.best = observation
        everyone = torch.arange(len(observation), device=compromised.device)
        self.margin, fallen = self._asked(observation, everyone)
        reachable = (compromised & observation.observed).any(dim=1)
        # `(k,)` numbers of the samples that stand and can be reached.
        self.rows = (reachable & ~fallen & criterion.eligible).nonzero().squeeze(1)

    def left(self) -> Left:
        """The samples that are left."""
        rows = self.rows
        return Left(
            victim=self.victim.part(rows),
            clean=self.clean[rows],
            nearest=self.best[rows],
            criterion=self.criterion[rows],
            compromised=self.compromised[rows],
        )

    def _asked(self, sent: Observation, rows: Tensor) -> tuple[Tensor, Tensor]:
        """`(k,)` margins, and who falls each time that is asked."""
        goal = self.criterion[rows]
        victim = self.victim.part(rows)
        logits = victim.logits(sent)
        fell = succeeded(goal, logits, victim.abstained)
        for _ in range(AGAIN):
            some = fell.nonzero().squeeze(1)
            if len(some) == 0:
                break
            again = victim.part(some)
            once_more = again.logits(sent[some])
            fell[some] = succeeded(goal[some], once_more, again.abstained)
        return goal.margin(logits), fell

    def attempt(self, attack: Callable[[Left], Observation]) -> None:
        """Attack who is left; keep what comes nearer, and let go of who falls."""
        if len(self.rows) == 0:
            return
        left = self.left()
        sent = attack(left)
        features = sent.features
        if self.radius is not None:
            features = project(features, left.clean, self.radius)
        silent = left.compromised & ~sent.observed
        legal = replaced(left.clean, left.compromised, features).without(silent)
        margin, fell = self._asked(legal, self.rows)
        # What fell only the first time is no nearer for that.
        better = fell | ((margin > 0) & (margin < self.margin[self.rows]))
        rows = self.rows[better]
        self.margin = self.margin.index_copy(0, rows, margin[better])
        self.best = replace(
            self.best,
            features=self.best.features.index_copy(0, rows, legal.features[better]),
            observed=self.best.observed.index_copy(0, rows, legal.observed[better]),
        )
        self.rows = self.rows[~fell]

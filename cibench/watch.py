"""What the harness sees of an attack's calls: points that succeeded, repeated questions."""

from __future__ import annotations

import torch
from torch import Tensor

from .observation import Observation
from .threat import Criterion

#: Relative difference of values that are asked about anew only to draw other noise.
NEAR = 2e-5


class Watch:
    """Looks over an adversary's shoulder, without a say in what it does.

    Args:
        clean: what the attack was given, `n` samples.
        criterion: what counts as success.
        own: `(n, agents)` blocks the adversary controls.
        radius: `(agents,)` largest norm of a block's change; None for no bound.
        may_corrupt, may_drop: as in `ThreatModel`.

    Attributes:
        found: `(n,)` samples of which some point asked for is within the threat model and
            what the adversary wants.
        gradients: gradients asked for at all samples at once.
        asked: gradients asked for at any samples.
        first: `(n,)` how many of them it took until the logits shown with one were what
            the adversary wants; 0 where they never were.
    """

    def __init__(
        self,
        clean: Observation,
        criterion: Criterion,
        own: Tensor,
        radius: Tensor | None,
        *,
        may_corrupt: bool = True,
        may_drop: bool = False,
    ) -> None:
        self.found = torch.zeros(len(clean), dtype=torch.bool, device=own.device)
        self.gradients = 0
        self.asked = self._repeated = 0
        self.first = torch.zeros(len(clean), dtype=torch.long, device=own.device)
        self._clean, self._criterion, self._own = clean, criterion, own
        self._radius = radius
        self._may_corrupt, self._may_drop = may_corrupt, may_drop
        self._last: Tensor | None = None

    def answered(
        self,
        observation: Observation,
        logits: Tensor,
        abstained: Tensor | None = None,
        rows: Tensor | None = None,
    ) -> None:
        """Take note of the `(k, classes)` answers of the deployed fusion center.

        Args:
            observation: what was asked about.
            logits: the answers.
            abstained: `(k,)` refusals among them.
            rows: `(k,)` numbers of the samples; None for all of them, in order.
        """
        if rows is None:
            rows = torch.arange(len(self._clean), device=self.found.device)
        if len(observation) != len(rows):
            return
        new = self._criterion[rows].succeeded(logits) & ~self.found[rows]
        if abstained is not None:
            new &= ~abstained
        if new.any():
            at = rows[new]
            self.found[at] = self._within(observation[new], at)

    def differentiated(self, features: Tensor, logits: Tensor) -> None:
        """Take note of a gradient that was asked for.

        Args:
            features: `(n, width)` where; the tensor must not change afterwards.
            logits: `(n, classes)` what came with it.
        """
        n = len(self._clean)
        if len(features) == n:
            self.gradients += 1
            new = self._criterion.succeeded(logits) & (self.first == 0)
            self.first.masked_fill_(new, self.gradients)
        before = self._last
        if len(features) > n:
            before, features = features[:n], features[n : 2 * n]
        self.asked += 1
        self._repeated += before is not None and _same(features, before)
        self._last = features

    @property
    def averaged(self) -> bool:
        """Whether half of the gradients or more were asked for at the last one's point."""
        return self._repeated > 0 and 2 * self._repeated >= self.asked

    @property
    def late(self) -> Tensor:
        """`(n,)` samples that it took over three quarters of all gradients to break."""
        return 4 * self.first > 3 * self.gradients

    def _within(self, asked: Observation, samples: Tensor) -> Tensor:
        """`(k,)` whether points of some samples keep to the threat model."""
        clean, own = self._clean[samples], self._own[samples]
        layout = clean.layout
        change = torch.where(
            layout.expand(clean.observed), asked.features - clean.features, 0.0
        )
        # Not finite is a change, too.
        norms = layout.block_norms(change.double()).nan_to_num(torch.inf)
        touched, silenced = norms != 0, asked.observed != clean.observed
        wrong = touched & ~(own & self._may_corrupt)
        wrong |= silenced & ~(own & clean.observed & self._may_drop)
        if self._radius is not None:
            wrong |= own & (norms > self._radius.double() * (1 + 1e-6))
        return ~wrong.any(dim=1)


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether two points are one, up to digits that make a defense draw noise anew."""
    if one.shape != other.shape:
        return False
    near = (one - other).abs() <= NEAR * other.abs()
    return bool((near | (one == other) | (one.isnan() & other.isnan())).all())

"""Recorded training samples that lend their blocks to corrupted agents."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from cibench import Criterion, Observation

from ._blocks import replaced

#: Most samples compared with all recordings at a time, and most pairs, which bound memory.
_SAMPLES, _PAIRS = 1024, 2**23


@dataclass(frozen=True, eq=False, kw_only=True)
class Donors:
    """The recordings, and which of them may stand in for which sample.

    A recording may if its label serves the adversary (the target class; untargeted, any
    class but the sample's) and it holds the block of every agent the adversary controls.

    Args:
        recorded: clean training embeddings.
        labels: `(k,)` their classes.
        criterion: what counts as success.
        compromised: `(n, agents)` blocks to be replaced.
    """

    recorded: Observation
    labels: Tensor
    criterion: Criterion
    compromised: Tensor

    def drawn(self, count: int, generator: torch.Generator) -> Tensor:
        """`(count, n)` recordings, each drawn evenly from those allowed; -1 for none."""
        n = len(self.compromised)
        draws = torch.rand((count, n), dtype=torch.float64, generator=generator)
        draws = draws.to(self.labels.device)
        found = torch.full((count, n), -1, device=self.labels.device)
        for piece in self._pieces():
            allowed = self._allowed(piece)
            total = allowed.sum(dim=1)
            place = (draws[:, piece] * total).long() + 1
            nth = torch.searchsorted(allowed.cumsum(dim=1), place.T.contiguous()).T
            found[:, piece] = torch.where(total > 0, nth, -1)
        return found

    def nearest(self, observation: Observation, seen: Tensor, scale: Tensor) -> Tensor:
        """`(n,)` allowed recordings nearest in the blocks `seen`; -1 for none.

        Args:
            seen: `(n, agents)` blocks to compare; a block missing on either side is left
                out, and a recording that shares none comes last.
            scale: `(width,)` units of the columns.
        """
        expand = observation.layout.expand
        unit = torch.where(scale > 0, scale, 1.0).double()
        known = expand(self.recorded.observed).double()
        theirs = self.recorded.filled(0.0).double() / unit
        visible = expand(seen & observation.observed).double()
        ours = observation.filled(0.0).double() / unit * visible
        found = torch.full((len(observation),), -1, device=self.labels.device)
        for piece in self._pieces():
            near, mask = ours[piece], visible[piece]
            shared = mask @ known.T
            squares = near.square() @ known.T + mask @ theirs.square().T
            mean = (squares - 2 * near @ theirs.T) / shared.clamp_min(1.0)
            mean = torch.where(shared > 0, mean, torch.finfo(mean.dtype).max)
            allowed = self._allowed(piece)
            closest = mean.masked_fill(~allowed, torch.inf).argmin(dim=1)
            found[piece] = torch.where(allowed.any(dim=1), closest, -1)
        return found

    def sent(self, observation: Observation, donor: Tensor) -> Observation:
        """The observation with the donors' blocks; without a donor it stays clean."""
        lent = self.recorded.filled(0.0)[donor.clamp_min(0)]
        return replaced(observation, self.compromised & (donor >= 0)[:, None], lent)

    def _pieces(self) -> Iterator[slice]:
        size = max(1, min(_SAMPLES, _PAIRS // max(1, len(self.labels))))
        for start in range(0, len(self.compromised), size):
            yield slice(start, start + size)

    def _allowed(self, piece: slice) -> Tensor:
        """`(samples, k)` recordings that may stand in."""
        criterion = self.criterion[piece]
        if criterion.target is None:
            suits = self.labels != criterion.labels[:, None]
        else:
            suits = self.labels == criterion.target[:, None]
        lacking = (
            self.compromised[piece].double() @ (~self.recorded.observed).double().T
        )
        return suits & (lacking == 0)

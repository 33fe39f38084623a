"""The leverage constant of a decoder, bounded both ways over all sets of agents."""

from __future__ import annotations

import torch
from torch import Tensor

from ..._errors import UsageError
from ...layout import AgentLayout
from .ascent import ascend, starts
from .blocks import EPS, Blocks, compress
from .bounds import LeverageBounds
from .family import Agents, Family, family
from .policy import improve
from .rounded import sound_ends
from .zero import reasons

#: Times that suggested points are tried before a gap is left.
ROUNDS = 3
#: Times the number of agents from which on the union bound is tried first.
_MANY = 3
#: Times the tolerance by which a suggested point must lower a bound to be worth a round.
_WORTH = 0.1
#: Numbers in the working set.
_WORKING_SET = 2**22


def leverage(
    W: Tensor,
    layout: AgentLayout,
    corrupted: Agents,
    missing: Agents = 0,
    *,
    tolerance: float = 5e-4,
    steps: int = 200,
    details: bool = False,
    seed: int = 0,
) -> LeverageBounds:
    """Bound the block-wise incomplete leverage constant from both sides.

    For corrupted agents T and honest ones S among those heard,

        c(T) = min over z with W z != 0 of  sum_S ||W_i z|| / sum_(S and T) ||W_i z||,

    and c_q is the least c(T) over all sets of q agents heard. If c_q > 1/2, the fit in the
    sum of block norms recovers a point of the manifold whatever q agents send. Codes that
    W maps to 0 play no part, so W may have any rank. Computed in float64 on the device of
    W; the result is the same each time.

    Args:
        W: `(width, code)` linear part of an affine decoder; block i has agent i's rows.
        layout: the agents' blocks.
        corrupted: how many agents, whichever they are, or which: a name, a 1-based number
            such as `"7"`, several joined by `/`, or a sequence of those.
        missing: the same for agents that are not heard; of a number, the worst are missing.
        tolerance: gap between the bounds at which to stop.
        steps: most steps of the lower bound's solver, for each pair of sets and round.
        details: bound each pair of sets on its own as well; without, sets that cannot
            decide are left as soon as that is proved.
        seed: of the random points the ascent starts from.

    Returns:
        Bounds that hold whatever the gap; it may stay above the tolerance.

    Raises:
        UsageError: W is zero, not finite or of another height than the layout; or no agent
            is left honest.
        ThreatModelError: an agent is unknown, or both corrupted and missing.

    Source: the constant is Liu, Xie, Koyejo and Li 2022, definition 1 and theorem 2.

    Example:
        >>> layout = AgentLayout(("a", "b", "c", "d"), (2, 2, 2, 2))
        >>> bounds = leverage(torch.eye(2).repeat(4, 1), layout, corrupted=1)
        >>> round(bounds.lower, 6), round(bounds.upper, 6), bounds.recovers
        (0.75, 0.75, True)
    """
    if not 0.0 < tolerance < 1.0:
        raise UsageError(f"tolerance: expected a number in (0, 1), got {tolerance:g}")
    W = torch.as_tensor(W)
    if steps < 1:
        raise UsageError(f"steps: expected at least 1, got {steps}")
    sets = family(layout, corrupted, missing, W.device)
    blocks = compress(W, layout)
    why, unseen = reasons(blocks, sets)
    search = _Search(blocks, sets, seed)
    for number, reason in enumerate(why):
        if reason is not None:
            search.settle(number, 0.0, 0.0, unseen[number])
    if not bool(sets.corrupted.any()):
        for number, reason in enumerate(why):
            if reason is None:
                search.settle(number, 1.0, 1.0, None)
    elif details or not any(why):
        search.climb()
        search.certify(tolerance, steps, each=details)
    return search.result(why, details)


class _Search:
    """Bounds of every pair of sets, as far as they are known.

    Args:
        blocks: the decoder.
        sets: the pairs.
        seed: of the starts.
    """

    def __init__(self, blocks: Blocks, sets: Family, seed: int) -> None:
        self.blocks, self.sets = blocks, sets
        self.seed = seed
        self.points = blocks.values.new_zeros((len(sets), blocks.rank))
        self.upper = blocks.values.new_ones(len(sets))
        self.lower = blocks.values.new_zeros(len(sets))
        self.settled = torch.zeros(
            len(sets), dtype=torch.bool, device=self.upper.device
        )

    def settle(
        self, number: int, lower: float, upper: float, point: Tensor | None
    ) -> None:
        """Close a pair whose constant is known."""
        self.lower[number], self.upper[number] = lower, upper
        self.settled[number] = True
        if point is not None:
            self.points[number] = point

    def climb(self) -> None:
        """Find points of high ratio for every pair that is not settled."""
        chosen = (~self.settled).nonzero()[:, 0]
        for some in torch.split(chosen, max(1, _WORKING_SET // self.blocks.rank**2)):
            # The same points for every pair: how pairs are grouped changes nothing.
            generator = torch.Generator().manual_seed(self.seed)
            part = self.sets.part(some)
            first = starts(self.blocks, part, generator)
            self._offer(some, ascend(self.blocks, part, first, rate=False))

    def certify(self, tolerance: float, steps: int, *, each: bool) -> None:
        """Raise lower bounds until they are near the least upper one, or each its own."""
        if not each and len(self.sets) > _MANY * self.sets.layout.agents:
            self._unite(tolerance, steps)
        for _ in range(ROUNDS):
            goal = self._goal(tolerance, each)
            chosen = (~self.settled & (self.lower < goal)).nonzero()[:, 0]
            if not len(chosen):
                return
            # The worst first: what they suggest may lower the goal of the others.
            chosen = chosen[self.upper[chosen].argsort()]
            before = self.upper.clone()
            for part in torch.split(chosen, 32):
                part = part[self.lower[part] < self._goal(tolerance, each)[part]]
                self._prove(part, self._goal(tolerance, each)[part], steps)
            if not bool((self.upper < before - _WORTH * tolerance).any()):
                return

    def _goal(self, tolerance: float, each: bool) -> Tensor:
        least = self.upper if each else self.upper.amin().expand_as(self.upper)
        # A small constant is still told from zero.
        return torch.maximum(least - 0.95 * tolerance, 0.9 * least)

    def _prove(self, chosen: Tensor, goal: Tensor, steps: int) -> None:
        if not len(chosen):
            return
        part, points = self.sets.part(chosen), self.points[chosen]
        found = improve(
            self.blocks,
            part,
            points,
            goal=1.0 / goal - 1.0,
            known=1.0 / self.upper[chosen] - 1.0,
            steps=steps,
        )
        # Nearest rounding: a few units in the last place below the value for real numbers.
        proved = (1.0 - 8 * EPS) / (1.0 + found.ratio)
        self.lower[chosen] = torch.maximum(self.lower[chosen], proved)
        short = (self.lower[chosen] < goal).nonzero()[:, 0]
        if len(short):
            again = ascend(
                self.blocks, part.part(short), found.suggested[short], rate=False
            )
            self._offer(chosen[short], again)

    def _offer(self, chosen: Tensor, points: Tensor) -> None:
        """Keep points where they lower the upper bound."""
        bad, good = sound_ends(self.blocks, self.sets.part(chosen), points)
        upper = ((1.0 + 8 * EPS) / (1.0 + bad / good.clamp_min(1e-300))).clamp(max=1.0)
        zero = self.points[chosen].norm(dim=1) == 0
        better = (upper < self.upper[chosen]) | zero
        self.upper[chosen[better]] = upper[better]
        self.points[chosen[better]] = points[better]

    def _unite(self, tolerance: float, steps: int) -> None:
        """Lower bounds by the union bound, where one set of agents is missing."""
        if bool((self.sets.missing != self.sets.missing[0]).any()):
            return
        heard = (~self.sets.missing[0]).nonzero()[:, 0]
        alone = torch.zeros((len(heard), self.sets.layout.agents), dtype=torch.bool)
        alone = alone.to(heard.device).scatter(1, heard[:, None], value=True)
        absent = self.sets.missing[:1].expand(len(heard), -1)
        singles = _Search(
            self.blocks, Family(self.sets.layout, alone, absent), self.seed
        )
        singles.climb()
        singles.certify(tolerance, steps, each=True)
        share = self.upper.new_ones(self.sets.layout.agents)
        share[heard] = 1.0 - singles.lower
        united = 1.0 - (share * self.sets.corrupted).sum(1) - (8 + len(share)) * EPS
        self.lower = torch.maximum(self.lower, united)

    def result(self, why: list[str | None], details: bool) -> LeverageBounds:
        """The minimum over the pairs, at the pair with the least upper bound."""
        number = int(self.upper.argmin())
        each = range(len(self.sets)) if details else ()
        return LeverageBounds(
            lower=float(self.lower.amin()),
            upper=float(self.upper[number]),
            corrupted=self.sets.names(number)[0],
            missing=self.sets.names(number)[1],
            direction=self._direction(number),
            reason=why[number],
            sets=len(self.sets),
            details=tuple(
                LeverageBounds(
                    lower=float(self.lower[i]),
                    upper=float(self.upper[i]),
                    corrupted=self.sets.names(i)[0],
                    missing=self.sets.names(i)[1],
                    direction=self._direction(i),
                    reason=why[i],
                )
                for i in each
            ),
        )

    def _direction(self, number: int) -> Tensor | None:
        point = self.blocks.basis @ self.points[number]
        return point / point.norm() if bool(self.points[number].any()) else None

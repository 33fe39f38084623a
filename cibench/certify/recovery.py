"""How far a purified point can be from the clean one: the recovery rate and radius.

A convex purifier answers the point l of an affine manifold whose sum of block distances to
what was heard is least. Let p be a point of the manifold, S the honest agents heard, who
send p_i + n_i, T the corrupted ones heard, who send anything, U those who are missing, and
v = l - p, which lies in Range(W). If the answer's objective is within eps of the least,
comparing it with that of p gives, with the triangle inequality block by block,

    sum_S (||v_i|| - ||n_i||) - sum_T ||v_j||  <=  sum_S ||n_i|| + eps,

    sum_S ||v_i|| - sum_T ||v_j||  <=  2 sum_S ||n_i|| + eps.

Missing agents appear on neither side: the objective does not contain them. They do count in
the error ||v||, which is over all agents' blocks, for the purifier fills them in. So with

    gamma(T, U) = min over v in Range(W) of  (sum_S ||v_i|| - sum_T ||v_j||) / ||v||,

    ||l - p||  <=  (2 sum_S ||n_i|| + eps) / gamma,

whoever is missing. A number g > 0 is at most gamma if and only if

    (g ||v|| + sum_T ||v_j||) / sum_S ||v_i||  <=  1   for all v in Range(W) but 0:

the ratio of the leverage constant with g W, all agents' rows, as one more corrupted block.
If a v other than 0 has v_i = 0 for all i heard, its ratio is infinite, and gamma is 0.
Linear policies bound the ratio from above for a given g; it is convex in g, so two bounds
give one for every g between, and bisection finds the largest g that is proved.

The leverage constant alone gives less: `gamma >= (2 c - 1) kappa`, where kappa, the least
`sum_(S and T) ||v_i|| / ||v||`, is at least the smallest singular value of an orthonormal
basis' rows that were heard: 1 if nothing is missing.

Source: Liu, Xie, Koyejo and Li 2022, theorem 4 and remark 5, in sharper form.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .._errors import UsageError
from ..layout import AgentLayout
from .leverage import leverage
from .leverage.ascent import ascend, starts
from .leverage.blocks import EPS, Blocks, compress
from .leverage.family import Agents, Family, family
from .leverage.policy import Policies, improve
from .leverage.rounded import sound_ends

#: Trials of the bisection.
TRIALS = 5
#: Times that suggested points are tried before a gap is left.
ROUNDS = 3


@dataclass(frozen=True, eq=False)
class RecoveryBounds:
    """`lower <= gamma <= upper` where gamma is above 0, rounding included.

    Args:
        lower: proved by linear policies; 0 if nothing is.
        upper: reached at `direction`, or 0 where gamma is not above 0.
        by_leverage: what the leverage constant proves, for comparison.
        corrupted: names of the corrupted agents that reach `upper`.
        missing: names of the agents missing then.
        direction: `(code,)` z with the worst error W z.
        reason: why gamma is not above 0, or why nothing is proved; None otherwise.
        sets: pairs of corrupted and missing sets over which gamma is the minimum.
    """

    lower: float
    upper: float
    by_leverage: float
    corrupted: tuple[str, ...]
    missing: tuple[str, ...]
    direction: Tensor | None
    reason: str | None = None
    sets: int = 1


def recovery_radius(
    residual: Tensor, gamma: Tensor | float, gap: Tensor | float = 0.0
) -> Tensor:
    """`(n,)` distances from a clean point within which purified points lie for certain.

    `Delta = (2 delta + eps) / gamma`, rounded upwards; infinite if gamma is 0.

    Args:
        residual: `(n,)` delta: sum over the honest agents heard of the norms of clean block
            minus point of the manifold. Over all agents it is larger and so holds too.
        gamma: lower bound of the recovery rate; `(n,)` or one number.
        gap: eps: how far the purifier's objective may be above the least, such as a
            duality gap; `(n,)` or one number.

    Raises:
        UsageError: a residual, gap or gamma is negative or not a number.

    Example:
        >>> recovery_radius(torch.tensor([0.5, 1.0]), gamma=2.0, gap=0.25)
        tensor([0.6250, 1.1250], dtype=torch.float64)
    """
    delta = residual.double()
    eps, rate = (
        torch.as_tensor(given, dtype=delta.dtype, device=delta.device)
        for given in (gap, gamma)
    )
    for name, values in (("residual", delta), ("gap", eps), ("gamma", rate)):
        if not bool((values >= 0).all()):
            wrong = values[~(values >= 0)].flatten()[0]
            raise UsageError(f"{name}: expected numbers >= 0, got {float(wrong):g}")
    found = (2.0 * delta + eps) / rate * (1.0 + 4 * EPS)
    return torch.where(rate > 0, found, torch.inf)


def recovery_rate(
    W: Tensor,
    layout: AgentLayout,
    corrupted: Agents,
    missing: Agents = 0,
    *,
    tolerance: float = 5e-3,
    steps: int = 200,
    seed: int = 0,
) -> RecoveryBounds:
    """Bound gamma, the least over the sets of agents, from both sides.

    Args:
        W: `(width, code)` linear part of an affine decoder, of any rank.
        layout: the agents' blocks.
        corrupted: how many agents, or which, as in `leverage`.
        missing: the same for agents that are not heard.
        tolerance: gap between the bounds, as a fraction of the upper one, at which to stop.
        steps: most steps of the lower bound's solver, for each pair of sets and trial.
        seed: of the random points the ascent starts from.

    Raises:
        UsageError, ThreatModelError: as in `leverage`.

    Example:
        >>> layout = AgentLayout(("a", "b", "c", "d"), (2, 2, 2, 2))
        >>> bounds = recovery_rate(torch.eye(2).repeat(4, 1), layout, corrupted=1)
        >>> round(bounds.upper, 4)  # (4 - 2) / sqrt(4) for four equal blocks
        1.0
    """
    if not 0.0 < tolerance < 1.0:
        raise UsageError(f"tolerance: expected a number in (0, 1), got {tolerance:g}")
    W = torch.as_tensor(W)
    constant = leverage(W, layout, corrupted, missing, steps=steps, seed=seed)
    blocks = compress(W, layout)
    sets = family(layout, corrupted, missing, W.device)
    if constant.reason is not None or constant.upper <= 0.5:
        reason = constant.reason or (
            f"the leverage constant is at most {constant.upper:.4f}: corrupted agents"
            " move the point without limit unless it is above 1/2"
        )
        return RecoveryBounds(
            lower=0.0,
            upper=0.0,
            by_leverage=0.0,
            corrupted=constant.corrupted,
            missing=constant.missing,
            direction=constant.direction,
            reason=reason,
            sets=len(sets),
        )
    plain = max(0.0, 2.0 * constant.lower - 1.0) * _heard_at_least(blocks, sets)
    plain *= 1.0 - 4 * EPS
    search = _Search(blocks, sets, seed)
    if constant.lower > 0:
        search.certify(1.0 / constant.lower - 1.0, tolerance, steps)
    number = int(search.upper.argmin())
    direction = blocks.basis @ search.points[number]
    return RecoveryBounds(
        lower=max(float(search.lower.amin()), plain),
        upper=float(search.upper[number]),
        by_leverage=plain,
        corrupted=sets.names(number)[0],
        missing=sets.names(number)[1],
        direction=direction / direction.norm(),
        reason=None
        if constant.lower > 0
        else "no lower bound can be proved in float64: W is too near to lower rank",
        sets=len(sets),
    )


def _heard_at_least(blocks: Blocks, sets: Family) -> float:
    """Lower bound of kappa, the least over the sets of missing agents."""
    absent = torch.unique(sets.missing, dim=0)
    if not bool(absent.any()):
        return 1.0
    least = []
    for gone in absent:
        rows = blocks.values[~gone].reshape(-1, blocks.rank)
        wrong = rows.numel() * EPS + float(blocks.rounding.sum())
        least.append(float(torch.linalg.svdvals(rows)[-1]) - wrong)
    return max(0.0, min(least) / (1.0 + blocks.drift))


class _Search:
    """Bounds of gamma for every pair of sets.

    Args:
        blocks: the decoder; no pair of sets has leverage constant 0.
        sets: the pairs.
        seed: of the starts.
    """

    def __init__(self, blocks: Blocks, sets: Family, seed: int) -> None:
        self.blocks, self.sets = blocks, sets
        self.lower = blocks.values.new_zeros(len(sets))
        self.upper = torch.full_like(self.lower, torch.inf)
        self.points = blocks.values.new_zeros((len(sets), blocks.rank))
        everyone = torch.arange(len(sets), device=self.lower.device)
        for some in torch.split(everyone, max(1, 2**22 // blocks.rank**2)):
            generator = torch.Generator().manual_seed(seed)
            part = sets.part(some)
            first = starts(blocks, part, generator)
            self._offer(some, ascend(blocks, part, first, rate=True))

    def certify(self, ratio: float, tolerance: float, steps: int) -> None:
        """Raise the lower bounds until they are near the least upper one.

        Args:
            ratio: bound of the ratio for g = 0, for every pair.
            tolerance: gap that is small enough, as a fraction.
            steps: of the solver.
        """
        for _ in range(ROUNDS):
            goal = (1.0 - 0.9 * tolerance) * self.upper.amin()
            chosen = (self.lower < goal).nonzero()[:, 0]
            if goal <= 0 or not len(chosen):
                return
            before = self.upper.amin()
            self._bisect(chosen, float(goal), ratio, tolerance, steps)
            if self.upper.amin() >= (1.0 - 0.1 * tolerance) * before:
                return

    def _bisect(
        self, chosen: Tensor, goal: float, ratio: float, tolerance: float, steps: int
    ) -> None:
        """Raise lower bounds of some pairs towards a goal for gamma."""
        low = torch.zeros_like(self.lower[chosen])
        low_ratio = torch.full_like(low, ratio)
        high, high_ratio = torch.full_like(low, goal), torch.full_like(low, torch.inf)
        trial = high.clone()
        for number in range(TRIALS):
            found = self._try(chosen, trial, steps)
            short = found.ratio > 1.0
            if number == 0 and bool(short.any()):
                part, first = self.sets.part(chosen[short]), found.suggested[short]
                again = ascend(self.blocks, part, first, rate=True)
                self._offer(chosen[short], again)
            low = torch.where(short, low, trial)
            low_ratio = torch.where(short, low_ratio, found.ratio)
            high = torch.where(short, trial, high)
            high_ratio = torch.where(short, found.ratio, high_ratio)
            # Below the chord between a ratio under 1 and one above it: convexity.
            share = ((1.0 - low_ratio) / (high_ratio - low_ratio)).clamp(0.0, 1.0)
            chord = low + share.nan_to_num(0.0) * (high - low) * (1.0 - 16 * EPS)
            best = torch.where(low_ratio <= 1.0, torch.maximum(low, chord), 0.0)
            self.lower[chosen] = torch.maximum(self.lower[chosen], best)
            on = (low < goal) & (best < (1.0 - 0.1 * tolerance) * high)
            chosen, low, low_ratio = chosen[on], low[on], low_ratio[on]
            high, high_ratio, best = high[on], high_ratio[on], best[on]
            if not len(chosen):
                return
            trial = 0.5 * (best + high)

    def _try(self, chosen: Tensor, trial: Tensor, steps: int) -> Policies:
        """Policies that bound the ratio with one g per pair, down to 1 if they can."""
        part, points = self.sets.part(chosen), self.points[chosen]
        norms = self.blocks.norms(points)
        bad, good = ((norms * m).sum(1) for m in (part.corrupted, part.honest))
        return improve(
            self.blocks,
            part,
            points,
            goal=torch.ones_like(trial),
            known=(trial + bad) / good.clamp_min(1e-300),
            pull=trial,
            steps=steps,
        )

    def _offer(self, chosen: Tensor, points: Tensor) -> None:
        """Keep points where they lower the upper bound."""
        bad, good = sound_ends(self.blocks, self.sets.part(chosen), points)
        length = max(1.0 - self.blocks.drift, 1e-300)
        upper = ((good - bad) / length * (1.0 + 8 * EPS)).clamp_min(0.0)
        better = upper < self.upper[chosen]
        self.upper[chosen[better]] = upper[better]
        self.points[chosen[better]] = points[better]

"""What is known of a leverage constant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ..._errors import UsageError


@dataclass(frozen=True, eq=False)
class LeverageBounds:
    """`lower <= c <= upper`, rounding included.

    Args:
        lower: proved by linear policies.
        upper: reached at `direction`.
        corrupted: names of the corrupted agents that reach it.
        missing: names of the agents missing then.
        direction: `(code,)` z: of the sum of block norms of W z over the agents heard, the
            corrupted ones have the share `1 - upper`. None if no agent is corrupted.
        reason: why c is zero, by an exact test of ranks; None if it is not.
        sets: pairs of corrupted and missing sets over which c is the minimum.
        details: bounds of each pair on its own, if asked for.
    """

    lower: float
    upper: float
    corrupted: tuple[str, ...]
    missing: tuple[str, ...]
    direction: Tensor | None
    reason: str | None = None
    sets: int = 1
    details: tuple[LeverageBounds, ...] = ()

    @property
    def exact_zero(self) -> bool:
        """Whether c is zero by the test of ranks."""
        return self.reason is not None

    @property
    def recovers(self) -> bool:
        """Whether c > 1/2 is proved.

        The fit in the sum of block norms then returns every clean point of the manifold.
        """
        return self.lower > 0.5


def union_bound(singles: Sequence[float], corrupted: int) -> float:
    """Lower bound of the constant of several agents from those of single ones.

    The share of a set is at most the sum of its agents' largest shares, `1 - c_1`:
    `c_q >= 1 - sum of the q largest (1 - c_1)`. Equality for identical blocks.

    Args:
        singles: lower bounds of c for each agent corrupted alone.
        corrupted: q.

    Raises:
        UsageError: q is negative or above the number of agents.

    Source: for blocks, after Bako 2017 (self-decomposability).

    Example:
        >>> round(union_bound([0.9, 0.8, 0.95], 2), 6)
        0.7
    """
    if not 0 <= corrupted <= len(singles):
        raise UsageError(
            f"corrupted: expected 0 to {len(singles)} agents, got {corrupted}"
        )
    shares = sorted((1.0 - c for c in singles), reverse=True)
    return max(0.0, 1.0 - sum(shares[:corrupted]))

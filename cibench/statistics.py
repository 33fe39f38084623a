"""Intervals and summaries: pure functions of numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

#: Two-sided 95 % quantile of the standard normal distribution.
Z95 = 1.959963984540054


def wilson_interval(proportion: float, n: int) -> tuple[float, float]:
    """95 % interval of a proportion observed on `n` samples.

    Does not collapse at 0 and 1, as a bootstrap does. The proportion may be a mean over
    seeds; `n` is then the number of test samples, which all seeds share, and the interval
    speaks of the choice of samples only.

    Raises:
        ValueError: `proportion` is outside [0, 1] or `n` is below 1.

    Source: Wilson 1927.

    Example:
        >>> low, high = wilson_interval(0.0, 100)
        >>> low, round(high, 3)
        (0.0, 0.037)
    """
    if not 0 <= proportion <= 1 or n < 1:
        raise ValueError(
            f"expected a proportion in [0, 1] and n >= 1, got {proportion}, {n}"
        )
    z2 = Z95 * Z95
    centre = (proportion + z2 / (2 * n)) / (1 + z2 / n)
    half = (
        Z95
        * math.sqrt(proportion * (1 - proportion) / n + z2 / (4 * n * n))
        / (1 + z2 / n)
    )
    # At the ends the bounds are 0 and 1 exactly, not up to rounding.
    low = 0.0 if proportion == 0 else max(0.0, centre - half)
    high = 1.0 if proportion == 1 else min(1.0, centre + half)
    return low, high


def mean(values: Sequence[float]) -> float:
    """Arithmetic mean of at least one number."""
    return math.fsum(values) / len(values)


def deviation(values: Sequence[float]) -> float | None:
    """Sample standard deviation; None for fewer than two numbers."""
    if len(values) < 2:
        return None
    centre = mean(values)
    return math.sqrt(math.fsum((v - centre) ** 2 for v in values) / (len(values) - 1))

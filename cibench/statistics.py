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


def mcnemar(first_only: int, second_only: int) -> float:
    """Exact two-sided p of McNemar's test.

    Under the null hypothesis a sample that only one of two defenses decides correctly is
    either's with probability 1/2. Samples must be independent.

    Args:
        first_only: samples that only the first decides correctly.
        second_only: samples that only the second decides correctly.

    Source: McNemar 1947, with the binomial distribution in place of its approximation.

    Example:
        >>> mcnemar(5, 0)
        0.0625
    """
    return mcnemar_over_seeds([(first_only, second_only)])


def mcnemar_over_seeds(tables: Sequence[tuple[int, int]]) -> float:
    """Two-sided p that one defense beats the other under every one of the seeds.

    All seeds decide the same samples, so their tables depend on one another and may not be
    added up. The largest one-sided p over seeds is a valid p whatever the dependence (an
    intersection-union test); the smaller of both directions counts twice. Seeds that point
    in different directions therefore give a large p. One seed gives the exact test itself.

    Args:
        tables: for each seed the samples only the first, and only the second, decides
            correctly.

    Raises:
        ValueError: there is no seed, or a count is negative.

    Source: Berger 1982 (intersection-union tests).
    """
    if not tables or min(min(table) for table in tables) < 0:
        raise ValueError(f"expected counts >= 0 for a seed or more, got {tables}")
    from scipy.special import bdtr

    def one_sided(wins: int, losses: int) -> float:
        # As many losses or fewer among all discordant samples.
        return float(bdtr(losses, wins + losses, 0.5)) if wins + losses else 1.0

    better = max(one_sided(first, second) for first, second in tables)
    worse = max(one_sided(second, first) for first, second in tables)
    return min(1.0, 2 * min(better, worse))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p values for their number; in the given order.

    Calling those below 0.05 significant errs in one family of tests with a chance of 5 % at
    most, whatever the dependence.

    Source: Holm 1979.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted

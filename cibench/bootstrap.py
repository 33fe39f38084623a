"""Bootstrap over seeds and test samples; needs numpy, draws the same numbers everywhere.

Every seed decides the same test samples, so the two are **crossed**: a replicate draws
seeds, and one set of samples for all of them. Drawing fresh samples for each seed (nested)
would take seeds x samples for that many independent outcomes and average away the chance
that lies in the test split, which all seeds share.

Source: Owen 2007 (crossed resampling); Rao and Wu 1988 (one seed fewer per replicate);
Politis and Romano 1992 (moving blocks, wrapped around).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .statistics import Z95, wilson_interval

REPLICATES = 10_000
#: Neighbouring samples drawn together from a time series, unless it is short.
BLOCK = 30
_FEWEST_BLOCKS = 5
#: Numbers worked on at a time: what fits a processor's cache.
_CHUNK_NUMBERS = 100_000

Floats = NDArray[np.float64]
Booleans = NDArray[np.bool_]


def block_length(samples: int, *, time_series: bool) -> int:
    """How many neighbouring samples are drawn together.

    1 for independent samples. For a time series 30, half an hour of records a minute apart,
    or a fifth of a short test split: fewer blocks leave nothing to draw from.
    """
    return max(1, min(BLOCK, samples // _FEWEST_BLOCKS)) if time_series else 1


def replicates(correct: Booleans, counted: Booleans, block: int = 1) -> Floats:
    """`(10000,)` resampled means over seeds of the share of counted samples that hold.

    Equal shapes and blocks meet equal draws: the difference of two results is the paired
    bootstrap of the difference.

    S - 1 of S seeds are drawn: with S of S the variance over seeds would come out too small
    by the factor (S - 1) / S. A single seed stays as it is: samples only.

    Args:
        correct: `(seeds, n)` outcomes.
        counted: `(n,)` samples that count, at least one.
        block: how many neighbouring samples are drawn together.

    Raises:
        ValueError: shapes do not fit, nothing counts, or `block` is outside 1 to n.

    Example:
        >>> import numpy as np
        >>> even = np.arange(100)[None] % 2 == 0
        >>> drawn = replicates(even, np.ones(100, bool))
        >>> bool(abs(drawn.mean() - 0.5) < 0.01), bool(abs(drawn.std() - 0.05) < 0.002)
        (True, True)
    """
    if correct.ndim != 2 or counted.shape != correct.shape[1:]:
        raise ValueError(
            "expected outcomes (seeds, n) and a mask (n,), got shapes"
            f" {correct.shape} and {counted.shape}"
        )
    if not correct.shape[0] or not counted.any():
        raise ValueError("expected a seed and a counted sample, got none")
    seeds, n = correct.shape
    # Sums of whole numbers far below 2^24: exact in single precision, in any order.
    columns = np.vstack([correct & counted, counted]).T.astype(np.float32)
    drawn = sample_weights(n, block)
    sums = np.empty((REPLICATES, seeds + 1))
    # Ten times larger: threads of a matrix product are worth waking for no less.
    chunk = max(1, 10 * _CHUNK_NUMBERS // n)
    for start in range(0, REPLICATES, chunk):
        rows = slice(start, start + chunk)
        sums[rows] = drawn[rows].astype(np.float32) @ columns
    # A replicate without a counted sample says nothing; it takes the observed shares.
    empty = sums[:, -1] == 0
    sums[empty] = columns.sum(0)
    shares = sums[:, :-1] / sums[:, -1:]
    found: Floats = (shares * _seed_weights(seeds)).sum(1)
    return found


def mean_interval(
    correct: Booleans,
    counted: Booleans,
    block: int = 1,
    *,
    drawn: Floats | None = None,
) -> tuple[float, float]:
    """95 % percentile interval of the mean over seeds.

    Where all outcomes are equal every replicate is equal too, which would be a claim of
    certainty: there it is Wilson's interval over samples.

    Args:
        correct: `(seeds, n)` outcomes.
        counted: `(n,)` samples that count.
        block: how many neighbouring samples are drawn together.
        drawn: the result of `replicates` for the same arguments, if at hand.
    """
    if collapses(correct, counted):
        share = float(correct[0, counted][0])
        return wilson_interval(share, int(counted.sum()))
    return percentiles(replicates(correct, counted, block) if drawn is None else drawn)


def difference_interval(
    first: Booleans, second: Booleans, counted: Booleans, drawn: Floats
) -> tuple[float, float]:
    """95 % interval of the difference of two means over the same seeds and samples.

    Where the two differ alike on every sample it is the score interval of a paired
    difference: without a discordant pair it reaches z²/(n + z²) to both sides.

    Args:
        first: `(seeds, n)` outcomes.
        second: `(seeds, n)` outcomes of the other.
        counted: `(n,)` samples that count.
        drawn: difference of the two results of `replicates`.

    Source: Tango 1998 (the score interval).
    """
    gaps = first[:, counted].astype(np.int8) - second[:, counted].astype(np.int8)
    if (gaps == gaps[0, 0]).all():
        n, z2 = gaps.shape[1], Z95 * Z95
        if gaps[0, 0] == 0:
            return -z2 / (n + z2), z2 / (n + z2)
        bound = (n - z2) / (n + z2)
        return (bound, 1.0) if gaps[0, 0] > 0 else (-1.0, -bound)
    return percentiles(drawn)


def collapses(correct: Booleans, counted: Booleans) -> bool:
    """Whether all counted outcomes are equal, so that a bootstrap sees no chance at all."""
    kept = correct[:, counted]
    return bool((kept == kept[0, 0]).all())


def percentiles(drawn: Floats) -> tuple[float, float]:
    """The middle 95 % of replicates."""
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)


@lru_cache(maxsize=2)
def sample_weights(n: int, block: int = 1) -> NDArray[np.uint8]:
    """`(10000, n)` how often each replicate draws each sample; rows sum to n.

    Blocks begin anywhere and wrap around the end, so that samples at the ends are drawn as
    often as others; the last block is cut to fit.

    Raises:
        ValueError: `block` is outside 1 to n.
    """
    if not 1 <= block <= n:
        raise ValueError(f"expected a block of 1 to {n} samples, got {block}")
    whole, rest = divmod(n, block)
    weights = np.empty((REPLICATES, n), dtype=np.uint8)
    chunk = max(1, _CHUNK_NUMBERS // n)
    for start in range(0, REPLICATES, chunk):
        count = min(chunk, REPLICATES - start)
        begins = _integers(1, start, count, whole + (rest > 0), n)
        counts = _tally(begins[:, :whole], n)
        if block > 1:
            counts = _covered(counts, block)
            if rest:
                counts += _covered(_tally(begins[:, whole:], n), rest)
        weights[start : start + count] = counts
    weights.flags.writeable = False
    return weights


def _seed_weights(seeds: int) -> Floats:
    """`(10000, seeds)` share of each seed in each replicate; rows sum to 1."""
    if seeds == 1:
        return np.ones((REPLICATES, 1))
    drawn = _integers(2, 0, REPLICATES, seeds - 1, seeds)
    return _tally(drawn, seeds) / (seeds - 1)


def _tally(drawn: NDArray[Any], bound: int) -> NDArray[np.int64]:
    """`(rows, bound)` how often each number occurs in each row."""
    rows = len(drawn)
    places = drawn + bound * np.arange(rows)[:, None]
    return np.bincount(places.ravel(), minlength=rows * bound).reshape(rows, bound)


def _covered(begins: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    """How many runs of the given length, begun as tallied, cover each sample."""
    wrapped = np.hstack([begins[:, begins.shape[1] - length + 1 :], begins])
    ends = np.cumsum(wrapped, axis=1)
    ends = np.hstack([np.zeros((len(ends), 1), dtype=ends.dtype), ends])
    covered: NDArray[np.int64] = ends[:, length:] - ends[:, :-length]
    return covered


def _integers(
    stream: int, row: int, rows: int, columns: int, bound: int
) -> NDArray[np.int64]:
    """Rows `row` to `row + rows` of a table of numbers below `bound`."""
    place = np.arange(row * columns, (row + rows) * columns, dtype=np.uint64)
    high = splitmix64(stream, place) >> np.uint64(32)
    return (
        ((high * np.uint64(bound)) >> np.uint64(32)).astype(np.int64).reshape(rows, -1)
    )


def splitmix64(seed: int, index: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Numbers of the SplitMix64 sequence by their index: no state, no library's version.

    Source: Steele, Lea and Flood 2014.
    """
    z = np.uint64(seed) + (index + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: NDArray[np.uint64] = z ^ (z >> np.uint64(31))
    return mixed

"""Split conformal limits: how large a fresh clean score may be, with a chance that holds.

If `n` held-out scores and a fresh one are exchangeable, the fresh one is equally likely to
take any of the `n + 1` ranks (ties only help). So it exceeds the k-th smallest held-out
score with chance at most `1 - k / (n + 1)`, whatever the distribution, and the smallest k
for which that is at most `miss` is `ceil((n + 1) (1 - miss))`. The chance is over the
held-out scores and the fresh one together. Where k would be `n + 1` there are too few
scores, and no finite limit has the guarantee.

Source: Vovk, Gammerman and Shafer 2005 (split conformal prediction); Lei, G'Sell, Rinaldo,
    Tibshirani and Wasserman 2018, theorem 2.2.
"""

from __future__ import annotations

import math
from fractions import Fraction

import torch
from torch import Tensor

from .._errors import UsageError


def conformal_rank(scores: int, miss: float) -> int | None:
    """The rank of the limit among held-out scores, 1 the smallest; None if too few.

    Exact: `miss` is taken as the decimal number it is written as, so that 0.1 of 9 scores
    is the ninth and not, by rounding, none.

    Args:
        scores: number of held-out scores.
        miss: largest chance that a fresh score exceeds the limit, in (0, 1).

    Example:
        >>> [conformal_rank(n, 0.1) for n in (8, 9, 99, 100)]
        [None, 9, 90, 91]
    """
    if not 0.0 < miss < 1.0:
        raise UsageError(f"miss: expected a number between 0 and 1, got {miss:g}")
    rank = math.ceil((scores + 1) * (1 - Fraction(str(float(miss)))))
    return rank if rank <= scores else None


def conformal_limit(scores: Tensor, miss: float) -> float:
    """The limit that a fresh clean score exceeds with chance at most `miss`.

    Args:
        scores: `(n,)` scores of held-out clean samples, such as manifold residuals in the
            units of the features; nothing was fitted to these samples.
        miss: largest chance that a fresh score exceeds the limit, in (0, 1).

    Returns:
        The limit, infinite if there are too few scores: fewer than `1 / miss - 1`.

    Raises:
        UsageError: not a vector, or not finite.
    """
    if scores.ndim != 1 or not bool(torch.isfinite(scores).all()):
        raise UsageError(
            "scores: expected a vector of finite numbers, got shape"
            f" {tuple(scores.shape)} with {int((~torch.isfinite(scores)).sum())}"
            " non-finite"
        )
    rank = conformal_rank(len(scores), miss)
    return math.inf if rank is None else float(scores.double().kthvalue(rank).values)

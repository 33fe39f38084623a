"""What defenses that take votes share: logits of counts, a derivative for adversaries."""

from __future__ import annotations

import torch
from torch import Tensor

#: Largest range of a vote's logits in the surrogate.
SPAN = 8.0


def log_shares(counts: Tensor, dtype: torch.dtype) -> Tensor:
    """`(n, classes)` log shares of the votes, half a vote added to each class."""
    shares = (counts + 0.5).to(dtype)
    return (shares / shares.sum(dim=1, keepdim=True)).log()


def mean_log_probability(logits: Tensor, counted: Tensor) -> Tensor:
    """`(n, classes)` log of the mean class probability over the votes that count.

    Args:
        logits: `(n, votes, classes)`.
        counted: `(n, votes)` booleans, one true at least.
    """
    # An unbounded block saturates the softmax of its votes in float32, and with it the
    # adversary's gradient. So far apart logits are drawn together to a range of `SPAN`,
    # with the derivative of a shift.
    apart = logits.detach()
    span = apart.amax(2, keepdim=True) - apart.amin(2, keepdim=True)
    logits = apart / (span / SPAN).clamp_min(1.0) + (logits - apart)
    each = torch.where(counted[:, :, None], logits.log_softmax(dim=2), -torch.inf)
    total = counted.sum(dim=1, keepdim=True).to(logits.dtype)
    return each.logsumexp(dim=1) - total.log()

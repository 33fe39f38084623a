"""When two decisions are the same, two tensors bit for bit; what an object holds."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from types import ModuleType

import torch
from torch import Tensor

from ..defense import Decision
from ..references import predictions
from .check import Broken

#: Arithmetic in another order moves a logit by this part of the largest one.
ROUNDING = 1e-4


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Equal, where NaN equals itself."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if not one.is_floating_point():
        return torch.equal(one, other)
    equal = (one == other) | (one.isnan() & other.isnan())
    return bool(equal.all())


def differing(one: Decision, other: Decision, rounding: float = ROUNDING) -> Tensor:
    """`(n,)` samples decided differently, beyond what rounding explains."""
    size = one.logits.abs().amax().clamp_min(1e-12)
    apart = (one.logits - other.logits).abs().amax(dim=1) > rounding * size
    top = one.logits.double().topk(2, dim=1).values
    tied = top[:, 0] - top[:, 1] <= 2 * rounding * size
    return apart | ((predictions(one) != predictions(other)) & ~tied)


def expect_same(one: Decision, other: Decision, what: str, share: float = 0.0) -> None:
    """Raise `Broken` where more than a share of samples is decided differently.

    Args:
        what: when the decisions are to be the same.
    """
    if one.logits.shape != other.logits.shape:
        raise Broken(
            f"the same decisions {what}",
            f"logits of shape {tuple(other.logits.shape)} after"
            f" {tuple(one.logits.shape)}",
        )
    bad = differing(one, other)
    if int(bad.sum()) > share * len(bad):
        most = float((one.logits - other.logits).abs().amax())
        raise Broken(
            f"the same decisions {what}",
            f"other ones for {int(bad.sum())} of {len(bad)} samples (logits differ by up"
            f" to {most:.3g})",
        )


def kept(thing: object) -> dict[str, int]:
    """How much an object holds: entries of its containers by their place.

    Places of tensors, texts and bytes end in `!`: these have no business to change size.
    """
    found: dict[str, int] = {}
    queue: deque[tuple[str, object]] = deque([(type(thing).__name__, thing)])
    visited: set[int] = set()
    while queue:
        place, one = queue.popleft()
        if id(one) in visited or isinstance(one, type | ModuleType):
            continue
        visited.add(id(one))
        if isinstance(one, Tensor):
            found[place + "!"] = one.numel()
        elif isinstance(one, str | bytes | bytearray):
            found[place + "!"] = len(one)
        elif isinstance(one, Mapping):
            found[place] = len(one)
            queue += [(f"{place}[{key!r:.40}]", value) for key, value in one.items()]
        elif isinstance(one, list | tuple | set | frozenset | deque):
            found[place] = len(one)
            queue += [(f"{place}[{index}]", each) for index, each in enumerate(one)]
        elif hasattr(one, "nbytes"):
            found[place + "!"] = int(one.nbytes)
        elif hasattr(one, "__dict__"):
            queue += [(f"{place}.{name}", each) for name, each in vars(one).items()]
    return found

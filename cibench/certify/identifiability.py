"""The ceiling of every manifold method: how many corrupted agents any could see through.

Received blocks are those of a point of the manifold `{W z + b}`, but for q corrupted ones.

*Necessary.* Let S' be heard agents, all but 2q, with rank W_S' < rank W. Some v = W z != 0
then vanishes on S'. Send the blocks of one point p on S' and on half of the others, those
of p + v on the other half: both points agree with all but q of the heard blocks, and no
method can tell which one was there.

*Sufficient.* If rank W_S' = rank W for all S' of all but 2q heard agents, let two points
both agree with all but q of the heard blocks. They agree with each other on all but 2q, so
their difference v vanishes on some S' and is 0: the point that leaves the fewest blocks
unexplained (Eq. 4 of the CoPur paper) is the true one. With noise, if each point is within
e of all but q of the heard blocks, in their joint norm, then `||v_S'|| <= 2 e`, and so
`||v|| <= 2 e / condition`, where the condition is the least of `||v_S'|| / ||v||`.

Source: the argument of Candes and Tao 2005, lemma 1.2, for blocks; Liu, Xie, Koyejo and Li
    2022, Eq. 4.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..layout import AgentLayout
from .leverage.blocks import compress

#: Numbers in the working set.
_WORKING_SET = 2**24


@dataclass(frozen=True)
class Identifiability:
    """What `identifiability` finds.

    Args:
        corrupted: most corrupted agents that can be seen through; -1 if the heard agents
            do not determine the point even when all are honest.
        rank: of the manifold.
        conditions: for 0, 1, ... `corrupted` corrupted agents the least share of a
            difference that the remaining agents see, in (0, 1].
        blind: indices of heard agents that do not determine the point: a set of all but
            `2 (corrupted + 1)`; None if nobody would be left.
    """

    corrupted: int
    rank: int
    conditions: tuple[float, ...]
    blind: tuple[int, ...] | None


def identifiability(
    weight: Tensor, layout: AgentLayout, heard: Tensor | None = None
) -> Identifiability:
    """Find out how many corrupted agents any method on this manifold could see through.

    Every set is tried: C(agents, 2q) singular value decompositions for each q. What counts
    as zero is as in `leverage`.

    Args:
        weight: `(width, r)` matrix W of an affine manifold, or of the last layer of a
            decoder; then what is found is sufficient only, as differences of its points
            need not fill the range of W.
        layout: the blocks of its rows.
        heard: `(agents,)` booleans; None for all.

    Raises:
        UsageError: W does not fit the layout, is zero, complex or not finite.

    Example:
        Three agents see the same number: one of them may lie.

        >>> layout = AgentLayout(names=("a", "b", "c"), widths=(1, 1, 1))
        >>> identifiability(torch.ones(3, 1), layout).corrupted
        1
    """
    blocks = compress(torch.as_tensor(weight), layout)
    heights = [min(width, blocks.rank) for width in layout.widths]
    parts = [b[:h] for b, h in zip(blocks.values, heights, strict=True)]
    agents = [i for i in range(layout.agents) if heard is None or bool(heard[i])]
    conditions: list[float] = []
    for corrupted in itertools.count():
        left = len(agents) - 2 * corrupted
        if left <= 0:
            return Identifiability(corrupted - 1, blocks.rank, tuple(conditions), None)
        least, members = _worst(parts, agents, left, blocks.rank)
        if least <= blocks.negligible:
            found = tuple(conditions)
            return Identifiability(corrupted - 1, blocks.rank, found, members)
        conditions.append(least)
    raise AssertionError("unreachable")


def _worst(
    parts: list[Tensor], agents: list[int], left: int, rank: int
) -> tuple[float, tuple[int, ...]]:
    """Least singular value over the sets of `left` agents, and the set that has it."""
    tallest = max(len(part) for part in parts)
    padded = torch.stack(
        [torch.nn.functional.pad(p, (0, 0, 0, tallest - len(p))) for p in parts]
    )
    sets = itertools.combinations(agents, left)
    block = max(1, _WORKING_SET // (left * tallest * rank))
    least, members = math.inf, tuple(agents[:left])
    while batch := list(itertools.islice(sets, block)):
        # Fewer rows than columns: a kernel, whatever the numbers are.
        few = [s for s in batch if sum(len(parts[i]) for i in s) < rank]
        if few:
            return 0.0, few[0]
        stacked = padded[torch.tensor(batch)].flatten(1, 2)
        values = torch.linalg.svdvals(stacked)[:, rank - 1]
        at = int(values.argmin())
        if float(values[at]) < least:
            least, members = float(values[at]), batch[at]
    return least, members

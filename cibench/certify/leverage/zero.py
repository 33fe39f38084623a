"""Whether the constant is zero: an exact test by rank.

The honest agents miss a direction of the manifold if rank(W_S) < rank(W): corrupted agents
can then move the point along it unseen, and the ratio that the constant bounds is infinite.
If already the agents heard, corrupted or not, have rank(W_Omega) < rank(W), a direction is
seen by nobody, and nothing is recovered even without an adversary.

Source: Liu, Xie, Koyejo and Li 2022, theorems 1 and 2, put as conditions on ranks.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .blocks import Blocks
from .family import Family

#: Numbers in the working set.
_WORKING_SET = 2**24


def unseen(blocks: Blocks, seeing: Tensor) -> tuple[Tensor, Tensor]:
    """Whether some agents miss a direction, set by set.

    Args:
        blocks: the decoder.
        seeing: `(sets, agents)` booleans.

    Returns:
        `(sets,)` booleans: rank(W of these agents) < rank(W); and the `(sets, rank)` unit
        directions they see least, zeros where the rank is full beyond doubt.
    """
    lost = torch.zeros_like(seeing[:, 0])
    least = blocks.values.new_zeros((len(seeing), blocks.rank))
    size = max(1, _WORKING_SET // blocks.flat.numel())
    for begin in range(0, len(seeing), size):
        part = seeing[begin : begin + size]
        for number in _doubtful(blocks, part).nonzero()[:, 0].tolist():
            rows = blocks.values[part[number]].reshape(-1, blocks.rank)
            _, s, vh = torch.linalg.svd(rows, full_matrices=True)
            short = len(s) < blocks.rank
            lost[begin + number] = short or bool(s[-1] <= blocks.negligible)
            least[begin + number] = vh[-1]
    return lost, least


def _doubtful(blocks: Blocks, seeing: Tensor) -> Tensor:
    """`(sets,)` whether a singular value may be below 1e-4: a cheap test decides most."""
    flat = blocks.grams.reshape(len(blocks.values), -1)
    gram = (seeing.to(flat) @ flat).reshape(-1, blocks.rank, blocks.rank)
    gram.diagonal(dim1=1, dim2=2).sub_(1e-8)
    doubt: Tensor = torch.linalg.cholesky_ex(gram).info != 0
    return doubt


def reasons(blocks: Blocks, sets: Family) -> tuple[list[str | None], Tensor]:
    """Why the constant is zero for each pair, None where it is not.

    Returns:
        The reasons, and the `(sets, rank)` directions that nobody honest sees.
    """
    unheard, alone = unseen(blocks, ~sets.missing)
    lost, least = unseen(blocks, sets.honest)
    found: list[str | None] = []
    for number, (nobody, dishonest) in enumerate(
        zip(unheard.tolist(), lost.tolist(), strict=True)
    ):
        who = sets.missing if nobody else ~sets.honest
        gone = ", ".join(
            name
            for name, out in zip(sets.layout.names, who[number].tolist(), strict=True)
            if out
        )
        if nobody:
            found.append(
                f"the agents heard have rank below {blocks.rank}, the rank of W:"
                f" without {gone} points are told apart by nobody"
            )
        elif dishonest:
            found.append(
                f"the honest agents have rank below {blocks.rank}, the rank of W:"
                f" without {gone} a direction is unseen"
            )
        else:
            found.append(None)
    return found, torch.where(unheard[:, None], alone, least)
